"""Segmentation metrics: count first, score later.

`counts` turns logits and targets into four integers per image and class. They add up over
batches and processes without loss, and every score and every average is read from them.
All functions take logits (N, C, H, W) and target int64 (N, H, W): one channel is binary
(sigmoid), more are exclusive classes (softmax), and `ignore_index` marks pixels not to be judged.

>>> from segkit.check import case
>>> example = case("half found")
>>> print(example)
half found
predicted  true
0 1 1 0    0 0 0 0
0 1 1 0    0 1 1 0
0 0 0 0    0 1 1 0
0 0 0 0    0 0 0 0
>>> c = counts(example.logits(), example.target())
>>> [t.item() for t in (c.tp, c.fp, c.fn, c.tn)]
[2, 2, 2, 10]
>>> round(c.iou().item(), 4), c.dice().item()
(0.3333, 0.5)
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

REDUCTIONS = ("micro", "macro", "weighted", "micro-imagewise", "macro-imagewise", "none")
THRESHOLDS = tuple(k / 100 for k in range(1, 100))
IMPOSSIBLE = -(2**48)  # added to tn where a target has no such class; see `counts`


@dataclass(frozen=True, eq=False)
class Counts:
    """True and false positives and negatives: int64 tensors of shape (images, classes).

    Binary masks have one column, the foreground; otherwise every class has its column, counted
    one against the rest. Ignored pixels are in none of the four. `a + b` puts the images of two
    batches, or two processes, one after the other; start a sum with `Counts.empty(classes)`.
    Further axes in front (thresholds, resamples) are kept by every score.

    Every score takes
    - reduction: "micro" pools all pixels of the data set, "macro" scores each class over the
      data set and averages the classes, "weighted" does so by each class's true pixels;
      "micro-imagewise" and "macro-imagewise" do the first two in each image and average the
      images; "none" returns (images, classes), and `total().iou("none")` one row per class.
    - include_background: False leaves class 0 out. Binary masks have no such column.
    - zero_division: what 0 / 0 scores, a number or "skip" (the default): left out of averages,
      NaN where nothing remains. Any number would be a score without evidence: 1 raises the mean
      over 21 classes by every class the data lack, and the mean over images by every blank image;
      0 punishes a correct blank. With "skip", classes and images that are blank in truth and
      prediction change no mean. Two consequences to know: a blank image can then only lose (a
      false alarm scores 0), so give 1.0 where leaving blanks alone is the task; and precision
      leaves out a class that is never predicted, so give 0.0, or read it beside recall.
    and returns float64 on the CPU, reading the counts there (the one wait for a GPU).
    """

    tp: Tensor
    fp: Tensor
    fn: Tensor
    tn: Tensor

    @classmethod
    def empty(cls, classes: int, device: torch.device | str = "cpu") -> "Counts":
        """Return the counts of no image: where a sum over batches starts."""
        return cls(*torch.zeros(4, 0, classes, dtype=torch.int64, device=device))

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(*torch.cat([self.stacked(), other.stacked()], dim=-2))

    def __len__(self) -> int:
        return self.tp.shape[-2]

    def __getitem__(self, images: slice | Tensor) -> "Counts":
        return Counts(*(t[images] for t in (self.tp, self.fp, self.fn, self.tn)))

    def stacked(self) -> Tensor:
        """Return all four as one (4, images, classes) tensor; `Counts(*tensor)` goes back."""
        return torch.stack([self.tp, self.fp, self.fn, self.tn])

    def total(self) -> "Counts":
        """Return the sum over the images as counts of one image.

        Data set averages (micro, macro, weighted) are the same before and after. What processes
        all-reduce is `total().stacked()`: four integers a class, however many the images.
        """
        return Counts(*self.stacked().sum(dim=-2, keepdim=True))

    def iou(self, reduction: str = "micro", **options) -> Tensor:
        """Return intersection over union (Jaccard index), tp / (tp + fp + fn)."""
        return self._score(lambda tp, fp, fn, tn: (tp, tp + fp + fn), reduction, **options)

    def dice(self, reduction: str = "micro", **options) -> Tensor:
        """Return the Dice coefficient, 2 tp / (2 tp + fp + fn)."""
        return self._score(lambda tp, fp, fn, tn: (2 * tp, 2 * tp + fp + fn), reduction, **options)

    def f1(self, reduction: str = "micro", **options) -> Tensor:
        """Return F1, the harmonic mean of precision and recall: Dice by its other name."""
        return self.dice(reduction, **options)

    def precision(self, reduction: str = "micro", **options) -> Tensor:
        """Return precision, tp / (tp + fp): how much of what was predicted is true."""
        return self._score(lambda tp, fp, fn, tn: (tp, tp + fp), reduction, **options)

    def recall(self, reduction: str = "micro", **options) -> Tensor:
        """Return recall (sensitivity), tp / (tp + fn): how much of what is true was found."""
        return self._score(lambda tp, fp, fn, tn: (tp, tp + fn), reduction, **options)

    def specificity(self, reduction: str = "micro", **options) -> Tensor:
        """Return specificity, tn / (tn + fp): how much of what is not there was left alone."""
        return self._score(lambda tp, fp, fn, tn: (tn, tn + fp), reduction, **options)

    def accuracy(self, reduction: str = "micro", **options) -> Tensor:
        """Return accuracy: the share of pixels that are right.

        For exclusive classes the micro averages are pixel accuracy, Σ tp / pixels: summing
        (tp + tn) / all over C classes would call a wrong pixel right C - 2 times. The other
        reductions, and binary masks, score (tp + tn) / all for each class.
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
        if reduction not in REDUCTIONS:
            raise ValueError(f"no reduction {reduction!r}; there are: {', '.join(REDUCTIONS)}")
        empty = math.nan if zero_division == "skip" else float(zero_division)
        cells = self.stacked().cpu()
        if (cells[3] < 0).any():
            raise ValueError("these counts come from a target with class ids the logits lack")
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
    """Count the pixels that are right and wrong, per image and class.

    One channel: foreground is where sigmoid(logit) > threshold, strictly, so that a network of
    zeros predicts background. More: the class with the largest logit; `threshold` is not used.
    Returns counts on the logits' device, which is never waited for. A class id that the logits
    lack is therefore refused at once on a CPU, and elsewhere when the counts are first scored.
    """
    labels, valid, wrong = read_target(logits, target, ignore_index)
    if at_hand(labels) and wrong:
        raise wrong_target(logits, target, ignore_index)
    if logits.shape[1] == 1:
        said = full_precision(logits[:, 0]) > logit(threshold)
        found = _count_masks(said[:, None], labels[:, None].bool(), valid)
    else:
        found = _count_labels(logits.max(dim=1).indices, labels, valid, logits.shape[1])
    return Counts(*found[:3], found[3] + IMPOSSIBLE * wrong)


