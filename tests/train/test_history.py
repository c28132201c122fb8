import csv
import json
import math

import pytest
from nets import jitter, net, quick, toy

from segkit.losses import BCELoss
from segkit.train.distributed import device_name, pick_device
from segkit.train.history import _COLUMNS as COLUMNS
from segkit.train.history import History


def row(epoch, iou, **more):
    base = dict.fromkeys(COLUMNS, 0.5)
    return base | {"epoch": epoch, "val_iou": iou} | more


def test_best_is_the_first_of_the_best_and_nan_the_worst():
    history = History([row(1, math.nan), row(2, 0.7), row(3, 0.7), row(4, 0.2)])
    assert history.best["epoch"] == 2 and history.since_best() == 2
    history.monitor = "val_loss"
    for r, loss in zip(history.rows, (0.4, 0.3, math.nan, 0.5), strict=True):
        r["val_loss"] = loss
    assert history.best["epoch"] == 2


def test_columns_and_their_names():
    history = History([row(1, 0.1), row(2, 0.2)])
    assert history["val_iou"] == [0.1, 0.2] and len(history) == 2
    with pytest.raises(KeyError, match="no column 'iou'; there are: epoch, train_loss"):
        history["iou"]
    with pytest.raises(ValueError, match="the history is empty"):
        History().best  # noqa: B018


def test_short_form_says_how_it_went():
    assert repr(History()) == "History(no epoch finished)"
    short = repr(History([row(1, 0.25), row(2, 0.125)]))
    assert short == "History(2 epochs, best val_iou 0.250 in epoch 1)"


def test_folder_holds_table_and_config(tmp_path):
    val = toy(8, seed=1)
    options = {"out": tmp_path, "lr": 0.02, "seed": 3, "loss": BCELoss(pos_weight=3.0)}
    _, history = quick(net(), toy(32, transform=jitter), val, **options)
    table = list(csv.DictReader((tmp_path / "history.csv").open()))
    assert [float(row["val_iou"]) for row in table] == history["val_iou"]
    config = json.loads((tmp_path / "config.json").read_text())
    assert config == history.config
    settings = config["settings"]
    assert settings["lr"] == 0.02 and settings["seed"] == 3 and settings["train_items"] == 32
    assert settings["model"] == "Sequential" and settings["loss"].startswith(
        "BCELoss(ignore_index=255, pos_weight=3.0"
    )
    assert settings["precision"] == "fp32" and config["precision"] == "fp32: as asked"
    assert config["parameters"] == sum(p.numel() for p in net().parameters())
    assert (
        config["torch"] and config["python"] and config["device"] == device_name(pick_device(None))
    )


class Fails:
    """A tracker that notes its calls and fails in one of them."""

    def __init__(self, where):
        self.where, self.got = where, []

    def __getattr__(self, name):
        def take(*arguments):
            self.got.append(name)
            if name == self.where:
                raise ConnectionError("the server is gone")

        return take


@pytest.mark.parametrize(
    ("where", "got"),
    [
        ("start", ["start"]),
        ("log", ["start", "log"]),
        ("finish", ["start", "log", "log", "finish"]),
    ],
)
def test_a_tracker_that_fails_is_left_out_and_training_goes_on(where, got):
    failing, sound = Fails(where), Fails("never")
    with pytest.warns(UserWarning, match="Fails failed and is left out .* the server is gone"):
        _, history = quick(trackers=[failing, sound])
    assert len(history) == 2 and failing.got == got
    assert sound.got == ["start", "log", "log", "finish"]


def test_trackers_are_closed_when_training_breaks():
    tracker = Fails("never")

    def loss(logits, target):
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        quick(loss=loss, trackers=[tracker])
    assert tracker.got == ["start", "finish"]


def test_tensorboard_holds_the_curves(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    options = {"val": toy(8, seed=1), "trackers": ["tensorboard"], "out": tmp_path}
    quick(epochs=2, **options)
    _, history = quick(epochs=3, resume=True, **options)
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == set(COLUMNS) - {"epoch"}
    found = events.Scalars("val_iou")
    assert [e.step for e in found] == [1, 2, 3]
    assert [e.value for e in found] == pytest.approx(history["val_iou"])


def test_wandb_offline_holds_the_run(tmp_path):
    wandb = pytest.importorskip("wandb")
    _, history = quick(val=toy(8, seed=1), trackers=["wandb"], out=tmp_path)
    wandb.teardown()  # waits for its service, which writes the file
    (file,) = tmp_path.glob("wandb/wandb/offline-run-*/run-*.wandb")
    records = file.read_bytes()
    for name in COLUMNS:
        for value in history[name]:
            assert name.encode() in records and json.dumps(value).encode() in records
    assert b"train_items" in records  # the config
