import json
import threading

import pytest
import torch
from tiny import LOSS, design

from segkit.experiments import build, run
from segkit.experiments.grid import merged, name_of, named
from segkit.experiments.pool import run_all
from segkit.experiments.run import DisciplineError, Unfinished, select
from segkit.metrics import Counts
from segkit.train import History

CONFIG = next(design(loss=LOSS).configs())


def stripped(file):
    """Return a record without what no two runs share."""
    found = json.loads(file.read_text())
    for name in ("seconds", "seconds_per_epoch", "cpu_seconds", "memory"):
        del found[name]
    del found["history"]["seconds"]
    return found


def test_a_record_holds_what_was_run_and_counts_every_image(tmp_path):
    file = run.run(CONFIG, tmp_path)
    found = json.loads(file.read_text())
    assert file.stem == found["name"] == name_of(CONFIG) and found["config"] == CONFIG
    test, val, boundary = (torch.tensor(found[name]) for name in ("test", "val", "boundary"))
    assert test.shape == (4, 5, 1) and val.shape == (4, 4, 1) and test.dtype == torch.int64
    assert (test.sum(dim=0) == 16 * 16).all() and (boundary.sum(dim=0) == 16 * 16).all()
    assert torch.tensor(found["train"]).sum() == 8 * 16 * 16
    best = max(found["history"]["val_iou"])
    assert Counts(*val).iou().item() == pytest.approx(best, abs=1e-4), "the selected weights"
    assert found["history"]["val_iou"][found["selected_epoch"] - 1] == best
    assert found["memory"]["peak"] > found["memory"]["start"] > 0
    assert set(found["made_with"]) == set(run.MADE_WITH)
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == [file.name]


def test_a_run_that_is_done_is_not_done_again(tmp_path, monkeypatch):
    file = run.run(CONFIG, tmp_path)
    monkeypatch.setattr(run, "select", None)
    assert run.run(CONFIG, tmp_path) == file


def test_the_test_set_opens_once_and_only_after_selection(monkeypatch):
    opened = []
    real = build.data.load
    monkeypatch.setattr(
        build.data, "load", lambda **given: opened.append(given["split"]) or real(**given)
    )
    selection = select(CONFIG)
    assert opened == ["train", "val"], "training and selection never see the test set"
    selection.test()
    assert opened == ["train", "val", "test"]
    with pytest.raises(DisciplineError, match="chooses by it"):
        selection.test()
    assert opened == ["train", "val", "test"]


@pytest.mark.parametrize("stopped, val_iou", [("interrupted in epoch 1", 0.5), ("", None)])
def test_a_network_that_was_not_selected_cannot_be_tested(stopped, val_iou):
    history = History([{"epoch": 1, "val_iou": val_iou}], stopped=stopped)
    with pytest.raises(DisciplineError, match="stays shut"):
        run.Selection(None, history, None, None, CONFIG)


def test_sorted_names_validate_on_the_last_fifth_and_leave_no_test(tmp_path):
    config = merged(CONFIG, {"data.rule": "sorted"})
    train, val = build.training_data(config["data"])
    assert (len(train), len(val)) == (14, 3), "8 + 4 + 5 images, pooled"
    assert max(train.names) <= min(val.names), "the toys of three splits share names"
    found = json.loads(run.run(config, tmp_path).read_text())
    assert found["test"] is None and found["boundary"] is None
    with pytest.raises(ValueError, match=r"data\.rule='random'; there are: official, sorted"):
        build.training_data(CONFIG["data"] | {"rule": "random"})


def test_what_the_time_cuts_short_goes_on_to_the_same_record(tmp_path):
    config = merged(CONFIG, {"fit.epochs": 30, "fit.loss": {"bce": {}, "dice": {}}})
    whole = stripped(run.run(config, tmp_path / "whole"))
    cut, calls = tmp_path / "cut", 0
    while True:
        try:
            calls += 1
            file = run.run(config, cut, seconds=0.15 * calls)
            break
        except Unfinished:
            assert not list(cut.glob("*.json"))
    assert calls > 1
    assert stripped(file) == whole
    assert not [t for t in threading.enumerate() if isinstance(t, threading.Timer)]


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
def test_several_at_a_time_one_failure_and_a_second_call(tmp_path, capfd, one_thread):
    configs = named(design(loss=LOSS).configs())
    wrong = merged(CONFIG, {"model.name": "alexnet"})
    outcome = run_all(configs | {name_of(wrong): wrong}, tmp_path, jobs=2)
    assert sorted(outcome.done) == sorted(configs) and not outcome.left
    assert list(outcome.failed) == [name_of(wrong)]
    assert "no network 'alexnet'" in outcome.failed[name_of(wrong)]
    assert "100%" in capfd.readouterr().err
    alone = stripped(run.run(CONFIG, tmp_path / "alone"))
    assert stripped(tmp_path / f"{name_of(CONFIG)}.json") == alone, "one thread, in any process"
    again = run_all(configs, tmp_path, minutes=0)
    assert sorted(again.done) == sorted(configs) and capfd.readouterr().err == ""


def test_no_time_no_run(tmp_path):
    outcome = run_all({name_of(CONFIG): CONFIG}, tmp_path, jobs=1, minutes=0)
    assert outcome.left == [name_of(CONFIG)] and not outcome.done