def _count_masks(said: Tensor, true: Tensor, valid: Tensor) -> Tensor:
    """Count (N, C, H, W) boolean masks where (N, H, W) `valid` is set: (4, N, C)."""
    said, true = said & valid[:, None], true & valid[:, None]
    masks = (said & true, said & ~true, ~said & true, valid[:, None])
    # int32 holds any image's pixels, and a CPU sums booleans into it twice as fast
    tp, fp, fn, pixels = (m.sum(dim=(2, 3), dtype=torch.int32).long() for m in masks)
    return torch.stack([tp, fp, fn, pixels - tp - fp - fn])


def _count_labels(said: Tensor, true: Tensor, valid: Tensor, classes: int) -> Tensor:
    """Count (N, H, W) class ids: one confusion matrix per image in one pass, then (4, N, C)."""
    confusion = true.new_zeros(len(true), classes * classes)
    confusion.scatter_add_(1, (true * classes + said).flatten(1), valid.flatten(1).long())
    confusion = confusion.view(-1, classes, classes)  # rows: what is true; columns: what is said
    tp = confusion.diagonal(dim1=1, dim2=2)
    fp, fn = confusion.sum(dim=1) - tp, confusion.sum(dim=2) - tp
    return torch.stack([tp, fp, fn, confusion.sum(dim=(1, 2))[:, None] - tp - fp - fn])


