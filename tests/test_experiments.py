"""Experiments: grids, runs that resume, effects worked by hand, and `segkit reproduce`."""

import json
import math
import threading
from contextlib import suppress
from copy import deepcopy

import numpy as np
import pytest
import scipy.stats
import torch
from calls import call
from tiny import BASE, LOSS, RATE, design, real_data, records_of

from segkit import experiments, paths
from segkit.config import apply_overrides
from segkit.errors import SegkitError
from segkit.experiments import _Unfinished, by_hash, config_hash, contrast, effects
from segkit.metrics import Counts

CONFIG = next(design(loss=LOSS).configs())
claims, designs, ledger = (experiments.load(name) for name in ("claims", "designs", "ledger"))


# ---------------------------------------------------------------- grids


def test_every_combination_for_every_seed_and_all_cells_before_the_next_seed():
    grid = design(loss=LOSS, rate=RATE)
    assert grid.cells()[1:3] == [{"loss": "bce", "rate": "fast"}, {"loss": "dice", "rate": "slow"}]
    assert grid.labels()[1] == "bce + fast" and design().labels() == ["tiny"]
    configs = list(grid.configs())
    for part in ("fit", "model"):
        assert [c[part]["seed"] for c in configs] == [0] * 4 + [1] * 4
    assert configs[1]["fit"]["loss"] == {"bce": {}} and configs[1]["fit"]["lr"] == 1e-2
    assert "seed" not in configs[1]["data"], "all runs are evaluated on the same images"


def test_a_design_leaves_its_base_and_levels_alone():
    before = deepcopy((BASE, LOSS))
    next(design(loss=LOSS).configs())["fit"]["loss"]["bce"]["pos_weight"] = 3
    assert before == (BASE, LOSS)


def test_a_hash_is_of_the_content_not_of_its_order():
    config = next(design().configs())
    turned = {part: dict(reversed(list(value.items()))) for part, value in config.items()}
    assert config_hash(config) == config_hash(dict(reversed(list(turned.items()))))
    others = [apply_overrides(config, entry) for entry in ({"fit.lr": 1e-3}, {"data.size": 17})]
    assert len({config_hash(c) for c in [config, *others]}) == 3
    two = [design(loss=LOSS), design(loss={"dice": LOSS["dice"]})]
    assert len(by_hash(c for d in two for c in d.configs())) == 4, "what they share is run once"


# ---------------------------------------------------------------- runs


def stripped(file):
    """Return a record without what no two runs share."""
    found = json.loads(file.read_text())
    for name in ("seconds", "cpu_seconds", "memory"):
        del found[name]
    del found["history"]["seconds"]
    return found


def watch(monkeypatch, name, calls):
    """Note the calls of a function of `experiments`, with their positional arguments."""
    real = getattr(experiments, name)
    monkeypatch.setattr(
        experiments, name, lambda *a, **k: calls.append((name, *a)) or real(*a, **k)
    )


def test_a_record_holds_the_config_and_counts_every_image(tmp_path, monkeypatch):
    calls = []
    for name in ("open_split", "fit"):
        watch(monkeypatch, name, calls)
    file = experiments.run(CONFIG, tmp_path)
    order = [call[0] if call[0] == "fit" else call[2] for call in calls]
    assert order == ["train", "val", "fit", "test"], "selection never sees the test set"
    found = json.loads(file.read_text())
    assert file.stem == found["name"] == config_hash(CONFIG) and found["config"] == CONFIG
    test, val, boundary = (torch.tensor(found[name]) for name in ("test", "val", "boundary"))
    assert test.shape == (4, 5, 1) and val.shape == (4, 4, 1) and test.dtype == torch.int64
    assert (test.sum(dim=0) == 16 * 16).all() and (boundary.sum(dim=0) == 16 * 16).all()
    assert torch.tensor(found["train"]).sum() == 8 * 16 * 16
    best = max(found["history"]["val_iou"])
    assert Counts(*val).iou().item() == pytest.approx(best, abs=1e-4), "the selected weights"
    assert found["history"]["val_iou"][found["selected_epoch"] - 1] == best
    assert found["memory"]["peak"] > found["memory"]["start"] >= 0  # 0 on a GPU
    assert found["made_with"]["precision"].startswith("fp32") and len(found["made_with"]) == 6
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == [file.name]
    assert experiments.run(CONFIG, tmp_path) == file and len(calls) == 4, "done is done"


