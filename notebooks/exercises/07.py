"""Exercises and worked cases of lesson 07: IoU, Dice, mIoU, averages, and tests of a metric."""

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor

from segkit.check import Case, Exercise, Mistake
from segkit.image_ops import PALETTE


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
    _MaskPair("no overlap", "1100 1100 0000 0000", "0000 0000 0011 0011",
             tp=(0,), fp=(4,), fn=(4,), tn=(8,), iou=("0",), dice=("0",)),
    _MaskPair("too small", "0000 0100 0000 0000", "0000 0110 0110 0000",
             tp=(1,), fp=(0,), fn=(3,), tn=(12,), iou=("1/4",), dice=("2/5",)),
    _MaskPair("all ones", "1111 1111 1111 1111", "0000 0110 0110 0000",
             tp=(4,), fp=(12,), fn=(0,), tn=(0,), iou=("4/16",), dice=("8/20",)),
    _MaskPair("all zeros", "0000 0000 0000 0000", "0000 0110 0110 0000",
             tp=(0,), fp=(0,), fn=(4,), tn=(12,), iou=("0",), dice=("0",)),
    _MaskPair("empty, predicted empty", "0000 0000 0000 0000", "0000 0000 0000 0000",
             tp=(0,), fp=(0,), fn=(0,), tn=(16,), iou=("0/0",), dice=("0/0",)),
    _MaskPair("empty, false positive", "0000 0000 0000 0001", "0000 0000 0000 0000",
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


_KINDS = {"TN": 0, "TP": 3, "FP": 6, "FN": 2}  # each kind, and its colour in the palette


def draw_kinds(ax: Axes, pred: Tensor, target: Tensor, letters: bool = False) -> None:
    """Draw TP, FP, FN and TN of two masks (H, W) as colours, ignored pixels grey.

    Args:
        letters: whether to write the kind into each pixel.
    """
    table = torch.tensor([[_KINDS["TN"], _KINDS["FP"]], [_KINDS["FN"], _KINDS["TP"]]])
    ids = torch.where(target == 255, 255, table[target.long() % 2, pred.long()])
    ax.imshow(PALETTE[ids.numpy()])
    for kind, colour in {**_KINDS, "ignored": 255}.items():
        ax.scatter([], [], s=80, marker="s", color=PALETTE[colour] / 255, label=kind)
        for row, column in (ids == colour).nonzero().tolist() if letters else ():
            style = {"ha": "center", "va": "center", "fontsize": 9}
            ax.text(column, row, kind, color="white" if colour == 0 else "black", **style)


_Scores = Callable[[int, int, int], tuple[float, float]]


def _on_blank(blank: float, scores: _Scores) -> _Scores:
    """Return `scores` with `blank` for both where there is nothing to divide by."""
    return lambda tp, fp, fn: scores(tp, fp, fn) if tp + fp + fn else (blank, blank)


def _right(tp: int, fp: int, fn: int) -> tuple[float, float]:
    return tp / (tp + fp + fn), 2 * tp / (2 * tp + fp + fn)


def _pair(answer: Callable, *counts: int) -> Any:
    """Return the two scores of an answer, which may be a dictionary with their names."""
    found = answer(*counts)
    if isinstance(found, dict):
        found = {str(key).lower(): value for key, value in found.items()}
        return (found["iou"], found["dice"]) if {"iou", "dice"} <= found.keys() else found
    return found


iou_and_dice = Exercise(
    name="iou_and_dice",
    reference=_on_blank(math.nan, _right),
    measure=_pair,
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
    hint="Return two numbers. Write down the two formulas of section 2, and insert the counts of "
    "this case.",
)


def _scores(
    pred: Tensor, target: Tensor, classes: int, ignored: bool = True, dice: bool = False
) -> Tensor:
    """Return the IoU (or Dice) of each class, NaN for one in neither mask."""
    valid = target != 255 if ignored else torch.ones_like(target, dtype=torch.bool)
    pred, target = pred[valid], target[valid]
    scores = []
    for k in range(classes):
        intersection = ((pred == k) & (target == k)).sum()
        sizes = (pred == k).sum() + (target == k).sum()
        above, below = (2 * intersection, sizes) if dice else (intersection, sizes - intersection)
        scores.append(above / below)
    return torch.stack(scores)


def _miou(pred: Tensor, target: Tensor, classes: int) -> float:
    return _scores(pred, target, classes).nanmean().item()


def _per_image(pred: Tensor, target: Tensor, classes: int) -> float:
    pairs = zip(pred, target, strict=True)
    return torch.tensor([_miou(p, t, classes) for p, t in pairs]).nanmean().item()


def _absent(value: float) -> Callable:
    return lambda pred, target, k: _scores(pred, target, k).nan_to_num(value).mean().item()


def _in_target(pred: Tensor, target: Tensor, classes: int) -> float:
    present = [k for k in range(classes) if (target == k).any()]
    return _scores(pred, target, classes)[present].mean().item()


def _pooled(pred: Tensor, target: Tensor, classes: int) -> float:
    valid = target != 255
    right = (pred == target)[valid].sum()
    return (right / (2 * valid.sum() - right)).item()


def _number(answer: Callable, *args: Any) -> Any:
    """Return the result of an answer; of an array with one number, the number."""
    found = answer(*args)
    array = np.asarray(found.detach().cpu() if isinstance(found, Tensor) else found)
    return array.item() if array.size == 1 else found


def _masks(*rows: str) -> Tensor:
    """Return masks (N, 2, 4) from strings such as "0011 1122", "x" a pixel to ignore."""
    text = " ".join(rows).replace(" ", "")
    return torch.tensor([255 if pixel == "x" else int(pixel) for pixel in text]).view(-1, 2, 4)


mean_iou = Exercise(
    name="mean_iou",
    reference=_miou,
    measure=_number,
    cases=(
        Case("two images, two classes", (_masks("0011 0111", "0000 0001"),
                                         _masks("0011 0011", "0001 0011"), 2)),
        Case("ignored pixels", (_masks("0011 1111"), _masks("0x11 x0x1"), 2)),
        Case("a class in neither mask", (_masks("0011 0111"), _masks("0011 0011"), 4)),
        Case("a class that is only predicted", (_masks("0012 0112"), _masks("0011 0011"), 3)),
        Case("all pixels ignored", (_masks("0011 0011"), _masks("xxxx xxxx"), 2)),
    ),
    mistakes=(
        Mistake(
            _per_image,
            "That is the mean over images of each image's mIoU. Count the pixels of all images "
            "first.",
        ),
        Mistake(
            lambda pred, target, k: _scores(pred, target, k, ignored=False).nanmean().item(),
            "Ignored pixels became errors. Leave out the pixels where the target is 255, in both "
            "masks.",
        ),
        Mistake(
            _absent(0.0),
            "A class that is in neither mask scored 0 and lowered the mean. Leave it out.",
        ),
        Mistake(
            _absent(1.0),
            "A class that is in neither mask scored 1 and raised the mean. Leave it out.",
        ),
        Mistake(
            lambda pred, target, k: _scores(pred, target, k).mean().item(),
            "One class is 0 / 0, so the mean is NaN. Average the others: torch.nanmean.",
        ),
        Mistake(
            _in_target,
            "A class that is only predicted has false positives, so its IoU is 0. Only a class in "
            "neither mask is left out.",
        ),
        Mistake(
            lambda pred, target, k: _scores(pred, target, k)[1:].nanmean().item(),
            "The background is missing. mIoU averages all classes, class 0 too.",
        ),
        Mistake(
            lambda pred, target, k: _scores(pred, target, k, dice=True).nanmean().item(),
            "That is the mean Dice. The denominator of IoU counts the intersection once.",
        ),
        Mistake(
            lambda pred, target, k: _scores(pred, target, k),
            "That is a score for each class. Return their mean, one number.",
        ),
        Mistake(
            _pooled,
            "You added up the counts of all classes before you divided (micro). Divide for each "
            "class, then average.",
        ),
    ),
    hint="Leave out ignored pixels. For each class: intersection / union over all images. Then the "
    "mean of the classes whose union is not 0.",
)  # fmt: skip

_NEEDS = {"A": "micro", "B": "macro", "C": "micro-imagewise", "D": "macro-imagewise"}
_FITS = "fits the claim"


def _average(answer: Any, claim: str) -> Any:
    """Return whether the average that an answer names fits the claim, else its name."""
    named = answer[claim] if isinstance(answer, dict) else answer(claim)
    if not isinstance(named, str):
        return named
    text = named.lower()
    kinds = [kind for kind in ("micro", "macro", "weighted") if kind in text]
    by_image = "image" in text or "sample" in text
    chosen = kinds[0] + "-imagewise" * by_image if len(kinds) == 1 else named
    # of a binary mask there is one class, so that both averages are one number
    right = {_NEEDS[claim]} | ({"macro-imagewise"} if claim == "C" else set())
    return _FITS if chosen in right else chosen


def _instead(claim: str, chosen: str) -> Callable[[str], str]:
    return lambda asked: chosen if asked == claim else _NEEDS[asked]


choose_average = Exercise(
    name="choose_average",
    reference=lambda claim: _NEEDS[claim],
    measure=_average,
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
            "has the same weight: pool all pixels.",
        ),
        Mistake(
            _instead("A", "weighted"),
            "A: that still scores class by class. Pool all pixels.",
        ),
        Mistake(
            _instead("B", "micro"),
            "B: pooled pixels are nearly all road and sky. Rare classes must have the same weight.",
        ),
        Mistake(
            _instead("B", "weighted"),
            "B: weighted by ground-truth pixels, the road dominates. Every class has the same "
            "weight.",
        ),
        Mistake(
            _instead("B", "macro-imagewise"),
            "B: most images have no sign, and one false positive there scores 0. Score each class "
            "over the whole data set first.",
        ),
        Mistake(
            _instead("C", "micro"),
            "C: pooled, a photograph with a large pet outweighs ten with small ones. Score each "
            "photograph, then average.",
        ),
        Mistake(
            _instead("C", "macro"),
            "C: that is still one score of the whole data set. Score each photograph, then "
            "average them.",
        ),
        Mistake(
            _instead("D", "macro"),
            "D: pooled over patients, a large patient outweighs a small one. Score each patient "
            "first.",
        ),
        Mistake(
            _instead("D", "micro-imagewise"),
            "D: pooled over organs, the liver outweighs the gall bladder. Average over the organs.",
        ),
    ),
    hint='Two questions: what has the same weight, pixels or classes ("micro" or "macro")? And is '
    'each image scored by itself first ("…-imagewise")?',
)

