"""Exercises of lesson 08: losses."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from segkit import data
from segkit.check import Case, Exercise, Mistake
from segkit.losses import DiceLoss

_Loss = Callable[[Tensor, Tensor], Tensor]


def embryos_with_spots(split: str, count: int, size: int, seed: int) -> data.SegmentationDataset:
    """Return drawn embryos, one to three bright spots in each; the masks hold the spots alone."""
    rng = np.random.default_rng([seed, len(split)])
    base = data.load("toy-embryo", split, size, count=count, seed=seed)
    images, masks = base.images.copy(), np.zeros_like(base.masks)
    y, x = np.mgrid[:size, :size]
    for mask in masks:
        for _ in range(rng.integers(1, 4)):
            row, column = rng.uniform(0.1, 0.9, size=2) * size
            mask[np.hypot(y - row, x - column) < rng.uniform(0.03, 0.05) * size] = 1
    images[masks == 1] = np.clip(images[masks == 1] + 80.0, 0, 255)
    names = ("background", "spot")
    return data.SegmentationDataset(images, masks, names, transform=base.transform)


def _measure(loss: _Loss, logits: Tensor, target: Tensor) -> dict[str, object] | None:
    """Return the loss and its gradient, in units of 1 / number of logits."""
    logits = logits.clone().requires_grad_()
    value = loss(logits, target)
    if value is None:
        return None
    if not isinstance(value, Tensor) or not value.requires_grad:
        return {"loss": float(value), "gradient": "none: nothing would be learned"}
    value.backward()
    return {"loss": value.item(), "gradient": logits.grad * logits.numel()}


def _soft_dice(prob: Tensor, t: Tensor, smooth: float = 1.0) -> Tensor:
    return (2 * (prob * t).sum() + smooth) / (prob.sum() + t.sum() + smooth)


def _with_sums(loss: Callable[[Tensor, Tensor, Tensor], Tensor]) -> _Loss:
    """Return a loss of the soft counts Σpt, Σp and Σt."""

    def attempt(logits: Tensor, target: Tensor) -> Tensor:
        prob = logits[:, 0].sigmoid()
        return loss((prob * target).sum(), prob.sum(), target.sum())

    return attempt


# three images: a large object, a small one, none; and logits from −3 to 3
_TARGET = torch.zeros(3, 6, 6, dtype=torch.int64)
_TARGET[0, 1:, 1:] = _TARGET[1, 2, 2:4] = 1
_LOGITS = torch.linspace(-3, 3, 108).view(3, 1, 6, 6).flip(-1)
_FITTING = _LOGITS / 3 + 4 * _TARGET[:, None] - 2  # mostly right

dice_loss_by_hand = Exercise(
    name="dice_loss_by_hand",
    reference=lambda logits, target: DiceLoss()(logits, target),
    measure=_measure,
    cases=(
        Case("one image", (_LOGITS[:1], _TARGET[:1])),
        Case("a batch of three", (_LOGITS, _TARGET)),
        Case("no object anywhere", (_LOGITS[2:], _TARGET[2:])),
        Case("confident and right", (20.0 * (2 * _TARGET[:1, None] - 1), _TARGET[:1])),
    ),
    mistakes=(
        Mistake(
            lambda logits, target: DiceLoss()(logits, target).detach(),
            "The value is right, and it has no gradient. Stay with tensors: no .item(), no "
            ".detach(), no NumPy.",
        ),
        Mistake(
            _with_sums(lambda both, pred, true: (2 * both + 1) / (pred + true + 1)),
            "That is Dice, which grows with the overlap. The loss is 1 minus it.",
        ),
        Mistake(
            lambda logits, target: 1 - _soft_dice(logits[:, 0], target),
            "You sum logits. Turn them into probabilities first: logits[:, 0].sigmoid().",
        ),
        Mistake(
            lambda logits, target: 1 - _soft_dice(logits.softmax(dim=1)[:, 0], target),
            "The softmax of one channel is 1 everywhere. One channel needs the sigmoid.",
        ),
        Mistake(
            lambda logits, target: 1 - _soft_dice(logits.sigmoid(), target),
            "(N, 1, H, W) times (N, H, W) compares every image with every other. Drop the "
            "channel: logits[:, 0].",
        ),
        Mistake(
            lambda logits, target: 1 - _soft_dice((logits[:, 0] > 0).float(), target),
            "A thresholded mask has no gradient: nothing would be learned. Sum probabilities.",
        ),
        Mistake(
            _with_sums(lambda both, pred, true: 1 - (both + 1) / (pred + true + 1)),
            "The loss of a perfect mask is one half. The numerator is twice the intersection.",
        ),
        Mistake(
            _with_sums(lambda both, pred, true: 1 - (both + 1) / (pred + true - both + 1)),
            "That is the Jaccard (IoU) loss. Dice doubles the intersection and adds both sizes.",
        ),
        Mistake(
            _with_sums(lambda both, pred, true: 1 - 2 * both / (pred + true)),
            "`smooth` is missing: + 1 in numerator and denominator. Without it a blank batch has "
            "no gradient.",
        ),
        Mistake(
            _with_sums(lambda both, pred, true: 1 - 2 * both / (pred + true + 1)),
            "`smooth` is in the denominator only. It belongs in the numerator as well.",
        ),
        Mistake(
            _with_sums(lambda both, pred, true: 1 - (2 * both + 1) / (true + true + 1)),
            "The prediction, Σp, is missing in the denominator: false positives cost nothing.",
        ),
        Mistake(
            lambda logits, target: 1 - _squared(logits[:, 0].sigmoid(), target),
            "You square in the denominator. That is another variant; here it is Σp + Σt.",
        ),
        Mistake(
            lambda logits, target: torch.stack(
                [1 - _soft_dice(x[0].sigmoid(), t) for x, t in zip(logits, target, strict=True)]
            ).mean(),
            "That is the mean of one loss per image. Here all pixels of the batch are pooled.",
        ),
    ),
    hint="Three sums over all pixels: Σpt, Σp and Σt, with p = logits[:, 0].sigmoid().",
)


def _squared(prob: Tensor, t: Tensor) -> Tensor:
    return (2 * (prob * t).sum() + 1) / ((prob**2).sum() + (t**2).sum() + 1)


def _on_file(mask: Tensor) -> Tensor:
    return (255 * mask).to(torch.uint8)


def _as_jpeg(mask: Tensor) -> Tensor:
    """Return a 0/1 mask with greys near its edges, as JPEG leaves them."""
    blurred = torch.nn.functional.avg_pool2d(mask[None].double(), 3, stride=1, padding=1)[0]
    return (255 * (0.8 * mask + 0.2 * blurred)).round().to(torch.uint8)


def _greys(mask: Tensor) -> Tensor:
    """Return a 0/1 mask with the first row of objects at 135, and of background at 120."""
    file = _on_file(mask)
    file[:, 0] = torch.where(mask[:, 0] == 1, 135, 120).to(torch.uint8)
    file[0, 1, 1:] = 135
    return file


def _of_mask(convert: Callable[[Tensor], Tensor]) -> _Loss:
    """Return Dice loss with the converted mask."""
    return lambda logits, mask: 1 - _soft_dice(logits[:, 0].sigmoid(), convert(mask))


fixed_loss = Exercise(
    name="fixed_loss",
    reference=_of_mask(lambda mask: (mask > 127).long()),
    measure=_measure,
    cases=(
        Case("a clean mask of 0 and 255", (_FITTING[:1], _on_file(_TARGET[:1]))),
        Case("a mask with grey edges", (_FITTING, _as_jpeg(_TARGET))),
        Case("greys of 120 and 135", (_FITTING[:2], _greys(_TARGET[:2]))),
        Case("a mask of background only", (_FITTING[2:], _on_file(_TARGET[2:]))),
    ),
    mistakes=(
        Mistake(
            _of_mask(lambda mask: mask),
            "The mask still holds 255. Make it 0 and 1 before you sum.",
        ),
        Mistake(
            lambda logits, mask: _of_mask(lambda m: m)(logits, mask).abs(),
            "abs() hides the sign and keeps the fault. Fix the mask, not the loss.",
        ),
        Mistake(
            lambda logits, mask: _of_mask(lambda m: m)(logits, mask).clamp(min=0),
            "A clamp hides the fault and makes the gradient 0. Fix the mask, not the loss.",
        ),
        Mistake(
            _of_mask(lambda mask: mask / 255),
            "Right for 0 and 255, but greys stay fractions. A pixel is object or background: "
            "where is the mask above 127?",
        ),
        Mistake(
            _of_mask(lambda mask: (mask > 0).long()),
            "Every grey became object, so objects grow. Threshold in the middle: above 127.",
        ),
        Mistake(
            _of_mask(lambda mask: (mask == 255).long()),
            "Only pure white stayed object, so objects shrink. Threshold in the middle: above 127.",
        ),
        Mistake(
            lambda logits, mask: _of_mask(lambda m: (m > 127).long())(255 * logits, mask),
            "You scaled the logits. They are right; the mask is on another scale.",
        ),
    ),
    hint="Only the mask is wrong. Which values must it hold, and of which type?",
)


def _ignoring(
    mean: bool = False, zero: bool = True, ignored: bool = True, from_logits: bool = True
) -> _Loss:
    """Return BCE that leaves out 255, right or with a usual mistake."""

    def bce_with_ignore(logits: Tensor, target: Tensor) -> Tensor:
        valid = (target != 255) if ignored else torch.ones_like(target, dtype=torch.bool)
        t = (target == 1).float()
        if from_logits:
            each = F.binary_cross_entropy_with_logits(logits[:, 0], t, reduction="none")
        else:
            prob = logits[:, 0].sigmoid()
            each = -(t * prob.log() + (1 - t) * (1 - prob).log())
        if mean:  # over all pixels
            return (each * valid).mean()
        return (each * valid).sum() / (valid.sum().clamp(min=1) if zero else valid.sum())

    return bce_with_ignore


def _with_ignored(mask: Tensor) -> Tensor:
    mask = mask.clone()
    mask[:, :2] = 255
    return mask


bce_with_ignore = Exercise(
    name="bce_with_ignore",
    reference=_ignoring(),
    measure=_measure,
    cases=(
        Case("a third of the pixels ignored", (_LOGITS, _with_ignored(_TARGET))),
        Case("none ignored", (_LOGITS, _TARGET)),
        Case("logits of ±60", (20.0 * _LOGITS, _with_ignored(_TARGET))),
        Case("all ignored", (_LOGITS[:1], torch.full((1, 6, 6), 255))),
    ),
    mistakes=(
        Mistake(
            _ignoring(mean=True),
            "Divide by the number of pixels that count, not by all.",
        ),
        Mistake(
            _ignoring(zero=False),
            "Every pixel is ignored: 0 / 0 is NaN. Divide by at least 1.",
        ),
        Mistake(
            _ignoring(ignored=False),
            "The ignored pixels count as background: multiply their loss by 0.",
        ),
        Mistake(
            _ignoring(from_logits=False),
            "log(0) for large logits: use binary_cross_entropy_with_logits.",
        ),
        Mistake(
            lambda logits, target: F.binary_cross_entropy_with_logits(logits[:, 0], target.float()),
            "255 is used as a target. Replace it by 0 or 1, and leave these pixels out of the sum.",
        ),
    ),
    hint='binary_cross_entropy_with_logits(..., reduction="none") has a loss for each pixel. Sum '
    "those that count, and divide by their number.",
)
