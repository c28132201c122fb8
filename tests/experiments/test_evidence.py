import pytest
from tiny import LOSS, RATE, design, record

from segkit.experiments import exact
from segkit.experiments.analysis import Measured
from segkit.experiments.claims import claims, matters
from segkit.experiments.designs import GROUPS
from segkit.experiments.evidence import (
    EPOCHS,
    FAILS,
    HOLDS,
    OPEN,
    UNTESTABLE,
    Evidence,
    compare,
    labels,
    main_effect,
    pairs,
    reaches,
    verdict,
)
from segkit.experiments.grid import name_of


def evidence(chosen, tp, val_iou=lambda c: (0.1, 0.5)):
    records = {}
    for cell in chosen.cells():
        for seed in chosen.seeds:
            config = chosen.config(cell, seed)
            found = record(config, tp(cell), val_iou=val_iou(cell))
            records[name_of(config)] = found
    return Evidence({chosen.name: chosen}, records)


def interval(low, high):
    return Measured((low + high) / 2, low, high, ())


@pytest.mark.parametrize(
    "intervals, more, told",
    [
        ([(0.1, 0.2)], True, HOLDS),
        ([(0.1, 0.2)], False, FAILS),
        ([(-0.2, -0.1)], True, FAILS),
        ([(-0.2, -0.1)], False, HOLDS),
        ([(-0.1, 0.2)], True, OPEN),
        ([(0, 0.2)], True, OPEN),
        ([(0.1, 0.2), (-0.1, 0.2)], True, OPEN),
        ([(0.1, 0.2), (-0.2, -0.1)], True, FAILS),
    ],
)
def test_the_rule_of_the_verdict(intervals, more, told):
    assert verdict([interval(*pair) for pair in intervals], more) == told


def test_a_comparison_of_two_cells_and_of_a_factor():
    chosen = design(loss=LOSS, rate=RATE)
    there = evidence(chosen, lambda c: 40 + 10 * (c["loss"] == "dice"))
    cells = pairs(("dice + slow", "bce + fast"))
    found = compare("tiny", cells, "test IoU")(there)
    assert found.verdict == HOLDS
    assert found.figures["dice + slow − bce + fast, test IoU"].value == pytest.approx(0.1)
    assert compare("tiny", main_effect("loss"), "test IoU", False)(there).verdict == FAILS
    assert compare("tiny", main_effect("rate"), "test IoU")(there).verdict == OPEN


def test_convergence_is_compared_at_a_common_target():
    chosen = design(loss=LOSS)
    there = evidence(
        chosen, lambda c: 50, lambda c: (0.5, 0.5) if c["loss"] == "dice" else (0.1, 0.5)
    )
    found = compare("tiny", main_effect("loss"), EPOCHS, False)(there)
    assert found.verdict == HOLDS and found.figures[f"dice − bce, {EPOCHS}"].value == -1
    assert found.figures[f"bce, {EPOCHS}"].value == 2


@pytest.mark.parametrize(
    "low, high, told", [(0.4, 0.6, HOLDS), (0.55, 1, FAILS), (0.5, 0.6, HOLDS), (0, 0.49, FAILS)]
)
def test_a_figure_is_reached_or_not(low, high, told):
    chosen = design()
    assert labels(chosen) == ["tiny"]
    assert reaches("tiny", "tiny", "test IoU", low, high)(
        evidence(chosen, lambda c: 50)
    ).verdict == told  # fmt: skip


@pytest.mark.parametrize("gap, told", [(10, HOLDS), (-10, HOLDS), (1, FAILS)])
def test_whether_a_choice_matters_whichever_way(gap, told):
    there = evidence(design(loss=LOSS), lambda c: 50 + gap * (c["loss"] == "dice"))
    assert matters("tiny", "dice", "bce", "test IoU", 0.05)(there).verdict == told


def test_what_needs_no_training():
    figures = {
        "paper_weights": {"pdr_unet": 361_482},
        "strided_adds": {"maxpool": 31_043_521, "strided": 34_177_921},
        "fewer_weights": {"pdr_unet": 363_521, "fusionnet": 78_531_137},
        "paper_view": {"block 8": 509, "output": 633},
        "paper_size": {"side": 388},
        "bilinear_invents": {"nearest": 2},
        "encoder_weights": {},
    }
    for name, expected in figures.items():
        found = getattr(exact, name)(None)
        assert found.verdict == HOLDS, name
        assert expected.items() <= found.figures.items(), name


def test_the_override_fattens_and_a_blind_score_flatters():
    fat = exact.override_restores(None)
    assert fat.verdict == FAILS and fat.figures["after"] > 1.05 * fat.figures["before"]
    blind = exact.blind_dice(None)
    assert blind.verdict == UNTESTABLE and blind.figures["without false positives"] == 1
    assert blind.figures["Dice"] < 0.7


def test_dice_is_f1_and_iou_is_not_near_it():
    chosen = next(d for d in GROUPS["quick"]() if d.name == "abi2024")
    there = evidence(chosen, lambda c: [0, 10, 41, 59, 90, 100])
    assert exact.dice_is_f1(there).verdict == HOLDS
    apart = exact.iou_near_dice(there)
    assert apart.verdict == FAILS and apart.figures["largest gap"] == pytest.approx(
        0.1716, abs=1e-3
    )


def test_claims_refer_to_designs_that_exist_and_have_names_of_their_own():
    there = {name: {d.name: d for d in group()} for name, group in GROUPS.items()}
    keys = [claim.key for claim in claims()]
    assert len(set(keys)) == len(keys)
    for claim in claims():
        for profile in claim.profiles:
            assert not claim.design or claim.design in there[profile], claim.key


def test_every_claim_can_be_decided_once_its_runs_are_there():
    for profile, group in GROUPS.items():
        records = {name_of(config): record(config, 50) for d in group() for config in d.configs()}
        there = Evidence({d.name: d for d in group()}, records)
        for claim in claims():
            if claim.design and profile in claim.profiles:
                assert claim.check(there).verdict in (HOLDS, FAILS, OPEN), claim.key
