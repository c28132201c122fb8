"""Losses for segmentation, all called as `loss(logits, target)`.

    logits: float (N, C, H, W); one channel is binary (sigmoid), more are exclusive (softmax).
    target: int64 (N, H, W), class ids, and `ignore_index` where a pixel does not count.

Every loss computes in float32 (float64 for float64 logits), under autocast too: a sum over more
than 65,504 pixels overflows float16. Overlap losses (Dice, Jaccard, Tversky, Lovász) pool the
batch. Where every pixel is ignored the loss is 0 and so are its gradients.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segkit.errors import ArgumentError
from segkit.metrics import validate_target


class _Loss(nn.Module):
    """Checks the target and masks ignored pixels; `_compute` returns the loss of what is left."""

    def __init__(self, ignore_index: int | None = 255):
        super().__init__()
        self.ignore_index = ignore_index

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss, a scalar."""
        labels, valid = validate_target(logits, target, self.ignore_index)
        with torch.autocast(logits.device.type, enabled=False):
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            if labels is target:  # no pixel is ignored
                return self._compute(logits, labels, None)
            # Ignored pixels may hold anything, and 0 · ∞ would be NaN, in the gradient too.
            return self._compute(logits.masked_fill(~valid[:, None], 0), labels, valid)


def _mean(values: Tensor, weight: Tensor | None) -> Tensor:
    """Return the weighted mean; 0 where nothing has weight."""
    if weight is None:
        return values.mean()
    weight = weight.to(values.dtype)
    total = weight.sum()
    return (values * weight).sum() / torch.where(total > 0, total, 1)


def _checked(name: str, value: float | Sequence[float], above_zero: bool = False) -> Tensor:
    """Return numbers as float32; raise ArgumentError unless all are finite and 0 or more."""
    numbers = torch.as_tensor(value, dtype=torch.float64)
    all_zero = (above_zero or numbers.ndim) and not numbers.any()
    if not (numbers.isfinite() & (numbers >= 0)).all() or all_zero:
        bound = "0 or more, not all 0" if numbers.ndim else "0 or more"
        bound = "more than 0" if above_zero else bound
        raise ArgumentError(f"{name} is {value}: give numbers, {bound}")
    return numbers.float()


