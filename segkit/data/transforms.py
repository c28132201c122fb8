"""Augmentation that moves image and mask together, and normalisation that comes last.

The geometric steps are albumentations' (2.0.8, the last release under the MIT licence), which is
imported when a pipeline with steps is built. A mask is only ever moved with nearest-neighbour
sampling: its values are class ids, and there is no class between two ids.
"""

from dataclasses import dataclass

import numpy as np
import torch

from segkit import image_ops
from segkit.errors import ArgumentError, one_of

# Mean and standard deviation of ImageNet in 0..1, which pretrained encoders expect
# (https://docs.pytorch.org/vision/stable/models.html); for grey images, their average.
MEAN = {3: (0.485, 0.456, 0.406), 1: (0.449,)}
STD = {3: (0.229, 0.224, 0.225), 1: (0.226,)}


@dataclass
class Pipeline:
    """Albumentations steps, then normalisation, then tensors: `(image, mask, seed) -> pair`.

    From uint8 or uint16 `(H, W[, C])` and uint8 `(H, W)` to float32 `(C, H, W)`, normalised, and
    int64 `(H, W)`. The same seed gives the same result in any process. `mean` and `std` are per
    channel, of 0..1.
    """

    steps: list
    channels: int = 3
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        self.mean = self.mean or MEAN.get(self.channels, (0.5,) * self.channels)
        self.std = self.std or STD.get(self.channels, (0.25,) * self.channels)
        if self.steps:
            import albumentations as A

            self._compose = A.Compose(self.steps)

    def __call__(self, image: np.ndarray, mask: np.ndarray, seed: int = 0) -> tuple:
        """Augment, normalise, and return tensors."""
        if mask.dtype.kind not in "uib":
            raise ArgumentError(f"the mask is {mask.dtype}: give class ids as whole numbers")
        image, mask = self.augment(image, mask, seed)
        return self.normalise(image), torch.from_numpy(mask.astype(np.int64))

    def augment(self, image: np.ndarray, mask: np.ndarray, seed: int = 0) -> tuple:
        """Return the augmented pair, of the same types: the pictures to look at."""
        if not self.steps:
            return image, mask
        self._compose.set_random_seed(seed)
        image, deep = np.ascontiguousarray(image), image.dtype == np.uint16
        if deep:  # albumentations takes uint8, and floats from 0 to 1
            image = image / np.float32(65535)
        moved = self._compose(image=image, mask=np.ascontiguousarray(mask))
        image = moved["image"]
        if deep:
            image = np.clip(image * 65535, 0, 65535).round().astype(np.uint16)
        return image, moved["mask"]

    def normalise(self, image: np.ndarray) -> torch.Tensor:
        """Turn `(H, W[, C])` into float32 `(C, H, W)` with about zero mean and unit spread."""
        channels = image.shape[2] if image.ndim == 3 else 1
        if channels != self.channels:
            raise ArgumentError(f"{channels} channels: build the pipeline with channels={channels}")
        return torch.from_numpy(image_ops.normalise(image[None], self.mean, self.std)[0])

    def denormalise(self, image: torch.Tensor) -> np.ndarray:
        """Turn a normalised `(C, H, W)` tensor back into uint8 `(H, W[, 3])`, for pictures."""
        pixels = image.detach().cpu().numpy().transpose(1, 2, 0)
        pixels = (pixels * np.array(self.std) + np.array(self.mean)) * 255
        pixels = np.clip(np.round(pixels), 0, 255).astype(np.uint8)
        return pixels[..., 0] if self.channels == 1 else pixels


def build(name: str, channels: int = 3) -> Pipeline:
    """Return the pipeline called `name` for images with `channels` channels.

    "evaluation" only normalises; "light" mirrors and changes brightness, contrast and gamma;
    "geometric" mirrors, rotates, zooms and shifts; "medium" does all of it, with an elastic warp
    and, for colour images, changes of hue, which albumentations computes in 8 bits.
    """
    one_of("pipeline", name, ("evaluation", "light", "geometric", "medium"))
    if name == "evaluation":
        return Pipeline([], channels)
    import albumentations as A
    import cv2

    resampling = {
        "interpolation": cv2.INTER_LINEAR,
        "mask_interpolation": cv2.INTER_NEAREST,
        "border_mode": cv2.BORDER_REFLECT_101,
    }
    degrees, zoom, shift, light = 15, 0.15, 0.08, 0.15
    if name == "medium":
        degrees, zoom, shift, light = 20, 0.2, 0.1, 0.2
    geometric = A.Affine(
        rotate=(-degrees, degrees),
        scale=(1 - zoom, 1 + zoom),
        translate_percent=(-shift, shift),
        p=0.8,
        **resampling,
    )
    elastic = A.ElasticTransform(alpha=30, sigma=6, p=0.3, **resampling)
    exposure = [
        A.RandomBrightnessContrast(brightness_limit=light, contrast_limit=light, p=0.7),
        A.RandomGamma(gamma_limit=(80, 125), p=0.3),
    ]
    hue = A.HueSaturationValue(10, sat_shift_limit=25, val_shift_limit=0, p=0.4)
    steps = {
        "light": exposure,
        "geometric": [geometric],
        "medium": [geometric, elastic, *exposure, *([hue] if channels == 3 else [])],
    }
    return Pipeline([A.HorizontalFlip(p=0.5), *steps[name]], channels)
