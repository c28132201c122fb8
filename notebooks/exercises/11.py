"""Exercises of lesson 11: learning-rate schedules."""

import math
import re

from segkit.check import Case, Exercise, Mistake
from segkit.train.schedules import Schedule, curve

_CURVES = {"A": "plateau", "B": "cosine", "C": "poly", "D": "one-cycle", "E": "step"}


def five_curves(epochs: int = 30, steps: int = 4) -> dict[str, list[float]]:
    """Return the learning rate of every step under five schedules, by letter."""
    losses = [1 - 0.1 * min(epoch, 5) - 0.2 * (epoch > 11) for epoch in range(epochs)]
    options = {"cosine": {"warmup": 5}, "plateau": {"factor": 0.5}, "step": {"gamma": 0.4}}
    return {
        letter: curve(Schedule(name, **options.get(name, {})), 1.0, epochs, steps, losses)
        for letter, name in _CURVES.items()
    }


_NAMES = (  # a pattern in what a learner writes, and the name meant
    ("plateau", "plateau"),
    ("cycle", "one-cycle"),
    ("cos", "cosine"),  # also "warm-up, cosine" and CosineAnnealingLR
    ("poly", "poly"),
    ("step", "step"),
)


def _named(answer: dict[str, str]) -> dict[str, str]:
    """Return the answer with each schedule by the name that the reference has."""
    named = {}
    for letter, text in answer.items():
        letters = re.sub("[^a-z]", "", str(text).lower())
        found = [name for pattern, name in _NAMES if pattern in letters]
        named[str(letter).upper()] = found[0] if found else text
    return named


def _swapped(one: str, other: str) -> dict[str, str]:
    return _CURVES | {one: _CURVES[other], other: _CURVES[one]}


match_curves = Exercise(
    name="match_curves",
    reference=_CURVES,
    measure=_named,
    mistakes=(
        Mistake(
            _swapped("B", "D"),
            "Two rise first and are swapped. A warm-up is a straight line; one-cycle is curved.",
        ),
        Mistake(
            _swapped("A", "E"),
            "Two fall in jumps and are swapped. Which at equal distances, which on a plateau?",
        ),
        Mistake(
            _swapped("B", "C"),
            "Two fall to 0 and are swapped. Which is nearly straight, which ends flat?",
        ),
        Mistake(
            _swapped("C", "D"),
            "Look at the first step: one of the two you swapped begins at the peak learning rate.",
        ),
    ),
    hint="Look at three things: where it starts, how it falls, and whether it jumps.",
)


def _poly(step: int, steps: int, lr: float, power: float) -> float:
    return lr * (1 - step / steps) ** power


poly = Exercise(
    name="poly",
    reference=_poly,
    cases=(
        Case("the first step", (0, 100, 0.1, 0.9)),
        Case("half way", (50, 100, 0.1, 0.9)),
        Case("the last step", (99, 100, 0.1, 0.9)),
        Case("another power", (30, 120, 0.02, 2.0)),
    ),
    mistakes=(
        Mistake(
            lambda step, steps, lr, power: lr * (1 - (step / steps) ** power),
            "The power applies to the whole bracket, (1 − t), not to t.",
        ),
        Mistake(
            lambda step, steps, lr, power: lr * (1 - step / steps) * power,
            "The power is an exponent, `**`; you multiply by it.",
        ),
        Mistake(
            lambda step, steps, lr, power: (1 - step / steps) ** power,
            "That is a fraction of the initial learning rate. Where is `lr`?",
        ),
        Mistake(
            lambda step, steps, lr, power: lr * (1 - (step + 1) / steps) ** power,
            "Steps count from 0: the first one uses the whole `lr`, the last one is not 0 yet.",
        ),
        Mistake(
            lambda step, steps, lr, power: lr * (1 - step // steps) ** power,
            "`//` divides whole numbers: t is 0 until the very end. Use `/`.",
        ),
        Mistake(
            lambda step, steps, lr, power: lr * (step / steps) ** power,
            "Yours rises from 0. It is 1 − t that falls.",
        ),
        Mistake(
            lambda step, steps, lr, power: lr * (1 - step / steps) ** 0.9,
            "0.9 is only the usual power: use the argument.",
        ),
    ),
    hint="t is the fraction of the steps that are done; the formula is in section 2.",
)


def _warmup_cosine(step: int, warmup: int, steps: int) -> float:
    if step < warmup:
        return (step + 1) / warmup
    return (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2


warmup_cosine = Exercise(
    name="warmup_cosine",
    reference=_warmup_cosine,
    cases=(
        Case("the first step of the warm-up", (0, 20, 120)),
        Case("in the warm-up", (9, 20, 120)),
        Case("its last step", (19, 20, 120)),
        Case("the first step of the cosine", (20, 20, 120)),
        Case("in the cosine", (45, 20, 120)),
        Case("the last step", (119, 20, 120)),
        Case("without a warm-up", (30, 0, 60)),
    ),
    mistakes=(
        Mistake(
            lambda step, warmup, steps: (
                step / warmup if step < warmup else _warmup_cosine(step, warmup, steps)
            ),
            "Step 0 would have a learning rate of 0, which trains nothing: count from 1/warmup.",
        ),
        Mistake(
            lambda step, warmup, steps: (
                (step + 1) / warmup if step < warmup else (1 + math.cos(math.pi * step / steps)) / 2
            ),
            "The cosine begins after the warm-up: use the steps since then, and those that remain.",
        ),
        Mistake(
            lambda step, warmup, steps: (
                (step + 1) / warmup
                if step < warmup
                else (1 + math.cos(math.pi * (step - warmup) / steps)) / 2
            ),
            "The cosine must end at `steps`: only steps − warmup of them remain for it.",
        ),
        Mistake(
            lambda step, warmup, steps: (
                (step + 1) / warmup
                if step < warmup
                else math.cos(math.pi * (step - warmup) / (steps - warmup))
            ),
            "A cosine falls from 1 to −1. Add 1 and halve it.",
        ),
    ),
    hint="step < warmup: a straight line. Else half a cosine over the steps that remain.",
)
