"""Exercises of lesson 04: DumbNet."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from segkit.check.frame import Case, Exercise, Mistake, Result, same, untouched
from segkit.models.inspect import parameters, receptive_field


class PartsExercise(Exercise):
    """An exercise about several values; where no mistake fits, it names those that are wrong."""

    def hint_for(self, attempt: Any, failed: Case) -> str:
        """Return the hint of the mistake made, else the parts that are wrong."""
        hint = super().hint_for(attempt, failed)
        if hint != self.hint or not isinstance(attempt, dict):
            return hint
        right = self.reference.items()
        wrong = [part for part, shape in right if not same(attempt.get(part), shape, 0)]
        return f"Not right yet: {', '.join(wrong)}. {hint}"


shapes = PartsExercise(
    name="shapes",
    reference={
        "down": (4, 24, 32, 25),
        "grow": (4, 24, 64, 50),
        "up": (4, 24, 64, 50),
        "out": (4, 2, 64, 50),
    },
    mistakes=(
        Mistake(
            {
                "down": (4, 24, 31, 25),
                "grow": (4, 24, 62, 50),
                "up": (4, 24, 62, 50),
                "out": (4, 2, 62, 50),
            },
            "Put 63 into the formula: (63 + 2 · 1 - 3) / 2, rounded down, and then + 1.",
        ),
        Mistake(
            {
                "down": (4, 24, 32, 25),
                "grow": (4, 24, 63, 50),
                "up": (4, 24, 63, 50),
                "out": (4, 2, 63, 50),
            },
            "`grow` doubles whatever it gets. It does not know that the picture had 63 rows.",
        ),
        Mistake(
            {
                "down": (4, 24, 32, 25),
                "grow": (4, 24, 64, 50),
                "up": (4, 24, 64, 50),
                "out": (4, 3, 64, 50),
            },
            "The last layer has one channel for each class, and here there are two.",
        ),
        Mistake(
            {
                "down": (4, 24, 25, 32),
                "grow": (4, 24, 50, 64),
                "up": (4, 24, 50, 64),
                "out": (4, 2, 50, 64),
            },
            "Height and width are swapped: 63 × 50 is 63 rows of 50 pixels, and rows come first.",
        ),
        Mistake(
            {
                "down": (4, 16, 32, 25),
                "grow": (4, 16, 64, 50),
                "up": (4, 16, 64, 50),
                "out": (4, 2, 64, 50),
            },
            "The channels are `width`: 16 in the lesson, but here width=24 is asked for.",
        ),
        Mistake(
            {
                "down": (24, 32, 25),
                "grow": (24, 64, 50),
                "up": (24, 64, 50),
                "out": (2, 64, 50),
            },
            "Those are the shapes of one picture. Four go in together: a 4 comes first.",
        ),
        Mistake(
            {
                "down": (4, 24, 31, 24),
                "grow": (4, 24, 62, 48),
                "up": (4, 24, 62, 48),
                "out": (4, 2, 62, 48),
            },
            "The padding was forgotten: DumbNet's first convolution has padding 1.",
        ),
    ),
    hint="Each shape is (pictures, channels, height, width), written as a tuple.",
)


def ending(answer: torch.Tensor) -> str:
    """Say what the answer `(N, C, H, W)` to a very loud picture consists of."""
    if torch.allclose(answer.sum(dim=1), torch.ones(())):
        return "softmax"
    return "sigmoid" if answer.min() >= 0 and answer.max() <= 1 else "logits"


def facts(make: Callable) -> Callable:
    """Return a function that makes a network and tells what can be compared about it."""

    def look(width: int) -> Any:
        if isinstance(make, nn.Module):
            raise TypeError("this is a network; hand over the function that makes it")
        network = make(width)
        if not isinstance(network, nn.Module):
            return network
        with torch.no_grad():
            x = torch.linspace(-1, 1, 24_576).view(2, 3, 64, 64)
            answer = network.eval()(x)
            loud, mirrored, silent = (network(factor * x) for factor in (1e4, -1e4, 0))
        far = (loud + mirrored - 2 * silent).abs().max()  # 0 if nothing bends
        return {
            "output": tuple(answer.shape),
            "weights": parameters(network),
            "sees": receptive_field(network),
            "ends in": ending(loud),
            "has bends": bool(far > 1e-4 * loud.abs().max()),
        }

    return look


class NetworkExercise(Exercise):
    """An exercise whose answer is a function that makes a network."""

    def grade(self, attempt: Any = None) -> Result:
        """Return the result for a function; two networks are the same if their facts are."""
        return super().grade(attempt if untouched(attempt) else facts(attempt))


def down(before: int, after: int, stride: int = 2) -> list[nn.Module]:
    """Return a way down: half the size, from `before` to `after` channels."""
    conv = nn.Conv2d(before, after, kernel_size=3, stride=stride, padding=1)
    return [conv, nn.BatchNorm2d(after), nn.ReLU()]


def up(before: int, after: int, scale: int = 2) -> list[nn.Module]:
    """Return a way up: twice the size, from `before` to `after` channels."""
    grow = nn.Upsample(scale_factor=scale, mode="bilinear", align_corners=True)
    return [grow, *down(before, after, stride=1)]


def out(width: int) -> nn.Module:
    """Return the last layer: three classes."""
    return nn.Conv2d(width, 3, kernel_size=1)


@facts
def right(w: int) -> nn.Module:
    """Return the network that the exercise asks for."""
    return nn.Sequential(*down(3, w), *down(w, 2 * w), *up(2 * w, w), *up(w, w), out(w))


@facts
def up_once(w: int) -> nn.Module:
    """Go down twice and up once."""
    return nn.Sequential(*down(3, w), *down(w, 2 * w), *up(2 * w, w), out(w))


@facts
def up_by_four(w: int) -> nn.Module:
    """Go up in one leap."""
    return nn.Sequential(*down(3, w), *down(w, 2 * w), *up(2 * w, w, scale=4), out(w))


@facts
def same_width(w: int) -> nn.Module:
    """Keep the number of channels at the second level."""
    return nn.Sequential(*down(3, w), *down(w, w), *up(w, w), *up(w, w), out(w))


@facts
def no_stride(w: int) -> nn.Module:
    """Forget the stride of the second way down."""
    levels = [*down(3, w), *down(w, 2 * w, stride=1), *up(2 * w, w), *up(w, w)]
    return nn.Sequential(*levels, out(w))


@facts
def bare(w: int) -> nn.Module:
    """Leave out batch normalisation and ReLU."""
    convs = [down(3, w)[0], down(w, 2 * w)[0], *up(2 * w, w)[:2], *up(w, w)[:2]]
    return nn.Sequential(*convs, out(w))


@facts
def no_out(w: int) -> nn.Module:
    """Forget the last layer."""
    return nn.Sequential(*down(3, w), *down(w, 2 * w), *up(2 * w, w), *up(w, w))


@facts
def softmax(w: int) -> nn.Module:
    """Turn the logits into shares."""
    levels = [*down(3, w), *down(w, 2 * w), *up(2 * w, w), *up(w, w)]
    return nn.Sequential(*levels, out(w), nn.Softmax(dim=1))


@facts
def sigmoid(w: int) -> nn.Module:
    """Turn each logit into a probability."""
    levels = [*down(3, w), *down(w, 2 * w), *up(2 * w, w), *up(w, w)]
    return nn.Sequential(*levels, out(w), nn.Sigmoid())


@facts
def no_relu(w: int) -> nn.Module:
    """Leave out every ReLU."""
    levels = [*down(3, w), *down(w, 2 * w), *up(2 * w, w), *up(w, w), out(w)]
    return nn.Sequential(*(layer for layer in levels if not isinstance(layer, nn.ReLU)))


@facts
def nearest(w: int) -> nn.Module:
    """Go up by copying pixels, as nn.Upsample does unless told otherwise."""
    levels = [*down(3, w), *down(w, 2 * w), *up(2 * w, w), *up(w, w), out(w)]
    upsampled = (nn.Upsample(scale_factor=2) if isinstance(x, nn.Upsample) else x for x in levels)
    return nn.Sequential(*upsampled)


@facts
def one_level(w: int) -> nn.Module:
    """Build the lesson's network once more."""
    return nn.Sequential(*down(3, w), *up(w, w), out(w))


