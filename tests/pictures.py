"""Pictures and networks for tests that need neither to be good."""

import numpy as np
import torch
from PIL import Image

from segkit.data.dataset import SegmentationDataset
from segkit.data.transforms import Pipeline


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def bright(images):
    """Return how far each pixel is above 100: a network with a receptive field of one pixel."""
    return (images[:, None].astype(np.float32) - 100) / 7


def saved(path, *shape, seed=0, **options):
    """Write a picture of noise, and return its path."""
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(noise(*shape, seed=seed)).save(path, **options)
    return path


class Brightness(torch.nn.Module):
    """Logits from the grey value: one channel, or three that each prefer a level of grey."""

    def __init__(self, *levels, gain=3):
        super().__init__()
        self.levels, self.gain = torch.nn.Parameter(torch.tensor(levels or (0.5,))), gain

    def forward(self, x):
        x = x - self.levels[:, None, None]
        return self.gain * x if len(self.levels) == 1 else -4 * x.square()


def grey_set(classes=1, n=24, **options):
    """Return images of noise, whose classes are levels of grey, and some pixels ignored."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (n, 24, 32), dtype=np.uint8)
    blurred = images + random.normal(0, 30, images.shape)
    masks = np.digitize(blurred, [150] if classes == 1 else [70, 190]).astype(np.uint8)
    masks[:, :2] = 255
    names = ("background", "grey", "white")[: max(2, classes)]
    transform = Pipeline([], 1, (0.5,), (0.25,))
    return SegmentationDataset(images, masks, names, transform=transform, **options)
