import csv
import io

import numpy as np
import pytest
from tiny import LOSS, RATE, design, record

from segkit.experiments import analysis
from segkit.experiments.grid import name_of


def made(chosen, tp, **options):
    """Return records of a design; `tp(cell, seed)` gives the true positives of 100 pixels."""
    found = {}
    for cell in chosen.cells():
        for seed in chosen.seeds:
            config = chosen.config(cell, seed)
            found[name_of(config)] = record(config, tp(cell, seed), **options)
    return found


def test_a_difference_is_paired_over_seeds_and_images():
    chosen = design(seeds=(0, 1, 2), loss=LOSS)
    noise = np.array([5, 60, 20, 45, 80, 30])
    records = made(chosen, lambda c, s: noise + 3 * s + 2 * (c["loss"] == "dice"))
    gap = analysis.contrast(chosen, records, [-1, 1])
    assert (gap.value, gap.low, gap.high) == pytest.approx((0.02, 0.02, 0.02))
    one = analysis.contrast(chosen, records, [1, 0])
    assert one.value == pytest.approx(noise.mean() / 100 + 0.03)
    assert one.low < one.value - 0.1 and one.high > one.value + 0.1, "images differ much"
    assert one.seeds == pytest.approx([0.4, 0.43, 0.46]) and one.spread == pytest.approx(0.03)


def test_the_interval_is_that_of_both_seeds_and_images():
    chosen = design(seeds=tuple(range(8)), loss={"bce": {}})
    of_images = np.array([40, 45, 50, 50, 55, 60])
    seeds, images, both = (
        analysis.contrast(chosen, made(chosen, tp), [1])
        for tp in (
            lambda c, s: 32 + 5 * s,
            lambda c, s: of_images,
            lambda c, s: of_images + 5 * s - 18,
        )
    )
    # 3.92 standard errors hold 95 %; those of two independent causes add up in squares
    expected = [3.92 * 0.05 * np.std(range(8)) / 8**0.5, 3.92 * np.std(of_images) / 100 / 6**0.5]
    assert seeds.high - seeds.low == pytest.approx(expected[0], rel=0.15)
    assert images.high - images.low == pytest.approx(expected[1], rel=0.15)
    assert both.high - both.low == pytest.approx(np.hypot(*expected), rel=0.15)


def test_effects_of_a_design_worked_by_hand():
    chosen = design(loss=LOSS, rate=RATE)
    worth = {("bce", "slow"): 20, ("bce", "fast"): 30, ("dice", "slow"): 24, ("dice", "fast"): 42}
    records = made(chosen, lambda c, s: worth[c["loss"], c["rate"]])
    found = {names: m.value for names, m in analysis.effects(chosen, records).items()}
    assert found == pytest.approx(
        {("loss",): 0.08, ("rate",): 0.14, ("loss", "rate"): 0.04}  # (18 - 10) / 2
    )


def test_effects_need_two_levels():
    chosen = design(loss={**LOSS, "both": {"fit.loss": {"bce": {}, "dice": {}}}})
    with pytest.raises(ValueError, match="loss has 3 levels"):
        analysis.effects(chosen, {})


def test_what_is_not_counted_on_images_has_the_range_over_seeds():
    chosen = design(loss=LOSS)
    records = made(chosen, lambda c, s: 50)
    for config in chosen.configs():
        seconds = 4 + config["fit"]["seed"] + 2 * ("dice" in config["fit"]["loss"])
        records[name_of(config)]["seconds"] = seconds
    ratio = analysis.by_seed(chosen, records, lambda runs: runs[1]["seconds"] / runs[0]["seconds"])
    assert (ratio.low, ratio.high) == (7 / 5, 6 / 4) and ratio.seeds == (6 / 4, 7 / 5)


@pytest.mark.parametrize("target, epoch", [(0.05, 1), (0.3, 2), (0.5, 2), (0.6, 3)])
def test_epochs_to_a_target(target, epoch):
    assert analysis.epochs_to(record({}, 1, val_iou=(0.1, 0.5)), target) == epoch


def test_missing_runs_are_counted():
    chosen = design(loss=LOSS)
    records = made(chosen, lambda c, s: 50)
    assert analysis.missing(chosen, records) == 0
    records.popitem()
    assert analysis.missing(chosen, records) == 1


def test_tidy_has_a_row_per_run_and_no_score_without_counts():
    chosen = design(loss=LOSS)
    records = made(chosen, lambda c, s: 40 + s)
    next(iter(records.values()))["test"] = None
    rows = list(csv.DictReader(io.StringIO(analysis.tidy([chosen], records))))
    assert [(r["design"], r["loss"], r["seed"]) for r in rows] == [
        ("tiny", "bce", "0"), ("tiny", "bce", "1"), ("tiny", "dice", "0"), ("tiny", "dice", "1"),
    ]  # fmt: skip
    assert rows[0]["test IoU"] == "" and rows[1]["test IoU"] == "0.41000"
    assert rows[0]["val accuracy"] == "0.70000"