@torch.no_grad()
def sweep(
    logits: Tensor,
    target: Tensor,
    thresholds: Sequence[float] = THRESHOLDS,
    ignore_index: int | None = 255,
) -> Counts:
    """Count at every threshold in one pass: binary counts of shape (thresholds, images, 1).

    thresholds: probabilities in rising order. Each pixel is put into a histogram once, by how
    many thresholds it exceeds; running sums of that are the counts at each. They are the very
    integers of `counts(logits, target, threshold)`, add up over batches, and any score of them
    has one value a threshold: `THRESHOLDS[sweep(...).iou().argmax()]`.
    """
    if logits.shape[1] != 1:
        raise ValueError(f"only one channel has a threshold; the logits have {logits.shape[1]}")
    cuts = [logit(t) for t in thresholds]
    if any(low >= high for low, high in pairwise(cuts)):
        raise ValueError("thresholds must rise")
    labels, valid, wrong = read_target(logits, target, ignore_index)
    if wrong:
        raise wrong_target(logits, target, ignore_index)
    steps = len(cuts) + 1
    scores = full_precision(logits[:, 0])
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

    Of each mask only its rim is kept, the pixels that lie within d of the mask's contour, with
    d = `ratio` of the image's diagonal, rounded, at least 1 pixel; the image's edge counts as
    contour (Cheng, Girshick, Dollár, Berg & Kirillov, "Boundary IoU", CVPR 2021). Ignored pixels
    belong to no mask and are not counted, so where a trimap's border is ignored the contour is
    the border's inner edge: judge boundaries with the border given to a class.
    """
    said, true, valid = _masks(logits, target, threshold, ignore_index)
    width = max(1, round(ratio * math.hypot(*target.shape[1:])))
    return Counts(*_count_masks(_rim(said, width), _rim(true, width), valid))


def _rim(mask: Tensor, width: int) -> Tensor:
    """Keep the pixels of (N, C, H, W) masks that have a pixel outside within `width`."""
    outside = F.pad((~mask).float(), (width,) * 4, value=1.0)
    for window in ((2 * width + 1, 1), (1, 2 * width + 1)):
        outside = F.max_pool2d(outside, window, stride=1)
    return mask & (outside > 0)


def _masks(
    logits: Tensor, target: Tensor, threshold: float, ignore_index: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return predicted and true masks, boolean (N, C, H, W), False where ignored; and valid."""
    labels, valid, wrong = read_target(logits, target, ignore_index)
    if wrong:
        raise wrong_target(logits, target, ignore_index)
    if logits.shape[1] == 1:
        said, true = full_precision(logits) > logit(threshold), labels[:, None] == 1
    else:
        classes = torch.arange(logits.shape[1], device=logits.device)[:, None, None]
        said, true = (x[:, None] == classes for x in (logits.max(dim=1).indices, labels))
    return said & valid[:, None], true & valid[:, None], valid


def hausdorff(
    logits: Tensor,
    target: Tensor,
    threshold: float = 0.5,
    percentile: float = 95.0,
    spacing: tuple[float, float] = (1.0, 1.0),
    ignore_index: int | None = 255,
) -> Tensor:
    """Return the symmetric Hausdorff distance per image and class, float64 (images, classes).

    How far the predicted contour is from the true one: of the distances from each contour pixel
    to the other contour take the `percentile` (100: the classical maximum), in both directions,
    and of the two the larger. spacing: size of a pixel (height, width); the result is in its
    unit. A contour is the pixels of a mask that touch its outside along a side, the image's edge
    included. Ignored pixels belong to no mask. No mask in truth nor prediction: NaN, for there is
    no distance. A mask in one of them only: inf, for no number of pixels would be far enough.
    """
    said, true, _ = _masks(logits, target, threshold, ignore_index)
    pairs = zip(said.flatten(0, 1).cpu().numpy(), true.flatten(0, 1).cpu().numpy(), strict=True)
    far = [_contour_distance(a, b, percentile, spacing) for a, b in pairs]
    return torch.tensor(far, dtype=torch.float64).view(said.shape[:2])


