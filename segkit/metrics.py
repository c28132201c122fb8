"""Segmentation metrics: count first, score later.

`counts` turns logits and targets into four integers per image and class. They add up over
batches and processes without loss, and every score and every average is computed from them.

All functions take
    logits: float (N, C, H, W); one channel is binary (sigmoid), more are exclusive (softmax).
    target: int64 (N, H, W), class ids.
    threshold: binary only: foreground is where sigmoid(logit) > threshold, strictly, so that a
        network of zeros predicts background. Several channels: the class of the largest logit.
    ignore_index: the target value of pixels that do not count, or None.
They raise ArgumentError as `validate_target` does, and on a CPU also for logits that are NaN.

>>> target = torch.tensor([[[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]])
>>> mask = torch.tensor([[0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
>>> c = counts(4.0 * mask[None, None] - 2, target)
>>> [t.item() for t in (c.tp, c.fp, c.fn, c.tn)]
[2, 2, 2, 10]
>>> round(c.iou().item(), 4), c.dice().item()
(0.3333, 0.5)
"""

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from segkit.errors import ArgumentError, one_of

REDUCTIONS = ("micro", "macro", "weighted", "micro-imagewise", "macro-imagewise", "none")
THRESHOLDS = tuple(k / 100 for k in range(1, 100))


@dataclass(frozen=True, eq=False)
class Counts:
    """True and false positives and negatives: int64 tensors of shape (images, classes).

    Binary masks have one column, the foreground; otherwise every class is counted against the
    rest. Ignored pixels are in none of the four. Further axes in front (the thresholds of a
    sweep) are kept by every method. `a + b` and `Counts.cat` append the images of batches.

    Every score is float64 on the CPU, and takes
        reduction: "micro" pools all pixels of the data set, "macro" averages the scores of the
            classes over the data set, "weighted" does so weighted by each class's target pixels;
            "micro-imagewise" and "macro-imagewise" do the first two in each image and average
            the images; "none" returns (images, classes).
        include_background: False leaves class 0 out. Binary masks have no such column.
        zero_division: the score of 0 / 0, a number or "skip": left out of averages, NaN where
            nothing remains. With "skip", what is blank in target and prediction changes no mean.
            A blank image can then only lose (a false positive scores 0): give 1.0 where blank
            images are part of the task. And precision leaves out a class that is never
            predicted: give 0.0, or report recall beside it.
    """

    tp: Tensor
    fp: Tensor
    fn: Tensor
    tn: Tensor

    @classmethod
    def cat(cls, parts: Iterable["Counts"]) -> "Counts":
        """Join the images of many batches, in linear time; repeated `+` copies quadratically."""
        return cls(*torch.cat([part.stacked() for part in parts], dim=-2))

    def __add__(self, other: "Counts") -> "Counts":
        return Counts.cat([self, other])

    def __len__(self) -> int:
        return self.tp.shape[-2]

    def __getitem__(self, images: int | slice | Tensor) -> "Counts":
        if isinstance(images, int):
            images = [range(len(self))[images]]  # a list keeps the axis of images
        return Counts(*(t[..., images, :] for t in (self.tp, self.fp, self.fn, self.tn)))

    def stacked(self) -> Tensor:
        """Return all four as one (4, images, classes) tensor; `Counts(*tensor)` goes back."""
        return torch.stack([self.tp, self.fp, self.fn, self.tn])

    def total(self) -> "Counts":
        """Return the sum over the images, as counts of one image.

        Processes all-reduce `total().stacked()`, four integers a class.
        """
        return Counts(*self.stacked().sum(dim=-2, keepdim=True))

    def iou(self, reduction: str = "micro", **options) -> Tensor:
        """Return intersection over union (Jaccard index), tp / (tp + fp + fn)."""
        return self._score(lambda tp, fp, fn, tn: (tp, tp + fp + fn), reduction, **options)

    def dice(self, reduction: str = "micro", **options) -> Tensor:
        """Return the Dice coefficient (F1), 2 tp / (2 tp + fp + fn)."""
        return self._score(lambda tp, fp, fn, tn: (2 * tp, 2 * tp + fp + fn), reduction, **options)

    def precision(self, reduction: str = "micro", **options) -> Tensor:
        """Return precision, tp / (tp + fp): the share of predicted pixels that are correct."""
        return self._score(lambda tp, fp, fn, tn: (tp, tp + fp), reduction, **options)

    def recall(self, reduction: str = "micro", **options) -> Tensor:
        """Return recall (sensitivity), tp / (tp + fn): the share of target pixels found."""
        return self._score(lambda tp, fp, fn, tn: (tp, tp + fn), reduction, **options)

    def accuracy(self, reduction: str = "micro", **options) -> Tensor:
        """Return accuracy, the share of correct pixels.

        For exclusive classes the micro averages are Σ tp / pixels: summing (tp + tn) over C
        classes would count a wrong pixel as correct C - 2 times.
        """
        if self.tp.shape[-1] > 1 and reduction.startswith("micro"):
            return self.recall(reduction, **options)
        return self._score(
            lambda tp, fp, fn, tn: (tp + tn, tp + fp + fn + tn), reduction, **options
        )

    def _score(
        self,
        ratio: Callable[..., tuple[Tensor, Tensor]],
        reduction: str,
        include_background: bool = True,
        zero_division: float | str = "skip",
    ) -> Tensor:
        one_of("reduction", reduction, REDUCTIONS)
        empty = math.nan if zero_division == "skip" else float(zero_division)
        cells = self.stacked().cpu()
        if not include_background and cells.shape[-1] > 1:
            cells = cells[..., 1:]
        if reduction in ("micro", "macro", "weighted"):
            cells = cells.sum(dim=-2, keepdim=True)
        if reduction in ("micro", "micro-imagewise"):
            cells = cells.sum(dim=-1, keepdim=True)
        scores = _divide(*ratio(*cells), empty)
        if reduction == "none":
            return scores
        if reduction == "weighted":
            support = (cells[0] + cells[2]) * ~scores.isnan()
            weighted = (support * scores.nan_to_num()).sum(dim=-1)
            return _divide(weighted, support.sum(dim=-1), empty).squeeze(-1)
        return scores.nanmean(dim=-1).nanmean(dim=-1)


