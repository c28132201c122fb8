"""Exercises of lesson 18: export."""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn

from segkit.check import Case, Exercise, Mistake
from segkit.export import ExportError, export_program


class _Layer(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@lru_cache(maxsize=16)  # to find a hint, each function is exported several times otherwise
def _program(function: Callable[[Tensor], Tensor]) -> nn.Module | str:
    """Return the exported program of a function, or why there is none."""
    try:
        return export_program(_Layer(function), 3).module()
    except ExportError as error:
        reason = str(error.__cause__).strip().partition("For more information")[0]
        return f"it cannot be exported: {reason.splitlines()[0].strip()}"


def _exported(function: Callable[[Tensor], Tensor], images: Tensor) -> Tensor | str:
    program = _program(function)
    return program if isinstance(program, str) else program(images)


def _images(*means: float, size: tuple[int, int] = (4, 6)) -> Tensor:
    """Return images (N, 3, *size) with these means; pixels and channels have any sign."""
    noise = torch.randn(len(means), 3, *size, generator=torch.Generator().manual_seed(18))
    noise = noise - noise.mean((1, 2, 3), keepdim=True) + torch.tensor([2, 0, -2])[:, None, None]
    return noise + torch.tensor(means)[:, None, None, None]


def _right_way_up(x: Tensor) -> Tensor:
    return torch.where(x.mean((1, 2, 3), keepdim=True) < 0, -x, x)


def _loop(x: Tensor) -> Tensor:
    return torch.stack([-image if image.mean() < 0 else image for image in x])


def _two_images(x: Tensor) -> Tensor:
    mean = x.reshape(2, -1).mean(1).view(2, 1, 1, 1)
    return torch.where(mean < 0, -x, x)


right_way_up = Exercise(
    name="right_way_up",
    reference=_right_way_up,
    measure=_exported,
    cases=(
        Case("two images, one negative", (_images(0.5, -0.5),)),
        Case("three images of another size", (_images(-0.5, 0.5, -0.2, size=(3, 4)),)),
        Case("many", (_images(*[(-1) ** n * 0.3 for n in range(7)], size=(9, 5)),)),
    ),
    mistakes=(
        Mistake(
            _loop,
            "An `if` needs the value, and a loop the number of images, during the export. "
            "torch.where(condition, a, b) decides inside the program, for all images at once.",
        ),
        Mistake(
            lambda x: -x if x.mean().item() < 0 else x,
            "`.item()` needs a number that is unknown during the export. Stay with tensors, and "
            "use torch.where.",
        ),
        Mistake(
            _two_images,
            "The 2 is a constant in the program: the batch of the example input. Take the mean "
            "over dimensions, as x.mean((1, 2, 3), keepdim=True) does.",
        ),
        Mistake(
            lambda x: torch.where(x.mean() < 0, -x, x),
            "One mean for the whole batch: an image's result must not depend on the others.",
        ),
        Mistake(
            lambda x: torch.where(x.mean((2, 3), keepdim=True) < 0, -x, x),
            "You decide for each channel by itself. The mean is that of the whole image.",
        ),
        Mistake(
            lambda x: torch.where(x < 0, -x, x),
            "You decide for each pixel by itself. Compare the mean of the image with 0.",
        ),
    ),
    hint="No `if`, no loop, no constant that is a size: use tensor operations alone.",
)


def _network(images: np.ndarray) -> np.ndarray:
    """Return logits (1, 1, H, W); like an exported network, it takes one type and shape only."""
    if images.dtype != np.float32:
        raise TypeError(f"the network takes float32, not {images.dtype}")
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"the network takes (1, 3, H, W), not {images.shape}")
    weights = np.array([1.0, -0.5, 0.25], np.float32)
    return (images * weights[:, None, None]).sum(axis=1, keepdims=True)


def _mask_of(network, image, metadata, *, scale=255, reshape=False, level=None) -> np.ndarray:
    mean, std = (np.array(metadata[name], np.float32) for name in ("mean", "std"))
    pixels = (image.astype(np.float32) / np.float32(scale) - mean) / std
    height, width = image.shape[:2]
    pixels = pixels.reshape(3, height, width) if reshape else pixels.transpose(2, 0, 1)
    logits = network(pixels[None])[0, 0]
    if level is None:
        level = np.log(metadata["threshold"] / (1 - metadata["threshold"]))
    return (logits > level).astype(np.uint8)


_METADATA = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "threshold": 0.5}
_PIXELS = np.random.default_rng(18).integers(0, 256, (3, 6, 5, 3), dtype=np.uint8)

mask_of = Exercise(
    name="mask_of",
    reference=_mask_of,
    cases=(
        Case("the threshold 0.5", (_network, _PIXELS[0], _METADATA)),
        Case("the threshold 0.8", (_network, _PIXELS[1], _METADATA | {"threshold": 0.8})),
        Case(
            "another normalisation",
            (_network, _PIXELS[2], {"mean": (0.1, 0.5, 0.9), "std": (0.5,) * 3, "threshold": 0.3}),
        ),
    ),
    mistakes=(
        Mistake(
            lambda network, image, metadata: _mask_of(
                network, image, metadata | {"mean": (0, 0, 0), "std": (1, 1, 1)}
            ),
            "The network was trained on normalised pixels: subtract the mean, divide by std.",
        ),
        Mistake(
            lambda network, image, metadata: _mask_of(network, image, metadata, scale=1),
            "The mean and std are for pixels in 0..1; yours go to 255. Divide by 255 first.",
        ),
        Mistake(
            lambda network, image, metadata: _mask_of(network, image, metadata, reshape=True),
            "reshape keeps the order of the numbers and mixes up pixels. Move the channels to "
            "the front with transpose(2, 0, 1).",
        ),
        Mistake(
            lambda network, image, metadata: _mask_of(network, image[..., ::-1], metadata),
            "Red and blue are swapped: the image is RGB already.",
        ),
        Mistake(
            lambda network, image, metadata: _mask_of(
                network, image, metadata, level=metadata["threshold"]
            ),
            "The threshold is a probability, and you compare logits with it. Apply the sigmoid "
            "first, or take the logit of the threshold.",
        ),
        Mistake(
            lambda network, image, metadata: _mask_of(network, image, metadata, level=0.0),
            'A logit above 0 is a probability above 0.5. Use metadata["threshold"].',
        ),
        Mistake(
            lambda network, image, metadata: network(image.transpose(2, 0, 1)[None] / 255),
            "The network takes float32. numpy made float64 of it: .astype(np.float32).",
        ),
    ),
    hint="In order: divide by 255, subtract mean, divide by std, float32, channels first, one "
    "image a batch; then the network; then the threshold.",
)
