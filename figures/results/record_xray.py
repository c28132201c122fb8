"""The record of lesson 15: PDR-UNet, U-Net and FusionNet on real dental X-rays, at equal budget.

Run `SEGKIT_REAL_DATA=… python figures/results/record_xray.py`, again and again until it says that
all is there: each call trains for a few minutes, and finished runs are kept in `runs/xray_record/`.
Then it writes `figures/results/xray_record.json` and, drawn from it, `xray_record.png`.

Equal budget: the same images, epochs and batches for every network, each a quarter as wide as it
was published, and for each the best of the same few learning rates: the one whose run with the
first seed had the best validation Dice. The test images are evaluated once, with the weights of the
best epoch in validation. Seconds are processor time, so that other programs do not count; run it on
one thread (OMP_NUM_THREADS=1). The images' own licence is not known, so the picture shows curves
and no X-ray.
"""

import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path

import torch

from segkit import data, environment, models, paths, plot
from segkit.models.inspect import parameters
from segkit.train import evaluate, fit

NETWORKS = {"pdr_unet": {"filters": 10}, "unet": {"width": 16}, "fusionnet": {"width": 16}}
TITLES = {"pdr_unet": "PDR-UNet", "unet": "U-Net", "fusionnet": "FusionNet"}
RATES, SEEDS = (1e-3, 3e-3, 1e-2, 3e-2), (0, 1, 2)
SIZE, COUNTS = 64, {"train": 128, "val": 64, "test": 64}
EPOCHS, BATCH = 20, 8
SHARE = 0.95  # the target: so much of the validation Dice that U-Net reaches, mean over seeds
END = time.monotonic() + 130  # seconds after which a call starts no further run
# Files that show one patient twice, and belong to one split
DUPLICATES = {"cate4-00107": "cate4-00101", "cate5-00091": "cate5-00055"}

sys.path.append(str(paths.root() / "tests" / "bench"))
from bench_models import peak_bytes  # noqa: E402

PACKAGES = ("segkit", "torch", "torchvision", "numpy", "albumentations")
RESULTS = paths.root() / "figures" / "results"
RUNS = paths.root() / "runs" / "xray_record"


def teeth(split: str) -> data.SegmentationDataset:
    """Return one split of the X-rays: grey, SIZE pixels, the same images whatever the seed."""
    root = Path(os.environ["SEGKIT_REAL_DATA"]) / "teeth-xray"
    options = {"channels": 1, "group_by": lambda stem: DUPLICATES.get(stem, stem)}
    return data.load("folder", split, SIZE, data_dir=root, count=COUNTS[split], **options)


def run(name: str, rate: float, seed: int) -> dict:
    """Train one network once; return its scores."""
    train, val, test = (teeth(split) for split in COUNTS)
    model = models.build(name, 1, 1, seed=seed, **NETWORKS[name])
    options = {"lr": rate, "epochs": EPOCHS, "batch_size": BATCH, "keep": "best", "seed": seed}
    start = time.process_time()
    history = fit(model, train, val, **options, precision="fp32", log=None)
    seconds = time.process_time() - start
    _, counts = evaluate(model, test, precision="fp32")
    return {
        "seed": seed,
        "rate": rate,
        "val_dice": [round(d, 4) for d in history["val_dice"]],
        "test_dice": round(counts.dice().item(), 4),
        "seconds": round(seconds, 1),
    }


def kept(name: str, rate: float, seed: int) -> dict | None:
    """Return a run, from disk or trained now; None when this call's time is up."""
    file = RUNS / f"{name}-{rate:g}-{seed}.json"
    if not file.exists():
        if time.monotonic() > END:
            return None
        done = run(name, rate, seed)
        RUNS.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(done))
        print(name, f"rate {rate:g}, seed {seed}: Dice {done['test_dice']:.3f}", flush=True)
    return json.loads(file.read_text())


