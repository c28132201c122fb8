"""Exercises and worked cases of lesson 07: IoU, Dice, and the averages."""

import math
from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

import torch
from torch import Tensor

from segkit.check import Case, Exercise, Mistake


class _MaskPair(NamedTuple):
    """A predicted mask and its ground truth, 4×4 pixels, with counts and scores made by hand.

    Masks are four rows of class ids, "x" a pixel to ignore. Counts and scores are one per class,
    or of the foreground if `classes` is 1; the score "0/0" is of a class in neither mask.
    """

    name: str
    predicted: str
    true: str
    tp: tuple[int, ...]
    fp: tuple[int, ...]
    fn: tuple[int, ...]
    tn: tuple[int, ...]
    iou: tuple[str, ...]
    dice: tuple[str, ...]
    classes: int = 1

    def logits(self) -> Tensor:
        """Return logits (1, classes, 4, 4) of this prediction, ±2."""
        pred = torch.tensor([[int(pixel) for pixel in row] for row in self.predicted.split()])
        one_hot = pred == torch.arange(max(2, self.classes))[:, None, None]
        return 4.0 * (one_hot if self.classes > 1 else one_hot[1:])[None] - 2.0

    def target(self) -> Tensor:
        """Return the ground truth, int64 (1, 4, 4), with 255 where it is ignored."""
        rows = self.true.split()
        return torch.tensor([[[255 if pixel == "x" else int(pixel) for pixel in r] for r in rows]])

    def score(self, name: str) -> tuple[float, ...]:
        """Return `iou` or `dice` as numbers, NaN for "0/0"."""
        return tuple(float("nan" if f == "0/0" else Fraction(f)) for f in getattr(self, name))


CASES = (
    _MaskPair("perfect", "0000 0110 0110 0000", "0000 0110 0110 0000",
             tp=(4,), fp=(0,), fn=(0,), tn=(12,), iou=("1",), dice=("1",)),
    _MaskPair("half found", "0110 0110 0000 0000", "0000 0110 0110 0000",
             tp=(2,), fp=(2,), fn=(2,), tn=(10,), iou=("2/6",), dice=("4/8",)),
    _MaskPair("beside it", "1100 1100 0000 0000", "0000 0000 0011 0011",
             tp=(0,), fp=(4,), fn=(4,), tn=(8,), iou=("0",), dice=("0",)),
    _MaskPair("too small", "0000 0100 0000 0000", "0000 0110 0110 0000",
             tp=(1,), fp=(0,), fn=(3,), tn=(12,), iou=("1/4",), dice=("2/5",)),
    _MaskPair("all ones", "1111 1111 1111 1111", "0000 0110 0110 0000",
             tp=(4,), fp=(12,), fn=(0,), tn=(0,), iou=("4/16",), dice=("8/20",)),
    _MaskPair("all zeros", "0000 0000 0000 0000", "0000 0110 0110 0000",
             tp=(0,), fp=(0,), fn=(4,), tn=(12,), iou=("0",), dice=("0",)),
    _MaskPair("blank, left alone", "0000 0000 0000 0000", "0000 0000 0000 0000",
             tp=(0,), fp=(0,), fn=(0,), tn=(16,), iou=("0/0",), dice=("0/0",)),
    _MaskPair("blank, false alarm", "0000 0000 0000 0001", "0000 0000 0000 0000",
             tp=(0,), fp=(1,), fn=(0,), tn=(15,), iou=("0",), dice=("0",)),
    _MaskPair("border ignored", "0111 0111 0000 0000", "xxxx x11x x11x xxxx",
             tp=(2,), fp=(0,), fn=(2,), tn=(0,), iou=("2/4",), dice=("4/6",)),
    _MaskPair("three classes", "0011 0011 0022 0022", "0011 0001 0222 2222",
             tp=(5, 3, 4), fp=(3, 1, 0), fn=(1, 0, 3), tn=(7, 12, 9),
             iou=("5/9", "3/4", "4/7"), dice=("10/14", "6/7", "8/11"), classes=3),
    _MaskPair("three classes, one absent", "0000 0100 0000 0000", "0000 0110 x000 x000",
             tp=(12, 1, 0), fp=(1, 0, 0), fn=(0, 1, 0), tn=(1, 12, 14),
             iou=("12/13", "1/2", "0/0"), dice=("24/25", "2/3", "0/0"), classes=3),
)  # fmt: skip


def case(name: str) -> _MaskPair:
    """Return the pair called `name`, such as "half found"."""
    return next(pair for pair in CASES if pair.name == name)


_Scores = Callable[[int, int, int], tuple[float, float]]


def _on_blank(blank: float, scores: _Scores) -> _Scores:
    """Return `scores` with `blank` for both where there is nothing to divide by."""
    return lambda tp, fp, fn: scores(tp, fp, fn) if tp + fp + fn else (blank, blank)


def _right(tp: int, fp: int, fn: int) -> tuple[float, float]:
    return tp / (tp + fp + fn), 2 * tp / (2 * tp + fp + fn)


