"""Exercises of lesson 08: losses."""

from collections.abc import Callable

import torch
from torch import Tensor

from segkit.check import Case, Exercise, Mistake
from segkit.losses import DiceLoss

_Loss = Callable[[Tensor, Tensor], Tensor]


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
    cases=(
        Case("one image", (_LOGITS[:1], _TARGET[:1])),
        Case("a batch of three", (_LOGITS, _TARGET)),
        Case("no object anywhere", (_LOGITS[2:], _TARGET[2:])),
        Case("confident and right", (20.0 * (2 * _TARGET[:1, None] - 1), _TARGET[:1])),
    ),
    mistakes=(
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


def _of_mask(convert: Callable[[Tensor], Tensor]) -> _Loss:
    """Return Dice loss with the converted mask."""
    return lambda logits, mask: 1 - _soft_dice(logits[:, 0].sigmoid(), convert(mask))


mended_loss = Exercise(
    name="mended_loss",
    reference=_of_mask(lambda mask: (mask > 127).long()),
    cases=(
        Case("a clean mask of 0 and 255", (_FITTING[:1], _on_file(_TARGET[:1]))),
        Case("a mask with grey edges", (_FITTING, _as_jpeg(_TARGET))),
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
