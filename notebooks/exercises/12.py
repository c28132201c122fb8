"""Exercises of lesson 12: experiment tracking."""

import math
from collections.abc import Callable

from segkit.check import Case, Exercise, Mistake

_Log = dict[str, list[float]]
_NAN = math.nan


def _log(train_loss: list[float], val_loss: list[float], val_iou: list[float]) -> _Log:
    return {"train_loss": train_loss, "val_loss": val_loss, "val_iou": val_iou}


_SIX = {
    "a": _log([0.5, 0.4, 0.3], [0.5, 0.4, 0.35], [0.50, 0.60, 0.70]),
    "b": _log([0.5, 0.3, 0.1], [0.4, 0.5, 0.9], [0.66, 0.61, 0.52]),  # overfits
    "c": _log([0.5, 0.4, 0.4], [0.4, 0.3, 0.45], [0.60, 0.81, 0.64]),  # best in an earlier epoch
    "d": _log([0.6, 0.6, 0.6], [0.6, 0.6, 0.60], [0.30, 0.31, 0.32]),
    "e": _log([0.4, 0.4, 0.4], [0.2, 0.2, 0.20], [0.55, 0.60, 0.62]),  # another loss
    "f": _log([0.5, 0.4, 0.35], [0.5, 0.45, 0.4], [0.72, 0.72, 0.69]),  # steady
}
_BROKEN = {
    "a": _log([_NAN, _NAN, _NAN], [_NAN, _NAN, _NAN], [_NAN, _NAN, _NAN]),
    "b": _log([0.5, 0.4, 0.3], [0.5, 0.4, 0.3], [0.40, 0.50, 0.60]),
}
_SHORT = {
    "long": _log([0.5, 0.4, 0.3], [0.5, 0.4, 0.3], [0.3, 0.4, 0.5]),
    "short": _log([0.5], [0.5], [0.55]),
}


def _by(score: Callable[[list[float]], float], column: str = "val_iou") -> Callable:
    return lambda logs: max(logs, key=lambda name: score(logs[name][column]))


def _best(values: list[float]) -> float:
    return max((v for v in values if not math.isnan(v)), default=-math.inf)


best_run = Exercise(
    name="best_run",
    reference=_by(_best),
    cases=(
        Case("six runs", (_SIX,)),
        Case("a run that diverged", (_BROKEN,)),
        Case("a run that stopped early", (_SHORT,)),
    ),
    mistakes=(
        Mistake(
            _by(lambda v: v[-1]),
            "That is the best *last* epoch. The best weights were kept too: take each run's best.",
        ),
        Mistake(
            _by(lambda v: -min(v), "train_loss"),
            "The lowest training loss shows which run overfits. Evaluate on validation.",
        ),
        Mistake(
            _by(lambda v: -min(v), "val_loss"),
            "Losses of different kinds have different scales. Compare val_iou.",
        ),
        Mistake(
            _by(lambda v: sum(v) / len(v)),
            "The mean over epochs rewards a fast start. You will use the best epoch only.",
        ),
        Mistake(
            lambda logs: min(logs, key=lambda name: max(logs[name]["val_iou"])),
            "That is the worst. More IoU is better.",
        ),
        Mistake(
            lambda logs: _by(_best)(logs) and _best(logs[_by(_best)(logs)]["val_iou"]),
            "That is the score. Return the name of the run.",
        ),
        Mistake(
            _by(max),
            "A run that diverged has NaN, and NaN is no score: remove those epochs before max().",
        ),
    ),
    hint="For each run the largest val_iou of all its epochs, without NaN; then the largest run.",
)

unfair_runs = Exercise(
    name="unfair_runs",
    reference={"c", "e", "h"},
    mistakes=(
        Mistake(
            {"c", "e"}, "Two are right. One more is evaluated on other pixels: masks have a size."
        ),
        Mistake({"c", "h"}, "Two are right. One more changes what its score means: which rule?"),
        Mistake({"e", "h"}, "Two are right. One more is evaluated on other images."),
        Mistake(
            {"c", "e", "f", "h"},
            "f: the loss differs, and losses cannot be compared. But the score is IoU.",
        ),
        Mistake(
            {"b", "c", "e", "h"},
            "b: the learning rate is varied on purpose. The evaluation stays the same.",
        ),
        Mistake(
            {"c", "d", "e", "h"},
            "d: a wider network costs more, so note its cost. Its IoU is measured as a's is.",
        ),
        Mistake(
            {"c", "e", "g", "h"},
            "g: it stopped early, by a rule on the same validation images.",
        ),
    ),
    hint="Ask of each run: is it evaluated on the same pixels of the same images, in the same way?",
)
