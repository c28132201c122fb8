"""Speed of training: `python tests/bench/bench_train.py [--only cpu|gpu] [--save]`.

On the CPU: this engine against the loop as people write it first (decode in each epoch, `.item()`
in each step, float32), against a bare step, and against segmentation-models-pytorch in the loop of
its own examples. With a CUDA GPU also: images a second by precision, and the share of what the
arithmetic units could do. The two sides of a row take turns; the best rounds are compared.
It takes up to four minutes on two idle cores; other work beside it spoils the third digit.
`--save` writes figures/results/bench_train.json; what was not measured now stays as it is there.
Real pets come from SEGKIT_REAL_DATA if set.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from bench_data import make_pets
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets import OxfordIIITPet

from segkit import paths, train
from segkit.data import SegmentationDataset, load, loader
from segkit.data.pets import from_trimap
from segkit.files import write_text
from segkit.losses import BCELoss, DiceLoss
from segkit.models import build
from segkit.train.distributed import device_name

SIZE, WIDTH, BATCH, EPOCHS = 128, 16, 16, 3
ITEMS, VAL_ITEMS, ROUNDS, STEPS = 32, 16, 5, 12
FIT = {"batch_size": BATCH, "device": "cpu", "log": None}
PRECISIONS = list(dict.fromkeys((train.precision.choose("auto").name, "fp32")))  # of this CPU
# Forward and backward, GFLOP per image of 256 × 256 (torch.utils.flop_counter).
GFLOP = {"unet": 288.8, "resnet34_unet": 57.0}
GPU = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
# TFLOP/s, dense bf16; the H100 with HBM3 is the H200's chip with other memory.
PEAK = 790.0 if "H200" in GPU or "H100 80GB HBM3" in GPU else None


class Pets(Dataset):
    """Pairs decoded and resized each time they are asked for, as dictionaries."""

    def __init__(self, root: Path, names: set[str]) -> None:
        self.files = OxfordIIITPet(root, "test", "segmentation")
        self.chosen = [i for i, f in enumerate(self.files._images) if f.stem in names]

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        image, trimap = self.files[self.chosen[i]]
        pixels = np.array(image.resize((SIZE, SIZE), Image.Resampling.BILINEAR), np.float32) / 255
        mask = from_trimap(np.array(trimap.resize((SIZE, SIZE), Image.Resampling.NEAREST)), "pet")
        return {
            "image": torch.from_numpy(pixels.transpose(2, 0, 1).copy()),
            "mask": torch.from_numpy(mask.astype(np.float32))[None],
        }


def first_loop(model: nn.Module, batches: dict, device: str = "cpu", epochs: int = EPOCHS) -> None:
    """Train as a first lab report does: sigmoid and BCELoss, numpy Dice and `.item()` each step."""
    optimizer, criterion = torch.optim.Adam(model.parameters(), lr=1e-3), nn.BCELoss()

    def dice(output: torch.Tensor, mask: torch.Tensor) -> float:
        said, true = (output > 0.5).float().cpu().numpy(), mask.cpu().numpy()
        return 2 * (said * true).sum() / (said.sum() + true.sum() + 1e-8)

    for _ in range(epochs):
        for part, fed in batches.items():
            model.train(part == "train")
            scores, losses = [], []
            with torch.set_grad_enabled(part == "train"):
                for batch in fed:
                    image, mask = batch["image"].to(device), batch["mask"].to(device)
                    output = torch.sigmoid(model(image))
                    loss = criterion(output, mask)
                    if part == "train":
                        optimizer.zero_grad()
                        loss.backward()
                        optimizer.step()
                    scores.append(dice(output.detach(), mask))
                    losses.append(loss.item())


def lightning_loop(model: nn.Module, fed: DataLoader) -> None:
    """Train an epoch as segmentation-models-pytorch's pets example does."""
    criterion = smp.losses.DiceLoss(smp.losses.BINARY_MODE, from_logits=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(fed), eta_min=1e-5)
    outputs = []
    model.train()
    for image, mask in fed:
        logits = model(image)
        loss = criterion(logits, mask[:, None].float())
        said = (logits.sigmoid() > 0.5).long()
        stats = smp.metrics.get_stats(said, mask[:, None], mode="binary")
        outputs.append({"loss": loss, "stats": stats})
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    stats = [torch.cat(parts) for parts in zip(*(o["stats"] for o in outputs), strict=True)]
    for reduction in ("micro-imagewise", "micro"):
        smp.metrics.iou_score(*stats, reduction=reduction).item()