_Metric = Callable[[Tensor, Tensor], float]


def _metric(score: Callable[[float, float, float, float], float]) -> _Metric:
    """Return a metric of two masks, from a score of their TP, FP, FN and TN; 0 / 0 is NaN."""

    def metric(pred: Any, target: Any) -> float:
        pred, target = (torch.as_tensor(np.asarray(mask)).bool() for mask in (pred, target))
        pairs = (pred & target, pred & ~target, ~pred & target, ~pred & ~target)
        return score(*(mask.sum().double() for mask in pairs)).item()

    return metric


def _iou(tp: Tensor, fp: Tensor, fn: Tensor, tn: Tensor) -> Tensor:
    return tp / (tp + fp + fn)


def _known() -> Tensor:
    target = torch.zeros(16, 16, dtype=torch.bool)
    target[4:8, 4:8] = True
    return target


def _tests(*names: str) -> Callable[[_Metric], bool]:
    """Return a test of a metric on the masks of these names."""

    def is_sound(metric: _Metric) -> bool:
        target = _known()
        pixel = torch.zeros_like(target)
        pixel[5, 5] = True
        empty, full = torch.zeros_like(target), torch.ones_like(target)
        passed = {
            "target": abs(metric(target, target) - 1) < 1e-6,
            "ones": metric(full, target) < 0.5,
            "zeros": metric(empty, target) < 0.01,
            "pixel": metric(pixel, target) < 0.5,
            "ones are 0": metric(full, target) < 0.01,
            "empty is NaN": math.isnan(metric(empty, empty)),
            "is IoU": metric(pixel, target) == 1 / 16,
        }
        return all(passed[name] for name in names)

    return is_sound