def race(name: str) -> dict | None:
    """Choose the rate of one network and train it with every seed; None if time is up."""
    search = [kept(name, rate, SEEDS[0]) for rate in RATES]
    if None in search:
        return None
    first = max(search, key=lambda found: max(found["val_dice"]))
    runs = [first, *(kept(name, first["rate"], seed) for seed in SEEDS[1:])]
    if None in runs:
        return None
    model = models.build(name, 1, 1, **NETWORKS[name])
    return {
        "options": NETWORKS[name],
        "parameters": parameters(model),
        "published_parameters": parameters(models.build(name, 1, 1)),
        "peak_bytes": peak_bytes(model, torch.zeros(BATCH, 1, SIZE, SIZE)),
        "search": {f"{found['rate']:g}": max(found["val_dice"]) for found in search},
        "rate": first["rate"],
        "runs": runs,
    }


def epochs_to(target: float, curve: list[float]) -> int | None:
    """Return the first epoch, counted from 1, that reaches the target, or None."""
    return next((epoch for epoch, dice in enumerate(curve, 1) if dice >= target), None)


def record(networks: dict[str, dict]) -> dict:
    """Return the whole record: what was run, where, and what came of it."""
    reached = statistics.mean(max(found["val_dice"]) for found in networks["unet"]["runs"])
    target = round(SHARE * reached, 4)
    for network in networks.values():
        for found in network["runs"]:
            found["epochs_to_target"] = epochs_to(target, found["val_dice"])
    machine = environment.report()
    hardware = {name: machine[name] for name in ("device", "cores", "threads", "memory")}
    return {
        "command": "python figures/results/record_xray.py",
        "hardware": {"processor": platform.machine(), **hardware},
        "versions": {
            "python": platform.python_version(),
            **{name: environment.version(name) for name in PACKAGES},
        },
        "data": {
            "name": "UFBA-425, dental panoramic X-rays, any tooth against the rest",
            "size": SIZE,
            "images": {split: len(teeth(split)) for split in COUNTS},
            "tooth_share": {s: round(float((teeth(s).masks == 1).mean()), 4) for s in COUNTS},
        },
        "budget": {"epochs": EPOCHS, "batch": BATCH, "rates": RATES, "seeds": SEEDS},
        "precision": "fp32",
        "target": target,
        "target_share": SHARE,
        "networks": networks,
    }


def draw(found: dict) -> None:
    """Draw the validation Dice of every run over epochs and over time, and the target."""
    fig, axes = plot.figure(7, 2.9, ncols=2, sharey=True)
    marks = dict(zip(NETWORKS, ("-", "--", ":"), strict=True))
    for i, (name, network) in enumerate(found["networks"].items()):
        for one in network["runs"]:
            label = TITLES[name] if one is network["runs"][0] else None
            epochs = range(1, len(one["val_dice"]) + 1)
            a_second = [epoch * one["seconds"] / len(epochs) for epoch in epochs]
            for ax, x in zip(axes, (epochs, a_second), strict=True):
                ax.plot(x, one["val_dice"], marks[name], color=f"C{i}", label=label, lw=1.3)
    for ax, unit in zip(axes, ("epoch", "seconds of training"), strict=True):
        ax.axhline(found["target"], color="0.5", lw=0.8)
        ax.set(xlabel=unit, ylim=(0.5, 0.9))
    axes[0].set(ylabel="Dice, validation", title="Real X-rays, by epoch")
    axes[0].set_xticks(range(0, EPOCHS + 1, 4))
    axes[0].text(EPOCHS, found["target"] - 0.02, "target", fontsize=8, color="0.4", ha="right")
    axes[1].set(title="The same, by time", xlim=(0, None))
    axes[1].legend(loc="lower right")
    fig.savefig(RESULTS / "xray_record.png", dpi=110)


def main() -> None:
    """Train what is missing; when all is there, write the record."""
    networks = {name: race(name) for name in NETWORKS}
    if None in networks.values():
        print("time is up: call again to go on")
        return
    found = record(networks)
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "xray_record.json").write_text(json.dumps(found, indent=1) + "\n")
    draw(found)
    print("written to", RESULTS)


if __name__ == "__main__":
    main()
