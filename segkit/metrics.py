"""Segmentation metrics: `counts` turns logits and targets into integers, scores come from these.

All functions take the same arguments. They raise ArgumentError as `validate_target` does, and on a
CPU also for logits that are NaN.

Args:
    logits: float (N, C, H, W); one channel is binary (sigmoid), more are exclusive (softmax).
    target: int64 (N, H, W), class ids.
    threshold: binary only: foreground is where sigmoid(logit) > threshold, strictly, so that a
        network of zeros predicts background. Several channels: the class of the largest logit.
    ignore_index: the target value of pixels that do not count, or None.
"""

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
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

    Every score is float64 on the CPU, and takes the same options.

    Args:
        reduction: "micro" pools all pixels of the data set, "macro" averages the scores of its
            classes, "weighted" does so weighted by each class's target pixels; "micro-imagewise"
            and "macro-imagewise" do the first two in each image and average the images; "none"
            returns (images, classes).
        include_background: False leaves class 0 out. Binary masks have no such column.
        zero_division: the score of 0 / 0, a number or "skip": left out of averages, NaN where
            nothing remains. With "skip" an image without foreground can only lose: give 1.0 where
            such images matter. And precision leaves out a class that is never predicted: give 0.0.
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
        if not isinstance(images, slice) and torch.as_tensor(images).ndim == 0:
            images = [int(images)]  # a list keeps the axis of images
        return Counts(*self.stacked()[..., images, :])

    def stacked(self) -> Tensor:
        """Return all four as one (4, images, classes) tensor; `Counts(*tensor)` goes back."""
        return torch.stack([self.tp, self.fp, self.fn, self.tn])

    def total(self) -> "Counts":
        """Return the sum over the images, as one image; processes can all-reduce it."""
        return Counts(*self.stacked().sum(dim=-2, keepdim=True))

    def iou(self, reduction: str = "micro", **options) -> Tensor:
        """Return intersection over union (Jaccard index), tp / (tp + fp + fn)."""
        return self._score(self.tp, self.tp + self.fp + self.fn, reduction, **options)

    def dice(self, reduction: str = "micro", **options) -> Tensor:
        """Return the Dice coefficient (F1), 2 tp / (2 tp + fp + fn)."""
        return self._score(2 * self.tp, 2 * self.tp + self.fp + self.fn, reduction, **options)

    def precision(self, reduction: str = "micro", **options) -> Tensor:
        """Return precision, tp / (tp + fp): the share of predicted pixels that are correct."""
        return self._score(self.tp, self.tp + self.fp, reduction, **options)

    def recall(self, reduction: str = "micro", **options) -> Tensor:
        """Return recall (sensitivity), tp / (tp + fn): the share of target pixels found."""
        return self._score(self.tp, self.tp + self.fn, reduction, **options)

    def accuracy(self, reduction: str = "micro", **options) -> Tensor:
        """Return accuracy, the share of correct pixels."""
        # Summed over C classes, tp + tn would count a wrong pixel as correct C - 2 times.
        if self.tp.shape[-1] > 1 and reduction.startswith("micro"):
            return self.recall(reduction, **options)
        return self._score(self.tp + self.tn, self.stacked().sum(dim=0), reduction, **options)

    def _score(self, above, below, reduction, include_background=True, zero_division="skip"):
        """Return above / below, both summed and the quotient averaged as the options ask."""
        one_of("reduction", reduction, REDUCTIONS)
        empty = math.nan if zero_division == "skip" else float(zero_division)
        cells = torch.stack([above, below, self.tp + self.fn]).cpu()
        if not include_background and cells.shape[-1] > 1:
            cells = cells[..., 1:]
        if reduction in ("micro", "macro", "weighted"):
            cells = cells.sum(dim=-2, keepdim=True)
        if reduction.startswith("micro"):
            cells = cells.sum(dim=-1, keepdim=True)
        above, below, support = cells
        scores = _divide(above, below, empty)
        if reduction == "none":
            return scores
        if reduction == "weighted":
            support = support * ~scores.isnan()
            weighted = (support * scores.nan_to_num()).sum(dim=-1)
            return _divide(weighted, support.sum(dim=-1), empty).squeeze(-1)
        return scores.nanmean(dim=-1).nanmean(dim=-1)