def _contour_distance(said, true, percentile: float, spacing: tuple[float, float]) -> float:
    import numpy as np
    from scipy import ndimage

    if not said.any() or not true.any():
        return math.inf if said.any() or true.any() else math.nan
    a, b = (mask & ~ndimage.binary_erosion(mask) for mask in (said, true))
    to_a, to_b = (ndimage.distance_transform_edt(~edge, sampling=spacing) for edge in (a, b))
    return float(max(np.percentile(to_b[a], percentile), np.percentile(to_a[b], percentile)))


@dataclass(frozen=True, eq=False)
class Calibration:
    """How often a network is right, by how sure it says it is: one entry per bin of confidence.

    pixels: how many fell into each bin; confidence: the sum of what they claimed; right: how
    many of them were right. Equal bins from 0 to 1. Adds up over batches with `+`.
    """

    pixels: Tensor
    confidence: Tensor
    right: Tensor

    def __add__(self, other: "Calibration") -> "Calibration":
        return Calibration(
            self.pixels + other.pixels,
            self.confidence + other.confidence,
            self.right + other.right,
        )

    def curve(self) -> tuple[Tensor, Tensor]:
        """Return the reliability curve: mean confidence and share right per bin, NaN if empty."""
        return self.confidence / self.pixels, self.right / self.pixels.double()

    def error(self) -> Tensor:
        """Return the expected calibration error: |share right - confidence|, mean over pixels.

        Naeini, Cooper & Hauskrecht (AAAI 2015); Guo, Pleiss, Sun & Weinberger (ICML 2017).
        NaN when no pixel was counted.
        """
        return (self.right - self.confidence).abs().sum() / self.pixels.sum()


@torch.no_grad()
def calibration(
    logits: Tensor, target: Tensor, bins: int = 15, ignore_index: int | None = 255
) -> Calibration:
    """Compare confidence with correctness over all pixels that are judged.

    One channel: the confidence is the foreground's probability, and right is being foreground.
    More: the confidence is the largest probability, and right is that class being true.
    Computed on the CPU in float64.
    """
    logits, target = logits.cpu(), target.cpu()
    labels, valid, wrong = read_target(logits, target, ignore_index)
    if wrong:
        raise wrong_target(logits, target, ignore_index)
    if logits.shape[1] == 1:
        confidence, right = logits[:, 0].double().sigmoid(), labels == 1
    else:
        confidence, said = logits.double().softmax(dim=1).max(dim=1)
        right = said == labels
    confidence, right = confidence[valid], right[valid]
    bin_ = (confidence * bins).long().clamp(max=bins - 1)
    return Calibration(
        torch.bincount(bin_, minlength=bins),
        torch.bincount(bin_, confidence, minlength=bins),
        torch.bincount(bin_[right], minlength=bins),
    )


