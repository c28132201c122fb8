"""Train the model that comes with the course, "pet or not", and write pets.safetensors.

`SEGKIT_REAL_DATA=... OMP_NUM_THREADS=1 python data/models/train_pets.py`, where the folder holds
`oxford-iiit-pet`. The encoder is frozen: its weights are the packaged ones, and the file holds the
decoder alone. All images of the official training part are trained on; those of the test part
score the model once, at the end. Settings and scores stand in the file, and in pets.md in words.
"""

import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from segkit import data, models
from segkit.data.dataset import SegmentationDataset
from segkit.evaluate import evaluate, summary
from segkit.losses import BCELoss, Combined, DiceLoss
from segkit.model_file import ModelMetadata, load_model, save_model
from segkit.train import fit

SIZE, EPOCHS, TRANSFORM, LEARNING_RATE, SEED = 128, 60, "medium", 3e-3, 0
FILE = Path(__file__).with_name("pets.safetensors")


def load(split: str, size: int, transform: str = "evaluation") -> SegmentationDataset:
    """Return one split of the pets, the border of a trimap counted as pet; "all" is train + val."""
    if split == "all":
        parts = [load(part, size, transform) for part in ("train", "val")]
        merged = {
            key: np.concatenate([getattr(part, key) for part in parts])
            for key in ("images", "masks", "names", "groups")
        }
        return replace(parts[0], **merged, info=parts[0].info | {"split": "train and val"})
    if not os.environ.get("SEGKIT_REAL_DATA"):
        sys.exit("Set SEGKIT_REAL_DATA to the folder that holds oxford-iiit-pet.")
    options = {"border": "pet", "data_dir": os.environ["SEGKIT_REAL_DATA"]}
    pets = data.load("oxford-pet", split, size, transform=transform, **options)
    del pets.info["root"]  # not part of a record: a folder of this machine
    return pets


def main() -> None:
    """Train, save, load, evaluate, and save again with the scores."""
    train = load("all", SIZE, TRANSFORM)
    model = models.build("pretrained_unet", seed=SEED)
    train = train.normalised(model.mean, model.std)
    loss = Combined({BCELoss(): 1.0, DiceLoss(): 1.0})
    settings = {"epochs": EPOCHS, "lr": LEARNING_RATE, "schedule": "one-cycle", "seed": SEED}
    start = time.process_time()
    fit(model, train, loss=loss, encoder_lr=0, precision="fp32", **settings)
    notes = {
        "training": {
            "images": len(train),
            "transform": TRANSFORM,
            "loss": "BCE + Dice",
            "encoder": "frozen",
            "processor seconds": round(time.process_time() - start),
            **settings,
        }
    }
    about = {"notes": notes, "encoder_weights": "imagenet"}
    metadata = ModelMetadata.of(train, "pretrained_unet", **about)
    save_model(FILE, model, metadata)
    model, metadata = load_model(FILE)  # what is evaluated has weights rounded to 16 bits
    found = summary(evaluate(model, metadata, load("test", SIZE)))
    notes = metadata.notes | {"test": {"images": found["images"], "scores": found["scores"]}}
    save_model(FILE, model, replace(metadata, notes=notes))
    print(notes["test"], f"{FILE.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