def _divide(above: Tensor, below: Tensor, empty: float) -> Tensor:
    return torch.where(below == 0, empty, above.double() / below.double())


@torch.no_grad()
def counts(
    logits: Tensor, target: Tensor, threshold: float = 0.5, ignore_index: int | None = 255
) -> Counts:
    """Count correct and wrong pixels, per image and class; a GPU is not waited for."""
    _, pred, labels, valid = _classify(logits, target, threshold, ignore_index)
    classes = logits.shape[1]
    if classes == 1:
        return _count_masks(pred[:, None], labels[:, None].bool(), valid)
    confusion = labels.new_zeros(len(labels), classes * classes)  # in one pass, for each image
    confusion.scatter_add_(1, (labels * classes + pred).flatten(1), valid.flatten(1).long())
    confusion = confusion.view(-1, classes, classes)  # rows: the target; columns: the prediction
    tp = confusion.diagonal(dim1=1, dim2=2)
    fp, fn = confusion.sum(dim=1) - tp, confusion.sum(dim=2) - tp
    return Counts(tp, fp, fn, confusion.sum(dim=(1, 2))[:, None] - tp - fp - fn)


def _classify(
    logits: Tensor, target: Tensor, threshold: float, ignore_index: int | None
) -> tuple[Tensor, ...]:
    """Return scores, prediction (a mask or class ids), labels and valid pixels, each (N, H, W)."""
    labels, valid = validate_target(logits, target, ignore_index)
    if logits.shape[1] == 1:
        scores = logits[:, 0].to(torch.promote_types(logits.dtype, torch.float32))
        pred = scores > logit(threshold)
    else:
        scores, pred = logits.max(dim=1)  # of channels with a NaN the maximum is NaN
    _refuse_nan(scores, valid)
    return scores, pred, labels, valid


def _count_masks(pred: Tensor, target: Tensor, valid: Tensor) -> Counts:
    """Count (N, C, H, W) boolean masks where (N, H, W) `valid` is set."""
    pred, target = pred & valid[:, None], target & valid[:, None]
    masks = (pred & target, pred & ~target, ~pred & target, valid[:, None])
    # A CPU sums booleans into int32 twice as fast, but it would overflow in a huge image.
    dtype = torch.int32 if valid[0].numel() < 2**31 else torch.int64
    tp, fp, fn, pixels = (mask.sum(dim=(2, 3), dtype=dtype).long() for mask in masks)
    return Counts(tp, fp, fn, pixels - tp - fp - fn)


@torch.no_grad()
def sweep(
    logits: Tensor,
    target: Tensor,
    thresholds: Sequence[float] = THRESHOLDS,
    ignore_index: int | None = 255,
) -> Counts:
    """Count at every threshold, in rising order: binary counts (thresholds, images, 1).

    The integers are those of `counts(logits, target, threshold)`, and every score has one value a
    threshold: `THRESHOLDS[sweep(...).iou().argmax()]`.
    """
    if logits.shape[1] != 1:
        raise ArgumentError(f"only one channel has a threshold; the logits have {logits.shape[1]}")
    cuts = [logit(t) for t in thresholds]
    if cuts != sorted(set(cuts)):
        raise ArgumentError("thresholds must rise")
    scores, _, labels, valid = _classify(logits, target, 0.5, ignore_index)
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
    """Count only within a distance d of each mask's contour: `.iou()` is boundary IoU.

    The image's edge counts as contour. Ignored pixels belong to no mask, so that a trimap's ignored
    border moves the contour to its inner edge: evaluate with the border given to a class.
    Cheng, Girshick, Dollár, Berg & Kirillov, "Boundary IoU" (CVPR 2021).

    Args:
        ratio: d as a share of the image's diagonal, more than 0; rounded to pixels, at least 1.
    """
    if not 0 < ratio < math.inf:
        raise ArgumentError(f"ratio is {ratio}: give a share of the diagonal, more than 0")
    _, pred, labels, valid = _classify(logits, target, threshold, ignore_index)
    channels = logits.shape[1]
    ids = torch.arange(channels, device=logits.device) if channels > 1 else logits.new_ones(1)
    width = max(1, round(ratio * math.hypot(*target.shape[1:])))
    masks = (classes[:, None] == ids[:, None, None] for classes in (pred, labels))
    return _count_masks(*(_boundary_band(mask & valid[:, None], width) for mask in masks), valid)