class Interval(NamedTuple):
    """A score and the interval its value would plausibly lie in on other images like these."""

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

    score: takes what `data` holds, resampled, and returns one value per resample:
    `bootstrap(lambda c: c.iou(), counts)`; for tensors (images,) such as distances,
    `bootstrap(lambda d: d.mean(-1), distances)`. data: Counts or tensors of the same images in
    the same order; all are resampled alike, so the difference of two models is paired:
    `bootstrap(lambda a, b: a.iou() - b.iou(), counts_a, counts_b)`.
    The image is the unit drawn, since pixels of one image are not independent. Images of one
    patient or animal are not either: sum their counts first. With few images (under 20, say)
    the interval is too narrow. Efron & Tibshirani, An Introduction to the Bootstrap (1993).
    """
    images = len(data[0])
    if any(len(d) != images for d in data):
        raise ValueError(f"data have {[len(d) for d in data]} images; they must be the same images")
    if images < 2:
        raise ValueError(f"{images} image(s) say nothing about the spread between images")
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(images, (resamples, images), generator=generator)
    parts = drawn.split(max(1, 1_000_000 // images))  # bounds the memory
    scores = torch.cat([score(*(d[part] for d in data)) for part in parts])
    tail = (1 - level) / 2
    low, high = torch.quantile(scores.double(), torch.tensor([tail, 1 - tail]).double()).tolist()
    return Interval(float(score(*data)), low, high)


def logit(probability: float) -> float:
    """Return the logit whose sigmoid is `probability`; ±inf at 0 and 1."""
    if not 0 <= probability <= 1:
        raise ValueError(f"threshold {probability} is not a probability: give one from 0 to 1")
    if probability in (0, 1):
        return math.copysign(math.inf, probability - 0.5)
    return math.log(probability / (1 - probability))


def at_hand(tensor: Tensor) -> bool:
    """Return whether values can be read without waiting for another device."""
    return tensor.device.type == "cpu"


def full_precision(logits: Tensor) -> Tensor:
    """Return logits as float32, or float64 if they are that already."""
    return logits if logits.dtype == torch.float64 else logits.float()


def read_target(
    logits: Tensor, target: Tensor, ignore_index: int | None = 255
) -> tuple[Tensor, Tensor, Tensor]:
    """Split a target into class ids (0 where ignored), valid pixels, and whether it is wrong.

    Raises ValueError with the cure for what can be seen without reading a value: type, shape and
    device. Values are only compared, on the target's device: `wrong`, a boolean scalar, says
    whether there is a class id the logits lack (the ids are clamped, so that nothing downstream
    indexes past an end), and the caller decides when to look.
    """
    if logits.ndim != 4 or not logits.is_floating_point():
        raise ValueError(
            f"logits are {logits.dtype} of shape {tuple(logits.shape)}; "
            "expected what a model returns, floats (N, C, H, W)"
        )
    if target.dtype != torch.int64:
        raise ValueError(
            f"target is {target.dtype}; expected class ids as torch.int64. From a 0/1 mask: "
            "target.long(); from 0/255: (target > 127).long(). Fractions mean that the mask was "
            "interpolated: resize masks with nearest"
        )
    if target.ndim == 4 and target.shape[1] == 1:
        raise ValueError(f"target has shape {tuple(target.shape)}; drop the channel: target[:, 0]")
    expected = (logits.shape[0], *logits.shape[2:])
    if target.shape != expected:
        raise ValueError(
            f"target has shape {tuple(target.shape)}; logits {tuple(logits.shape)} need {expected}"
        )
    if target.device != logits.device:
        raise ValueError(
            f"target is on {target.device}, logits on {logits.device}: target.to(logits.device)"
        )
    if target.numel() == 0:
        raise ValueError(f"target has shape {tuple(target.shape)}: there is nothing to judge")
    if ignore_index is None:
        valid, labels = torch.ones_like(target, dtype=torch.bool), target.clone()
    else:
        valid = target != ignore_index
        labels = target * valid
    last = max(2, logits.shape[1]) - 1
    low, high = labels.aminmax()
    return labels.clamp_(0, last), valid, (low < 0) | (high > last)


def wrong_target(logits: Tensor, target: Tensor, ignore_index: int | None) -> ValueError:
    """Return the error for a target with class ids that the logits lack, with the cure."""
    values, classes = target.unique().tolist(), logits.shape[1]
    shown = ", ".join(map(str, values[:6])) + (", …" if len(values) > 6 else "")
    if classes == 1:
        meaning = "one channel is binary and knows 0 and 1"
    else:
        meaning = f"{classes} channels know the classes 0 to {classes - 1}"
    if max(values) == 255:
        cure = "a 0/255 mask becomes (mask > 127).long()"
    elif classes == 1:
        cure = "for more classes give the model as many channels"
    else:
        cure = f"{max(values) + 1} classes need as many channels; ids start at 0"
    ignored = "" if ignore_index is None else f" (and {ignore_index}: ignore)"
    return ValueError(f"target holds the values {shown}, but {meaning}{ignored}: {cure}")