def _verdict(answer: Callable, metric: _Metric) -> Any:
    """Return an answer's verdict on a metric; a failed assert is a No."""
    try:
        found = answer(metric)
    except AssertionError:
        return False
    array = np.asarray(found)
    return bool(array) if array.size == 1 and array.dtype.kind in "biu" else found


_ALL_FOUR = ("target", "ones", "zeros", "pixel")

is_sound = Exercise(
    name="is_sound",
    reference=_tests(*_ALL_FOUR),
    measure=_verdict,
    cases=(
        Case("IoU", (_metric(_iou),)),
        Case("Dice", (_metric(lambda tp, fp, fn, tn: 2 * tp / (2 * tp + fp + fn)),)),
        Case(
            "IoU that is 1 for 0 / 0",
            (_metric(lambda *n: _iou(*n) if n[0] + n[1] + n[2] else torch.ones(())),),
        ),
        Case(
            "Dice without its factor 2", (_metric(lambda tp, fp, fn, tn: tp / (2 * tp + fp + fn)),)
        ),
        Case(
            "a metric that can reach 2", (_metric(lambda tp, fp, fn, tn: 2 * tp / (tp + fp + fn)),)
        ),
        Case(
            "Dice without false positives",
            (_metric(lambda tp, fp, fn, tn: 2 * tp / (2 * tp + fn)),),
        ),
        Case("pixel accuracy", (_metric(lambda tp, fp, fn, tn: (tp + tn) / (tp + fp + fn + tn)),)),
        Case(
            "mean of the IoU of object and background",
            (_metric(lambda tp, fp, fn, tn: (_iou(tp, fp, fn, tn) + _iou(tn, fn, fp, tp)) / 2),),
        ),
        Case(
            "Dice without false negatives",
            (_metric(lambda tp, fp, fn, tn: 2 * tp / (2 * tp + fp).clamp(min=1)),),
        ),
    ),
    mistakes=(
        Mistake(
            _tests("target"),
            "The ground truth itself scores 1 under many wrong metrics. Try a mask of all ones.",
        ),
        Mistake(
            _tests("target", "ones"),
            "Try a mask of all zeros as well: it must score 0, also where objects are small.",
        ),
        Mistake(
            _tests("target", "ones", "zeros"),
            "One metric is left that finds no fault in a miss. Which mask misses nearly all of an "
            "object and has no false positive?",
        ),
        Mistake(
            _tests("ones", "zeros", "pixel"),
            "Does the ground truth itself score exactly 1? Not 0.5, and not 2.",
        ),
        Mistake(
            lambda metric: (
                metric(_known(), _known()) >= 1 - 1e-6 and _tests(*_ALL_FOUR[1:])(metric)
            ),
            "A score above 1 is wrong, too.",
        ),
        Mistake(
            _tests(*_ALL_FOUR, "ones are 0"),
            "All ones cover the object, so IoU and Dice are small there, not 0.",
        ),
        Mistake(
            _tests(*_ALL_FOUR, "empty is NaN"),
            "0 / 0 is a convention: a metric may return NaN, 0 or 1 there. Do not test for it.",
        ),
        Mistake(
            _tests(*_ALL_FOUR, "is IoU"),
            "Dice is right, too. Test for what any measure of overlap must do.",
        ),
        Mistake(
            lambda metric: not _tests(*_ALL_FOUR)(metric),
            "Yours is the wrong way round: True is for a metric that passes.",
        ),
    ),
    hint="Make a small object in a large image. Which score must the ground truth, all ones, all "
    "zeros and a single pixel of the object get?",
)
