"""The record of a course's exercise: nuclei by DL@MBL's U-Net of 7,705 parameters, and by ours.

`SEGKIT_REAL_DATA=... OMP_NUM_THREADS=1 python figures/results/record_dlmbl.py`. The protocol of the
semantic part of https://github.com/dlmbl/semantic_segmentation: grey images as (x - 0.5) / 0.5,
random crops of 256 pixels, batches of 5, a U-Net of depth 4 with 2 feature maps and without
normalisation (https://github.com/ai-mbl/dlmbl-unet), sigmoid and binary cross-entropy, Adam at
1e-3, 25 epochs, on the images of fluorescence alone, which are dark: with stained tissue, which is
bright, among them, this network marks nothing after 25 epochs. Then segkit's U-Net on the same
crops for the same number of processor seconds.
Both are evaluated on the same test crops, as they are and with the salt-and-pepper noise that the
exercise adds to its validation images. Three seeds; the record is dlmbl_record.json.
"""

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from made_with import made_with
from torch import Tensor, nn

from segkit import image_ops, metrics, models, paths
from segkit.data import splits
from segkit.data.folder import pictures
from segkit.files import write_text
from segkit.losses import BCELoss, Combined, DiceLoss
from segkit.models import inspect

FILE = paths.root() / "figures" / "results" / "dlmbl_record.json"
CROP, BATCH, EPOCHS, SEEDS = 256, 5, 25, (0, 1, 2)
DARK = -0.2  # mean of an image of fluorescence is below, that of stained tissue above
NOISE = 0.05  # of the pixels: half white, half black


