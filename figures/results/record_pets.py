"""The record of what pretraining is worth: real pets, from scratch, frozen and fine-tuned.

`SEGKIT_REAL_DATA=... OMP_NUM_THREADS=1 python figures/results/record_pets.py PART [--share 1/2]`
where PART is one of

- `ablation`: one change at a time from one recipe, trained on the training split. The validation
  score after each epoch is kept: the recipe of `final` is chosen by it alone.
- `labels`: 4 to 372 images, equal numbers of steps.
- `final`: the recipe chosen, trained on all training and validation images.

Each run is evaluated once on the test images and kept when it is there, so the script may be
stopped and started again; `--share 1/2` and `--share 2/2` do half of the runs each, side by side.
What is there is written to figures/results/pets_record.json. Seconds are processor time.
"""

import argparse
import json
import sys
import time
from itertools import product

import numpy as np
import segmentation_models_pytorch as smp
import torch
from made_with import made_with
from torch import nn

from segkit import models, paths
from segkit.data.dataset import SegmentationDataset
from segkit.files import write_text
from segkit.losses import BCELoss, Combined, DiceLoss
from segkit.models import inspect
from segkit.models.blocks import WithEncoder
from segkit.models.pretrained import packaged_weights
from segkit.train import evaluate, fit

sys.path.append(str(paths.root() / "data" / "models"))
from train_pets import load

RECORD = paths.root() / "figures" / "results" / "pets_record.json"
RUNS = paths.data_dir() / "pets_record"
SEEDS = (0, 1, 2)
RECIPE = {
    "network": "pretrained_unet",
    "size": 96,
    "transform": "medium",
    "epochs": 15,
    "lr": 3e-3,
    "encoder_lr": 1e-3,
    "batch_size": 16,
    "schedule": "one-cycle",
}
SCRATCH = {"weights": None, "encoder_lr": None, "lr": 1e-2}
FROZEN = {"encoder_lr": 0}
ABLATION = {
    "fine-tuned": {},
    "from scratch": SCRATCH,
    "frozen": FROZEN,
    "one learning rate": {"encoder_lr": None},
    "64 pixels": {"size": 64},
    "128 pixels": {"size": 128},
    "no augmentation": {"transform": "evaluation"},
    "light augmentation": {"transform": "light"},
    "5 epochs": {"epochs": 5},
    "30 epochs": {"epochs": 30},
    "smp.Unet": {"network": "smp"},
    "U-Net from scratch": {"network": "unet", "width": 16, "encoder_lr": None, "lr": 1e-2},
    "ResNet34-UNet from scratch": {
        "network": "resnet34_unet", "width": 16, "encoder_lr": None, "lr": 1e-2,
    },
}  # fmt: skip
STEPS = 200  # of 16 images, for each number of labels
LABELS = {"from scratch": SCRATCH, "frozen": FROZEN, "fine-tuned": {}}
# Chosen by validation scores: 256 pixels and 40 epochs reach .898, these in half the time too.
FINAL = FROZEN | {"size": 384, "epochs": 24, "precision": "bf16"}


class SmpUnet(WithEncoder):
    """The Unet of segmentation-models-pytorch over the same encoder and weights."""

    mean = std = (0.5, 0.5, 0.5)

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        decoder = {"decoder_channels": (128, 64, 32, 16, 16)}
        self.unet = smp.Unet("tu-tf_efficientnet_lite0", encoder_weights=None, **decoder)
        self.unet.encoder.model.load_state_dict(packaged_weights())
        self.encoder = self.unet.encoder

    def parameter_groups(self, lr: float, encoder_lr: float) -> list[dict]:
        """Return the groups of all parameters, each once."""
        rest = [*self.unet.decoder.parameters(), *self.unet.segmentation_head.parameters()]
        encoder = {"params": list(self.encoder.parameters()), "lr": encoder_lr}
        return [encoder, {"params": rest, "lr": lr}]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        return self.unet(x)


