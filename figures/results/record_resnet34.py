"""The record of lesson 14: does ResNet34-UNet beat U-Net, on toy pets and on real ones?

`SEGKIT_REAL_DATA=... python figures/results/record_resnet34.py`. All networks from random weights,
three seeds each, the same images, epochs, batches and learning rate; evaluated once on test images.
ResNet34-UNet runs at U-Net's width (about as many weights), with the lab report's residual blocks,
and at twice the width (still fewer seconds). Seconds are processor time; run it on one thread
(OMP_NUM_THREADS=1). Each row is saved to figures/results/lesson14_race.json when it is there, so
the script may be stopped and started again; without SEGKIT_REAL_DATA it does the toy pets only.
"""

import json
import os
import time
from functools import cache

from made_with import made_with

from segkit import data, models, paths
from segkit.files import write_text
from segkit.models import inspect
from segkit.train import evaluate, fit

SIZE, SEEDS = 64, (0, 1, 2)
SETTINGS = {"epochs": 20, "lr": 1e-2, "schedule": "one-cycle", "batch_size": 16}
NETWORKS = {
    "U-Net": ("unet", {"width": 8}),
    "ResNet34-UNet": ("resnet34_unet", {"width": 8}),
    "ResNet34-UNet, the report's blocks": ("resnet34_unet", {"width": 8, "block": "nycu"}),
    "ResNet34-UNet, twice as wide": ("resnet34_unet", {"width": 16}),
}
DATA = {
    "toy-pets": ("toy-pets", {"train": 192, "test": 200}),
    "real pets": ("oxford-pet", {"train": None, "test": None}),
}
FILE = paths.root() / "figures" / "results" / "lesson14_race.json"


@cache
def load(source: str, split: str) -> data.SegmentationDataset:
    """Return one split; the border of a trimap is left out of loss and score."""
    name, counts = DATA[source]
    options = {"border": "ignore", "count": counts[split]}
    return data.load(name, split, SIZE, data_dir=os.environ.get("SEGKIT_REAL_DATA"), **options)


def measure(source: str, network: str, seed: int) -> dict:
    """Train one network once; return its row of the record."""
    name, options = NETWORKS[network]
    model = models.build(name, 3, 1, seed=seed, **options)
    train, test = load(source, "train"), load(source, "test")
    start = time.process_time()
    fit(model, train, seed=seed, precision="fp32", log=None, **SETTINGS)
    seconds = time.process_time() - start
    scores = {
        f"{split}_dice": round(evaluate(model, part, precision="fp32")[1].dice().item(), 4)
        for split, part in (("train", train), ("test", test))
    }
    row = {"data": source, "network": network, "seed": seed, "images": [len(train), len(test)]}
    return {**row, **scores, "seconds": round(seconds, 1)}


def conditions() -> dict:
    """Return what the rows were measured with."""
    built = {network: models.build(name, **how) for network, (name, how) in NETWORKS.items()}
    return {
        "command": "python figures/results/record_resnet34.py",
        "data": {
            "toy-pets": "procedural",
            "real pets": "714 of the 7,349 Oxford-IIIT pets, not balanced over the breeds; "
            "official membership of training and test",
        },
        "border": "ignore",
        "score": "Dice of all pixels of the set together, after the last epoch",
        "size": SIZE,
        "settings": {**SETTINGS, "precision": "fp32", "augmentation": "none"},
        "networks": {
            network: {
                "options": NETWORKS[network][1],
                "parameters": inspect.parameters(model),
                "mflop": round(inspect.summary(model, SIZE).total("flops") / 1e6, 1),
            }
            for network, model in built.items()
        },
        **made_with("segkit", "torch", "torchvision", "numpy"),
    }


def main() -> None:
    """Measure what is missing."""
    record = json.loads(FILE.read_text()) if FILE.exists() else {**conditions(), "rows": []}
    done = {(row["data"], row["network"], row["seed"]) for row in record["rows"]}
    sources = DATA if os.environ.get("SEGKIT_REAL_DATA") else ("toy-pets",)
    for key in ((d, n, s) for d in sources for s in SEEDS for n in NETWORKS):
        if key not in done:
            record["rows"].append(measure(*key))
            write_text(FILE, json.dumps(record, indent=1) + "\n")
            print(record["rows"][-1], flush=True)


if __name__ == "__main__":
    main()
