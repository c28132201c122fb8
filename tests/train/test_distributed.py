import csv
import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch._dynamo  # optimizers and DDP load it when first used: here, once, not in each child
import torch.distributed as dist
import torch.multiprocessing as mp
from nets import net, quick, same, toy, weights
from torch import nn

from segkit import train
from segkit.config import from_config
from segkit.errors import ArgumentError, DataError
from segkit.metrics import counts
from segkit.model_file import load_model
from segkit.models import build
from segkit.train import distributed


def join(rank, ranks, port):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_RANK": str(rank)}
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(ranks)}
    torch.set_num_threads(1)


def several(function, tmp_path, ranks=2):
    """Run `function(rank, folder)` in `ranks` processes that form a group."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.start_processes(_member, (function, ranks, port, tmp_path), ranks, start_method="fork")


def _member(rank, function, ranks, port, folder):
    join(rank, ranks, port)
    with distributed.process_group("cpu"):
        function(rank, folder)


OPTIONS = {
    "epochs": 2,
    "batch_size": 8,
    "optimizer": "sgd",
    "lr": 0.1,
    "accumulate": 2,
    "device": "cpu",
}


def both(rank, folder):
    val = toy(11, seed=1)  # an odd number: the shares differ in size
    _, history = quick(net(norm=False), toy(40), val, out=folder / "two", save_every=1, **OPTIONS)
    (folder / f"seen by {rank}").write_text(history.to_csv())
    _, own = train.evaluate(net(norm=False), val, batch_size=4, precision="fp32", device="cpu")
    summed = distributed.all_sum(own.total().stacked())
    torch.save(summed, folder / f"counts {rank}")


def agree(one, two):
    """Check that the run in folder `two` has the numbers of the history `one`."""
    rows = list(csv.DictReader((two / "history.csv").open()))
    for mine, theirs in zip(one.rows, rows, strict=True):
        for column, rounding in {
            "train_loss": 1e-5,
            "val_loss": 1e-5,
            "val_iou": 1e-3,
            "lr": 0,
        }.items():
            assert float(theirs[column]) == pytest.approx(mine[column], abs=rounding)


def test_two_processes_equal_one(tmp_path):
    several(both, tmp_path)
    _, one = quick(net(norm=False), toy(40), toy(11, seed=1), **OPTIONS)
    agree(one, tmp_path / "two")
    seen = [(tmp_path / f"seen by {rank}").read_text().splitlines() for rank in (0, 1)]
    assert [r.rsplit(",", 1)[0] for r in seen[0]] == [r.rsplit(",", 1)[0] for r in seen[1]]

    val = toy(11, seed=1)
    model = net(norm=False).eval()
    with torch.no_grad():
        logits = model(torch.stack([val[i][0] for i in range(11)]))
    expected = counts(logits, torch.from_numpy(val.masks).long()).total().stacked()
    for rank in (0, 1):
        assert torch.equal(torch.load(tmp_path / f"counts {rank}"), expected)


def cut_and_go_on(rank, folder):
    data, options, goes_on = (
        toy(40),
        {"batch_size": 8, "epochs": 2, "device": "cpu"},
        (folder / "last.pt").exists,
    )

    def loss(logits, target):
        if goes_on():
            progress = torch.load(folder / "last.pt")["progress"]
            if (progress["epoch"], progress["batch"]) == (1, 2):
                raise InterruptedError
        return nn.functional.binary_cross_entropy_with_logits(logits[:, 0], target.float())

    options |= {"loss": loss}
    with pytest.raises(InterruptedError):
        quick(net(dropout=0.4), data, out=folder, save_every=1, **options)
    dist.barrier()
    goes_on = bool
    model, again = quick(net(dropout=0.4), data, out=folder, resume=True, **options)
    whole, history = quick(net(dropout=0.4), data, **options)
    assert same(weights(model), weights(whole))
    assert again["train_loss"] == pytest.approx(history["train_loss"], rel=1e-6)


def test_two_processes_go_on_bit_identical(tmp_path):
    several(cut_and_go_on, tmp_path)
    with pytest.raises(train.CheckpointError, match=r"trained with .*processes=2; .*processes=1"):
        quick(net(dropout=0.4), toy(40), epochs=2, out=tmp_path, resume=True)


def refuses(rank, folder):
    with pytest.raises(ValueError, match="batch_size=5 is that of all 2 processes"):
        quick(batch_size=5, device="cpu")
    with pytest.raises(DataError, match="1 items cannot be shared among 2 processes"):
        quick(val=toy(1), device="cpu")
    with pytest.raises(ValueError, match="give data sets, not loaders"):
        quick(data=torch.utils.data.DataLoader(list(toy(4))), device="cpu")


def test_what_cannot_be_shared_is_refused(tmp_path):
    several(refuses, tmp_path)


def test_shares_of_a_step_make_the_batch_of_one_process(monkeypatch):
    def batches(rank, ranks):
        monkeypatch.setattr(distributed, "rank", lambda: rank)
        monkeypatch.setattr(distributed, "ranks", lambda: ranks)
        loader = distributed.make_loader(toy(24), 8, 3, 0, torch.device("cpu"), training=True)
        loader.sampler.set_epoch(1)
        return [[index for index, _ in group] for group in loader.batch_sampler]

    single = batches(0, 1)
    for ranks in (2, 4):
        shares = zip(*(batches(rank, ranks) for rank in range(ranks)), strict=True)
        for one, parts in zip(single, shares, strict=True):
            assert sorted(one) == sorted(np.concatenate(parts).tolist())


CONFIG = {
    "data": {"name": "toy-embryo", "size": 32, "count": 16, "val_count": 7},
    "model": {"name": "unet", "width": 4, "depth": 2, "norm": False},
    "fit": {"epochs": 2, "batch_size": 8, "precision": "fp32", "device": "cpu",
            "schedule": {"name": "cosine", "warmup": 0.5}},
}  # fmt: skip


def torchrun(folder, config):
    """Train from a config in two processes; return what was printed."""
    config = config | {"fit": config["fit"] | {"out": str(folder / "two")}}
    (folder / "config.yaml").write_text(json.dumps(config))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    done = subprocess.run(
        [*command, "-m", "segkit", "train", str(folder / "config.yaml")],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_torchrun_trains_a_unet_as_one_process_does(tmp_path):
    """From a config file, with AdamW."""
    printed = torchrun(tmp_path, CONFIG)
    assert printed.count("epoch 1/2") == 1  # process 0 alone prints
    assert printed.count("Model: ") == 1 and (tmp_path / "two" / "model.safetensors").is_file()
    agree(from_config(CONFIG, log=None).history, tmp_path / "two")


@pytest.mark.slow
def test_torchrun_trains_over_a_frozen_encoder(tmp_path):
    torchrun(
        tmp_path,
        CONFIG
        | {"model": {"name": "pretrained_unet", "width": 4}}
        | {"fit": CONFIG["fit"] | {"encoder_lr": 0.0, "lr": 1e-2}},
    )
    model, _ = load_model(tmp_path / "two" / "model.safetensors")
    start = build("pretrained_unet", 1, width=4)
    same = {k for k, v in start.state_dict().items() if torch.equal(v, model.state_dict()[k])}
    assert {k for k in same if "num_batches" not in k} == {
        f"encoder.{k}" for k in start.encoder.state_dict() if "num_batches" not in k
    }


def test_batch_normalisation_of_all_gpus_keeps_the_activations_inside(monkeypatch):
    """timm's batch normalisation holds an activation, which torch's conversion would lose."""
    monkeypatch.setattr(distributed, "ranks", lambda: 2)
    model, x = build("pretrained_unet", width=4).eval(), torch.randn(1, 3, 64, 64)
    expected = model(x)
    converted = distributed.sync_batch_norm(model, torch.device("cuda")).eval()
    kinds = {type(m).__name__ for m in converted.modules()}
    assert not any("BatchNorm2d" in kind or kind == "BatchNormAct2d" for kind in kinds)
    assert torch.allclose(converted(x), expected, atol=1e-5)


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(ArgumentError, match=r'GPU number 1, and there are 1: .* device="cpu"'):
        distributed.pick_device(None)
