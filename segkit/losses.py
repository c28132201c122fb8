"""Losses for segmentation, all called as `loss(logits, target)`.

    logits: float (N, C, H, W); one channel is binary (sigmoid), more are exclusive (softmax).
    target: int64 (N, H, W), class ids, and `ignore_index` where a pixel does not count.

Every loss computes in float32 (float64 for float64 logits), under autocast too: a sum over more
than 65,504 pixels overflows float16. Overlap losses (Dice, Jaccard, Tversky, Lovász) pool the
whole batch, so that an image without foreground does not alternate between 0 and 1. Where every
pixel is ignored the loss is 0 and so are its gradients.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segkit.errors import ArgumentError
from segkit.metrics import to_float32, validate_target


class _Loss(nn.Module):
    """What all losses share: the target is checked, and ignored pixels are masked.

    Raises ArgumentError as `validate_target` does: for a target of the wrong type, shape or
    device, and on a CPU for class ids that the logits lack.
    """

    def __init__(self, ignore_index: int | None = 255):
        super().__init__()
        self.ignore_index = ignore_index

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss, a scalar."""
        labels, valid = validate_target(logits, target, self.ignore_index)
        with torch.autocast(logits.device.type, enabled=False):
            logits = to_float32(logits)
            if labels is target:  # no pixel is ignored
                return self._compute(logits, labels, None)
            # Ignored pixels may hold anything, and 0 · ∞ would be NaN, in the gradient too.
            return self._compute(logits.masked_fill(~valid[:, None], 0), labels, valid)

    def _compute(self, logits: Tensor, labels: Tensor, valid: Tensor | None) -> Tensor:
        """Return the loss of checked input.

        Logits and labels are 0 where a pixel is ignored; `valid`, boolean (N, H, W), is False
        there, or None if no pixel is ignored.
        """
        raise NotImplementedError


def _mean(values: Tensor, weight: Tensor | None) -> Tensor:
    """Return the weighted mean; 0 where nothing has weight."""
    if weight is None:
        return values.mean()
    weight = weight.to(values.dtype)
    total = weight.sum()
    return (values * weight).sum() / torch.where(total > 0, total, 1)


def _check(name: str, value: float, above_zero: bool = False) -> None:
    """Raise ArgumentError unless a value is finite and 0 or more, or `above_zero`."""
    if not math.isfinite(value) or value < 0 or (above_zero and value == 0):
        bound = "more than 0" if above_zero else "0 or more"
        raise ArgumentError(f"{name} is {value}: it must be a number, {bound}")


def _class_weights(name: str, weights: Sequence[float] | Tensor | None) -> Tensor | None:
    """Return one weight a class, checked, as float32."""
    if weights is None:
        return None
    weights = torch.as_tensor(weights, dtype=torch.float32)
    if not (weights.isfinite() & (weights >= 0)).all() or not weights.any():
        raise ArgumentError(f"{name} is {weights.tolist()}: give numbers of 0 or more, not all 0")
    return weights