def bare(model: nn.Module, precision: str, batches: list) -> Callable[[], None]:
    """Return an epoch of nothing but forward, backward and step, with the engine's settings."""
    model.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    number_format = train.precision.choose(precision, "cpu")

    def epoch() -> None:
        for images, masks in batches:
            images = images.to(memory_format=torch.channels_last)
            with number_format.autocast():
                logits = model(images)
            loss = F.binary_cross_entropy_with_logits(logits[:, 0].float(), masks.float())
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return epoch


def engine(
    model: nn.Module, batches: list | SegmentationDataset, epochs: int = 1, **options: object
) -> float:
    """Return the seconds of the engine's best epoch over the same batches, or over a data set."""
    if isinstance(batches, list):
        batches = DataLoader(batches, batch_size=None)
    history = train.fit(model, batches, epochs=epochs, loss=BCELoss(), log=None, **options)
    return min(history["seconds"])


def in_turns(*works: Callable[[], object], rounds: int = ROUNDS) -> list[float]:
    """Return the best seconds of each, run in turns: the first round, the slowest, drops out.

    What returns a number has measured itself.
    """
    times = []
    for _ in range(rounds):
        times.append([])
        for work in works:
            began = time.perf_counter()
            measured = work()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            elapsed = time.perf_counter() - began
            times[-1].append(measured if isinstance(measured, float) else elapsed)
    return [min(column) for column in zip(*times, strict=True)]


def unet(**options: int) -> nn.Module:
    return build("unet", in_channels=3, classes=1, **({"width": WIDTH} | options))


def end_to_end(root: Path) -> list[dict]:
    """Compare training from the files on, decoding included, with the loop written first."""
    how = {"border": "pet", "data_dir": root, "cache": False, "transform": None}
    names = load("oxford-pet", "test", SIZE, count=ITEMS + VAL_ITEMS, **how).names
    parts = {"train": set(names[:ITEMS]), "val": set(names[ITEMS:])}

    def theirs() -> None:
        fed = {
            part: DataLoader(Pets(root, chosen), BATCH, shuffle=part == "train")
            for part, chosen in parts.items()
        }
        first_loop(unet(), fed)

    def ours(precision: str) -> None:
        data = load("oxford-pet", "test", SIZE, count=ITEMS + VAL_ITEMS, **how)
        parts = data.subset(range(ITEMS)), data.subset(range(ITEMS, len(data)))
        train.fit(unet(), *parts, epochs=EPOCHS, precision=precision, **FIT)

    slow, *own = in_turns(theirs, *(partial(ours, name) for name in PRECISIONS))
    return [
        row(f"fit in {name} against the loop written first", EPOCHS * ITEMS, fast, slow, "≥ 1.5")
        for name, fast in zip(PRECISIONS, own, strict=True)
    ]


def overhead(batches: list) -> list[dict]:
    """Compare the engine with a bare forward, backward and step on the same batch."""
    rows = []
    for precision in PRECISIONS:
        options = {"device": "cpu", "precision": precision}
        plain, ours = in_turns(
            bare(unet(), precision, batches),
            partial(engine, unet(), batches, epochs=3, **options),  # its first step is slower
            rounds=STEPS,
        )
        images = sum(len(masks) for _, masks in batches)
        rows.append(row(f"engine against a bare step, {precision}", images, ours, plain, "≥ 0.97"))
    return rows


