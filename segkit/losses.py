"""Losses for segmentation, all called as `loss(logits, target)`.

logits: float (N, C, H, W); one channel is binary (sigmoid), more are exclusive classes (softmax).
target: int64 (N, H, W) of class ids, `ignore_index` where a pixel shall not count.

Every loss computes in float32 (float64 for float64 logits) whatever autocast says: a sum over
more than 65,504 pixels overflows float16. Overlap losses (Dice, Jaccard, Tversky, Lovász) pool
the whole batch, so that an image without foreground does not swing between 0 and 1. Where every
pixel is ignored the loss is 0 and so are its gradients.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segkit.metrics import at_hand, full_precision, read_target, wrong_target

LOOKS = 3  # calls of a loss on a GPU that wait for it in order to check values


class Loss(nn.Module):
    """What all losses share: the target is checked, ignored pixels masked, precision raised.

    A target of the wrong type, shape or device raises ValueError, which costs nothing. Class ids
    that the logits lack are looked for in every call; on a CPU, and in the first three calls
    elsewhere, they raise. After that a GPU is not waited for: the loss is then multiplied by NaN
    on the device, so that a broken batch can stop a run but not train a wrong model.

    A 0/255 mask under `ignore_index=255` holds no id that is wrong: it says "background or
    ignore". So a binary loss refuses, until it has seen its first foreground pixel (on a GPU, in
    its first three calls), a batch with background and ignored pixels and no foreground. If that
    is what the data hold (blank images with padding, say), set `loss.foreground_seen = True`.
    """

    def __init__(self, ignore_index: int | None = 255):
        super().__init__()
        self.ignore_index = ignore_index
        self.foreground_seen = False
        self.looks = 0

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss, a scalar."""
        labels, valid, wrong = read_target(logits, target, self.ignore_index)
        with torch.autocast(logits.device.type, enabled=False):
            loss = self.compute(full_precision(logits), labels, valid)
        if not torch.compiler.is_compiling() and (at_hand(labels) or self.looks < LOOKS):
            self.looks += 1
            if wrong:
                raise wrong_target(logits, target, self.ignore_index)
            if logits.shape[1] == 1 and not self.foreground_seen:
                self._look_for_foreground(labels, valid)
            return loss
        return loss * torch.where(wrong, torch.nan, 1.0)

    def _look_for_foreground(self, labels: Tensor, valid: Tensor) -> None:
        self.foreground_seen = bool(labels.any())
        if not self.foreground_seen and valid.any() and not valid.all():
            raise ValueError(
                f"target holds only 0 and {self.ignore_index} (ignore), no 1: nothing to learn "
                "from. If it is a 0/255 mask, give (mask > 127).long(); if these images really "
                "have no foreground, set loss.foreground_seen = True"
            )

    def compute(self, logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        """Return the loss of checked input; `labels` are 0 where `valid` is False."""
        raise NotImplementedError


def _mean(pixels: Tensor, weight: Tensor) -> Tensor:
    """Return the weighted mean of (N, H, W) losses; 0 where nothing has weight."""
    weight = weight.to(pixels.dtype)
    total = weight.sum()
    return (pixels * weight).sum() / torch.where(total > 0, total, 1)


class BCELoss(Loss):
    """Binary cross-entropy with logits, the mean over the pixels that count.

    pos_weight: how much a foreground pixel weighs (background pixels weigh 1);
    background / foreground pixels of the training set makes the two weigh alike.
    """

    def __init__(self, pos_weight: float = 1.0, ignore_index: int | None = 255):
        super().__init__(ignore_index)
        self.pos_weight = pos_weight

    def compute(self, logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        """Return the mean over valid pixels."""
        if logits.shape[1] != 1:
            raise ValueError(
                f"BCELoss is for one channel and the logits have {logits.shape[1]}: "
                "use CrossEntropyLoss"
            )
        pixels = F.binary_cross_entropy_with_logits(
            logits[:, 0],
            labels.to(logits.dtype),
            pos_weight=logits.new_full((), self.pos_weight),
            reduction="none",
        )
        return _mean(pixels, valid)


class CrossEntropyLoss(Loss):
    """Cross-entropy over exclusive classes, the mean over the pixels that count.

    weight: one number a class; the mean is then weighted, divided by the weights it summed.
    """

    def __init__(
        self, weight: Sequence[float] | Tensor | None = None, ignore_index: int | None = 255
    ):
        super().__init__(ignore_index)
        self.register_buffer("weight", _per_class(weight))

    def compute(self, logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        """Return the weighted mean over valid pixels."""
        if logits.shape[1] == 1:
            raise ValueError("CrossEntropyLoss is for two channels or more: use BCELoss for one")
        pixels = F.cross_entropy(logits, labels, reduction="none")
        return _mean(pixels, valid * _pixel_weight(self.weight, logits, labels))


def _per_class(weight: Sequence[float] | Tensor | None) -> Tensor | None:
    return None if weight is None else torch.as_tensor(weight, dtype=torch.float32)


def _pixel_weight(weight: Tensor | None, logits: Tensor, labels: Tensor) -> Tensor:
    """Return the weight of each pixel's class, (N, H, W), or 1 if there are no weights."""
    if weight is None:
        return logits.new_ones(())
    if weight.shape != logits.shape[1:2]:
        raise ValueError(
            f"{weight.numel()} class weights for {logits.shape[1]} classes: give one a class"
        )
    return weight.to(logits)[labels]


class OverlapLoss(Loss):
    """One minus a soft overlap of prediction and truth, pooled over the batch.

    The soft counts are Σpt, Σp and Σt over the pixels of the batch, with p the probability and t
    the truth, 0 or 1. Several classes: the mean over the classes that occur in the batch. One
    that does not has no overlap to gain, and what is wrongly given to it already lowers the
    overlap of the class that was there.
    smooth: pixels added above and below the fraction line, more than 0. Without it a batch with
    no foreground is 0 / 0 or has no gradient; with the default of one pixel, false alarms on
    such a batch still cost, and a batch with thousands of foreground pixels does not notice.
    """

    def __init__(self, smooth: float = 1.0, ignore_index: int | None = 255):
        super().__init__(ignore_index)
        if smooth <= 0:
            raise ValueError(f"smooth is {smooth}: it must be more than 0, or a blank batch is 0/0")
        self.smooth = smooth

    def compute(self, logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        """Return the loss over valid pixels, averaged over the classes present."""
        both, said, true = _soft_counts(logits, labels, valid)
        loss = 1 - self.overlap(both, said, true)
        present = true > 0 if len(true) > 1 else torch.ones_like(true)
        return _mean(loss, present)

    def overlap(self, both: Tensor, said: Tensor, true: Tensor) -> Tensor:
        """Return the overlap of each class from its soft counts, all of shape (classes,)."""
        raise NotImplementedError


def _soft_counts(logits: Tensor, labels: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return Σpt, Σp and Σt over valid pixels, each (classes,); binary: the foreground alone."""
    weight = valid.to(logits.dtype)
    if logits.shape[1] == 1:
        p, t = logits[:, 0].sigmoid() * weight, labels.to(logits.dtype)
        return tuple(x.sum()[None] for x in (p * t, p, t))
    p = logits.softmax(dim=1) * weight[:, None]
    # No one-hot truth, which would be as large as the logits: each pixel adds the probability of
    # its own class to that class's sum. One sum per row keeps float32 exact enough.
    sums = p.new_zeros(*labels.shape[:2], p.shape[1])
    both = sums.scatter_add(2, labels, p.gather(1, labels[:, None])[:, 0])
    true = sums.scatter_add(2, labels, weight)
    return both.sum(dim=(0, 1)), p.sum(dim=(0, 2, 3)), true.sum(dim=(0, 1))


class DiceLoss(OverlapLoss):
    """Soft Dice loss, 1 - (2 Σpt + smooth) / (Σp + Σt + smooth).

    Milletari, Navab & Ahmadi, V-Net (3DV 2016), with p and not p² in the denominator.
    """

    def overlap(self, both: Tensor, said: Tensor, true: Tensor) -> Tensor:
        """Return soft Dice."""
        return (2 * both + self.smooth) / (said + true + self.smooth)


class JaccardLoss(OverlapLoss):
    """Soft Jaccard (IoU) loss, 1 - (Σpt + smooth) / (Σp + Σt - Σpt + smooth).

    Rahman & Wang, Optimizing Intersection-over-Union in Deep Neural Networks (ISVC 2016).
    """

    def overlap(self, both: Tensor, said: Tensor, true: Tensor) -> Tensor:
        """Return soft IoU."""
        return (both + self.smooth) / (said + true - both + self.smooth)


class TverskyLoss(OverlapLoss):
    """Tversky loss, 1 - (Σpt + smooth) / (Σpt + alpha · soft fp + beta · soft fn + smooth).

    alpha: weight of false positives, beta: of false negatives. With beta above alpha, as by
    default, missing foreground costs more than inventing it. 0.5 and 0.5 is Dice (with half its
    smooth), 1 and 1 is Jaccard. Salehi, Erdogmus & Gholipour (MLMI 2017).
    """

    def __init__(
        self,
        alpha: float = 0.3,
        beta: float = 0.7,
        smooth: float = 1.0,
        ignore_index: int | None = 255,
    ):
        super().__init__(smooth, ignore_index)
        self.alpha, self.beta = alpha, beta

    def overlap(self, both: Tensor, said: Tensor, true: Tensor) -> Tensor:
        """Return the soft Tversky index."""
        wrong = self.alpha * (said - both) + self.beta * (true - both)
        return (both + self.smooth) / (both + wrong + self.smooth)


class FocalLoss(Loss):
    """Focal loss, -alpha (1 - p)^gamma log p with p the probability of the true class.

    The mean over the pixels that count (the paper, on detection, divides by the number of
    objects). gamma: how strongly well-classified pixels are turned down; 0 is cross-entropy.
    alpha: binary: the weight of the foreground, with 1 - alpha for background; otherwise one
    weight a class. None: no weights. Lin, Goyal, Girshick, He & Dollár (ICCV 2017).
    """

    def __init__(
        self,
        gamma: float = 2.0,
        alpha: float | Sequence[float] | None = None,
        ignore_index: int | None = 255,
    ):
        super().__init__(ignore_index)
        if gamma < 0:
            raise ValueError(f"gamma is {gamma}: it must be 0 or more")
        self.gamma = gamma
        self.register_buffer(
            "alpha", _per_class([1 - alpha, alpha] if isinstance(alpha, int | float) else alpha)
        )

    def compute(self, logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        """Return the mean over valid pixels."""
        if logits.shape[1] == 1:
            logits = torch.cat([torch.zeros_like(logits), logits], dim=1)  # softmax of 0, x
        log_p = logits.log_softmax(dim=1).gather(1, labels[:, None])[:, 0]
        # Where p rounds to 1 the clamp stops the gradient, which would be 0 · ∞ for gamma < 1.
        rest = (-torch.expm1(log_p)).clamp(min=torch.finfo(log_p.dtype).tiny)
        alpha = _pixel_weight(self.alpha, logits, labels)
        return _mean(-alpha * rest**self.gamma * log_p, valid)


class LovaszLoss(Loss):
    """Lovász extension of the Jaccard loss: piecewise linear, and equal to it at whole masks.

    One channel: the Lovász hinge, on the margin 1 - x·(±1), unbounded above. More: Lovász
    softmax, on |t - p|, the mean over the classes that occur in the batch. Pooled over the batch.
    Berman, Rannen Triki & Blaschko, The Lovász-Softmax Loss (CVPR 2018).
    """

    def compute(self, logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        """Return the loss over valid pixels, averaged over the classes present."""
        if logits.shape[1] == 1:
            true = (labels == 1).flatten()[None]
            errors = (1 - logits.flatten() * (2 * true - 1)).relu()
            present = torch.ones(1, device=logits.device)
        else:
            classes = torch.arange(logits.shape[1], device=logits.device)[:, None]
            true = (labels.flatten() == classes) & valid.flatten()
            errors = (
                true.to(logits.dtype) - logits.softmax(dim=1).transpose(0, 1).flatten(1)
            ).abs()
            present = true.any(dim=1)
        errors = errors.masked_fill(~valid.flatten(), 0)  # an error of 0 adds nothing, anywhere
        errors, order = errors.sort(dim=1, descending=True)
        return _mean(
            (errors * _jaccard_steps(true.gather(1, order), errors.dtype)).sum(dim=1), present
        )


def _jaccard_steps(true: Tensor, dtype: torch.dtype) -> Tensor:
    """Return by how much each pixel, taken wrong after those before it, raises the Jaccard loss.

    true: boolean (classes, pixels), the most wrong pixel first. A true pixel that is missed
    takes 1 from the intersection; a false one that is claimed adds 1 to the union. Counted in
    integers: differences of running scores would lose most digits in float32.
    """
    total = true.sum(dim=1, keepdim=True)
    found = (total - true.cumsum(dim=1)).to(dtype)
    union = (total + (~true).cumsum(dim=1)).to(dtype)
    steps = torch.where(true, 1 / union, found / union / (union - 1).clamp(min=1))
    steps[:, :1] = torch.where(total > 0, steps[:, :1], 1)  # no truth: one false pixel is enough
    return steps


class Combined(nn.Module):
    """The weighted sum of losses: `Combined({BCELoss(): 1.0, DiceLoss(): 0.5})`.

    The weights are not normalised. Any module called as (logits, target) will do.
    """

    def __init__(self, losses: dict[nn.Module, float]):
        super().__init__()
        if not losses:
            raise ValueError("no losses to combine")
        self.losses = nn.ModuleList(losses)
        self.weights = list(losses.values())

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the weighted sum, a scalar."""
        pairs = zip(self.weights, self.losses, strict=True)
        return sum(weight * loss(logits, target) for weight, loss in pairs)
