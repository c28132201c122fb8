"""Predictions and truths on 4×4 pixels, with their counts and scores worked out by hand.

The one table that the lesson draws, the doctest prints and the tests hold the code to.
Nothing in it is computed: counts were counted by eye, and scores are the fractions they make.
"""

from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

IGNORE = 255


@dataclass(frozen=True)
class Case:
    """One image: what was predicted, what is true, and what follows.

    predicted, true: four rows of class ids; "x" is a pixel to ignore. classes: 1 is binary.
    tp, fp, fn, tn, iou, dice: one entry a class, and only the foreground if binary. Scores are
    fractions; "0/0" is a class in neither mask.
    """

    name: str
    predicted: tuple[str, ...]
    true: tuple[str, ...]
    tp: tuple[int, ...]
    fp: tuple[int, ...]
    fn: tuple[int, ...]
    tn: tuple[int, ...]
    iou: tuple[str, ...]
    dice: tuple[str, ...]
    classes: int = 1

    def logits(self) -> Tensor:
        """Return logits (1, classes, 4, 4) that predict this: ±2, none of them sure."""
        said = torch.tensor([[int(pixel) for pixel in row] for row in self.predicted])
        hot = said[None] == torch.arange(max(2, self.classes))[:, None, None]
        return (4.0 * hot - 2.0)[None] if self.classes > 1 else (4.0 * said - 2.0)[None, None]

    def target(self) -> Tensor:
        """Return the truth, int64 (1, 4, 4)."""
        ids = [[IGNORE if pixel == "x" else int(pixel) for pixel in row] for row in self.true]
        return torch.tensor(ids)[None]

    def score(self, name: str) -> tuple[float, ...]:
        """Return `iou` or `dice` as numbers, NaN for "0/0"."""
        fractions = getattr(self, name)
        return tuple(float("nan") if f == "0/0" else float(Fraction(f)) for f in fractions)

    def __str__(self) -> str:
        rows = zip(self.predicted, self.true, strict=True)
        lines = [f"{' '.join(said)}    {' '.join(true)}" for said, true in rows]
        return "\n".join([self.name, "predicted  true", *lines])


CASES = (
    Case(
        "perfect",
        predicted=("0000", "0110", "0110", "0000"),
        true=("0000", "0110", "0110", "0000"),
        tp=(4,), fp=(0,), fn=(0,), tn=(12,), iou=("1",), dice=("1",),
    ),
    Case(
        "half found",
        predicted=("0110", "0110", "0000", "0000"),
        true=("0000", "0110", "0110", "0000"),
        tp=(2,), fp=(2,), fn=(2,), tn=(10,), iou=("2/6",), dice=("4/8",),
    ),
    Case(
        "beside it",
        predicted=("1100", "1100", "0000", "0000"),
        true=("0000", "0000", "0011", "0011"),
        tp=(0,), fp=(4,), fn=(4,), tn=(8,), iou=("0",), dice=("0",),
    ),
    Case(
        "too small",
        predicted=("0000", "0100", "0000", "0000"),
        true=("0000", "0110", "0110", "0000"),
        tp=(1,), fp=(0,), fn=(3,), tn=(12,), iou=("1/4",), dice=("2/5",),
    ),
    Case(
        "all ones",
        predicted=("1111", "1111", "1111", "1111"),
        true=("0000", "0110", "0110", "0000"),
        tp=(4,), fp=(12,), fn=(0,), tn=(0,), iou=("4/16",), dice=("8/20",),
    ),
    Case(
        "all zeros",
        predicted=("0000", "0000", "0000", "0000"),
        true=("0000", "0110", "0110", "0000"),
        tp=(0,), fp=(0,), fn=(4,), tn=(12,), iou=("0",), dice=("0",),
    ),
    Case(
        "blank, left alone",
        predicted=("0000", "0000", "0000", "0000"),
        true=("0000", "0000", "0000", "0000"),
        tp=(0,), fp=(0,), fn=(0,), tn=(16,), iou=("0/0",), dice=("0/0",),
    ),
    Case(
        "blank, false alarm",
        predicted=("0000", "0000", "0000", "0001"),
        true=("0000", "0000", "0000", "0000"),
        tp=(0,), fp=(1,), fn=(0,), tn=(15,), iou=("0",), dice=("0",),
    ),
    Case(
        "border ignored",
        predicted=("0111", "0111", "0000", "0000"),
        true=("xxxx", "x11x", "x11x", "xxxx"),
        tp=(2,), fp=(0,), fn=(2,), tn=(0,), iou=("2/4",), dice=("4/6",),
    ),
    Case(
        "three classes",
        predicted=("0011", "0011", "0022", "0022"),
        true=("0011", "0001", "0222", "2222"),
        classes=3,
        tp=(5, 3, 4), fp=(3, 1, 0), fn=(1, 0, 3), tn=(7, 12, 9),
        iou=("5/9", "3/4", "4/7"), dice=("10/14", "6/7", "8/11"),
    ),
    Case(
        "three classes, one absent",
        predicted=("0000", "0100", "0000", "0000"),
        true=("0000", "0110", "x000", "x000"),
        classes=3,
        tp=(12, 1, 0), fp=(1, 0, 0), fn=(0, 1, 0), tn=(1, 12, 14),
        iou=("12/13", "1/2", "0/0"), dice=("24/25", "2/3", "0/0"),
    ),
)  # fmt: skip


def case(name: str) -> Case:
    """Return the case called `name`."""
    return next(c for c in CASES if c.name == name)
