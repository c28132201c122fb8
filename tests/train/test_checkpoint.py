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
from safetensors.torch import load_file, save_file

from segkit import train
from segkit.train import CheckpointError, Schedule, checkpoint


@pytest.mark.parametrize("case", ["everything", "fp16"])
def test_killed_at_any_instant_and_resumed_ends_bit_identical(case, tmp_path):
    script = Path(__file__).with_name("kill.py")
    done = subprocess.run(
        [sys.executable, script, tmp_path, case],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["planted deaths"] == 8
    assert found["deaths at any time"] >= 3
    assert all(found["planted"].values()), found
    assert all(found["anytime"].values()), found


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
    again, resumed = quick(
        net(dropout=0.3), toy(24, transform=jitter), out=tmp_path, resume=True, **options
    )
    assert same(weights(again), weights(whole))
    assert numbers(resumed) == numbers(history)


def test_ctrl_c_again_after_a_resume_within_an_epoch(tmp_path):
    options = {"batch_size": 4, "epochs": 2, "out": tmp_path}
    whole, _ = quick(net(dropout=0.3), toy(24, transform=jitter), **(options | {"out": None}))
    for at, done in ((2, 1), (5, 3), (2, 4)):  # items read since the start, batches done at the end
        interrupted(at, resume=True, **options)
        place = checkpoint.read(tmp_path / "last.safetensors")[0]["place"]
        assert (place["epoch"], place["batch"]) == (0, done)
    again, _ = quick(net(dropout=0.3), toy(24, transform=jitter), resume=True, **options)
    assert same(weights(again), weights(whole))


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
    val = toy(8, seed=1)
    whole, history = quick(val=val, epochs=4, ema=0.5)
    quick(val=val, epochs=2, ema=0.5, out=tmp_path)
    lines = []
    model, more = quick(val=val, epochs=4, ema=0.5, out=tmp_path, resume=True, log=lines.append)
    assert len(lines) == 3  # the machine, epochs 3 and 4
    assert numbers(more) == numbers(history)
    assert same(weights(model), weights(whole))
    again, same_history = quick(val=val, epochs=4, ema=0.5, out=tmp_path, resume=True)
    assert same(weights(again), weights(whole)) and same_history.rows == more.rows
    assert (tmp_path / "history.csv").read_text() == more.to_csv()


def test_a_loader_of_ones_own_resumes_mid_epoch(tmp_path):
    data = torch.utils.data.DataLoader(list(toy(24)), batch_size=4, shuffle=True)
    whole, _ = quick(net(dropout=0.3), data, epochs=2)
    left = [8]

    def stop_once(logits, target):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGINT)
        return torch.nn.functional.binary_cross_entropy_with_logits(logits[:, 0], target.float())

    def loss(logits, target):
        return torch.nn.functional.binary_cross_entropy_with_logits(logits[:, 0], target.float())

    loss.__name__ = stop_once.__name__
    whole, _ = quick(net(dropout=0.3), data, epochs=2, loss=loss)
    quick(net(dropout=0.3), data, epochs=2, loss=stop_once, out=tmp_path)
    assert checkpoint.read(tmp_path / "last.safetensors")[0]["place"]["batch"] == 2
    model, _ = quick(net(dropout=0.3), data, epochs=2, loss=loss, out=tmp_path, resume=True)
    assert same(weights(model), weights(whole))


def test_a_run_is_not_trained_over(tmp_path):
    quick(out=tmp_path)
    kept = (tmp_path / "last.safetensors").read_bytes()
    with pytest.raises(CheckpointError, match="already holds a run: go on with resume=True"):
        quick(out=tmp_path)
    assert (tmp_path / "last.safetensors").read_bytes() == kept


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"lr": 0.5}, r"trained with lr=0\.001; this run has lr=0\.5"),
        ({"seed": 1}, "trained with seed=0; this run has seed=1"),
        ({"batch_size": 4}, "trained with batch_size=8"),
        ({"data": toy(16)}, "trained with train_items=32"),
        ({"epochs": 9}, "trained with epochs=2; this run has epochs=9"),
        ({"schedule": Schedule("cosine", warmup=1)}, "trained with schedule="),
    ],
)
def test_going_on_with_other_settings_is_refused(changed, message, tmp_path):
    quick(out=tmp_path, schedule="cosine")
    with pytest.raises(CheckpointError, match=message):
        quick(out=tmp_path, resume=True, **({"schedule": "cosine"} | changed))


def test_another_networks_checkpoint_is_refused_by_name(tmp_path):
    quick(out=tmp_path)
    for file in ("last.safetensors", "best.safetensors"):
        with pytest.raises(
            CheckpointError,
            match=rf"{file} holds Sequential, not this Conv2d: weight is absent in the file",
        ):
            train.load_weights(tmp_path / file, torch.nn.Conv2d(3, 1, 1))
    with pytest.raises(CheckpointError, match=r"4\.weight is \(1, 4, 3, 3\) in the file and \(2"):
        quick(net(classes=2), out=tmp_path, resume=True)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.999])