def test_sorted_names_validate_on_the_last_fifth_and_leave_no_test(tmp_path, monkeypatch):
    config = apply_overrides(CONFIG, {"data.rule": "sorted", "data.transform": "light"})
    calls = []
    watch(monkeypatch, "fit", calls)
    found = json.loads(experiments.run(config, tmp_path).read_text())
    assert found["test"] is None and found["boundary"] is None
    _, _, train, val = calls[0]
    assert (len(train), len(val)) == (14, 3), "8 + 4 + 5 images, pooled"
    assert max(train.names) <= min(val.names), "the toys of three splits share names"
    assert train.transform.steps and not val.transform.steps
    wrong = apply_overrides(CONFIG, {"data.rule": "random"})
    with pytest.raises(SegkitError, match=r"no data\.rule 'random'; there are: official, sorted"):
        experiments.run(wrong, tmp_path)


def test_a_run_that_is_cut_short_resumes_to_the_same_record(tmp_path):
    config = apply_overrides(CONFIG, {"fit.epochs": 30, "fit.loss": {"bce": {}, "dice": {}}})
    whole = stripped(experiments.run(config, tmp_path / "whole"))
    cut, calls, file = tmp_path / "cut", 0, None
    while file is None:
        calls += 1
        with suppress(_Unfinished):
            file = experiments.run(config, cut, seconds=0.15 * calls)
        assert file or not list(cut.glob("*.json"))
    assert calls > 1
    assert stripped(file) == whole
    assert not [t for t in threading.enumerate() if isinstance(t, threading.Timer)]


@pytest.mark.slow
def test_several_at_a_time_one_failure_and_a_second_call(tmp_path, capfd):
    configs = by_hash(design(loss=LOSS).configs())
    wrong = apply_overrides(CONFIG, {"model.name": "alexnet"})
    outcome = experiments.run_all(configs | {config_hash(wrong): wrong}, tmp_path, jobs=2)
    assert sorted(outcome.done) == sorted(configs) and not outcome.left
    assert list(outcome.failed) == [config_hash(wrong)]
    assert "no network 'alexnet'" in outcome.failed[config_hash(wrong)]
    assert "100%" in capfd.readouterr().err
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    alone = stripped(experiments.run(CONFIG, tmp_path / "alone"))
    torch.set_num_threads(threads)
    assert stripped(tmp_path / f"{config_hash(CONFIG)}.json") == alone, "one thread, in any process"
    again = experiments.run_all(configs, tmp_path, minutes=0)
    assert sorted(again.done) == sorted(configs) and capfd.readouterr().err == ""


# ---------------------------------------------------------------- records


def test_a_difference_is_paired_over_seeds_and_images():
    grid = design(seeds=(0, 1, 2), loss=LOSS)
    noise = np.array([5, 60, 20, 45, 80, 30])
    records = records_of(grid, lambda c, s: noise + 3 * s + 2 * (c["loss"] == "dice"))
    gap = contrast(grid, records, [-1, 1])
    assert (gap.value, gap.low, gap.high) == pytest.approx((0.02, 0.02, 0.02))
    one = contrast(grid, records, [1, 0])
    assert one.value == pytest.approx(noise.mean() / 100 + 0.03)
    assert one.images[0] < one.value - 0.1 and one.images[1] > one.value + 0.1, "images differ"
    assert one.seeds == pytest.approx([0.4, 0.43, 0.46]) and one.std == pytest.approx(0.03)


