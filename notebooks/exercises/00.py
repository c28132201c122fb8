"""Exercises of lesson 00: start here."""

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
            "That is the number of pet pixels. The share is that number by all pixels.",
        ),
        Mistake(
            lambda mask: (mask != 0).mean(),
            "You count every class that is not background. Pet is class 1 alone.",
        ),
        Mistake(
            lambda mask: 100 * (mask == 1).mean(),
            "That is in per cent. The share lies between 0 and 1.",
        ),
        Mistake(
            lambda mask: (mask == 1).sum() / max((mask > 0).sum(), 1),
            "That is the share of pet in what is not background. Divide by all pixels.",
        ),
    ),
)


def _box_of(mask: np.ndarray, class_id: int) -> tuple[int, ...]:
    """Return top, bottom, left and right of a class, ready for slices."""
    rows, columns = np.nonzero(mask == class_id)
    return rows.min(), rows.max() + 1, columns.min(), columns.max() + 1


def _swapped(mask: np.ndarray, class_id: int) -> tuple[int, ...]:
    top, bottom, left, right = _box_of(mask, class_id)
    return left, right, top, bottom


def _corners(mask: np.ndarray, class_id: int) -> tuple[int, ...]:
    top, bottom, left, right = _box_of(mask, class_id)
    return top, left, bottom, right


def _x_first(mask: np.ndarray, class_id: int) -> tuple[int, ...]:
    top, bottom, left, right = _box_of(mask, class_id)
    return left, top, right, bottom


def _piece(mask: np.ndarray, class_id: int) -> np.ndarray:
    top, bottom, left, right = _box_of(mask, class_id)
    return mask[top:bottom, left:right]


def _sizes(mask: np.ndarray, class_id: int) -> tuple[int, ...]:
    top, bottom, left, right = _box_of(mask, class_id)
    return top, bottom - top, left, right - left


def _last(mask: np.ndarray, class_id: int) -> tuple[int, ...]:
    top, bottom, left, right = _box_of(mask, class_id)
    return top, bottom - 1, left, right - 1


box = Exercise(
    name="box",
    reference=_box_of,
    cases=(
        Case("a small pet", (_small, 1)),
        Case("a ball beside a pet", (_two_classes, 2)),
        Case("one pixel", (np.eye(1, 5, 3, dtype=np.uint8), 1)),
    ),
    mistakes=(
        Mistake(_last, "A slice ends before its second number: bottom and right need + 1."),
        Mistake(_swapped, "Rows and columns are swapped: top and bottom are rows, and come first."),
        Mistake(_corners, "All four are right, but the order is top, bottom, left, right."),
        Mistake(_x_first, "That is left, top, right, bottom. Here: top, bottom, left, right."),
        Mistake(_piece, "That is the piece itself. Asked for are the four numbers that cut it."),
        Mistake(_sizes, "Those are height and width. Asked for is where the box ends."),
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