def _divide(above: Tensor, below: Tensor, empty: float) -> Tensor:
    return torch.where(below == 0, empty, above.double() / below.double())


@torch.no_grad()
def counts(
    logits: Tensor, target: Tensor, threshold: float = 0.5, ignore_index: int | None = 255
) -> Counts:
    """Count correct and wrong pixels, per image and class, on the logits' device.

    A GPU is not waited for.
    """
    pred, labels, valid = _classify(logits, target, threshold, ignore_index)
    if logits.shape[1] == 1:
        return _count_masks(pred[:, None], labels[:, None].bool(), valid)
    return _count_labels(pred, labels, valid, logits.shape[1])


def _classify(
    logits: Tensor, target: Tensor, threshold: float, ignore_index: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the prediction (N, H, W), a mask or class ids, with the labels and valid pixels."""
    labels, valid = validate_target(logits, target, ignore_index)
    if logits.shape[1] == 1:
        scores = to_float32(logits[:, 0])
        pred = scores > logit(threshold)
    else:
        scores, pred = logits.max(dim=1)  # of channels with a NaN the maximum is NaN
    _refuse_nan(scores, valid)
    return pred, labels, valid


def _count_masks(pred: Tensor, target: Tensor, valid: Tensor) -> Counts:
    """Count (N, C, H, W) boolean masks where (N, H, W) `valid` is set."""
    pred, target = pred & valid[:, None], target & valid[:, None]
    masks = (pred & target, pred & ~target, ~pred & target, valid[:, None])
    # A CPU sums booleans into int32 twice as fast, but it would overflow in a huge image.
    dtype = torch.int32 if valid[0].numel() < 2**31 else torch.int64
    tp, fp, fn, pixels = (mask.sum(dim=(2, 3), dtype=dtype).long() for mask in masks)
    return Counts(tp, fp, fn, pixels - tp - fp - fn)


def _count_labels(pred: Tensor, target: Tensor, valid: Tensor, classes: int) -> Counts:
    """Count (N, H, W) class ids: one confusion matrix per image, in one pass."""
    confusion = target.new_zeros(len(target), classes * classes)
    confusion.scatter_add_(1, (target * classes + pred).flatten(1), valid.flatten(1).long())
    confusion = confusion.view(-1, classes, classes)  # rows: the target; columns: the prediction
    tp = confusion.diagonal(dim1=1, dim2=2)
    fp, fn = confusion.sum(dim=1) - tp, confusion.sum(dim=2) - tp
    return Counts(tp, fp, fn, confusion.sum(dim=(1, 2))[:, None] - tp - fp - fn)


@torch.no_grad()
def sweep(
    logits: Tensor,
    target: Tensor,
    thresholds: Sequence[float] = THRESHOLDS,
    ignore_index: int | None = 255,
) -> Counts:
    """Count at every threshold in one pass: binary counts of shape (thresholds, images, 1).

    The integers are those of `counts(logits, target, threshold)`, and every score has one value a
    threshold: `THRESHOLDS[sweep(...).iou().argmax()]`.

    Args:
        thresholds: probabilities in rising order.
    """
    if logits.shape[1] != 1:
        raise ArgumentError(f"only one channel has a threshold; the logits have {logits.shape[1]}")
    cuts = [logit(t) for t in thresholds]
    if any(low >= high for low, high in pairwise(cuts)):
        raise ArgumentError("thresholds must rise")
    labels, valid = validate_target(logits, target, ignore_index)
    scores = to_float32(logits[:, 0])
    _refuse_nan(scores, valid)
    # Each pixel enters a histogram once, by how many thresholds it exceeds.
    steps = len(cuts) + 1
    exceeded = torch.bucketize(scores, scores.new_tensor(cuts))
    histogram = labels.new_zeros(len(labels), 2 * steps)
    histogram.scatter_add_(1, (labels * steps + exceeded).flatten(1), valid.flatten(1).long())
    histogram = histogram.view(-1, 2, steps)
    above = histogram.flip(-1).cumsum(-1).flip(-1)  # at k: pixels that exceed k thresholds or more
    positive, pixels = above[..., 1:], above[..., :1]
    (tn, fn), (fp, tp) = (pixels - positive).unbind(1), positive.unbind(1)
    return Counts(*(t.T[..., None] for t in (tp, fp, fn, tn)))


@torch.no_grad()
def boundary_counts(
    logits: Tensor,
    target: Tensor,
    threshold: float = 0.5,
    ratio: float = 0.02,
    ignore_index: int | None = 255,
) -> Counts:
    """Count only near the contours: `boundary_counts(...).iou()` is boundary IoU.

    Of each mask only the pixels within a distance d of the mask's contour are kept; the image's
    edge counts as contour. Ignored pixels belong to no mask and are not counted, so where a
    trimap's border is ignored the contour is the border's inner edge: evaluate boundaries with
    the border given to a class.
    Cheng, Girshick, Dollár, Berg & Kirillov, "Boundary IoU" (CVPR 2021).

    Args:
        ratio: d as a share of the image's diagonal, more than 0; rounded to pixels, at least 1.
    """
    if not 0 < ratio < math.inf:
        raise ArgumentError(f"ratio is {ratio}: give a share of the diagonal, more than 0")
    pred, labels, valid = _classify(logits, target, threshold, ignore_index)
    if logits.shape[1] == 1:
        masks = pred[:, None], labels[:, None] == 1
    else:
        classes = torch.arange(logits.shape[1], device=logits.device)[:, None, None]
        masks = pred[:, None] == classes, labels[:, None] == classes
    width = max(1, round(ratio * math.hypot(*target.shape[1:])))
    bands = (_boundary_band(mask & valid[:, None], width) for mask in masks)
    return _count_masks(*bands, valid)


def _boundary_band(mask: Tensor, width: int) -> Tensor:
    """Keep the pixels of boolean (N, C, H, W) masks that have a pixel outside within `width`.

    The outside is dilated by a square of 2 width + 1 pixels: along each axis by a few shifts,
    each of which nearly doubles the reach.
    """
    outside = F.pad(~mask, (width,) * 4, value=True)
    for dim in (2, 3):
        reach = 1
        while reach < 2 * width + 1:
            shift = min(reach, 2 * width + 1 - reach)
            rest = outside.shape[dim] - shift
            outside = outside.narrow(dim, 0, rest) | outside.narrow(dim, shift, rest)
            reach += shift
    return mask & outside


@dataclass(frozen=True, eq=False)
class Calibration:
    """How often a network is right at each level of confidence, in equal bins from 0 to 1.

    Adds up over batches with `+`.
    """

    pixels: Tensor  # how many fell into each bin
    confidence: Tensor  # the sum of their confidences
    right: Tensor  # how many of them were correct

    def __add__(self, other: "Calibration") -> "Calibration":
        return Calibration(
            self.pixels + other.pixels,
            self.confidence + other.confidence,
            self.right + other.right,
        )

    def curve(self) -> tuple[Tensor, Tensor]:
        """Return the reliability curve: mean confidence and accuracy per bin, NaN if empty."""
        return self.confidence / self.pixels, self.right / self.pixels.double()

    def error(self) -> Tensor:
        """Return the expected calibration error: |accuracy - confidence|, weighted by pixels.

        NaN when no pixel was counted.
        Naeini, Cooper & Hauskrecht (AAAI 2015); Guo, Pleiss, Sun & Weinberger (ICML 2017).
        """
        return (self.right - self.confidence).abs().sum() / self.pixels.sum()


@torch.no_grad()
def calibration(
    logits: Tensor, target: Tensor, bins: int = 15, ignore_index: int | None = 255
) -> Calibration:
    """Compare confidence with correctness over all pixels that count, on the CPU in float64.

    One channel: the confidence is the foreground's probability, and correct is being foreground.
    More: the confidence is the largest probability, and correct is the target being that class.

    Args:
        bins: how many bins of confidence, at least 1.
    """
    logits, target = logits.cpu(), target.cpu()
    labels, valid = validate_target(logits, target, ignore_index)
    if logits.shape[1] == 1:
        confidence, right = logits[:, 0].double().sigmoid(), labels == 1
    else:
        confidence, pred = logits.double().softmax(dim=1).max(dim=1)
        right = pred == labels
    _refuse_nan(confidence, valid)
    confidence, right = confidence[valid], right[valid]
    index = (confidence * bins).long().clamp(max=bins - 1)
    return Calibration(
        torch.bincount(index, minlength=bins),
        torch.bincount(index, confidence, minlength=bins),
        torch.bincount(index[right], minlength=bins),
    )


class Interval(NamedTuple):
    """A score and its confidence interval."""

    value: float
    low: float
    high: float


def bootstrap(
    score: Callable[..., Tensor],
    *data: Counts | Tensor,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return a score with its bootstrap confidence interval over images (percentile method).

    Images are drawn, not pixels, since pixels of one image are not independent. Images of one
    patient are not either: sum their counts first. Under about 20 images the interval is too
    narrow. Efron & Tibshirani, An Introduction to the Bootstrap (1993).

    Args:
        score: returns one value per resample, from data with an axis of resamples in front:
            `bootstrap(lambda c: c.iou(), counts)`, `bootstrap(lambda d: d.mean(-1), distances)`.
        data: Counts or tensors of the same images in the same order, resampled alike, so that
            `bootstrap(lambda a, b: a.iou() - b.iou(), counts_a, counts_b)` is paired.
        resamples: how many samples of the images to draw.
        level: the confidence level, between 0 and 1.
        seed: seeds the drawing.
    """
    images = len(data[0])
    lengths = [len(d) for d in data]
    if set(lengths) != {images}:
        raise ArgumentError(f"data have {lengths} images; they must be the same images")
    if images < 2:
        raise ArgumentError(f"{images} image(s) have no spread between images: give two or more")
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(images, (resamples, images), generator=generator)
    # Most scores of counts need no more than each resample's sums, and one matrix product gives
    # these. A score that also depends on single images differs on the first resamples.
    first = drawn[: max(8, 256 // images)]
    pooled = all(isinstance(d, Counts) for d in data) and torch.allclose(
        *(_scores(score, data, first, sums) for sums in (False, True)), 0, 0, equal_nan=True
    )
    per_image = (d[:1].stacked() if isinstance(d, Counts) else d[:1] for d in data)
    cells = 1 if pooled else max(d.numel() for d in per_image)
    parts = drawn.split(max(1, 2_000_000 // (images * cells)))  # bounds the memory
    scores = torch.cat([_scores(score, data, part, pooled) for part in parts]).double()
    missing = int(scores.isnan().sum())
    if 0 < missing < resamples:
        warnings.warn(
            f"{missing} of {resamples} resamples have no score (0 / 0 in every drawn image) and "
            "are left out of the interval",
            stacklevel=2,
        )
    tail = (1 - level) / 2
    low, high = scores.nanquantile(torch.tensor([tail, 1 - tail]).double()).tolist()
    return Interval(float(score(*data)), low, high)


def _scores(score: Callable, data: Sequence[Counts | Tensor], drawn: Tensor, sums: bool) -> Tensor:
    """Return the score of each row of `drawn`, from its images or from the sums over them."""
    samples = []
    for d in data:
        if not isinstance(d, Counts):
            samples.append(d[drawn])
        elif sums:
            times = torch.zeros(drawn.shape, dtype=torch.float64)  # its integers are exact
            times.scatter_add_(1, drawn, torch.ones_like(times))
            cells = d.stacked().cpu().movedim(-2, 0)
            total = (times @ cells.flatten(1).double()).long().view(-1, *cells.shape[1:])
            samples.append(Counts(*total.movedim(1, 0).unsqueeze(-2)))
        else:
            samples.append(Counts(*d[drawn].stacked().movedim(-3, 1)))
    return score(*samples)


def logit(probability: float) -> float:
    """Return the logit whose sigmoid is `probability`, 0 to 1; ±inf at 0 and 1."""
    if not 0 <= probability <= 1:
        raise ArgumentError(f"threshold {probability} is not a probability: give one from 0 to 1")
    if probability in (0, 1):
        return math.copysign(math.inf, probability - 0.5)
    return math.log(probability / (1 - probability))


def to_float32(logits: Tensor) -> Tensor:
    """Return logits as float32, or float64 if they are that already."""
    return logits if logits.dtype == torch.float64 else logits.float()


def validate_target(
    logits: Tensor, target: Tensor, ignore_index: int | None = 255
) -> tuple[Tensor, Tensor]:
    """Check that a target fits logits, and find its ignored pixels.

    Returns:
        labels: int64 (N, H, W), the class ids, 0 where a pixel is ignored; `target` itself where
            it is known that none is.
        valid: boolean (N, H, W), False where a pixel is ignored.

    Raises:
        ArgumentError: type, shape or device do not fit; on a CPU also for class ids that the
            logits lack. Reading values of another device would wait for it: there it is for
            the caller to check the masks once, as `fit` does.
    """
    shape, expected = tuple(target.shape), (logits.shape[0], *logits.shape[2:])
    if logits.ndim != 4 or not logits.is_floating_point():
        problem = (
            f"logits are {logits.dtype} of shape {tuple(logits.shape)}; "
            "expected what a model returns, floats (N, C, H, W)"
        )
    elif target.dtype != torch.int64:
        problem = (
            f"target is {target.dtype}; expected class ids as torch.int64. From a 0/1 mask: "
            "target.long(); from 0/255: (target > 127).long(). Fractions mean that the mask was "
            "interpolated: resize masks with nearest"
        )
    elif target.ndim == 4 and target.shape[1] == 1:
        problem = f"target has shape {shape}; drop the channel: target[:, 0]"
    elif shape != expected:
        problem = f"target has shape {shape}; logits {tuple(logits.shape)} need {expected}"
    elif target.device != logits.device:
        problem = f"target is on {target.device}, logits on {logits.device}: use target.to(device)"
    elif target.numel() == 0:
        problem = f"target has shape {shape}: there is no pixel in it"
    else:
        problem = None
    if problem:
        raise ArgumentError(problem)
    last = max(2, logits.shape[1]) - 1
    on_cpu = _on_cpu(target)
    low, high = target.aminmax() if on_cpu else (None, None)
    if ignore_index is None or (on_cpu and not low <= ignore_index <= high):
        labels, valid = target, torch.ones_like(target, dtype=torch.bool)
    else:
        valid = target != ignore_index
        labels = target.where(valid, 0)
        low, high = labels.aminmax() if on_cpu else (None, None)
    if on_cpu and (low < 0 or high > last):
        values = target.unique().tolist()
        shown = ", ".join(map(str, values[:6])) + (", …" if len(values) > 6 else "")
        known = "one channel is binary (0 and 1)"
        if logits.shape[1] > 1:
            known = f"{logits.shape[1]} channels are for the classes 0 to {last}"
        remedy = f"{values[-1] + 1} classes need as many channels"
        if values[-1] == 255:
            remedy = "a 0/255 mask becomes (mask > 127).long()"
        raise ArgumentError(
            f"target holds the values {shown}, but {known}, ignored is {ignore_index}: {remedy}"
        )
    return labels, valid


def _refuse_nan(scores: Tensor, valid: Tensor) -> None:
    """Raise for (N, H, W) scores on a CPU that are NaN where pixels count."""
    if _on_cpu(scores) and (scores.isnan() & valid).any():
        raise ArgumentError(
            "the logits are not finite (NaN): the network's weights, or its input, are broken"
        )


def _on_cpu(tensor: Tensor) -> bool:
    """Return whether values can be read without waiting for a device or breaking a compilation."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()
