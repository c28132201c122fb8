"""Exercises of lesson 04: DumbNet."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from segkit.check import Case, Exercise, Mistake
from segkit.models.inspect import parameters, receptive_field


def _shapes(*shapes: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    return dict(zip(("down", "grow", "up", "out"), shapes, strict=True))


_RIGHT = _shapes((4, 24, 32, 25), (4, 24, 64, 50), (4, 24, 64, 50), (4, 2, 64, 50))


def _wrong_shapes(attempt: Any) -> str:
    """Return a hint that names the shapes that are wrong."""
    hint = "Each shape is (images, channels, height, width), written as a tuple."
    if not isinstance(attempt, dict):
        return hint
    wrong = [part for part in _RIGHT if not np.array_equal(attempt.get(part), _RIGHT[part])]
    return f"Not right yet: {', '.join(wrong)}. {hint}"


shapes = Exercise(
    name="shapes",
    reference=_RIGHT,
    mistakes=(
        Mistake(
            _shapes((4, 24, 31, 25), (4, 24, 62, 50), (4, 24, 62, 50), (4, 2, 62, 50)),
            "Put 63 into the formula: (63 + 2 · 1 - 3) / 2, rounded down, and then + 1.",
        ),
        Mistake(
            _shapes((4, 24, 32, 25), (4, 24, 63, 50), (4, 24, 63, 50), (4, 2, 63, 50)),
            "`grow` doubles the size of its input. It does not know that the image had 63 rows.",
        ),
        Mistake(
            _shapes((4, 24, 32, 25), (4, 24, 64, 50), (4, 24, 64, 50), (4, 3, 64, 50)),
            "The last layer has one channel for each class, and here there are two.",
        ),
        Mistake(
            _shapes((4, 24, 25, 32), (4, 24, 50, 64), (4, 24, 50, 64), (4, 2, 50, 64)),
            "Height and width are swapped: 63 × 50 is 63 rows of 50 pixels, and rows come first.",
        ),
        Mistake(
            _shapes((4, 16, 32, 25), (4, 16, 64, 50), (4, 16, 64, 50), (4, 2, 64, 50)),
            "The number of channels is `width`: 16 in the lesson, but here width=24 is asked for.",
        ),
        Mistake(
            _shapes((24, 32, 25), (24, 64, 50), (24, 64, 50), (2, 64, 50)),
            "Those are the shapes of one image. The batch has four: a 4 comes first.",
        ),
        Mistake(
            _shapes((4, 24, 31, 24), (4, 24, 62, 48), (4, 24, 62, 48), (4, 2, 62, 48)),
            "The padding was forgotten: DumbNet's first convolution has padding 1.",
        ),
    ),
    hint=_wrong_shapes,
)


def _properties(make: Callable, width: int) -> Any:
    """Return what can be compared of the network that `make` makes."""
    if isinstance(make, nn.Module):
        raise TypeError("this is a network; pass the function that makes it")
    network = make(width)
    if not isinstance(network, nn.Module):
        return network
    with torch.no_grad():
        x = torch.linspace(-1, 1, 24_576).view(2, 3, 64, 64)
        output = network.eval()(x)
        large, negative, zero = (network(factor * x) for factor in (1e4, -1e4, 0))
    if torch.allclose(large.sum(dim=1), torch.ones(())):
        ending = "softmax"
    else:
        ending = "sigmoid" if large.min() >= 0 and large.max() <= 1 else "logits"
    return {
        "output": tuple(output.shape),
        "parameters": parameters(network),
        "receptive field": receptive_field(network),
        "ends in": ending,
        # of a linear network the two large outputs cancel, but for the bias
        "nonlinear": bool((large + negative - 2 * zero).abs().max() > 1e-4 * large.abs().max()),
    }


def _down(before: int, after: int, stride: int = 2) -> list[nn.Module]:
    conv = nn.Conv2d(before, after, kernel_size=3, stride=stride, padding=1)
    return [conv, nn.BatchNorm2d(after), nn.ReLU()]


def _up(before: int, after: int, scale: int = 2) -> list[nn.Module]:
    grow = nn.Upsample(scale_factor=scale, mode="bilinear", align_corners=True)
    return [grow, *_down(before, after, stride=1)]


def _out(width: int) -> nn.Module:
    return nn.Conv2d(width, 3, kernel_size=1)


def _levels(w: int) -> list[nn.Module]:
    return [*_down(3, w), *_down(w, 2 * w), *_up(2 * w, w), *_up(w, w)]


def _no_batch_norm(w: int) -> nn.Module:
    convs = [_down(3, w)[0], _down(w, 2 * w)[0], *_up(2 * w, w)[:2], *_up(w, w)[:2]]
    return nn.Sequential(*convs, _out(w))


def _no_relu(w: int) -> nn.Module:
    return nn.Sequential(*(x for x in _levels(w) if not isinstance(x, nn.ReLU)), _out(w))


def _nearest(w: int) -> nn.Module:
    layers = (nn.Upsample(scale_factor=2) if isinstance(x, nn.Upsample) else x for x in _levels(w))
    return nn.Sequential(*layers, _out(w))


two_levels = Exercise(
    name="two_levels",
    reference=lambda w: nn.Sequential(*_levels(w), _out(w)),
    measure=_properties,
    cases=(Case("width 16", (16,)), Case("width 6", (6,))),
    mistakes=(
        Mistake(
            lambda w: nn.Sequential(*_down(3, w), *_down(w, 2 * w), *_up(2 * w, w), _out(w)),
            "Twice down, once up: the output is half the size of the image.",
        ),
        Mistake(
            lambda w: nn.Sequential(*_down(3, w), *_down(w, 2 * w), *_up(2 * w, w, 4), _out(w)),
            "One step up by four. Go up in two steps, each with its convolution.",
        ),
        Mistake(
            lambda w: nn.Sequential(*_down(3, w), *_down(w, w), *_up(w, w), *_up(w, w), _out(w)),
            "The second level has twice the channels: width, then 2 * width.",
        ),
        Mistake(
            lambda w: nn.Sequential(
                *_down(3, w), *_down(w, 2 * w, stride=1), *_up(2 * w, w), *_up(w, w), _out(w)
            ),
            "The output is twice the size of the image: is each stride 2?",
        ),
        Mistake(_no_batch_norm, "Each 3 × 3 convolution is followed by BatchNorm2d and ReLU."),
        Mistake(
            lambda w: nn.Sequential(*_levels(w)),
            "The channels are not classes yet: a 1 × 1 convolution comes last.",
        ),
        Mistake(
            lambda w: nn.Sequential(*_levels(w), _out(w), nn.Sigmoid()),
            "Networks here return logits: leave the sigmoid to the loss.",
        ),
        Mistake(_no_relu, "The network is linear: a ReLU follows each batch normalisation."),
        Mistake(_nearest, "It does not upsample bilinearly: nn.Upsample copies pixels by default."),
        Mistake(
            lambda w: nn.Sequential(*_down(3, w), *_up(w, w), _out(w)),
            "That is the lesson's network. Yours goes down twice, and up twice.",
        ),
        Mistake(
            lambda w: nn.Sequential(*_levels(16), _out(16)),
            "The network is as wide as `width` says, and not always 16.",
        ),
        Mistake(
            lambda w: nn.Sequential(*_levels(w), _out(w), nn.Softmax(dim=1)),
            "Networks here return logits: leave the softmax to the loss.",
        ),
    ),
    hint="Return one network: twice down, twice up, and the 1 × 1 convolution.",
)
