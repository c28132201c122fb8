"""Exercises of lesson 11: schedulers."""

from segkit.check import Case, Exercise, Mistake
from segkit.train.schedules import Schedule, curve

_CURVES = {"A": "plateau", "B": "cosine", "C": "poly", "D": "one-cycle", "E": "step"}


def five_curves(epochs: int = 30, steps: int = 4) -> dict[str, list[float]]:
    """Return the rate of every step under five schedules, by letter."""
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
            "Two rise first and are swapped. A warm-up rises in a straight line; one-cycle not.",
        ),
        Mistake(
            _swapped("A", "E"),
            "Two drop at once and are swapped. Which drops at equal distances, which when stuck?",
        ),
        Mistake(
            _swapped("B", "C"),
            "Two fall to 0 and are swapped. Which is nearly straight, which ends flat?",
        ),
        Mistake(
            _swapped("C", "D"),
            "Look at the first step: one of the two you swapped begins at the top.",
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
            "The power belongs to the whole bracket, (1 − t), not to t.",
        ),
        Mistake(
            lambda step, steps, lr, power: lr * (1 - step / steps) * power,
            "The power is an exponent, `**`; you multiply by it.",
        ),
        Mistake(
            lambda step, steps, lr, power: (1 - step / steps) ** power,
            "That is the share of the top. Where is `lr`?",
        ),
        Mistake(
            lambda step, steps, lr, power: lr * (1 - (step + 1) / steps) ** power,
            "Steps count from 0: the first one uses the whole rate, the last one is not 0 yet.",
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
    hint="t is the share of the steps that lie behind; the formula stands in section 2.",
)