def test_one_interval_is_of_seeds_and_one_of_images():
    grid = design(seeds=tuple(range(8)), loss={"bce": {}})
    of_images = np.array([40, 45, 50, 50, 55, 60])
    both = contrast(grid, records_of(grid, lambda c, s: of_images + 5 * s - 18), [1])
    expected = scipy.stats.ttest_1samp(both.seeds, 0).confidence_interval()
    assert (both.low, both.high) == pytest.approx(expected)
    # 3.92 standard errors hold 95 %
    width = 3.92 * np.std(of_images) / 100 / 6**0.5
    assert both.images[1] - both.images[0] == pytest.approx(width, rel=0.15)
    one = contrast(design(loss={"bce": {}}, seeds=(3,)), records_of(grid, lambda c, s: s), [1])
    assert math.isnan(one.low) and math.isnan(one.high) and one.value == pytest.approx(0.03)


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_an_interval_misses_the_truth_once_in_twenty_times(seeds):
    rng, grid = np.random.default_rng(seeds), design(seeds=tuple(range(seeds)), loss={"bce": {}})
    records, missed = records_of(grid, lambda c, s: 50), 0
    for _ in range(1000):
        for run in records.values():
            run["seconds"] = rng.normal()
        found = contrast(grid, records, [1], lambda run: run["seconds"])
        missed += not found.low < 0 < found.high
    assert 30 <= missed <= 70


def test_effects_of_a_design_worked_by_hand():
    grid = design(loss=LOSS, rate=RATE)
    worth = {("bce", "slow"): 20, ("bce", "fast"): 30, ("dice", "slow"): 24, ("dice", "fast"): 42}
    records = records_of(grid, lambda c, s: worth[c["loss"], c["rate"]])
    found = {names: m.value for names, m in effects(grid, records).items()}
    expected = {("loss",): 0.08, ("rate",): 0.14, ("loss", "rate"): 0.04}  # (18 - 10) / 2
    assert found == pytest.approx(expected)
    three = design(loss={**LOSS, "both": {"fit.loss": {"bce": {}, "dice": {}}}})
    with pytest.raises(SegkitError, match="loss has 3 levels"):
        effects(three, {})


def test_a_score_that_is_not_counted_on_images_has_the_interval_of_seeds_alone():
    grid = design(loss=LOSS)
    records = records_of(grid, lambda c, s: 50)
    for run in records.values():
        fit = run["config"]["fit"]
        run["seconds"] = 4 + fit["seed"] * (1 + ("dice" in fit["loss"]))
    gap = contrast(grid, records, [-1, 2], lambda run: run["seconds"])
    assert gap.seeds == (4, 7) and gap.value == 5.5 and math.isnan(gap.images[0])
    assert gap.high - gap.value == pytest.approx(12.706 * 1.5, rel=1e-4)  # t, one degree of freedom
    with pytest.raises(SegkitError, match=r"no score 'test Iou' \(did you mean test IoU\?\)"):
        contrast(grid, records, [1, 0], "test Iou")


def test_missing_runs_are_counted_and_records_read(tmp_path):
    grid = design(loss=LOSS)
    records = records_of(grid, lambda c, s: 50)
    assert experiments.missing(grid, records) == 0
    name, last = records.popitem()
    assert experiments.missing(grid, records) == 1
    (tmp_path / f"{name}.json").write_text(json.dumps(last))
    assert experiments.read_records(tmp_path) == {name: last}


# ---------------------------------------------------------------- segkit reproduce


@pytest.fixture
def small(monkeypatch):
    """Put one small design in the place of the quick profile."""
    grid = design(loss=LOSS)
    monkeypatch.setitem(designs.GROUPS, "quick", lambda: [grid])
    monkeypatch.setattr(claims, "CLAIMS", [])
    return grid


@pytest.mark.slow
def test_reproduce_runs_what_is_missing_and_writes_the_ledger(small, tmp_path):
    for _ in range(2):
        code, text = call("reproduce", "--out", tmp_path, "--jobs", 1)
        assert code == 0 and "4 of 4 runs are done" in text
        found = ledger.read(tmp_path)["profiles"]["quick"]
        assert (found["runs"], found["missing"]) == (4, 0)
        assert set(found["scores"]["tiny"]) == {"bce", "dice"}
    assert (tmp_path / "ledger.md").read_text().startswith(ledger.MADE)
    assert len((tmp_path / "runs.csv").read_text().splitlines()) == 1 + 4


