"""Augmentation that moves image and mask together, and normalisation that comes last.

The geometric steps are albumentations' (2.0.8, the last release under the MIT licence), which is
imported when a pipeline with steps is built. A mask is only ever moved with nearest-neighbour
sampling: its values are class ids, and there is no class between two ids.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from segkit import image_ops
from segkit.errors import ArgumentError, one_of

# Mean and standard deviation of ImageNet in 0..1, which pretrained encoders expect
# (https://docs.pytorch.org/vision/stable/models.html); for grey images, their average.
MEAN = {3: (0.485, 0.456, 0.406), 1: (0.449,)}
STD = {3: (0.229, 0.224, 0.225), 1: (0.226,)}

PIPELINES = ("evaluation", "light", "geometric", "medium")


def _steps(name: str, channels: int) -> list:
    """Return the albumentations of a pipeline."""
    if name == "evaluation":
        return []
    import albumentations as A
    import cv2

    resampling = {
        "interpolation": cv2.INTER_LINEAR,
        "mask_interpolation": cv2.INTER_NEAREST,
        "border_mode": cv2.BORDER_REFLECT_101,
    }

    def affine(degrees: float, zoom: float, shift: float) -> A.Affine:
        return A.Affine(
            rotate=(-degrees, degrees),
            scale=(1 - zoom, 1 + zoom),
            translate_percent=(-shift, shift),
            p=0.8,
            **resampling,
        )

    def light(amount: float) -> list:
        return [
            A.RandomBrightnessContrast(brightness_limit=amount, contrast_limit=amount, p=0.7),
            A.RandomGamma(gamma_limit=(80, 125), p=0.3),
        ]

    flip = A.HorizontalFlip(p=0.5)
    if name == "light":
        return [flip, *light(0.15)]
    if name == "geometric":
        return [flip, affine(degrees=15, zoom=0.15, shift=0.08)]
    elastic = A.ElasticTransform(alpha=30, sigma=6, p=0.3, **resampling)
    steps = [flip, affine(degrees=20, zoom=0.2, shift=0.1), elastic, *light(0.2)]
    if channels == 3:
        steps.append(A.HueSaturationValue(10, sat_shift_limit=25, val_shift_limit=0, p=0.4))
    return steps


@dataclass
class Pipeline:
    """Albumentations steps, then normalisation, then tensors: `(image, mask, seed) -> pair`.

    image: uint8 `(H, W, 3)` or `(H, W)`; mask: uint8 `(H, W)`. Returned: float32 `(C, H, W)`,
    normalised, and int64 `(H, W)`. The same seed gives the same result in any process.
    `mean` and `std` are per channel, of 0..1, and by default ImageNet's.
    """

    steps: list
    channels: int = 3
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    compose: Any = field(init=False, default=None, repr=False)

    def __post_init__(self) -> None:
        self.mean = self.mean or MEAN[self.channels]
        self.std = self.std or STD[self.channels]
        if self.steps:
            import albumentations as A

            self.compose = A.Compose(self.steps)

    def __call__(self, image: np.ndarray, mask: np.ndarray, seed: int = 0) -> tuple:
        """Augment, normalise, and return tensors."""
        image, mask = self.augment(image, mask, seed)
        return self.normalise(image), torch.from_numpy(mask.astype(np.int64))

    def augment(self, image: np.ndarray, mask: np.ndarray, seed: int = 0) -> tuple:
        """Return the augmented pair, still uint8: the pictures to look at."""
        if self.compose is None:
            return image, mask
        self.compose.set_random_seed(seed)
        moved = self.compose(image=np.ascontiguousarray(image), mask=np.ascontiguousarray(mask))
        return moved["image"], moved["mask"]

    def normalise(self, image: np.ndarray) -> torch.Tensor:
        """Turn uint8 `(H, W[, 3])` into float32 `(C, H, W)` with about zero mean, unit spread."""
        pixels = image[..., None] if image.ndim == 2 else image
        if pixels.shape[2] != self.channels:
            raise ArgumentError(
                f"the pipeline is for {self.channels} channels, the image has {pixels.shape[2]}: "
                f"build it with channels={pixels.shape[2]}"
            )
        return torch.from_numpy(image_ops.normalise(image[None], self.mean, self.std)[0])

    def denormalise(self, image: torch.Tensor) -> np.ndarray:
        """Turn a normalised `(C, H, W)` tensor back into uint8 `(H, W[, 3])`, for pictures."""
        pixels = image.detach().cpu().numpy().transpose(1, 2, 0)
        pixels = (pixels * np.array(self.std) + np.array(self.mean)) * 255
        pixels = np.clip(np.round(pixels), 0, 255).astype(np.uint8)
        return pixels[..., 0] if self.channels == 1 else pixels


def build(name: str, channels: int = 3) -> Pipeline:
    """Return the pipeline called `name` for images with `channels` channels.

    Args:
        name: "evaluation" only normalises; "light" mirrors and changes brightness, contrast and
            gamma; "geometric" mirrors, rotates, zooms and shifts; "medium" does all of it, with
            an elastic warp and, for colour images, changes of hue.
        channels: 1 (grey) or 3 (colour).
    """
    one_of("pipeline", name, PIPELINES)
    if channels not in MEAN:
        raise ArgumentError(f"images have 1 channel (grey) or 3 (colour), not {channels}")
    return Pipeline(_steps(name, channels), channels)