class Sleeper(nn.Module):
    """A network whose time is sleep, so that the load of the machine hardly matters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        time.sleep(0.04 if self.training else 0)
        return self.conv(x)


def slow_pair(image: np.ndarray, mask: np.ndarray, seed: int) -> tuple:
    """Take as long to load two images as `Sleeper` takes for a batch of them, by two workers."""
    time.sleep(0.04)
    return torch.from_numpy(image[None].astype("float32")), torch.from_numpy(mask.astype("int64"))


def accumulation() -> list[dict]:
    """Compare epochs with and without accumulated gradients: loading has to overlap in both."""
    images = np.zeros((48, 8, 8), np.uint8)
    data = SegmentationDataset(images, images + 1, ("background", "thing"), transform=slow_pair)
    options = {"epochs": 2, "workers": 2, "precision": "fp32", **FIT, "batch_size": 2}

    def epoch(accumulate: int) -> float:
        return min(train.fit(Sleeper(), data, accumulate=accumulate, **options)["seconds"])

    one, sixteen = in_turns(partial(epoch, 1), partial(epoch, 16), rounds=2)
    return [row("16 batches to a step against 1, loading slow", len(data), sixteen, one, "≥ 0.9")]


def evaluation(home: Path) -> list[dict]:
    """Compare evaluation in the two memory layouts, and of a memory-mapped set with its copy."""
    data = load("toy-pets", "test", 256, count=8, border="pet")
    network = unet(width=16)

    def predict(channels_last: bool) -> None:
        layout = torch.channels_last if channels_last else torch.contiguous_format
        network.to(memory_format=layout)
        list(train.predict_batches(network, data, 4, device="cpu", channels_last=channels_last))

    plain, ours = in_turns(partial(predict, False), partial(predict, True))
    rows = [row("evaluation in channels_last against contiguous", len(data), ours, plain, "≥ 1.3")]
    file = home / "images.npy"
    np.save(file, np.zeros((4000, 128, 128, 3), np.uint8))
    images = np.load(file, mmap_mode="r")
    mapped = SegmentationDataset(images, images[..., 0], ("background", "thing"))

    def begin() -> None:
        next(train.predict_batches(network, mapped, 4, device="cpu"))

    def copy_and_begin() -> None:
        copied = mapped.subset(np.random.default_rng(0).permutation(len(mapped)))
        next(train.predict_batches(network, copied, 4, device="cpu"))

    ours, copied = in_turns(begin, copy_and_begin, rounds=3)
    what = "first batch of 4,000 memory-mapped images against a copy"
    return [*rows, row(what, 4, ours, copied, "≥ 2")]


def against_smp(data: SegmentationDataset) -> list[dict]:
    """Compare an epoch of the same library network in its own loop and in ours."""
    options = {"epochs": 1, "optimizer": "adam", "lr": 2e-4, "schedule": "cosine", **FIT}

    def network() -> nn.Module:
        return smp.Unet("resnet18", encoder_weights=None, in_channels=3, classes=1)

    def ours(precision: str) -> None:
        train.fit(network(), data, loss=DiceLoss(), precision=precision, **options)

    slow, *own = in_turns(
        lambda: lightning_loop(network(), DataLoader(data, BATCH, shuffle=True)),
        *(partial(ours, name) for name in PRECISIONS),
    )
    return [
        row(f"smp Unet(resnet18): fit in {name} against its example's loop", len(data), fast, slow)
        for name, fast in zip(PRECISIONS, own, strict=True)
    ]


def row(what: str, images: int, ours: float, theirs: float, aim: str = "") -> dict:
    """Return a row of the CPU table from the seconds of both sides."""
    speed = {"images_per_second": images / ours, "against": images / theirs}
    return {"what": what, **speed, "ratio": theirs / ours, "aim": aim}


def on_gpu(
    device: str = "cuda", size: int = 256, width: int = 64, batch: int = 64, steps: int = 12
) -> Iterator[dict]:
    """Yield images per second by network and precision, batches at hand and through a loader.

    The cheapest first: what a time limit cuts off is the slowest.
    """
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch * steps, size, size, 3), dtype=np.uint8)
    data = SegmentationDataset(images, images[..., 0] // 128, ("background", "thing"))
    modes = ("bf16", "tf32", "first loop", "bf16 compiled", "fp32")
    for mode in modes:
        for network, options in (("resnet34_unet", {}), ("unet", {"width": width})):
            for loading in (False, True)[: 1 if mode == "first loop" else 2]:
                what = f"{network} at {size}², {mode}" + (", with loading" if loading else "")
                model = build(network, in_channels=3, classes=1, **options).to(device)
                speed = len(data) / gpu_epoch(model, mode, loading, data, batch, device)
                share = speed * GFLOP[network] / 1e3 / PEAK if PEAK and size == 256 else None
                print(f"{what}: {speed:,.0f} images/s", file=sys.stderr, flush=True)
                yield {"what": what, "images_per_second": speed, "share_of_peak": share}


def gpu_epoch(
    model: nn.Module, mode: str, loading: bool, data: SegmentationDataset, batch: int, device: str
) -> float:
    """Return the seconds of one epoch of `data`; without loading, of its first batch repeated."""
    images, masks = (
        torch.stack(t).to(device) for t in zip(*map(data.__getitem__, range(batch)), strict=True)
    )
    if mode == "first loop":
        batches = [{"image": images, "mask": masks[:, None].float()}] * (len(data) // batch)
        return in_turns(lambda: first_loop(model, {"train": batches}, device, 1), rounds=3)[0]
    batches = data if loading else [(images, masks)] * (len(data) // batch)
    options = {"precision": "fp32" if device == "cpu" else mode.split()[0], "device": device}
    options |= {"compile": "compiled" in mode and device == "cuda", "deterministic": False}
    options |= {"batch_size": batch, "workers": max(1, os.cpu_count() - 2) if loading else 0}
    return engine(model, batches, epochs=3, **options)


def hardware(device: str) -> dict:
    """Return what the figures were measured on."""
    return {
        "device": device_name(torch.device(device)),
        "threads": torch.get_num_threads(),
        "auto precision": str(train.precision.choose("auto", torch.device(device))),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {"python": platform.python_version(), "torch": torch.__version__,
                     "segmentation-models-pytorch": smp.__version__},
        "git": paths.git_revision(),
        "command": "python " + " ".join(sys.argv),
    }  # fmt: skip


def show(record: dict) -> None:
    """Print what was measured, with what it was measured on."""
    console = Console(width=110)
    cpu, gpu = (record.get(part, {"device": "", "rows": []}) for part in ("cpu", "gpu"))
    table = Table(cpu["device"], "images/s", "against", "ratio", "aim")
    for r in cpu["rows"]:
        speeds = (f"{r[key]:.1f}" for key in ("images_per_second", "against"))
        table.add_row(r["what"], *speeds, f"{r['ratio']:.3f}", r["aim"])
    console.print(table)
    table = Table(gpu["device"], "images/s", "share of peak")
    for r in gpu["rows"]:
        share = "" if r["share_of_peak"] is None else f"{r['share_of_peak']:.0%}"
        table.add_row(r["what"], f"{r['images_per_second']:,.0f}", share)
    console.print(table)


def on_cpu(root: Path) -> list[dict]:
    """Measure on the pets in `root`."""
    how = {"border": "pet", "data_dir": root, "cache": False, "transform": None}
    data = load("oxford-pet", "test", SIZE, count=ITEMS, **how)
    batches = list(loader(data, BATCH, shuffle=True))
    rows = [*end_to_end(root), *overhead(batches[:1] * 4), *against_smp(data), *accumulation()]
    with tempfile.TemporaryDirectory() as home:
        return rows + evaluation(Path(home))


def main() -> None:
    """Measure what is asked for, print it, and save it if asked."""
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--only", choices=("cpu", "gpu"), help="measure on this alone")
    arguments.add_argument("--save", action="store_true", help="write figures/results/…json")
    asked = arguments.parse_args()
    file = paths.root() / "figures" / "results" / "bench_train.json"
    record = json.loads(file.read_text())
    if asked.only != "gpu":
        with tempfile.TemporaryDirectory() as home:
            real = os.environ.get("SEGKIT_REAL_DATA")
            rows = on_cpu(Path(real) if real else make_pets(Path(home)))
        pets = "real pets" if real else "made-up pets"
        record["cpu"] = {"data": pets, **hardware("cpu"), "rows": rows}
        save(file, record, asked.save)
    if asked.only != "cpu" and torch.cuda.is_available():
        record["gpu"] = {**hardware("cuda"), "rows": []}
        for found in on_gpu():
            record["gpu"]["rows"].append(found)
            save(file, record, asked.save)
    show(record)


def save(file: Path, record: dict, asked: bool) -> None:
    """Write what is measured so far, if asked."""
    if asked:
        write_text(file, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