def _boundary_band(mask: Tensor, width: int) -> Tensor:
    """Keep the pixels of boolean (N, C, H, W) masks that have a pixel outside within `width`.

    The outside is dilated by a square, along each axis by shifts that double the reach.
    """
    outside = F.pad(~mask, (width,) * 4, value=True)
    for dim in (2, 3):
        reach = 1
        while (missing := 2 * width + 1 - reach) > 0:
            shift = min(reach, missing)
            rest = outside.shape[dim] - shift
            outside = outside.narrow(dim, 0, rest) | outside.narrow(dim, shift, rest)
            reach += shift
    return mask & outside


class Calibration(NamedTuple):
    """How often predictions are correct in equal bins of confidence; adds up over batches."""

    pixels: Tensor  # how many fell into each bin
    confidence: Tensor  # the sum of their confidences
    right: Tensor  # how many of them were correct

    def __add__(self, other: "Calibration") -> "Calibration":
        return Calibration(*map(torch.add, self, other))

    def curve(self) -> tuple[Tensor, Tensor]:
        """Return the reliability curve: mean confidence and accuracy per bin, NaN if empty."""
        return self.confidence / self.pixels, self.right / self.pixels.double()

    def error(self) -> Tensor:
        """Return the expected calibration error (Naeini et al., AAAI 2015); NaN without pixels."""
        return (self.right - self.confidence).abs().sum() / self.pixels.sum()