def _pixel_weights(weights: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    """Return the weight of each pixel's class, (N, H, W)."""
    classes = max(2, logits.shape[1])
    if len(weights) != classes:
        raise ArgumentError(f"{len(weights)} class weights for {classes} classes: give one a class")
    return weights.to(logits).index_select(0, labels.flatten()).view_as(labels)


class BCELoss(_Loss):
    """Binary cross-entropy with logits, the mean over the pixels that count.

    `pos_weight`, more than 0, weighs a foreground pixel, where a background pixel weighs 1. With
    background / foreground pixels of the training set both weigh alike.
    """

    def __init__(self, pos_weight: float = 1.0, ignore_index: int | None = 255):
        super().__init__(ignore_index)
        _checked("pos_weight", pos_weight, above_zero=True)
        self.pos_weight = pos_weight

    def _compute(self, logits: Tensor, labels: Tensor, valid: Tensor | None) -> Tensor:
        if (channels := logits.shape[1]) != 1:
            raise ArgumentError(f"BCELoss is for one channel: use CrossEntropyLoss for {channels}")
        weight = None if self.pos_weight == 1 else logits.new_full((), self.pos_weight)
        pixels = F.binary_cross_entropy_with_logits(
            logits[:, 0], labels.to(logits.dtype), pos_weight=weight, reduction="none"
        )
        return _mean(pixels, valid)


class CrossEntropyLoss(_Loss):
    """Cross-entropy over exclusive classes, the mean over the pixels that count.

    `weight` is one number a class, 0 or more; the mean is divided by the weights it summed.
    """

    def __init__(
        self, weight: Sequence[float] | Tensor | None = None, ignore_index: int | None = 255
    ):
        super().__init__(ignore_index)
        self.register_buffer("weight", None if weight is None else _checked("weight", weight))

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

    Σpt, Σp and Σt sum over the pixels, with p the probability and t the target, 0 or 1. Several
    classes: the mean over those in the batch. An absent one has no overlap to gain, and pixels
    wrongly given to it already lower the overlap of their own class.
    """

    def __init__(self, smooth: float = 1.0, ignore_index: int | None = 255):
        super().__init__(ignore_index)
        _checked("smooth", smooth, above_zero=True)
        self.smooth = smooth

    def _compute(self, logits: Tensor, labels: Tensor, valid: Tensor | None) -> Tensor:
        weight = None if valid is None else valid.to(logits.dtype)
        if logits.shape[1] == 1:
            probs, target = logits[:, 0].sigmoid(), labels.to(logits.dtype)
            probs = probs if weight is None else probs * weight
            return 1 - self._overlap((probs * target).sum(), probs.sum(), target.sum())
        probs = logits.softmax(dim=1)
        probs = probs if weight is None else probs * weight[:, None]
        # No one-hot target, which would be as large as the logits: each pixel adds the probability
        # of its own class to that class's sum. One sum per row keeps float32 exact enough.
        sums = probs.new_zeros(*labels.shape[:2], probs.shape[1])
        own = probs.gather(1, labels[:, None])[:, 0]
        intersection = sums.scatter_add(2, labels, own).sum(dim=(0, 1))
        ones = torch.ones_like(own) if weight is None else weight
        target = sums.scatter_add(2, labels, ones).sum(dim=(0, 1))
        return _mean(1 - self._overlap(intersection, probs.sum(dim=(0, 2, 3)), target), target > 0)


class DiceLoss(_OverlapLoss):
    """Soft Dice loss, 1 - (2 Σpt + smooth) / (Σp + Σt + smooth).

    With p and not p² in the denominator. Without `smooth`, more than 0, a batch with no foreground
    is 0 / 0 or has no gradient; with 1, false positives on such a batch still cost.
    Milletari, Navab & Ahmadi, V-Net (3DV 2016).
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

    0.5 and 0.5 is Dice (with half its smooth), 1 and 1 is Jaccard; beta above alpha makes missed
    foreground cost more than false positives. Salehi, Erdogmus & Gholipour (MLMI 2017).
    """

    def __init__(
        self,
        alpha: float = 0.3,
        beta: float = 0.7,
        smooth: float = 1.0,
        ignore_index: int | None = 255,
    ):
        super().__init__(smooth, ignore_index)
        _checked("alpha", alpha)
        _checked("beta", beta)
        self.alpha, self.beta = alpha, beta

    def _overlap(self, intersection: Tensor, pred: Tensor, target: Tensor) -> Tensor:
        wrong = self.alpha * (pred - intersection) + self.beta * (target - intersection)
        return (intersection + self.smooth) / (intersection + wrong + self.smooth)


class FocalLoss(_Loss):
    """Focal loss, -alpha (1 - p)^gamma log p with p the probability of the pixel's own class.

    The mean over the pixels that count (the paper, on detection, divides by the number of
    objects). Lin, Goyal, Girshick, He & Dollár (ICCV 2017).

    Args:
        gamma: how strongly well-classified pixels are down-weighted; 0 is cross-entropy.
        alpha: binary: the weight of the foreground, 0 to 1, background weighs 1 - alpha;
            otherwise one weight a class. None: no weights.
    """

    def __init__(
        self,
        gamma: float = 2.0,
        alpha: float | Sequence[float] | None = None,
        ignore_index: int | None = 255,
    ):
        super().__init__(ignore_index)
        _checked("gamma", gamma)
        self.gamma = gamma
        weights = [1 - alpha, alpha] if isinstance(alpha, int | float) else alpha
        self.register_buffer("alpha", None if alpha is None else _checked("alpha", weights))

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

    One channel: the hinge, on the margin 1 - x·(±1), unbounded above. More: Lovász softmax, on
    |t - p|, the mean over the classes that occur in the batch.
    Berman, Rannen Triki & Blaschko, The Lovász-Softmax Loss (CVPR 2018).
    """

    def _compute(self, logits: Tensor, labels: Tensor, valid: Tensor | None) -> Tensor:
        if logits.shape[1] == 1:
            target = (labels == 1).flatten()[None]
            errors = (1 - logits.flatten() * (2 * target - 1)).relu()
        else:
            classes = torch.arange(logits.shape[1], device=logits.device)[:, None]
            target = labels.flatten() == classes
            probs = logits.softmax(dim=1).transpose(0, 1).flatten(1)
            errors = (target.to(probs.dtype) - probs).abs()
        if valid is not None:
            target = target & valid.flatten()
            errors = errors.masked_fill(~valid.flatten(), 0)  # an error of 0 adds nothing, anywhere
        errors, order = errors.sort(dim=1, descending=True)
        target = target.gather(1, order)
        # By how much does each pixel, taken wrong after those before it, raise the Jaccard loss?
        # A missed foreground pixel takes 1 from the intersection, a false positive adds 1 to the
        # union. In integers: differences of running scores would lose most digits in float32.
        total = target.sum(dim=1, keepdim=True)
        intersection = (total - target.cumsum(dim=1)).to(errors.dtype)
        union = (total + (~target).cumsum(dim=1)).to(errors.dtype)
        steps = torch.where(target, 1 / union, intersection / union / (union - 1).clamp(min=1))
        # Without foreground one false positive is the whole loss.
        steps[:, :1] = torch.where(total > 0, steps[:, :1], 1)
        present = total[:, 0] > 0 if len(total) > 1 else None
        return _mean((errors * steps).sum(dim=1), present)


class Combined(nn.Module):
    """The weighted sum of losses: `Combined({BCELoss(): 1.0, DiceLoss(): 0.5})`.

    The weights, 0 or more, are not normalised. Any module called as (logits, target) will do.
    """

    def __init__(self, losses: dict[nn.Module, float]):
        super().__init__()
        if not losses:
            raise ArgumentError("no losses to combine")
        for weight in losses.values():
            _checked("weight", weight)
        self.losses, self.weights = nn.ModuleList(losses), list(losses.values())

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the weighted sum, a scalar."""
        pairs = zip(self.weights, self.losses, strict=True)
        return sum(weight * loss(logits, target) for weight, loss in pairs)