def test_without_time_nothing_is_done_and_the_exit_code_says_so(small, tmp_path):
    code, text = call("reproduce", "--out", tmp_path, "--minutes", 0)
    assert code == 1 and "4 are left: call again to resume" in text
    assert ledger.read(tmp_path)["profiles"]["quick"]["missing"] == 4


def test_names_that_do_not_exist_are_refused_before_anything_runs():
    with pytest.raises(SegkitError, match="no profile 'huge'; there are: quick, full"):
        designs.select("huge")
    with pytest.raises(SegkitError, match=r"no design 'abi'.*; there are: abi2024 own, abi2024, "):
        designs.select("quick", ["abi", "quality"])
    assert [d.name for d in designs.select("full", ["quality", "amp"])] == ["quality", "amp"]
    assert "quality" not in [d.name for d in designs.select("full")]


def test_outside_a_checkout_the_message_says_what_to_do(monkeypatch, tmp_path):
    experiments.load.cache_clear()
    monkeypatch.setattr(paths, "__file__", str(tmp_path / "segkit" / "paths.py"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SegkitError, match="clone the repository"):
        call("reproduce", "--out", tmp_path)


def test_every_run_of_the_ledger_sets_its_precision_and_none_of_the_miniature_is_missing():
    records = experiments.read_records(ledger.results() / "records")
    grids = [grid for group in designs.GROUPS.values() for grid in group()]
    for config in (config for grid in grids for config in grid.configs()):
        assert config["fit"]["precision"] in ("fp32", "bf16", "fp16")
    quick = {grid.name: grid for grid in designs.quick()}
    missing = {name: experiments.missing(grid, records) for name, grid in quick.items()}
    assert not any(missing.values()), f"run: segkit reproduce; {missing}"
    levels = {name: list(levels) for name, levels in quick["abi2024"].factors.items()}
    assert levels["down"] == ["maxpool", "strided"] and levels["up"] == ["transposed", "nearest"]
    assert levels["loss"] == ["bce", "dice"] and len(levels) == 3
    assert len(by_hash(c for grid in quick.values() for c in grid.configs())) == 54


@pytest.mark.slow
@pytest.mark.parametrize("grid", [*designs.full(), *designs.quality()], ids=lambda grid: grid.name)
def test_the_full_profile_runs_on_stand_ins_in_the_formats_of_the_real_data(
    grid, tmp_path, monkeypatch
):
    monkeypatch.setenv("SEGKIT_DATA", str(tmp_path / "cache"))
    if grid.name in ("deb", "smp notebook", "quality"):
        pytest.importorskip("segmentation_models_pytorch")
    config = grid.config(grid.cells()[-1], 0)
    patch = {"data.size": 32, "fit.epochs": 1, "fit.batch_size": 4, "fit.precision": "fp32"}
    small = {"width": 4, "filters": 4, "pretrained": False, "encoder_weights": None}  # no downloads
    patch |= {f"model.{k}": value for k, value in small.items() if k in config["model"]}
    config = apply_overrides(config, patch)
    found = json.loads(experiments.run(config, tmp_path, real_data(tmp_path / "data")).read_text())
    images = 8 if config["data"]["name"] == "oxford-pet" else 2
    is_sorted = config["data"].get("rule") == "sorted"
    assert found["test"] is None if is_sorted else len(found["test"][0]) == images


def test_a_folder_that_was_not_given_is_asked_for(tmp_path):
    teeth = next(d for d in designs.full() if d.name == "pdr-unet")
    with pytest.raises(SegkitError, match="no folder holds teeth-xray: give --data-dir"):
        experiments.run(teeth.config(teeth.cells()[0], 0), tmp_path)
