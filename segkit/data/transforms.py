"""Augmentation that moves image and mask together, and normalisation that comes last.

The geometric steps are albumentations' (2.0.8, the last release under the MIT licence). A mask
is only ever moved with nearest-neighbour sampling: its values are names of classes, and there is
no class between two names.
"""

from dataclasses import dataclass, field

import albumentations as A
import cv2
import numpy as np
import torch

from segkit import image_ops

# Mean and standard deviation of ImageNet in 0..1, which pretrained encoders expect
# (https://docs.pytorch.org/vision/stable/models.html); for grey images, their average.
MEAN = {3: (0.485, 0.456, 0.406), 1: (0.449,)}
STD = {3: (0.229, 0.224, 0.225), 1: (0.226,)}


def flips() -> list:
    """Return a mirror image in half of the cases."""
    return [A.HorizontalFlip(p=0.5)]


def moves(degrees: float, zoom: float, shift: float) -> list:
    """Return one rotation, zoom and shift in a single resampling; edges are mirrored."""
    return [
        A.Affine(
            rotate=(-degrees, degrees),
            scale=(1 - zoom, 1 + zoom),
            translate_percent=(-shift, shift),
            interpolation=cv2.INTER_LINEAR,
            mask_interpolation=cv2.INTER_NEAREST,
            border_mode=cv2.BORDER_REFLECT_101,
            p=0.8,
        )
    ]


def bends() -> list:
    """Return a gentle elastic warp."""
    return [
        A.ElasticTransform(
            alpha=30,
            sigma=6,
            interpolation=cv2.INTER_LINEAR,
            mask_interpolation=cv2.INTER_NEAREST,
            border_mode=cv2.BORDER_REFLECT_101,
            p=0.3,
        )
    ]


def light_changes(amount: float) -> list:
    """Return changes of brightness, contrast and gamma; the mask is not touched."""
    return [
        A.RandomBrightnessContrast(brightness_limit=amount, contrast_limit=amount, p=0.7),
        A.RandomGamma(gamma_limit=(80, 125), p=0.3),
    ]


def tint(channels: int) -> list:
    """Return a small change of hue and saturation, for colour images only."""
    if channels != 3:
        return []
    return [A.HueSaturationValue(hue_shift_limit=10, sat_shift_limit=25, val_shift_limit=0, p=0.4)]


PIPELINES = {
    "evaluation": lambda channels: [],
    "light": lambda channels: flips() + light_changes(0.15),
    "geometric": lambda channels: flips() + moves(degrees=15, zoom=0.15, shift=0.08),
    "medium": lambda channels: (
        flips()
        + moves(degrees=20, zoom=0.2, shift=0.1)
        + bends()
        + light_changes(0.2)
        + tint(channels)
    ),
}


@dataclass
class Pipeline:
    """Albumentations steps, then normalisation, then tensors: `(image, mask, seed) -> pair`.

    image: uint8 `(H, W, 3)` or `(H, W)`; mask: uint8 `(H, W)`. Returned: float32 `(C, H, W)`,
    normalised, and int64 `(H, W)`. The same seed gives the same result in any process.
    """

    steps: list
    channels: int = 3
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    compose: A.Compose | None = field(init=False, default=None, repr=False)

    def __post_init__(self) -> None:
        self.mean = self.mean or MEAN[self.channels]
        self.std = self.std or STD[self.channels]
        self.compose = A.Compose(self.steps) if self.steps else None

    def __call__(self, image: np.ndarray, mask: np.ndarray, seed: int = 0) -> tuple:
        """Augment, normalise, and return tensors."""
        image, mask = self.augment(image, mask, seed)
        return self.normalise(image), torch.from_numpy(mask.astype(np.int64))

    def augment(self, image: np.ndarray, mask: np.ndarray, seed: int = 0) -> tuple:
        """Return the augmented pair, still uint8: what one wants to look at."""
        if self.compose is None:
            return image, mask
        self.compose.set_random_seed(seed)
        moved = self.compose(image=np.ascontiguousarray(image), mask=np.ascontiguousarray(mask))
        return moved["image"], moved["mask"]

    def normalise(self, image: np.ndarray) -> torch.Tensor:
        """Turn uint8 `(H, W[, 3])` into float32 `(C, H, W)` with about zero mean, unit spread."""
        pixels = image[..., None] if image.ndim == 2 else image
        if pixels.shape[2] != self.channels:
            raise ValueError(
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

    "evaluation" only normalises; "light" mirrors and changes the light; "geometric" mirrors,
    turns, zooms and shifts; "medium" does all of it. Raises ValueError for another name.
    """
    if name not in PIPELINES:
        raise ValueError(f"no pipeline {name!r}; there are: {', '.join(PIPELINES)}")
    if channels not in MEAN:
        raise ValueError(f"images have 1 channel (grey) or 3 (colour), not {channels}")
    return Pipeline(PIPELINES[name](channels), channels)
