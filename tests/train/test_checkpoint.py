import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from nets import jitter, net, numbers, quick, same, toy, weights

from segkit import train
from segkit.files import FileError
from segkit.losses import BCELoss, Combined, DiceLoss
from segkit.train import CheckpointError, Schedule


@pytest.mark.parametrize("case", ["everything", "fp16"])
def test_killed_while_it_writes_and_resumed_ends_bit_identical(case, tmp_path):
    script = Path(__file__).with_name("kill.py")
    options = {"capture_output": True, "text": True, "env": os.environ | {"OMP_NUM_THREADS": "1"}}
    done = subprocess.run([sys.executable, script, tmp_path, case], **options)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found.pop("deaths") == 8 and all(found.values()), found


@pytest.fixture(autouse=True)
def ctrl_c():
    """Let Ctrl-C be heard even where the tests run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupted(at: int, **options):
    """Fit, and press Ctrl-C while item number `at` is read for training."""
    left = [at + 1]  # one is read before, to see how many channels of logits there are

    def transform(image, mask, seed):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGINT)
        return jitter(image, mask, seed)

    return quick(net(dropout=0.3), toy(24, transform=transform), **options)


@pytest.mark.parametrize("at", [1, 20, 30, 48])
def test_ctrl_c_saves_and_returns_and_resumes_to_the_same_weights(at, tmp_path):
    options = {"val": toy(8, seed=1), "batch_size": 4, "epochs": 3, "schedule": "cosine"}
    whole, history = quick(net(dropout=0.3), toy(24, transform=jitter), **options)
    before = signal.getsignal(signal.SIGINT)
    lines = []
    part, cut = interrupted(at, out=tmp_path, log=lines.append, **options)
    assert signal.getsignal(signal.SIGINT) is before
    assert "stopping after this step; Ctrl-C again stops at once" in lines
    assert len(cut) == at // 24  # an epoch whose last batch was under way is finished
    assert cut.stopped == f"interrupted in epoch {len(cut) + 1}"
    assert not same(weights(part), weights(whole))
    options |= {"out": tmp_path, "resume": True}
    if at == 1:  # and once more within the same epoch
        interrupted(5, **options)
        assert torch.load(tmp_path / "last.pt")["progress"]["batch"] == 3
    again, resumed = quick(net(dropout=0.3), toy(24, transform=jitter), **options)
    assert same(weights(again), weights(whole))
    assert numbers(resumed) == numbers(history)


def test_second_ctrl_c_stops_at_once():
    read = []

    def insist(image, mask, seed):
        read.append(seed)
        if len(read) > 1:  # the first is read before training
            os.kill(os.getpid(), signal.SIGINT)
        return jitter(image, mask, seed)

    with pytest.raises(KeyboardInterrupt):
        quick(data=toy(24, transform=insist))
    assert len(read) == 3


def test_ctrl_c_that_is_ignored_stays_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _, history = interrupted(1, epochs=1)
    assert len(history) == 1 and signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_resume_goes_on_for_more_epochs_and_returns_when_done(tmp_path):
    options, lines = {"val": toy(8, seed=1), "ema": 0.5}, []
    whole, history = quick(epochs=4, **options)
    quick(epochs=2, out=tmp_path, **options)
    options |= {"epochs": 4, "out": tmp_path, "resume": True}
    model, more = quick(log=lines.append, **options)
    assert len(lines) == 3  # the machine, epochs 3 and 4
    assert numbers(more) == numbers(history) and same(weights(model), weights(whole))
    again, same_history = quick(**options)
    assert same(weights(again), weights(whole)) and same_history.rows == more.rows
    assert (tmp_path / "history.csv").read_text() == more.to_csv()


@pytest.mark.parametrize("generator", [False, True])
def test_a_loader_of_ones_own_resumes_mid_epoch(generator, tmp_path):
    def data():
        own = torch.Generator().manual_seed(3) if generator else None
        return torch.utils.data.DataLoader(list(toy(24)), 4, shuffle=True, generator=own)

    calls = []

    def loss(logits, target):
        calls.append(1)
        if len(calls) == 8 and (tmp_path / "config.json").exists():
            os.kill(os.getpid(), signal.SIGINT)
        return torch.nn.functional.binary_cross_entropy_with_logits(logits[:, 0], target.float())

    whole, _ = quick(net(dropout=0.3), data(), epochs=2, loss=loss)
    calls.clear()
    quick(net(dropout=0.3), data(), epochs=2, loss=loss, out=tmp_path)
    assert torch.load(tmp_path / "last.pt")["progress"]["batch"] == 2
    model, _ = quick(net(dropout=0.3), data(), epochs=2, loss=loss, out=tmp_path, resume=True)
    assert same(weights(model), weights(whole))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"lr": 0.5}, r"trained with lr=0\.001; this run has lr=0\.5"),
        ({"seed": 1}, "trained with seed=0; this run has seed=1"),
        ({"batch_size": 4}, "trained with batch_size=8"),
        ({"data": toy(16)}, "trained with train_items=32"),
        ({"monitor": "train_loss"}, "trained with monitor='val_loss'; this run has monitor='train"),
        ({"epochs": 9}, "trained with epochs=2; this run has epochs=9"),
        ({"schedule": Schedule("cosine", warmup=1)}, "trained with schedule="),
    ],
)
def test_resuming_with_other_settings_is_refused(changed, message, tmp_path):
    options = {"out": tmp_path, "schedule": "cosine", "val": toy(8), "monitor": "val_loss"}
    quick(**options)
    with pytest.raises(CheckpointError, match=message):
        quick(**(options | {"resume": True} | changed))


def test_the_weights_of_a_sum_of_losses_are_recorded(tmp_path):
    def losses(weight: float) -> Combined:
        return Combined({BCELoss(): 1.0, DiceLoss(): weight})

    _, history = quick(out=tmp_path, loss=losses(1.0))
    assert "weights=[1.0, 1.0]" in history.config["settings"]["loss"]
    with pytest.raises(CheckpointError, match=r"this run has loss=.*1\.0, 50\.0"):
        quick(out=tmp_path, loss=losses(50.0), resume=True)


def test_another_networks_checkpoint_is_refused_by_name(tmp_path):
    quick(out=tmp_path)
    for file in ("last.pt", "best.pt"):
        message = f"{file} holds Sequential, not this Conv2d: weight is absent in the file"
        with pytest.raises(CheckpointError, match=message):
            train.load_weights(tmp_path / file, torch.nn.Conv2d(3, 1, 1))
    with pytest.raises(CheckpointError, match=r"4\.weight is \(1, 4, 3, 3\) in the file and \(2"):
        quick(net(classes=2), out=tmp_path, resume=True)


def test_a_damaged_checkpoint_is_refused_or_harmless(tmp_path):
    model, _ = quick(out=tmp_path, epochs=1)
    file = tmp_path / "last.pt"
    whole = file.read_bytes()
    for share in (0.0, 0.001, 0.3, 0.999):
        file.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(CheckpointError, match=r"last\.pt is damaged"):
            quick(out=tmp_path, resume=True)
    rng = np.random.default_rng(0)
    refused = 0
    for at in rng.integers(0, len(whole), 200):
        wrong = (whole[at] + rng.integers(1, 256)) % 256
        file.write_bytes(whole[:at] + bytes([wrong]) + whole[at + 1 :])
        loaded = net(seed=5)
        try:
            train.load_weights(file, loaded)
            assert same(weights(loaded), weights(model))
        except CheckpointError as error:
            assert str(file) in str(error)
            refused += 1
    assert refused > 100  # the rest hits what only fills the file up


def test_foreign_files_are_refused(tmp_path):
    file = tmp_path / "weights.pt"
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        train.load_weights(file, net())
    for foreign in (net().state_dict(), {"kind": "weights", "metadata": "{}", "model": {"a": 1}}):
        torch.save(foreign, file)
        with pytest.raises(CheckpointError, match="is damaged or no checkpoint of segkit"):
            train.load_weights(file, net())
    torch.save({"kind": "weights", "metadata": "{}", "model": Runs()}, file)
    with pytest.raises(CheckpointError, match="is damaged or no checkpoint"):
        train.load_weights(file, net())


class Runs:
    """A pickle that would run code when it is opened."""

    def __reduce__(self):
        return pytest.fail, ("code of the file was run",)


def test_weights_come_back_with_their_metadata_but_are_not_resumed_from(tmp_path):
    model, other = net(seed=4), net()
    train.save_weights(tmp_path / "a" / "last.pt", model, {"threshold": 0.4})
    about = train.load_weights(tmp_path / "a" / "last.pt", other)
    assert same(weights(other), weights(model)) and about["threshold"] == 0.4
    with pytest.raises(CheckpointError, match="holds weights alone"):
        quick(out=tmp_path / "a", resume=True)


def test_best_file_holds_the_best_weights_and_what_is_needed_to_use_them(tmp_path):
    val = toy(8, seed=1)
    val.masks = 1 - val.masks
    _, history = quick(val=val, lr=0.1, epochs=3, monitor="val_loss", ema=0.5, out=tmp_path)
    assert history.best["epoch"] < 3
    model = net(seed=9)
    about = train.load_weights(tmp_path / "best.pt", model)
    assert train.evaluate(model, val, precision="fp32")[0] == about["row"]["val_loss"]
    assert about["row"] == history.best
    assert about["config"]["data"]["class_names"] == ["background", "thing 1"]
    last = train.load_weights(tmp_path / "last.pt", model)
    assert train.evaluate(model, val, precision="fp32")[0] == history.last["val_loss"]
    assert last["config"] == history.config


def test_neither_a_second_run_nor_a_full_disk_costs_a_checkpoint(tmp_path, monkeypatch):
    quick(out=tmp_path)
    before = (tmp_path / "last.pt").read_bytes()
    with pytest.raises(CheckpointError, match="already holds a run: continue it with resume=True"):
        quick(out=tmp_path)

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FileError, match="No space left on device"):
        quick(out=tmp_path, resume=True, epochs=3)
    monkeypatch.undo()
    assert (tmp_path / "last.pt").read_bytes() == before
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize(
    ("part", "instead"),
    [(p, None) for p in ("optimizer", "scheduler", "progress", "rows", "scaler", "metadata")]
    + [(p, {"x": 7}) for p in ("optimizer", "progress")]
    + [(p, 7) for p in ("scheduler", "rows", "metadata")],
)
def test_a_training_state_that_lacks_something_is_refused(tmp_path, part, instead):
    options = {"data": toy(8), "out": tmp_path, "epochs": 1, "batch_size": 4}
    quick(**options)
    state = torch.load(tmp_path / "last.pt")
    state[part] = instead
    if instead is None:
        del state[part]
    torch.save(state, tmp_path / "last.pt")
    with pytest.raises(CheckpointError, match=r"last\.pt"):
        quick(resume=True, **options)