class SmallUNet(nn.Module):
    """Depth 4, 2 feature maps that double, nearest upsampling, concatenation, no normalisation."""

    def __init__(self) -> None:
        super().__init__()
        maps = [2, 4, 8, 16]
        self.down = nn.ModuleList(_double(a, b) for a, b in zip([1, *maps], maps, strict=False))
        self.up = nn.ModuleList(_double(3 * b, b) for b in maps[:3])
        self.pool, self.grow = nn.MaxPool2d(2), nn.Upsample(scale_factor=2)
        self.out = nn.Conv2d(2, 1, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        skips = []
        for block in self.down[:3]:
            x = block(x)
            skips.append(x)
            x = self.pool(x)
        x = self.down[3](x)
        for block, skip in zip(reversed(self.up), reversed(skips), strict=True):
            x = block(torch.cat([skip, self.grow(x)], dim=1))
        return self.out(x)


def _double(before: int, after: int) -> nn.Sequential:
    layers = []
    for channels in (before, after):
        layers += [nn.Conv2d(channels, after, kernel_size=3, padding=1), nn.ReLU()]
        nn.init.kaiming_normal_(layers[-2].weight, nonlinearity="relu")
    return nn.Sequential(*layers)


def load() -> list[tuple[Tensor, Tensor]]:
    """Return dark images (1, H, W), from -1 to 1, and masks (1, H, W) of 0 and 1, at full size."""
    if not os.environ.get("SEGKIT_REAL_DATA"):
        sys.exit("Set SEGKIT_REAL_DATA to the folder that holds nuclei/images and nuclei/masks.")
    root = Path(os.environ["SEGKIT_REAL_DATA"]) / "nuclei"
    found = []
    for (image,), (mask,) in zip(
        pictures(root / "images").values(), pictures(root / "masks").values(), strict=True
    ):
        assert image.stem == mask.stem
        grey = image_ops.normalise(image_ops.read_image(image, 1)[0][None], (0.5,), (0.5,))[0]
        target = image_ops.read_image(mask, 1)[0] > 127
        if grey.mean() < DARK:
            found.append((torch.from_numpy(grey), torch.from_numpy(target).float()[None]))
    return found


def crops(pairs: list, generator: np.random.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield one epoch: batches of one random crop of each image, in random order."""
    order = generator.permutation(len(pairs))
    for start in range(0, len(order), BATCH):
        batch = []
        for i in order[start : start + BATCH]:
            height, width = pairs[i][0].shape[-2:]
            top, left = (generator.integers(side - CROP + 1) for side in (height, width))
            batch.append([t[..., top : top + CROP, left : left + CROP] for t in pairs[i]])
        yield tuple(map(torch.stack, zip(*batch, strict=True)))


def test_crops(pairs: list) -> tuple[Tensor, Tensor]:
    """Return the middle of each image and mask."""
    middles = []
    for pair in pairs:
        height, width = pair[0].shape[-2:]
        top, left = (height - CROP) // 2, (width - CROP) // 2
        middles.append([t[..., top : top + CROP, left : left + CROP] for t in pair])
    return tuple(map(torch.stack, zip(*middles, strict=True)))


def salt_and_pepper(images: Tensor) -> Tensor:
    """Return the images with white and black pixels, always the same."""
    drawn = torch.rand(images.shape, generator=torch.Generator().manual_seed(0))
    noisy = torch.where(drawn < NOISE / 2, 1.0, images)
    return torch.where(drawn > 1 - NOISE / 2, -1.0, noisy)


@torch.inference_mode()
def dice(model: nn.Module, images: Tensor, masks: Tensor) -> dict[str, float]:
    """Return Dice over the data set, and the mean over batches, as the exercise prints it."""
    model.eval()
    counts = [
        metrics.counts(model(x), y[:, 0].long())
        for x, y in zip(images.split(BATCH), masks.split(BATCH), strict=True)
    ]
    whole = metrics.Counts.cat(counts).dice().item()
    batches = [c.dice().item() for c in counts]
    return {"data set": round(whole, 4), "mean over batches": round(np.mean(batches), 4)}


def main() -> None:
    """Train both networks for each seed and write the record."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    pairs = load()
    train, _, test = splits.random_split(len(pairs), (0.7, 0.15, 0.15), seed=0)
    train, test = [pairs[i] for i in train], test_crops([pairs[i] for i in test])
    noisy = salt_and_pepper(test[0])
    rows = []
    for seed in SEEDS:
        torch.manual_seed(seed)
        model = SmallUNet()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        generator, start = np.random.default_rng(seed), time.process_time()
        for _ in range(EPOCHS):
            for images, masks in crops(train, generator):
                loss = nn.functional.binary_cross_entropy(torch.sigmoid(model(images)), masks)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        budget = time.process_time() - start
        rows.append(row("DL@MBL", seed, model, budget, EPOCHS, (*test, noisy)))

        model = models.build("unet", 1, 1, width=8, depth=3, seed=seed)
        epochs = 1 + int(budget / seconds_an_epoch(model, train))
        generator, start = np.random.default_rng(seed), time.process_time()
        ours(model, train, epochs, generator)
        taken = time.process_time() - start
        rows.append(row("segkit U-Net, width 8", seed, model, taken, epochs, (*test, noisy)))
        for one in rows[-2:]:
            print(one, flush=True)
    record = {
        "data": f"{len(pairs)} images of fluorescence of 320 from the 2018 Data Science Bowl, "
        "stage 1 (CC0), as grey, split at random: "
        f"{len(train)} to train on, {len(test[0])} to test",
        "protocol": f"crops of {CROP}, batches of {BATCH}; ours: BCE + Dice, AdamW, one-cycle, "
        "peak 1e-2, as many epochs as fit in the same processor time",
        "stated there": "Dice around 0.85 in validation",
        **made_with("torch", "numpy"),
        "rows": rows,
    }
    write_text(FILE, json.dumps(record, indent=1) + "\n")


def ours(model: nn.Module, train: list, epochs: int, generator: np.random.Generator) -> None:
    """Train by segkit's usual recipe."""
    loss = Combined({BCELoss(): 1.0, DiceLoss(): 1.0})
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    steps = epochs * -(-len(train) // BATCH)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, steps + 1)
    model.train()
    for _ in range(epochs):
        for images, masks in crops(train, generator):
            optimizer.zero_grad()
            loss(model(images), masks[:, 0].long()).backward()
            optimizer.step()
            scheduler.step()


def seconds_an_epoch(model: nn.Module, train: list) -> float:
    """Return the processor seconds of an epoch, measured on a copy."""
    copy, some = models.build("unet", 1, 1, width=8, depth=3), train[: 8 * BATCH]
    copy.load_state_dict(model.state_dict())
    ours(copy, some, 1, np.random.default_rng(0))
    start = time.process_time()
    ours(copy, some, 1, np.random.default_rng(0))
    return (time.process_time() - start) * len(train) / len(some)


def row(
    name: str, seed: int, model: nn.Module, seconds: float, epochs: int, test: tuple
) -> dict[str, object]:
    """Return a row of the record.

    "spread" is the largest logit less the smallest over the test images. Where it is below 1, the
    network has learned how many pixels are foreground, and not which: of two feature maps, ReLU
    easily switches both off at the start.
    """
    images, masks, noisy = test
    with torch.inference_mode():
        logits = model.eval()(images)
    return {
        "network": name,
        "seed": seed,
        "parameters": inspect.parameters(model),
        "epochs": epochs,
        "seconds": round(seconds),
        "spread": round((logits.max() - logits.min()).item(), 2),
        "dice": dice(model, images, masks),
        "dice with noise": dice(model, noisy, masks),
    }


if __name__ == "__main__":
    main()