def test_a_truncated_checkpoint_is_refused_by_name(share, tmp_path):
    quick(out=tmp_path)
    file = tmp_path / "last.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(CheckpointError, match=r"last\.safetensors is damaged or cut short"):
        quick(out=tmp_path, resume=True)


def test_a_damaged_byte_is_noticed_wherever_it_is(tmp_path):
    quick(out=tmp_path, epochs=1)
    file = tmp_path / "last.safetensors"
    whole = file.read_bytes()
    rng = np.random.default_rng(0)
    for at in [*rng.integers(0, 3000, 150), *rng.integers(3000, len(whole), 50)]:
        wrong = (whole[at] + rng.integers(1, 256)) % 256
        file.write_bytes(whole[:at] + bytes([wrong]) + whole[at + 1 :])
        with pytest.raises(CheckpointError, match=r"last\.safetensors is "):
            train.load_weights(file, net())


def test_foreign_files_are_refused(tmp_path):
    file = tmp_path / "weights.safetensors"
    save_file({"a": torch.zeros(1)}, file)
    with pytest.raises(CheckpointError, match="is not a checkpoint of segkit"):
        train.load_weights(file, net())
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        train.load_weights(tmp_path / "nothing", net())
    torch.save(net().state_dict(), file)
    with pytest.raises(CheckpointError, match="damaged or cut short"):
        train.load_weights(file, net())


def test_weights_alone_cannot_be_resumed_from(tmp_path):
    train.save_weights(tmp_path / "last.safetensors", net())
    with pytest.raises(CheckpointError, match="holds weights alone"):
        quick(out=tmp_path, resume=True)


def test_weights_come_back_with_their_facts(tmp_path):
    model = net(seed=4)
    train.save_weights(tmp_path / "a" / "w.safetensors", model, {"threshold": 0.4})
    other = net()
    about = train.load_weights(tmp_path / "a" / "w.safetensors", other)
    assert same(weights(other), weights(model)) and about["threshold"] == 0.4


def test_best_file_holds_the_best_weights_and_what_is_needed_to_use_them(tmp_path):
    val = toy(8, seed=1)
    val.masks = 1 - val.masks
    _, history = quick(val=val, lr=0.1, epochs=3, monitor="val_loss", ema=0.5, out=tmp_path)
    assert history.best["epoch"] < 3
    model = net(seed=9)
    about = train.load_weights(tmp_path / "best.safetensors", model)
    assert train.evaluate(model, val, precision="fp32")[0] == about["row"]["val_loss"]
    assert about["row"] == history.best
    assert about["config"]["data"]["class_names"] == ["background", "thing 1"]
    last = train.load_weights(tmp_path / "last.safetensors", model)
    assert train.evaluate(model, val, precision="fp32")[0] == history.last["val_loss"]
    assert last["config"] == history.config


def test_a_full_disk_is_said_and_costs_no_checkpoint(tmp_path, monkeypatch):
    quick(out=tmp_path)
    kept = load_file(tmp_path / "last.safetensors")

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match="No space left on device"):
        quick(out=tmp_path, resume=True, epochs=3)
    monkeypatch.undo()
    assert same(load_file(tmp_path / "last.safetensors"), kept)
    assert not list(tmp_path.glob("*.part"))


def test_nest_survives_packing():
    nest = {0: [1, 2.5, None, "x", True], "a": {"b": torch.arange(3)}, "c": (0.1, float("inf"))}
    tensors = {}
    back = checkpoint.unpack(json.loads(json.dumps(checkpoint.pack(nest, tensors))), tensors)
    assert back[0] == nest[0] and back["c"] == [0.1, float("inf")]
    assert torch.equal(back["a"]["b"], nest["a"]["b"])


@pytest.mark.parametrize(
    ("part", "instead"),
    [(p, None) for p in ("optimizer", "course", "place", "rows", "scaler", "config")]
    + [("optimizer", {"x": 7}), ("course", 7), ("place", {"x": 7}), ("rows", 7), ("config", 7)],
)
def test_a_training_state_that_lacks_something_is_refused(tmp_path, part, instead):
    options = {"out": tmp_path, "epochs": 1, "batch_size": 4}
    quick(net(), toy(8), **options)
    state, about = checkpoint.read(tmp_path / "last.safetensors")
    holder = about if part == "config" else state
    if instead is None:
        del holder[part]
    else:
        holder[part] = instead
    checkpoint.write(tmp_path / "last.safetensors", state, about)
    with pytest.raises(CheckpointError, match=r"last\.safetensors"):
        quick(net(), toy(8), resume=True, **options)