@facts
def fixed_width(w: int) -> nn.Module:
    """Write 16 for the width."""
    return nn.Sequential(*down(3, 16), *down(16, 32), *up(32, 16), *up(16, 16), out(16))


two_levels = NetworkExercise(
    name="two_levels",
    reference=right,
    cases=(Case("width 16", (16,)), Case("width 6", (6,))),
    mistakes=(
        Mistake(up_once, "Twice down, once up: the answer is half the size of the picture."),
        Mistake(up_by_four, "One leap by four. Go up in two steps, each with its convolution."),
        Mistake(same_width, "The second level has twice the channels: width, then 2 * width."),
        Mistake(no_stride, "The answer is twice the size of the picture: is each stride 2?"),
        Mistake(bare, "Each 3 × 3 convolution is followed by BatchNorm2d and ReLU."),
        Mistake(no_out, "The channels are not classes yet: a 1 × 1 convolution comes last."),
        Mistake(sigmoid, "Networks here return logits: leave the sigmoid to the loss."),
        Mistake(no_relu, "There is no bend in it: a ReLU follows each batch normalisation."),
        Mistake(nearest, "It does not upsample bilinearly: nn.Upsample copies pixels by default."),
        Mistake(one_level, "That is the lesson's network. Yours goes down twice, and up twice."),
        Mistake(fixed_width, "The network is as wide as `width` says, and not always 16."),
        Mistake(softmax, "Networks here return logits: leave the softmax to the loss."),
    ),
    hint="Return one network: twice down, twice up, and the 1 × 1 convolution.",
)
