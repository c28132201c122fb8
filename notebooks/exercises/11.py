"""Exercises of lesson 11: schedulers."""

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


def _swapped(one: str, other: str) -> dict[str, str]:
    return _CURVES | {one: _CURVES[other], other: _CURVES[one]}


match_curves = Exercise(
    name="match_curves",
    reference=_CURVES,
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