def _pixel_weights(weights: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    """Return the weight of each pixel's class, (N, H, W)."""
    classes = max(2, logits.shape[1])
    if len(weights) != classes:
        raise ArgumentError(f"{len(weights)} class weights for {classes} classes: give one a class")
    return weights.to(logits).index_select(0, labels.flatten()).view_as(labels)


class BCELoss(_Loss):
    """Binary cross-entropy with logits, the mean over the pixels that count.

    Args:
        pos_weight: weight of a foreground pixel, more than 0; a background pixel weighs 1. With
            background / foreground pixels of the training set both weigh alike.
    """

    def __init__(self, pos_weight: float = 1.0, ignore_index: int | None = 255):
        super().__init__(ignore_index)
        _check("pos_weight", pos_weight, above_zero=True)
        self.pos_weight = pos_weight

    def _compute(self, logits: Tensor, labels: Tensor, valid: Tensor | None) -> Tensor:
        if logits.shape[1] != 1:
            raise ArgumentError(
                f"BCELoss is for one channel and the logits have {logits.shape[1]}: "
                "use CrossEntropyLoss"
            )
        weight = None if self.pos_weight == 1 else logits.new_full((), self.pos_weight)
        pixels = F.binary_cross_entropy_with_logits(
            logits[:, 0], labels.to(logits.dtype), pos_weight=weight, reduction="none"
        )
        return _mean(pixels, valid)


class CrossEntropyLoss(_Loss):
    """Cross-entropy over exclusive classes, the mean over the pixels that count.

    Args:
        weight: one number a class, 0 or more; the mean is divided by the weights it summed.
    """

    def __init__(
        self, weight: Sequence[float] | Tensor | None = None, ignore_index: int | None = 255
    ):
        super().__init__(ignore_index)
        self.register_buffer("weight", _class_weights("weight", weight))

    def _compute(self, logits: Tensor, labels: Tensor, valid: Tensor | None) -> Tensor:
        if logits.shape[1] == 1:
            raise ArgumentError("CrossEntropyLoss is for two channels or more: use BCELoss for one")
        pixels = F.cross_entropy(logits, labels, reduction="none")
        if self.weight is None:
            return _mean(pixels, valid)
        weight = _pixel_weights(self.weight, logits, labels)
        return _mean(pixels, weight if valid is None else weight * valid)


class _OverlapLoss(_Loss):
    """One minus a soft overlap of prediction and target, pooled over the batch.

    Σpt, Σp and Σt are sums over the pixels of the batch, with p the probability and t the target,
    0 or 1. Several classes: the mean over those that occur in the batch. One that does not has no
    overlap to gain, and pixels wrongly given to it already lower the overlap of their own class.
    """

    def __init__(self, smooth: float = 1.0, ignore_index: int | None = 255):
        super().__init__(ignore_index)
        _check("smooth", smooth, above_zero=True)
        self.smooth = smooth

    def _compute(self, logits: Tensor, labels: Tensor, valid: Tensor | None) -> Tensor:
        intersection, pred, target = _soft_counts(logits, labels, valid)
        loss = 1 - self._overlap(intersection, pred, target)
        return _mean(loss, target > 0 if len(target) > 1 else None)

    def _overlap(self, intersection: Tensor, pred: Tensor, target: Tensor) -> Tensor:
        """Return the overlap of each class from its Σpt, Σp and Σt, all (classes,)."""
        raise NotImplementedError


def _soft_counts(
    logits: Tensor, labels: Tensor, valid: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return Σpt, Σp and Σt over valid pixels, each (classes,); binary: the foreground alone."""
    weight = None if valid is None else valid.to(logits.dtype)
    if logits.shape[1] == 1:
        probs, target = logits[:, 0].sigmoid(), labels.to(logits.dtype)
        probs = probs if weight is None else probs * weight
        return tuple(x.sum()[None] for x in (probs * target, probs, target))
    probs = logits.softmax(dim=1)
    probs = probs if weight is None else probs * weight[:, None]
    # No one-hot target, which would be as large as the logits: each pixel adds the probability of
    # its own class to that class's sum. One sum per row keeps float32 exact enough.
    sums = probs.new_zeros(*labels.shape[:2], probs.shape[1])
    intersection = sums.scatter_add(2, labels, probs.gather(1, labels[:, None])[:, 0])
    ones = torch.ones_like(probs[:, 0]) if weight is None else weight
    target = sums.scatter_add(2, labels, ones)
    return intersection.sum(dim=(0, 1)), probs.sum(dim=(0, 2, 3)), target.sum(dim=(0, 1))


class DiceLoss(_OverlapLoss):
    """Soft Dice loss, 1 - (2 Σpt + smooth) / (Σp + Σt + smooth).

    Milletari, Navab & Ahmadi, V-Net (3DV 2016), with p and not p² in the denominator.

    Args:
        smooth: pixels added above and below the fraction line, more than 0. Without it a batch
            with no foreground is 0 / 0 or has no gradient; with the default of one pixel, false
            positives on such a batch still cost, and thousands of foreground pixels outweigh it.
    """

    def _overlap(self, intersection: Tensor, pred: Tensor, target: Tensor) -> Tensor:
        return (2 * intersection + self.smooth) / (pred + target + self.smooth)


class JaccardLoss(_OverlapLoss):
    """Soft Jaccard (IoU) loss, 1 - (Σpt + smooth) / (Σp + Σt - Σpt + smooth), as `DiceLoss`.

    Rahman & Wang, Optimizing Intersection-over-Union in Deep Neural Networks (ISVC 2016).
    """

    def _overlap(self, intersection: Tensor, pred: Tensor, target: Tensor) -> Tensor:
        return (intersection + self.smooth) / (pred + target - intersection + self.smooth)


class TverskyLoss(_OverlapLoss):
    """Tversky loss, 1 - (Σpt + smooth) / (Σpt + alpha · soft fp + beta · soft fn + smooth).

    0.5 and 0.5 is Dice (with half its smooth), 1 and 1 is Jaccard.
    Salehi, Erdogmus & Gholipour (MLMI 2017).

    Args:
        alpha: weight of false positives, 0 or more.
        beta: weight of false negatives, 0 or more. Above alpha, as by default, missed foreground
            costs more than false positives.
        smooth: as in `DiceLoss`.
    """

    def __init__(
        self,
        alpha: float = 0.3,
        beta: float = 0.7,
        smooth: float = 1.0,
        ignore_index: int | None = 255,
    ):
        super().__init__(smooth, ignore_index)
        _check("alpha", alpha)
        _check("beta", beta)
        self.alpha, self.beta = alpha, beta

    def _overlap(self, intersection: Tensor, pred: Tensor, target: Tensor) -> Tensor:
        fp, fn = pred - intersection, target - intersection
        wrong = self.alpha * fp + self.beta * fn
        return (intersection + self.smooth) / (intersection + wrong + self.smooth)


class FocalLoss(_Loss):
    """Focal loss, -alpha (1 - p)^gamma log p with p the probability of the pixel's own class.

    The mean over the pixels that count (the paper, on detection, divides by the number of
    objects). Lin, Goyal, Girshick, He & Dollár (ICCV 2017).

    Args:
        gamma: how strongly well-classified pixels are down-weighted, 0 or more; 0 is
            cross-entropy.
        alpha: binary: the weight of the foreground, 0 to 1, with 1 - alpha for background;
            otherwise one weight a class. None: no weights.
    """

    def __init__(
        self,
        gamma: float = 2.0,
        alpha: float | Sequence[float] | None = None,
        ignore_index: int | None = 255,
    ):
        super().__init__(ignore_index)
        _check("gamma", gamma)
        self.gamma = gamma
        weights = [1 - alpha, alpha] if isinstance(alpha, int | float) else alpha
        self.register_buffer("alpha", _class_weights("alpha", weights))

    def _compute(self, logits: Tensor, labels: Tensor, valid: Tensor | None) -> Tensor:
        if logits.shape[1] == 1:
            margin = logits[:, 0] * (2 * labels.to(logits.dtype) - 1)  # p = sigmoid(margin)
            log_p, rest = F.logsigmoid(margin), (-margin).sigmoid()
        else:
            log_p = logits.log_softmax(dim=1).gather(1, labels[:, None])[:, 0]
            rest = -torch.expm1(log_p)
        # Where p rounds to 1 the clamp stops the gradient, which would be 0 · ∞ for gamma < 1.
        factor = rest.clamp(min=torch.finfo(log_p.dtype).tiny) ** self.gamma
        if self.alpha is not None:
            factor = _pixel_weights(self.alpha, logits, labels) * factor
        return _mean(-factor * log_p, valid)


class LovaszLoss(_Loss):
    """Lovász extension of the Jaccard loss: piecewise linear, and equal to it at whole masks.

    One channel: the Lovász hinge, on the margin 1 - x·(±1), unbounded above. More: Lovász
    softmax, on |t - p|, the mean over the classes that occur in the batch. Pooled over the batch.
    Berman, Rannen Triki & Blaschko, The Lovász-Softmax Loss (CVPR 2018).
    """

    def _compute(self, logits: Tensor, labels: Tensor, valid: Tensor | None) -> Tensor:
        if logits.shape[1] == 1:
            target = (labels == 1).flatten()[None]
            errors = (1 - logits.flatten() * (2 * target - 1)).relu()
            present = None
        else:
            classes = torch.arange(logits.shape[1], device=logits.device)[:, None]
            target = labels.flatten() == classes
            if valid is not None:
                target = target & valid.flatten()
            probs = logits.softmax(dim=1).transpose(0, 1).flatten(1)
            errors = (target.to(probs.dtype) - probs).abs()
            present = target.any(dim=1)
        if valid is not None:
            errors = errors.masked_fill(~valid.flatten(), 0)  # an error of 0 adds nothing, anywhere
        errors, order = errors.sort(dim=1, descending=True)
        steps = _jaccard_steps(target.gather(1, order), errors.dtype)
        return _mean((errors * steps).sum(dim=1), present)


def _jaccard_steps(target: Tensor, dtype: torch.dtype) -> Tensor:
    """Return by how much each pixel, taken wrong after those before it, raises the Jaccard loss.

    A missed foreground pixel takes 1 from the intersection, a false positive adds 1 to the union.
    Counted in integers: differences of running scores would lose most digits in float32.

    Args:
        target: boolean (classes, pixels), the pixel with the largest error first.
        dtype: of the result.
    """
    total = target.sum(dim=1, keepdim=True)
    intersection = (total - target.cumsum(dim=1)).to(dtype)
    union = (total + (~target).cumsum(dim=1)).to(dtype)
    steps = torch.where(target, 1 / union, intersection / union / (union - 1).clamp(min=1))
    # Without foreground one false positive is the whole loss.
    steps[:, :1] = torch.where(total > 0, steps[:, :1], 1)
    return steps


class Combined(nn.Module):
    """The weighted sum of losses: `Combined({BCELoss(): 1.0, DiceLoss(): 0.5})`.

    The weights, 0 or more, are not normalised. Any module called as (logits, target) will do.
    """

    def __init__(self, losses: dict[nn.Module, float]):
        super().__init__()
        if not losses:
            raise ArgumentError("no losses to combine")
        self.losses = nn.ModuleList(losses)
        self.weights = list(losses.values())
        for weight in self.weights:
            _check("weight", weight)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the weighted sum, a scalar."""
        pairs = zip(self.weights, self.losses, strict=True)
        return sum(weight * loss(logits, target) for weight, loss in pairs)
