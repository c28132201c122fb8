"""A design that trains in a moment, and records without any training."""

from itertools import product

import numpy as np
from PIL import Image

from segkit.experiments import Design, config_hash

BASE = {
    "data": {"name": "toy-pets", "size": 16, "border": "background", "count": 8}
    | {"val_count": 4, "test_count": 5},
    "model": {"name": "dumbnet", "width": 2},
    "fit": {"epochs": 2, "batch_size": 4, "precision": "fp32"},
}
LOSS = {"bce": {"fit.loss": {"bce": {}}}, "dice": {"fit.loss": {"dice": {}}}}
RATE = {"slow": {"fit.lr": 1e-4}, "fast": {"fit.lr": 1e-2}}


def design(seeds=(0, 1), **factors):
    return Design("tiny", BASE, factors, seeds)


def record(config, tp, images=6, val_iou=(0.1, 0.5)):
    """Return a record whose test images have these true positives (a number, or one an image)."""
    tp = np.broadcast_to(np.asarray(tp), images)
    cells = [tp, 0 * tp, 100 - tp, 0 * tp + 100]
    counts = [[[int(n)] for n in row] for row in cells]
    return {
        "name": config_hash(config),
        "config": config,
        "selected_epoch": 2,
        "parameters": 7,
        "seconds": 2.0,
        "cpu_seconds": 1.5,
        "memory": {"start": 0, "peak": 2**20},
        "made_with": {"device": "cpu", "torch": "2", "python": "3", "precision": "fp32"},
        "history": {"val_iou": list(val_iou), "train_loss": [0.5] * len(val_iou)}
        | {"seconds": [1.0] * len(val_iou)},
        **dict.fromkeys(("train", "val", "test", "boundary"), counts),
    }


def records_of(design, tp, **options):
    """Return records of a design; `tp(cell, seed)` gives the true positives of 100 pixels."""
    return {
        config_hash(design.config(cell, seed)): record(
            design.config(cell, seed), tp(cell, seed), **options
        )
        for cell, seed in product(design.cells(), design.seeds)
    }


def real_data(parent):
    """Write stand-ins for the real data sets, a few pictures each, in their own formats."""
    root = parent / "oxford-iiit-pet"
    trimaps = root / "annotations" / "trimaps"
    for folder in (root / "images", trimaps):
        folder.mkdir(parents=True)
    for part, numbers in {"trainval": range(10), "test": range(10, 14)}.items():
        lines = []
        for (breed, number), i in product((("Abyssinian", 1), ("pug", 2)), numbers):
            picture, marks = _picture(i)
            Image.fromarray(picture).save(root / "images" / f"{breed}_{i}.jpg")
            trimap = Image.fromarray(np.array([2, 3, 1], np.uint8)[marks])
            trimap.save(trimaps / f"{breed}_{i}.png")
            lines.append(f"{breed}_{i} {number} 1 {number}\n")
        (root / "annotations" / f"{part}.txt").write_text("".join(lines))
    for place, mode, suffix in (("teeth-xray", "RGB", "jpg"), ("nuclei", "RGBA", "png")):
        images, masks = (parent / place / name for name in ("images", "masks"))
        images.mkdir(parents=True)
        masks.mkdir()
        for i in range(12):
            picture, marks = _picture(i)
            Image.fromarray(picture[..., 0]).convert(mode).save(images / f"{i}.{suffix}")
            Image.fromarray(((marks > 0) * 255).astype(np.uint8)).save(masks / f"{i}.png")
    return parent


def _picture(i):
    """Return an RGB picture and a map: 0 background, 1 border, 2 object."""
    marks = np.zeros((40, 50), np.uint8)
    marks[8 : 25 + i, 10:35] = 1
    marks[11 : 22 + i, 13:32] = 2
    noise = np.random.default_rng(i).integers(0, 60, (40, 50, 3))
    return (noise + 60 * marks[..., None]).astype(np.uint8), marks
