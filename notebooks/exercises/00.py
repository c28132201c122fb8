"""Exercises of lesson 00: start here."""

from collections.abc import Callable

import numpy as np

from segkit.check import Case, Exercise, Mistake

_small = np.array([[0, 0, 0, 0], [0, 1, 1, 0]], np.uint8)
_two_classes = np.array([[0, 1, 0, 2], [0, 1, 0, 2], [0, 0, 0, 2], [0, 0, 0, 0]], np.uint8)

pet_share = Exercise(
    name="pet_share",
    reference=lambda mask: (mask == 1).mean(),
    cases=(
        Case("a small pet", (_small,)),
        Case("a pet and a ball of class 2", (_two_classes,)),
        Case("no pet", (np.zeros((2, 3), np.uint8),)),
    ),
    mistakes=(
        Mistake(
            lambda mask: mask.mean(),
            "The mean of class ids counts a pixel of class 2 twice. Compare with 1 first.",
        ),
        Mistake(
            lambda mask: (mask == 1).sum(),
            "That is the number of pet pixels. Divide it by the number of all pixels.",
        ),
        Mistake(
            lambda mask: (mask != 0).mean(),
            "You count every class that is not background. Pet is class 1 alone.",
        ),
        Mistake(
            lambda mask: 100 * (mask == 1).mean(),
            "That is a percentage. The share lies between 0 and 1.",
        ),
        Mistake(
            lambda mask: (mask == 1).sum() / max((mask > 0).sum(), 1),
            "You divide by the pixels that are not background. Divide by all pixels.",
        ),
    ),
)


def _box_of(mask: np.ndarray, class_id: int) -> tuple[int, ...]:
    rows, columns = np.nonzero(mask == class_id)
    return rows.min(), rows.max() + 1, columns.min(), columns.max() + 1


def _box_but(change: Callable) -> Callable:
    """Return the right function with its four numbers changed."""
    return lambda mask, class_id: change(*_box_of(mask, class_id))


def _crop(mask: np.ndarray, class_id: int) -> np.ndarray:
    top, bottom, left, right = _box_of(mask, class_id)
    return mask[top:bottom, left:right]


box = Exercise(
    name="box",
    reference=_box_of,
    cases=(
        Case("a small pet", (_small, 1)),
        Case("a ball beside a pet", (_two_classes, 2)),
        Case("one pixel", (np.eye(1, 5, 3, dtype=np.uint8), 1)),
    ),
    mistakes=(
        Mistake(
            _box_but(lambda top, bottom, left, right: (top, bottom - 1, left, right - 1)),
            "A slice ends before its second number: bottom and right need + 1.",
        ),
        Mistake(
            _box_but(lambda top, bottom, left, right: (left, right, top, bottom)),
            "Rows and columns are swapped: top and bottom are rows, and come first.",
        ),
        Mistake(
            _box_but(lambda top, bottom, left, right: (top, left, bottom, right)),
            "All four are right, but the order is top, bottom, left, right.",
        ),
        Mistake(
            _box_but(lambda top, bottom, left, right: (left, top, right, bottom)),
            "That is left, top, right, bottom. Here: top, bottom, left, right.",
        ),
        Mistake(_crop, "That is the crop itself. Asked for are the four numbers that slice it."),
        Mistake(
            _box_but(lambda top, bottom, left, right: (top, bottom - top, left, right - left)),
            "Those are height and width. Asked for is where the box ends.",
        ),
        Mistake(
            lambda mask, class_id: _box_of((mask > 0).astype(np.uint8), 1),
            "The box is around everything that is not background. Compare with class_id.",
        ),
        Mistake(
            lambda mask, class_id: _box_of(mask, 1),
            "The box is always around class 1. Compare the mask with class_id.",
        ),
    ),
)
