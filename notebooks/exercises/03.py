"""Exercises of lesson 03: augmentation."""

from collections.abc import Callable
from typing import Any

import albumentations as A
import cv2
import numpy as np

from segkit.check import Case, Exercise, Mistake
from segkit.data.dataset import Pair

_DRAWS, _SIDE, _MAX_ROTATION = 40, 96, 15  # random draws, pixels, degrees


def _rotation(draw: Callable) -> str:
    """Return how far the direction "up" is rotated at most.

    The mask is a ramp: each pixel holds the number of its row. Its gradient in the middle of the
    augmented ramp shows where up has gone.
    """
    rows = np.repeat(np.arange(_SIDE, dtype=np.uint8)[:, None], _SIDE, axis=1)
    largest = 0.0
    for seed in range(_DRAWS):
        ramp = draw(rows, rows, seed)["mask"].astype(float)
        h, w = (side // 3 for side in ramp.shape)
        down, right = (g[h:-h, w:-w].mean() for g in np.gradient(ramp))
        largest = max(largest, abs(np.degrees(np.arctan2(right, down))))
    if largest <= _MAX_ROTATION + 1:  # a degree for the coarse ramp
        return f"by {_MAX_ROTATION} degrees at most"
    if largest > 135:
        return "it is turned upside down"
    return "it is laid on its side" if largest > 60 else f"by more than {_MAX_ROTATION} degrees"


def _geometry(draw: Callable) -> str:
    """Return whether the mask differs between draws."""
    image, mask = _bone()
    moved = [not np.array_equal(draw(image, mask, seed)["mask"], mask) for seed in range(_DRAWS)]
    return "in many draws" if np.mean(moved) >= 0.2 else "it stays where it was"


def _brightness(draw: Callable) -> str:
    """Return whether a constant grey changes; in the middle, where no corner is filled."""
    grey, mask = np.full((_SIDE, _SIDE), 100, np.uint8), _bone()[1]
    changed = []
    for seed in range(_DRAWS):
        image = draw(grey, mask, seed)["image"]
        h, w = (side // 3 for side in image.shape)
        changed.append(abs(float(image[h:-h, w:-w].mean()) - 100) > 2)
    return "in many draws" if np.mean(changed) >= 0.2 else "it stays as it was"


def _ids(draw: Callable) -> str:
    """Return whether a mask of 0 and 2 holds those (or ignore) alone afterwards."""
    image, mask = _bone()
    ids = set().union(*(np.unique(draw(image, mask, seed)["mask"]) for seed in range(_DRAWS)))
    return "0 and 2" if ids <= {0, 2, 255} else "others as well, such as 1"


def _edges(draw: Callable) -> str:
    """Return whether a mask of bone alone gets background where the picture was moved away."""
    image, mask = np.full((_SIDE, _SIDE), 100, np.uint8), np.full((_SIDE, _SIDE), 2, np.uint8)
    invented = any((draw(image, mask, seed)["mask"] == 0).any() for seed in range(_DRAWS))
    return "0, which says: here is background" if invented else "2, or 255 for ignored"


def _bone() -> Pair:
    """Return a simple grey bone and its mask of ids 0 and 2, uint8 `(SIDE, SIDE)`."""
    mask = cv2.line(np.zeros((_SIDE, _SIDE), np.uint8), (44, 18), (50, 80), 2, 11)
    mask = cv2.circle(mask, (44, 18), 10, 2, -1)
    return (60 + 50 * mask).astype(np.uint8), mask


_QUESTIONS = {
    "how far does 'up' turn?": _rotation,
    "which ids does a mask of 0 and 2 hold afterwards?": _ids,
    "which ids does a mask hold at its edges that was bone (2) all over?": _edges,
    "does the bone move?": _geometry,
    "does the brightness change?": _brightness,
    "of what type are the image's pixels?": lambda draw: str(draw(*_bone(), 0)["image"].dtype),
}


def _measure(upright: Callable, question: str) -> str | None:
    steps = upright()
    if steps is None:
        return None
    compose = A.Compose(steps if isinstance(steps, (list, tuple)) else [steps])

    def draw(image: np.ndarray, mask: np.ndarray, seed: int) -> dict:
        compose.set_random_seed(seed)
        return compose(image=image, mask=mask)

    return _QUESTIONS[question](draw)


def _light() -> A.BasicTransform:
    return A.RandomBrightnessContrast(p=0.5)


def _small_moves(**options: Any) -> A.BasicTransform:
    options = {"border_mode": cv2.BORDER_REFLECT_101} | options
    return A.Affine(rotate=(-10, 10), scale=(0.9, 1.1), p=0.8, **options)


upright = Exercise(
    name="upright",
    measure=_measure,
    reference=lambda: [A.HorizontalFlip(p=0.5), _small_moves(), _light()],
    cases=(
        Case("up stays up", ("how far does 'up' turn?",)),
        Case("ids stay ids", ("which ids does a mask of 0 and 2 hold afterwards?",)),
        Case(
            "no background is made up",
            ("which ids does a mask hold at its edges that was bone (2) all over?",),
        ),
        Case("the bone moves", ("does the bone move?",)),
        Case("the brightness changes", ("does the brightness change?",)),
        Case("still uint8", ("of what type are the image's pixels?",)),
    ),
    mistakes=(
        Mistake(
            lambda: [A.VerticalFlip(p=0.5), _small_moves(), _light()],
            "A vertical flip (VerticalFlip, D4, half a turn) turns the leg upside down.",
        ),
        Mistake(
            lambda: [A.Rotate(p=0.5), _light()],
            "Some draws lay the leg on its side: Transpose, or Rotate without a small limit=...",
        ),
        Mistake(
            lambda: [A.Affine(rotate=(-45, 45), p=0.8), _light()],
            f"Nobody stands at that angle: rotate by {_MAX_ROTATION} degrees at most, both ways.",
        ),
        Mistake(
            lambda: [_small_moves(mask_interpolation=cv2.INTER_LINEAR), _light()],
            "The mask was interpolated: leave mask_interpolation at nearest.",
        ),
        Mistake(
            lambda: [
                A.HorizontalFlip(p=0.5),
                _small_moves(border_mode=cv2.BORDER_CONSTANT),
                _light(),
            ],
            "Where the picture was moved away, the mask now says background. Nobody drew that: "
            "border_mode=cv2.BORDER_REFLECT_101 mirrors both, fill_mask=255 leaves it out.",
        ),
        Mistake(
            lambda: [_light()],
            "The bone hardly moves. Flip it, or rotate, scale and shift it a little.",
        ),
        Mistake(
            lambda: [A.HorizontalFlip(p=0.5), _small_moves()],
            "Exposures differ between X-rays: add a step for brightness or contrast.",
        ),
        Mistake(
            lambda: [_small_moves(), _light(), A.Normalize(mean=0.449, std=0.226)],
            "Normalisation is not augmentation: leave it to the pipeline that follows your list.",
        ),
    ),
    hint="Return a list of steps, each one called: [A.HorizontalFlip(p=0.5), ...].",
)


def _rotated(array: np.ndarray, degrees: float, flags: int) -> np.ndarray:
    height, width = array.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
    return cv2.warpAffine(array, matrix, (width, height), None, flags, cv2.BORDER_REFLECT_101)


def _zoomed(array: np.ndarray, flags: int) -> np.ndarray:
    height, width = array.shape[:2]
    middle = array[height // 8 : -height // 8, width // 8 : -width // 8]
    return cv2.resize(middle, (width, height), interpolation=flags)


def four_transforms() -> list[Callable[[np.ndarray, np.ndarray], Pair]]:
    """Return four functions `(image, mask) -> (image, mask)`; exactly one breaks the pair."""
    return [
        lambda image, mask: (
            np.ascontiguousarray(np.rot90(image, 2)),
            np.ascontiguousarray(np.rot90(mask, 2)),
        ),
        lambda image, mask: (cv2.convertScaleAbs(image, alpha=0.55, beta=0), mask.copy()),
        lambda image, mask: (
            _zoomed(image, cv2.INTER_LINEAR),
            _zoomed(mask, cv2.INTER_NEAREST_EXACT),
        ),
        lambda image, mask: (
            _rotated(image, 6, cv2.INTER_LINEAR),
            _rotated(mask, -6, cv2.INTER_NEAREST),
        ),
    ]


breaks_the_pair = Exercise(
    name="breaks_the_pair",
    reference=3,
    mistakes=(
        Mistake(0, "Transform 0 rotates both by 180°: unusual for a pet, but they fit."),
        Mistake(1, "Transform 1 leaves the mask as it is, rightly: it changes brightness only."),
        Mistake(2, "Transform 2 enlarges the middle of both. Draw the overlay, and compare."),
    ),
    hint="The answer is the number of one transform: 0, 1, 2 or 3.",
)
