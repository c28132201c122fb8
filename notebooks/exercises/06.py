"""Exercises of lesson 06: U-Net."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segkit.check import Case, Exercise, Mistake
from segkit.models.blocks import crop


def _ramp(channels: int, height: int, width: int) -> Tensor:
    numbers = torch.arange(1.0, 1 + channels * height * width) - 10
    return numbers.view(1, channels, height, width)


def _decode(x: Tensor, skip: Tensor, grow: nn.Module, block: nn.Module) -> Tensor:
    return block(torch.cat([skip, crop(grow(x), like=skip)], dim=1))


def _resized(x: Tensor, skip: Tensor, grow: nn.Module, block: nn.Module) -> Tensor:
    x = F.interpolate(grow(x), skip.shape[-2:], mode="bilinear")
    return block(torch.cat([skip, x], dim=1))


def _first_rows_cut(x: Tensor, skip: Tensor, grow: nn.Module, block: nn.Module) -> Tensor:
    height, width = skip.shape[-2:]
    return block(torch.cat([skip, grow(x)[..., -height:, -width:]], dim=1))


def _no_skip(x: Tensor, skip: Tensor, grow: nn.Module, block: nn.Module) -> Tensor:
    x = crop(grow(x), like=skip)
    return block(torch.cat([x, x], dim=1))


def _case(label: str, channels: int, coarse: tuple[int, int], fine: tuple[int, int]) -> Case:
    parts = nn.Upsample(scale_factor=2), nn.LeakyReLU(0.5)
    return Case(label, (_ramp(channels, *coarse), -2 * _ramp(channels, *fine), *parts))


decode = Exercise(
    name="decode",
    reference=_decode,
    cases=(
        _case("an even size", 1, (2, 2), (4, 4)),
        _case("an odd size", 1, (2, 2), (3, 3)),
        _case("odd width only, two channels", 2, (2, 3), (4, 5)),
    ),
    mistakes=(
        Mistake(
            lambda x, skip, grow, block: block(torch.cat([skip, grow(x)], dim=1)),
            "The upsampled map is one row or column larger than the skip: crop it to that size.",
        ),
        Mistake(
            _resized,
            "Resizing to the skip's size shifts every pixel a little. Crop the surplus instead.",
        ),
        Mistake(
            _first_rows_cut,
            "You crop the first row, and so shift all by a pixel. The surplus is the last one.",
        ),
        Mistake(
            lambda x, skip, grow, block: block(torch.cat([crop(grow(x), like=skip), skip], dim=1)),
            "The wrong order: the skip comes first, then the upsampled map.",
        ),
        Mistake(
            lambda x, skip, grow, block: block(skip + crop(grow(x), like=skip)),
            "You add the two feature maps. Concatenate them: torch.cat, dim=1.",
        ),
        Mistake(_no_skip, "The skip is not used: the upsampled map is there twice."),
        Mistake(
            lambda x, skip, grow, block: torch.cat([skip, crop(grow(x), like=skip)], dim=1),
            "The concatenation is right, but the block was not applied.",
        ),
    ),
    hint="Four steps: grow x, crop it to skip.shape[-2:], torch.cat([skip, x], dim=1), block.",
)

unet_weights = Exercise(
    name="unet_weights",
    reference={"up": 4_632, "decoder": 15_648, "out": 75},
    mistakes=(
        Mistake(
            {"up": 4_632, "decoder": 15_696, "out": 75},
            "The block's convolutions have no bias: batch normalisation would subtract it.",
        ),
        Mistake(
            {"up": 4_632, "decoder": 15_600, "out": 75},
            "Batch normalisation has two parameters for each channel, and the block has two of it.",
        ),
        Mistake(
            {"up": 4_632, "decoder": 15_744, "out": 75},
            "Batch normalisation's running mean and variance are measured, not learned.",
        ),
        Mistake(
            {"up": 4_632, "decoder": 10_464, "out": 75},
            "The block's input includes the skip: 24 upsampled channels, and the skip's 24.",
        ),
        Mistake(
            {"up": 10_392, "decoder": 15_648, "out": 75},
            "The transposed convolution has a 2 × 2 kernel, not 3 × 3.",
        ),
        Mistake(
            {"up": 4_608, "decoder": 15_648, "out": 75},
            "The transposed convolution has a bias: one number for each output channel.",
        ),
        Mistake(
            {"up": 4_632, "decoder": 15_648, "out": 72},
            "The last layer has a bias: one number for each class.",
        ),
    ),
    hint="Kernel height · width · channels in · channels out, plus biases; see section 2.",
)
