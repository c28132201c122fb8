"""Exercises of lesson 01: images and masks."""

import cv2
import numpy as np
from PIL import Image

from segkit import image_ops
from segkit.check import Case, Exercise, Mistake
from segkit.data.dataset import IGNORE
from segkit.data.pets import from_trimap
from segkit.data.read import resize_mask

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


def _copied(mask: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    return mask[np.ix_(rows.astype(int), columns.astype(int))]


def _first(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    (height, width), (h, w) = mask.shape, size
    return _copied(mask, np.arange(h) * height / h, np.arange(w) * width / w)


def _corners(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    rows, columns = (
        np.linspace(0, old - 1, n).round() for old, n in zip(mask.shape, size, strict=True)
    )
    return _copied(mask, rows, columns)


def _rounded(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    (height, width), (h, w) = mask.shape, size
    rows = ((np.arange(h) + 0.5) * height / h).round().clip(0, height - 1)
    columns = ((np.arange(w) + 0.5) * width / w).round().clip(0, width - 1)
    return _copied(mask, rows, columns)


_objects = np.zeros((9, 15), np.uint8)
_objects[2:7, 3:9] = 2
_objects[4:9, 8:13] = IGNORE

resize_nearest = Exercise(
    name="resize_nearest",
    reference=resize_mask,
    cases=(
        Case("nine pixels to three", (np.arange(9, dtype=np.uint8)[None], (1, 3))),
        Case("nine rows to three", (np.arange(9, dtype=np.uint8)[:, None], (3, 1))),
        Case("two objects", (_objects, (3, 5))),
        Case("larger", (np.array([[0, 2, 1], [IGNORE, 1, 0]], np.uint8), (6, 9))),
        Case("no whole factor", (np.arange(7, dtype=np.uint8)[None], (1, 3))),
    ),
    mistakes=(
        Mistake(
            _first,
            "You copy the first of the old pixels, which moves the mask down and to the right. "
            "The centre of new row i is at i + 0.5, times the old height over the new height.",
        ),
        Mistake(
            _corners,
            "You spread the new pixels from the first old pixel to the last. Their centres lie "
            "inside the image: i + 0.5, times the old height over the new height.",
        ),
        Mistake(
            lambda mask, size: cv2.resize(mask, size[::-1]),
            "This is bilinear: it invents class ids. Copy values, and do not average them.",
        ),
        Mistake(
            lambda mask, size: np.asarray(Image.fromarray(mask).resize(size[::-1])),
            "Pillow's default averages, which invents class ids. Copy values.",
        ),
        Mistake(
            lambda mask, size: image_ops.resize(mask, size),
            "Pillow's bilinear averages, which invents class ids. Copy values.",
        ),
        Mistake(
            _rounded,
            "The centres are right, but rounded. Row 1 reaches from 1 to 2, so 1.5 lies in row 1: "
            "cut the fraction off.",
        ),
        Mistake(
            lambda mask, size: resize_mask(mask, size[::-1]),
            "Height and width are swapped: size is (height, width). Pillow and OpenCV want "
            "(width, height).",
        ),
    ),
    hint="For each new row, compute the one old row that it copies; the same for the columns.",
)
