"""Exercises of lesson 13: comparing variants."""

from collections.abc import Callable
from itertools import product

from segkit.check import Case, Exercise, Mistake

_Run = tuple[str, str, str]  # down, up, loss
_Runs = list[_Run]

read_plot = Exercise(
    name="read_plot",
    reference={"a", "d", "e"},
    mistakes=(
        Mistake({"d", "e"}, "One is missing. Take the mean of each line: which line is higher?"),
        Mistake({"a", "e"}, "One is missing. Are the two lines parallel?"),
        Mistake(
            {"a", "d"},
            "One is missing. Which level of each is better on average? Find that pair in the plot.",
        ),
        Mistake({"a", "b", "d", "e"}, "b: compare the two right ends only. Which is higher?"),
        Mistake(
            {"a", "c", "d", "e"},
            "c: one line rises, the other falls by more. What is the mean of both?",
        ),
        Mistake(
            {"a", "d", "e", "f"},
            "f: start at the left end of max-pool. Only the two right ends are compared then.",
        ),
        Mistake(
            {"d"}, "d is right. But a and c are about means, which exist even where lines cross."
        ),
    ),
    hint="Read off the four values. Then each statement is a comparison of two of them, or of "
    "two means.",
)

_DOWN, _UP, _LOSSES = ("maxpool", "strided"), ("transposed", "nearest"), ("bce", "dice")
_FOUR = [
    ("maxpool", "transposed", "bce"),
    ("maxpool", "transposed", "dice"),
    ("strided", "transposed", "bce"),
    ("strided", "nearest", "dice"),
]


def _square(loss: str) -> _Runs:
    return list(product(_DOWN, _UP, [loss]))


def _lacking(done: _Runs) -> list[_Runs]:
    """Return, for each loss, the runs that its square lacks."""
    return [[run for run in _square(loss) if run not in done] for loss in _LOSSES]


def _add_runs(done: _Runs) -> _Runs:
    return min(_lacking(done), key=len)


def _new_pairs(done: _Runs) -> _Runs:
    pairs = {(down, up) for down, up, _ in done}
    return [run for run in _square("dice") if run[:2] not in pairs]


def _planned(plan: Callable[[_Runs], _Runs], done: _Runs) -> dict[str, int]:
    """Return how many runs are added, and the largest number of corners with one loss."""
    added = [tuple(run) for run in plan(done)]
    for run in added:
        if run not in [*_square("bce"), *_square("dice")]:
            raise ValueError(f"{run} is no run: (down, up, loss), spelt as in the task")
    corners = [sum(run in [*done, *added] for run in _square(loss)) for loss in _LOSSES]
    return {"runs added": len(added), "corners with one loss": max(corners)}


add_runs = Exercise(
    name="add_runs",
    reference=_add_runs,
    measure=_planned,
    cases=(
        Case("the four experiments", (_FOUR,)),
        Case("three with BCE, one with Dice", ([*_square("bce")[:3], _FOUR[1]],)),
        Case("three with Dice, one with BCE", ([*_square("dice")[:3], _FOUR[0]],)),
        Case("nothing yet", ([],)),
        Case("one square is there", (_square("dice"),)),
    ),
    mistakes=(
        Mistake(
            lambda done: _add_runs(done)[:1],
            "One run separates down from up if effects are additive. The interaction needs all "
            "four corners.",
        ),
        Mistake(
            lambda done: _square("bce")[1::2],
            "Right for the four experiments. But `done` differs from case to case: compute the "
            "runs from it.",
        ),
        Mistake(
            lambda done: [_square("dice")[1], _square("dice")[2]],
            "Right for the four experiments. Here other runs are done: which does each loss lack?",
        ),
        Mistake(
            lambda done: [
                (down, up, _LOSSES[i % 2]) for i, (down, up, _) in enumerate(_add_runs(done))
            ],
            "You add runs with both losses, so neither square is complete. Add those of one loss.",
        ),
        Mistake(
            _new_pairs,
            "Each pair of down and up is there now, but with different losses. Use one loss for "
            "all four.",
        ),
        Mistake(
            lambda done: [run for square in _lacking(done) for run in square],
            "That is the full factorial design. It works, but one loss is enough for down and up.",
        ),
        Mistake(
            lambda done: _square("dice"),
            "A complete square. But some of its corners have been measured already: use them.",
        ),
        Mistake(
            lambda done: _lacking(done)[1],
            "Dice is not always the cheaper one to complete. Compare what each loss lacks.",
        ),
        Mistake(
            lambda done: _lacking(done)[0],
            "BCE is not always the cheaper one to complete. Compare what each loss lacks.",
        ),
    ),
    hint="Fix one loss. Down and up make a square with four corners: which are empty? Take the "
    "loss that lacks fewer.",
)
