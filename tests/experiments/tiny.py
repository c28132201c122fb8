"""A design that trains in a moment, and records without any training."""

import numpy as np

from segkit.experiments.grid import Design, name_of

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
        "name": name_of(config),
        "config": config,
        "selected_epoch": 2,
        "parameters": 7,
        "seconds": 2.0,
        "cpu_seconds": 1.5,
        "seconds_per_epoch": 1.0,
        "memory": {"start": 0, "peak": 2**20},
        "made_with": {"device": "cpu", "torch": "2", "python": "3", "precision": "fp32"},
        "history": {"val_iou": list(val_iou), "train_loss": [0.5] * len(val_iou)},
        "train": counts,
        "val": counts,
        "test": counts,
        "boundary": counts,
    }