@torch.no_grad()
def calibration(
    logits: Tensor, target: Tensor, bins: int = 15, ignore_index: int | None = 255
) -> Calibration:
    """Compare confidence with correctness over all pixels that count, on the CPU in float64.

    One channel: the confidence is the foreground's probability, and correct is being foreground.
    More: the confidence is the largest probability, and correct is the target being that class.
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

    Images are drawn, since pixels of one image are not independent. Images of one patient are not
    either: sum their counts first. Under about 20 images the interval is too narrow.
    Efron & Tibshirani, An Introduction to the Bootstrap (1993).

    Args:
        score: returns one value per resample, from data with an axis of resamples in front:
            `bootstrap(lambda c: c.iou(), counts)`, `bootstrap(lambda d: d.mean(-1), distances)`.
        data: Counts or tensors of the same images, resampled alike: a difference
            `bootstrap(lambda a, b: a.iou() - b.iou(), counts_a, counts_b)` is paired.
    """
    lengths = [len(d) for d in data]
    images = lengths[0]
    if set(lengths) != {images}:
        raise ArgumentError(f"data have {lengths} images: give the same images")
    if images < 2:
        raise ArgumentError(f"an interval needs two images or more, and there is {images}")
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(images, (resamples, images), generator=generator)
    # Most scores of counts need each resample's sums alone, which one matrix product gives. Those
    # that depend on single images differ on the first resamples.
    first = drawn[: max(8, 256 // images)]
    pooled = all(isinstance(d, Counts) for d in data) and torch.allclose(
        *(_scores(score, data, first, sums) for sums in (False, True)), 0, 0, equal_nan=True
    )
    cells = max(4 * d.tp.numel() if isinstance(d, Counts) else d.numel() for d in data)
    parts = drawn.split(max(1, 2_000_000 // (images if pooled else cells)))  # bounds the memory
    scores = torch.cat([_scores(score, data, part, pooled) for part in parts]).double()
    missing = int(scores.isnan().sum())
    if 0 < missing < resamples:
        warnings.warn(f"{missing} of {resamples} resamples have no score (0 / 0)", stacklevel=2)
    tail = (1 - level) / 2
    low, high = scores.nanquantile(torch.tensor([tail, 1 - tail]).double()).tolist()
    return Interval(float(score(*data)), low, high)


def _scores(score: Callable, data: Sequence[Counts | Tensor], drawn: Tensor, sums: bool) -> Tensor:
    """Return the score of each row of `drawn`, from its images or from the sums over them."""
    times = torch.zeros(drawn.shape, dtype=torch.float64)  # float64 sums integers exactly
    times.scatter_add_(1, drawn, torch.ones_like(times))
    samples = []
    for d in data:
        if not isinstance(d, Counts):
            samples.append(d[drawn])
        elif sums:
            cells = torch.tensordot(times, d.stacked().cpu().double(), ([1], [-2])).long()
            samples.append(Counts(*cells.movedim(1, 0).unsqueeze(-2)))
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


def validate_target(
    logits: Tensor, target: Tensor, ignore_index: int | None = 255
) -> tuple[Tensor, Tensor]:
    """Check that a target fits logits, and find its ignored pixels.

    Returns:
        labels: int64 (N, H, W), class ids, 0 where ignored; `target` itself if surely none is.
        valid: boolean (N, H, W), False where a pixel is ignored.

    Raises:
        ArgumentError: type, shape or device do not fit; on a CPU also for class ids that the
            logits lack. Elsewhere reading values would wait for the device: check masks before.
    """
    shape, expected = tuple(target.shape), (logits.shape[0], *logits.shape[2:])
    problem = ""
    if logits.ndim != 4 or not logits.is_floating_point():
        problem = f"logits are {logits.dtype} {tuple(logits.shape)}; expected floats (N, C, H, W)"
    elif target.dtype != torch.int64:
        problem = (
            f"target is {target.dtype}; expected class ids as torch.int64: target.long() of 0/1, "
            "(target > 127).long() of 0/255. Fractions come from interpolation: resize with nearest"
        )
    elif shape != expected:
        squeeze = "; drop the channel: target[:, 0]" if target.ndim == 4 else ""
        problem = f"target has shape {shape}; the logits need {expected}{squeeze}"
    elif target.device != logits.device:
        problem = f"target is on {target.device}, logits on {logits.device}: use target.to(device)"
    elif not target.numel():
        problem = f"target has shape {shape}: there is no pixel in it"
    if problem:
        raise ArgumentError(problem)
    ignored = torch.iinfo(torch.int64).min if ignore_index is None else ignore_index
    valid = target != ignored
    on_cpu = _on_cpu(target)
    labels = target if on_cpu and valid.all() else target.where(valid, 0)
    last = max(2, logits.shape[1]) - 1
    low, high = labels.aminmax() if on_cpu else (0, last)
    if low < 0 or high > last:
        wrong = labels[(labels < 0) | (labels > last)].unique().tolist()
        classes = f"0 to {last}" if logits.shape[1] > 1 else "0 and 1, as one channel is binary"
        raise ArgumentError(
            f"target holds the values {wrong[:6]}, but classes are {classes} ({ignore_index} is "
            "ignored): more classes need as many channels, 0/255 becomes (mask > 127).long()"
        )
    return labels, valid


def _refuse_nan(scores: Tensor, valid: Tensor) -> None:
    """Raise for (N, H, W) scores on a CPU that are NaN where pixels count."""
    if _on_cpu(scores) and (scores.isnan() & valid).any():
        raise ArgumentError("logits are not finite (NaN): the weights or the input are broken")


def _on_cpu(tensor: Tensor) -> bool:
    """Return whether values can be read without waiting for a device or breaking a compilation."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()