def measure(recipe: dict, train: SegmentationDataset, val: SegmentationDataset | None) -> dict:
    """Train one network and evaluate it; return its row of the record."""
    options = {key: recipe[key] for key in ("weights", "width") if key in recipe}
    seed, test = recipe["seed"], load("test", recipe["size"])
    model: nn.Module = (
        SmpUnet(seed)
        if recipe["network"] == "smp"
        else models.build(recipe["network"], seed=seed, **options)
    )
    if recipe["network"] in ("pretrained_unet", "smp"):  # from scratch too
        half = (0.5,) * 3
        train, test = (part.normalised(half, half) for part in (train, test))
        val = val and val.normalised(half, half)
    keys = ("epochs", "lr", "encoder_lr", "batch_size", "schedule", "seed", "weight_decay", "ema")
    settings = {key: recipe[key] for key in keys if key in recipe}
    loss = Combined({BCELoss(): 1.0, DiceLoss(): 1.0})
    start = time.process_time()
    settings["precision"] = recipe.get("precision", "fp32")
    history = fit(model, train, val, loss=loss, log=None, **settings)
    seconds = time.process_time() - start
    _, counts = evaluate(model, test, precision="fp32")
    iou = {"test_iou": counts.iou(), "test_iou_per_image": counts.iou("micro-imagewise")}
    return {
        "images": len(train),
        "parameters": inspect.parameters(model),
        "val_iou": [round(v, 4) for v in history["val_iou"]] if val else None,
        **{name: round(value.item(), 4) for name, value in iou.items()},
        "seconds": round(seconds),
        "threads": torch.get_num_threads(),
        "recipe": recipe,
    }


def runs(part: str) -> dict[str, dict]:
    """Return the recipes of a part by the names of their files."""
    if part == "ablation":
        named = {name: RECIPE | change for name, change in ABLATION.items()}
    elif part == "final":
        named = {"final": RECIPE | FINAL}
    else:
        named = {
            f"{name}, {count} images": RECIPE | {"size": 64} | change | {"count": count}
            for count in (4, 8, 16, 32, 64, 128, 372)
            for name, change in LABELS.items()
        }
        for recipe in named.values():
            recipe["epochs"] = max(1, STEPS // -(-recipe["count"] // recipe["batch_size"]))
    pairs = list(product(SEEDS, named))
    if part == "ablation":  # the three that the lesson compares come first
        pairs.sort(key=lambda pair: pair[1] not in LABELS)
    return {f"{part}, {name}, {seed}": named[name] | {"seed": seed} for seed, name in pairs}


def main() -> None:
    """Measure what is missing."""
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("part", choices=["ablation", "labels", "final"])
    arguments.add_argument("--share", default="1/1", help="which runs: 1/2 is every second one")
    chosen = arguments.parse_args()
    share, shares = map(int, chosen.share.split("/"))
    for name, recipe in list(runs(chosen.part).items())[share - 1 :: shares]:
        file = RUNS / f"{name}.json"
        if file.exists() or name in recorded():
            continue
        print(name, flush=True)
        size, seed, count = recipe["size"], recipe["seed"], recipe.get("count")
        if chosen.part == "ablation":
            train, val = load("train", size, recipe["transform"]), load("val", size)
        else:
            train, val = load("all", size, recipe["transform"]), None
        if count and count < len(train):
            order = np.random.default_rng(seed).permutation(len(train))
            train = train.subset(np.sort(order[:count]))
        write_text(file, json.dumps(measure(recipe, train, val)))
        write_record()


def recorded() -> dict[str, dict]:
    """Return the runs that are in the record."""
    return json.loads(RECORD.read_text())["runs"] if RECORD.exists() else {}


def write_record() -> None:
    """Write the record of all runs that are there."""
    packages = ("torch", "timm", "segmentation-models-pytorch", "albumentations", "numpy")
    about = {
        "data": "714 images of Oxford-IIIT Pet: those of its official training part that are here "
        "(372, of which a fifth validates) and of its test part (342); border counted as pet",
        "command": "python figures/results/record_pets.py PART",
        **made_with(*packages),
    }
    rows = recorded()
    rows |= {file.stem: json.loads(file.read_text()) for file in RUNS.glob("*.json")}
    rows = dict(sorted(rows.items()))
    lines = [f"{json.dumps(name)}: {json.dumps(row)}" for name, row in rows.items()]
    head = json.dumps(about, indent=1)[:-2]
    write_text(RECORD, f'{head},\n "runs": {{\n' + ",\n".join(lines) + "\n}}\n")


if __name__ == "__main__":
    main()
