"""Exercises of lesson 01: images and masks."""

import cv2
import numpy as np

from segkit.check import Case, Exercise, Mistake
from segkit.data.dataset import IGNORE
from segkit.data.pets import from_trimap

decode_trimap = Exercise(
    name="decode_trimap",
    reference=lambda trimap: from_trimap(trimap, border="ignore"),
    cases=(
        Case("one pixel of each", (np.array([[1, 2, 3]], np.uint8),)),
        Case("a small pet", (np.array([[2, 3, 3], [3, 1, 3], [2, 3, 3]], np.uint8),)),
        Case("no border at all", (np.array([[2, 2], [2, 1]], np.uint8),)),
    ),
    mistakes=(
        Mistake(
            lambda trimap: trimap - 1,
            "Subtracting 1 gives pet 0 and background 1. Background has to be 0: write a table.",
        ),
        Mistake(
            lambda trimap: np.where(trimap == 3, IGNORE, trimap - 1),
            "The border is right. But pet became 0 and background 1: swap them.",
        ),
        Mistake(
            lambda trimap: np.where(trimap == 3, IGNORE, trimap),
            "The border is right. But the background is still 2: it has to be 0.",
        ),
        Mistake(
            lambda trimap: np.array([0, 1, 0, -1])[trimap],
            "The border became -1. The ignore value of this course is 255.",
        ),
        Mistake(
            lambda trimap: (trimap == 1).astype(np.uint8),
            "You count the border as background. Here it has to be ignored: 255.",
        ),
        Mistake(
            lambda trimap: (trimap != 2).astype(np.uint8),
            "You count the border as pet. Here it has to be ignored: 255.",
        ),
        Mistake(
            lambda trimap: np.array([0, 1, 0, 2], np.uint8)[trimap],
            "The border became a class of its own. Here it has to be ignored: 255.",
        ),
        Mistake(
            lambda trimap: np.array([0, 255, 0, IGNORE], np.uint8)[trimap],
            "The pet became 255. That is the ignore value: the pet is class 1.",
        ),
    ),
    hint="Compare pixel by pixel: which id do 1, 2 and 3 have to become?",
)


def four_masks() -> list[np.ndarray]:
    """Return four masks `(48, 48)` of classes 0, 1, 2 and ignore; exactly one is broken."""
    empty = np.zeros((48, 48), np.uint8)
    objects = cv2.circle(empty.copy(), (16, 26), 11, 2, -1)
    objects = cv2.rectangle(objects, (28, 8), (42, 40), 1, -1)
    ignored = cv2.circle(empty.copy(), (24, 24), 17, IGNORE, -1)
    ignored = cv2.circle(ignored, (24, 24), 14, 1, -1)
    large = cv2.rectangle(np.zeros((96, 96), np.uint8), (14, 20), (60, 84), 2, -1)
    blurred = cv2.resize(large, (48, 48), interpolation=cv2.INTER_AREA)
    return [ignored, empty, blurred, objects]


broken_mask = Exercise(
    name="broken_mask",
    reference=2,
    mistakes=(
        Mistake(0, "Mask 0 holds 0, 1 and 255. The ring of 255 is to be ignored: valid."),
        Mistake(1, "Mask 1 is empty. That is unusual but valid: an image without any object."),
        Mistake(3, "Mask 3 has two objects with sharp edges. Which mask has a rim of another id?"),
    ),
    hint="The answer is the number of one mask: 0, 1, 2 or 3.",
)