iou_and_dice = Exercise(
    name="iou_and_dice",
    reference=_on_blank(math.nan, _right),
    cases=tuple(Case(c.name, (c.tp[0], c.fp[0], c.fn[0])) for c in CASES if c.classes == 1),
    mistakes=(
        Mistake(
            _on_blank(math.nan, lambda tp, fp, fn: _right(tp, fp, fn)[::-1]),
            "The two are swapped: IoU comes first. IoU is never above Dice.",
        ),
        Mistake(
            _on_blank(math.nan, lambda tp, fp, fn: (tp / (tp + fn), 2 * tp / (2 * tp + fn))),
            "False positives cost nothing in yours: a mask of all ones would score 1.",
        ),
        Mistake(
            _on_blank(math.nan, lambda tp, fp, fn: (tp / (tp + fp), 2 * tp / (2 * tp + fp))),
            "False negatives cost nothing in yours: one right pixel would score 1.",
        ),
        Mistake(
            _on_blank(
                math.nan,
                lambda tp, fp, fn: (tp / (2 * tp + fp + fn), 2 * tp / (2 * tp + fp + fn)),
            ),
            "Your union counts the intersection twice. The union is TP + FP + FN.",
        ),
        Mistake(
            _on_blank(math.nan, lambda tp, fp, fn: (tp / (tp + fp + fn), 2 * tp / (tp + fp + fn))),
            "Your Dice can reach 2. The denominator is the size of both masks: 2 TP + FP + FN.",
        ),
        Mistake(
            _on_blank(math.nan, lambda tp, fp, fn: (tp / (tp + fp + fn), tp / (2 * tp + fp + fn))),
            "Your Dice of a perfect mask is one half. The numerator is twice the intersection.",
        ),
        Mistake(
            _on_blank(
                math.nan,
                lambda tp, fp, fn: (tp // (tp + fp + fn), 2 * tp // (2 * tp + fp + fn)),
            ),
            "`//` rounds down to a whole number. Divide with `/`.",
        ),
        Mistake(
            lambda tp, fp, fn: (
                (tp + 1) / (tp + fp + fn + 1),
                (2 * tp + 1) / (2 * tp + fp + fn + 1),
            ),
            "A smoothing term belongs in a loss. A metric reports what was counted.",
        ),
        Mistake(
            lambda tp, fp, fn: _right(tp, fp, fn) if tp else (math.nan, math.nan),
            "NaN is for what is in neither mask. An object that was missed scores 0.",
        ),
        Mistake(
            _right,
            "Nothing in either mask: that is 0 / 0. Test for it first, and return NaN for both.",
        ),
        Mistake(
            _on_blank(0.0, _right),
            "0 would penalise a correct empty prediction. Return NaN: nothing was tested.",
        ),
        Mistake(
            _on_blank(1.0, _right),
            "1 would reward every class that the data lack. Return NaN: nothing was tested.",
        ),
    ),
    hint="Write down the two formulas of section 2, and insert the counts of this case.",
)

_NEEDS = {"A": "micro", "B": "macro", "C": "micro-imagewise", "D": "macro-imagewise"}


def _instead(claim: str, chosen: str) -> Callable[[str], str]:
    return lambda asked: chosen if asked == claim else _NEEDS[asked]


choose_average = Exercise(
    name="choose_average",
    reference=lambda claim: _NEEDS[claim],
    cases=tuple(Case(f"claim {claim}", (claim,)) for claim in _NEEDS),
    mistakes=(
        Mistake(
            _instead("A", "micro-imagewise"),
            "A: averaged over tiles, a tile with one barn weighs as much as one full of fields. "
            "Hectares add up: pool all pixels.",
        ),
        Mistake(
            _instead("A", "macro"),
            "A: averaged over classes, a barn's hectare weighs more than a field's. Every hectare "
            "counts alike: pool all pixels.",
        ),
        Mistake(
            _instead("A", "weighted"),
            "A: that still scores class by class. Every hectare counts alike: pool all pixels.",
        ),
        Mistake(
            _instead("B", "micro"),
            "B: pooled pixels are nearly all road and sky. Rare classes must count as much.",
        ),
        Mistake(
            _instead("B", "weighted"),
            "B: weighted by ground-truth pixels, the road dominates. Every class counts alike.",
        ),
        Mistake(
            _instead("B", "macro-imagewise"),
            "B: most images have no sign, and one false positive there scores 0. Score each class "
            "over the whole data set first.",
        ),
        Mistake(
            _instead("C", "micro"),
            "C: pooled, a photograph with a large pet outweighs ten with small ones. Each "
            "photograph counts alike: score each, then average.",
        ),
        Mistake(
            _instead("C", "macro-imagewise"),
            "C: classes are not asked about. Within a photograph its pixels count alike.",
        ),
        Mistake(
            _instead("D", "macro"),
            "D: pooled over patients, a large patient outweighs a small one. Score each patient "
            "first.",
        ),
        Mistake(
            _instead("D", "micro-imagewise"),
            "D: pooled over organs, the liver outweighs the gall bladder. Each organ counts alike.",
        ),
    ),
    hint='Two questions: what counts alike, pixels or classes ("micro" or "macro")? And is each '
    'image scored by itself first ("…-imagewise")?',
)
