"""The real nuclei, once for the record: lesson 16 shows what this measures.

`SEGKIT_REAL_DATA=... python figures/results/record_nuclei.py [--rows 2]`. Trains the Unet of
segmentation-models-pytorch and segkit's own for equal numbers of epochs, three seeds each, on 320
grey images of the 2018 Data Science Bowl (folder `nuclei`, split at random), and evaluates each
once on the test images. A longer training is a run of its own with its own one-cycle schedule. Each
row is saved to figures/results/nuclei_record.json when it is there, so the script may be
stopped and started again; `--rows` does only so many.
"""

import argparse
import json
import os
import sys
from pathlib import Path

import segmentation_models_pytorch as smp
import torch
from made_with import made_with

from segkit import data, models, paths
from segkit.files import write_text
from segkit.losses import BCELoss, Combined, DiceLoss
from segkit.models import inspect
from segkit.train import evaluate, fit

SIZE, SEEDS, EPOCHS = 96, (0, 1, 2), (6, 24, 48)
SETTINGS = {"schedule": "one-cycle", "batch_size": 16, "precision": "fp32"}
RESULTS = paths.root() / "figures" / "results"
NETWORKS = {
    "smp Unet resnet18": (
        lambda: smp.Unet("resnet18", encoder_weights=None, in_channels=1),
        2e-3,
    ),
    "segkit unet width 8": (
        lambda: models.build("unet", 1, 1, width=8, seed=None),
        1e-2,
    ),
}


def load(split: str, transform: str = "evaluation") -> data.SegmentationDataset:
    """Return one split of the nuclei, grey."""
    if not os.environ.get("SEGKIT_REAL_DATA"):
        sys.exit("Set SEGKIT_REAL_DATA to the folder that holds nuclei/images and nuclei/masks.")
    root = Path(os.environ["SEGKIT_REAL_DATA"]) / "nuclei"
    options = {"channels": 1, "class_names": ["background", "nucleus"], "values": "0/255"}
    return data.load("folder", split, SIZE, data_dir=root, transform=transform, **options)


def folder(name: str, epochs: int, seed: int) -> Path:
    """Return where a run keeps its checkpoints."""
    return paths.data_dir() / "nuclei_record" / f"{name.replace(' ', '_')}_{epochs}_{seed}"


def measure(name: str, epochs: int, seed: int) -> dict:
    """Train one network from scratch; return its row of the record."""
    torch.manual_seed(seed)
    build, lr = NETWORKS[name]
    model = build()
    history = fit(
        model,
        load("train", transform="light"),
        load("val"),
        loss=Combined({BCELoss(): 1.0, DiceLoss(): 1.0}),
        seed=seed,
        keep="best",
        epochs=epochs,
        lr=lr,
        out=folder(name, epochs, seed),
        resume=True,
        **SETTINGS,
    )
    _, counts = evaluate(model, load("test"), precision="fp32")
    return {
        "network": name,
        "seed": seed,
        "epochs": epochs,
        "lr": lr,
        "parameters": inspect.parameters(model),
        "val_iou": [round(v, 4) for v in history["val_iou"]],
        "test_iou": round(counts.iou().item(), 4),
        "test_iou_per_image": round(counts.iou("micro-imagewise").item(), 4),
        "test_dice": round(counts.dice().item(), 4),
        "seconds": round(sum(history["seconds"]), 1),
    }


def conditions() -> dict:
    """Return what the rows were measured with."""
    return {
        "data": "320 images of the 2018 Data Science Bowl, stage 1 (CC0), as grey, resized; "
        "split at random, so images of one slide may lie on both sides",
        "size": SIZE,
        "items": {split: len(load(split)) for split in ("train", "val", "test")},
        "settings": {"loss": "BCE + Dice", "transform": "light", **SETTINGS},
        "mflop": {
            name: round(inspect.summary(build(), SIZE).total("flops") / 1e6, 1)
            for name, (build, _) in NETWORKS.items()
        },
        "seconds": "wall clock, on a machine with other work",
        "weights": "random; best validation epoch kept, test set evaluated once a row",
        **made_with("torch", "segmentation-models-pytorch", "timm", "numpy"),
        "command": "python figures/results/record_nuclei.py",
    }


def main() -> None:
    """Measure what is missing."""
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--rows", type=int, help="stop after so many new rows")
    limit = arguments.parse_args().rows
    file = RESULTS / "nuclei_record.json"
    record = json.loads(file.read_text()) if file.exists() else {**conditions(), "rows": []}
    done = {(row["network"], row["epochs"], row["seed"]) for row in record["rows"]}
    runs = [(n, e, s) for e in EPOCHS for s in SEEDS for n in NETWORKS]
    for run in [run for run in runs if run not in done][:limit]:
        print(*run, flush=True)
        record["rows"].append(measure(*run))
        write_text(file, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
