"""Small data and networks that the tests of training share."""

import numpy as np
import torch
from torch import nn

from segkit import train
from segkit.data.dataset import SegmentationDataset


def toy(count: int = 32, seed: int = 0, classes: int = 2, size: int = 16, **options):
    """Return images whose brightness tells the class, with noise: easy, but not at once."""
    rng = np.random.default_rng(seed)
    masks = rng.integers(0, classes, (count, 4, 4), dtype=np.uint8)
    masks = masks.repeat(size // 4, axis=1).repeat(size // 4, axis=2)
    noise = rng.integers(0, 60, (count, size, size, 3), dtype=np.uint8)
    images = (masks[..., None] * (190 // (classes - 1)) + noise).astype(np.uint8)
    names = ("background", *(f"thing {i}" for i in range(1, classes)))
    return SegmentationDataset(images, masks, names, **options)


def jitter(image, mask, seed):
    """Augment: mirror some, change the light of all, as the seed says."""
    rng = np.random.default_rng(seed)
    if rng.random() < 0.5:
        image, mask = image[:, ::-1], mask[:, ::-1]
    light = np.float32(rng.uniform(0.8, 1.2) / 255)
    pixels = np.ascontiguousarray(image.transpose(2, 0, 1)) * light
    return torch.from_numpy(pixels), torch.from_numpy(mask.astype(np.int64))


def net(classes: int = 1, dropout: float = 0.0, norm: bool = True, seed: int = 0) -> nn.Module:
    """Return a network of two convolutions, always with the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1, bias=not norm),
            nn.BatchNorm2d(4) if norm else nn.Identity(),
            nn.ReLU(),
            nn.Dropout2d(dropout),
            nn.Conv2d(4, classes, 3, padding=1),
        )


def quick(model=None, data=None, val=None, **options):
    """Fit with the settings most tests share; return the network and the history."""
    model = model or net()
    settings = {"epochs": 2, "batch_size": 8, "precision": "fp32", "log": None} | options
    return model, train.fit(model, toy() if data is None else data, val, **settings)


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(a: dict, b: dict) -> bool:
    """Whether two state dicts agree to the last bit."""
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def numbers(history) -> list[dict]:
    """Return the rows of a history without what the clock wrote."""
    return [{k: v for k, v in row.items() if k != "seconds"} for row in history.rows]
