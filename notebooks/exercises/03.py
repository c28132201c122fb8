"""Exercises of lesson 03: augmentation."""

from collections.abc import Callable, Sequence
from typing import Any

import albumentations as A
import cv2
import numpy as np
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from segkit.check import Case, Exercise, Mistake
from segkit.data.dataset import Pair

_DRAWS, _SIDE = 40, 96  # random draws, pixels


def _bone() -> Pair:
    """Return a simple grey bone and its mask of ids 0 and 2, uint8 `(SIDE, SIDE)`."""
    mask = cv2.line(np.zeros((_SIDE, _SIDE), np.uint8), (44, 18), (50, 80), 2, 11)
    mask = cv2.circle(mask, (44, 18), 10, 2, -1)
    return (60 + 50 * mask).astype(np.uint8), mask


# ---------------------------------------------------------------- does the mask fit?


def _rotated(array: np.ndarray, degrees: float, flags: int) -> np.ndarray:
    height, width = array.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
    return cv2.warpAffine(array, matrix, (width, height), None, flags, cv2.BORDER_REFLECT_101)


def _zoomed(array: np.ndarray, flags: int, part: int = 8) -> np.ndarray:
    height, width = array.shape[:2]
    middle = array[height // part : -(height // part), width // part : -(width // part)]
    return cv2.resize(middle, (width, height), interpolation=flags)


def _half_turn(image: np.ndarray, mask: np.ndarray) -> Pair:
    return np.ascontiguousarray(image[::-1, ::-1]), np.ascontiguousarray(mask[::-1, ::-1])


def _darker(image: np.ndarray, mask: np.ndarray) -> Pair:
    return cv2.convertScaleAbs(image, alpha=0.55, beta=0), mask.copy()


def _zoom(image: np.ndarray, mask: np.ndarray) -> Pair:
    return _zoomed(image, cv2.INTER_LINEAR), _zoomed(mask, cv2.INTER_NEAREST_EXACT)


def _opposite_rotations(image: np.ndarray, mask: np.ndarray) -> Pair:
    return _rotated(image, 6, cv2.INTER_LINEAR), _rotated(mask, -6, cv2.INTER_NEAREST)


def four_transforms() -> list[Callable[[np.ndarray, np.ndarray], Pair]]:
    """Return four functions `(image, mask) -> (image, mask)`; exactly one misaligns the pair."""
    return [_half_turn, _darker, _zoom, _opposite_rotations]


def _brighter(image: np.ndarray, mask: np.ndarray) -> Pair:
    return cv2.convertScaleAbs(image, alpha=0.6, beta=100), mask.copy()


def _same_crop(image: np.ndarray, mask: np.ndarray) -> Pair:
    return image[6:-2, 3:-5].copy(), mask[6:-2, 3:-5].copy()


def _shifted(image: np.ndarray, mask: np.ndarray) -> Pair:
    return np.roll(image, 4, axis=1), mask.copy()


def _old_mask(image: np.ndarray, mask: np.ndarray) -> Pair:
    return np.ascontiguousarray(image[:, ::-1]), mask.copy()


class _EveryThird:
    """A transform that mirrors the image in every third call: two of three draws fit."""

    def __init__(self, mask_too: bool):
        self.mask_too, self.calls = mask_too, 0

    def __call__(self, image: np.ndarray, mask: np.ndarray) -> Pair:
        self.calls += 1
        if self.calls % 3:
            return image.copy(), mask.copy()
        mirrored = np.ascontiguousarray(image[:, ::-1])
        return mirrored, np.ascontiguousarray(mask[:, ::-1]) if self.mask_too else mask.copy()

    def __repr__(self) -> str:
        return "a transform with random mirroring"


def _aligned(
    calls: int = 20, threshold: str = "middle", least: float = 0.9, new_mask: bool = True
) -> Callable:
    """Return `aligned`, right or with a usual mistake."""

    def aligned(transform: Callable, mask: np.ndarray) -> bool:
        painted = np.repeat(mask[..., None] * np.uint8(255), 3, axis=2)
        for _ in range(calls):
            image, moved = transform(painted, mask)
            channel = image[..., 0].astype(float)
            moved = moved if new_mask or moved.shape != mask.shape else mask
            if threshold == "equal":
                if not np.array_equal(channel, 255.0 * moved):
                    return False
                continue
            cut = {"middle": (channel.min() + channel.max()) / 2, "zero": 0.0}[threshold]
            marked = channel > cut
            if (marked & (moved == 1)).sum() / (marked | (moved == 1)).sum() < least:
                return False
        return True

    return aligned


def _foot() -> np.ndarray:
    """Return a mask without any symmetry, uint8 `(SIDE, SIDE)` of 0 and 1."""
    mask = cv2.line(np.zeros((_SIDE, _SIDE), np.uint8), (30, 15), (30, 78), 1, 12)
    return cv2.line(mask, (30, 78), (62, 74), 1, 12)


def _verdict(aligned: Callable, transform: Callable) -> str | None:
    result = aligned(transform, _foot())
    if result is None:
        return None
    if isinstance(result, float | int) and not isinstance(result, bool):
        return "a number"
    return "aligned" if result else "misaligned"


aligned = Exercise(
    name="aligned",
    reference=_aligned(),
    measure=_verdict,
    cases=(
        Case("both rotated by 180 degrees", (_half_turn,)),
        Case("an image mirrored without its mask", (_old_mask,)),
        Case("an image that is darker", (_darker,)),
        Case("an image that is brighter", (_brighter,)),
        Case("both enlarged, bilinear and nearest", (_zoom,)),
        Case("the same crop of both", (_same_crop,)),
        Case("an image shifted by 4 pixels", (_shifted,)),
        Case("rotations in opposite directions", (_opposite_rotations,)),
        Case("both mirrored in some draws", (_EveryThird(mask_too=True),)),
        Case("only the image mirrored in some draws", (_EveryThird(mask_too=False),)),
    ),
    mistakes=(
        Mistake(
            _aligned(threshold="equal"),
            "Equality in every pixel is too strict: brightness changes the painted values, and "
            "bilinear interpolation blends them. Threshold the painted image, and compute an IoU.",
        ),
        Mistake(
            _aligned(threshold="zero"),
            "After a change of brightness the painted background is no longer 0. Threshold "
            "halfway between the smallest and the largest value.",
        ),
        Mistake(
            _aligned(calls=1),
            "One draw of a random transform proves nothing. Call it about twenty times.",
        ),
        Mistake(
            _aligned(least=0.5),
            "A shift of a few pixels still has a high IoU. Require at least 0.9.",
        ),
        Mistake(
            _aligned(new_mask=False),
            "Compare the painted image with the mask that the transform returns, not with the "
            "mask that you passed in.",
        ),
        Mistake(
            lambda transform, mask: 0.9,
            "Return True or False: compare the number with a limit.",
        ),
        Mistake(lambda transform, mask: True, "Some of the transforms are misaligned."),
    ),
    hint="Paint the mask into an image, call transform(painted, mask), threshold the image that "
    "comes back, and compare it with the mask that comes back.",
)

# ---------------------------------------------------------------- random crops


def _crop(
    last: int = 1, one_window: bool = True, one_offset: bool = False, centre: bool = False,
    own_rng: bool = False, wide: bool = False,
) -> Callable:  # fmt: skip
    """Return `random_crop`, right or with a usual mistake."""

    def random_crop(
        image: np.ndarray, mask: np.ndarray, size: int, rng: np.random.Generator
    ) -> Pair:
        rng = np.random.default_rng() if own_rng else rng

        def window(array: np.ndarray) -> np.ndarray:
            height, width = array.shape[:2]
            if centre:
                top, left = (height - size) // 2, (width - size) // 2
            else:
                top = rng.integers(0, height - size + last)
                left = rng.integers(0, width - size + last)
            left = min(top, width - size) if one_offset else left
            return (slice(top, top + size), slice(left, left + size + wide))

        first = window(image)
        return image[first], mask[first if one_window else window(mask)]

    return random_crop


def _windows(random_crop: Callable, shape: tuple[int, ...], size: int) -> dict[str, Any] | None:
    """Return what the crops of 300 draws have in common."""
    mask = np.arange(shape[0] * shape[1], dtype=np.uint8).reshape(shape[:2])
    image = mask if len(shape) == 2 else np.stack([mask, mask + 100, mask + 1], axis=-1)
    same, shapes, corners, repeatable = 0, set(), set(), True
    for seed in range(300):
        draws = []
        for _ in range(2):
            result = random_crop(image.copy(), mask.copy(), size, np.random.default_rng(seed))
            if result is None:
                return None
            if isinstance(result, dict):  # as albumentations returns them
                result = result["image"], result["mask"]
            draws.append([np.asarray(part) for part in result])
        crop, ids = draws[0]
        shapes |= {crop.shape[:2], ids.shape}
        channel = crop if crop.ndim == 2 else crop[..., 0]
        same += np.array_equal(channel, ids)
        repeatable &= all(np.array_equal(a, b) for a, b in zip(*draws, strict=True))
        corners.add(divmod(int(channel.flat[0]), shape[1]))
    return {
        "shapes": sorted(shapes),
        "draws with one window for both": same,
        "rows of the upper left corner": sorted({row for row, _ in corners}),
        "columns of it": sorted({column for _, column in corners}),
        "different windows": len(corners),
        "the same rng, the same crop": "yes" if repeatable else "no",
    }


random_crop = Exercise(
    name="random_crop",
    reference=_crop(),
    measure=_windows,
    cases=(
        Case("a grey image of 5 × 7 pixels, size 3", ((5, 7), 3)),
        Case("a colour image of 6 × 5 pixels, size 4", ((6, 5, 3), 4)),
        Case("a size equal to the image's height", ((4, 6), 4)),
    ),
    mistakes=(
        Mistake(
            _crop(one_window=False),
            "Image and mask got different windows. Draw the corner once, and use it for both.",
        ),
        Mistake(
            _crop(last=0),
            "The last row and column are never reached: rng.integers leaves out its upper limit, "
            "and a corner may lie at height − size. Add 1.",
        ),
        Mistake(
            _crop(one_offset=True),
            "Row and column of the corner are the same number. Draw one for each.",
        ),
        Mistake(_crop(centre=True), "This is always the same window: draw its corner from rng."),
        Mistake(
            _crop(own_rng=True),
            "Draw from the rng that you are given; a generator of your own is not repeatable.",
        ),
        Mistake(_crop(wide=True), "The slices have one pixel too many or too few."),
    ),
    hint="Draw the row and the column of the upper left corner from rng, and slice both arrays: "
    "array[top : top + size, left : left + size]. Rows come first.",
)

# ---------------------------------------------------------------- transforms for X-rays

_MAX_ROTATION, _MAX_SHEAR, _MAX_ZOOM = 15, 15, 1.5  # degrees, degrees, factor
_Draw = Callable[[np.ndarray, np.ndarray, int], Pair]


def _pipeline(steps: Any) -> _Draw:
    """Return a function `(image, mask, seed) -> pair` for transforms of either library."""
    steps = list(steps) if isinstance(steps, Sequence) else [steps]
    if any(isinstance(step, torch.nn.Module) for step in steps):
        transform = v2.Compose(steps)

        def torchvision(image: np.ndarray, mask: np.ndarray, seed: int) -> Pair:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                pair = transform(
                    tv_tensors.Image(torch.from_numpy(image)[None]),
                    tv_tensors.Mask(torch.from_numpy(mask)),
                )
            return pair[0].numpy()[0], pair[1].numpy()

        return torchvision
    compose = A.Compose(steps)

    def albumentations(image: np.ndarray, mask: np.ndarray, seed: int) -> Pair:
        compose.set_random_seed(seed)
        moved = compose(image=image, mask=mask)
        return moved["image"], moved["mask"]

    return albumentations


def _jacobians(draw: _Draw) -> list[np.ndarray]:
    """Return how row and column of the source change with row and column of the result.

    The masks are ramps: each pixel holds the number of its row, or of its column. The gradients in
    the middle of an augmented ramp are a row of the matrix; only pixels that were not filled count.
    """
    rows = np.repeat(np.arange(_SIDE, dtype=np.uint8)[:, None], _SIDE, axis=1)
    found = []
    for seed in range(_DRAWS):
        matrix = []
        for ramp in (rows, np.ascontiguousarray(rows.T)):
            moved = draw(rows, ramp, seed)[1].astype(float)
            h, w = (side // 3 for side in moved.shape)
            matrix.append([g[h:-h, w:-w].mean() for g in np.gradient(moved)])
        found.append(np.array(matrix))
    return found


def _rotation(draw: _Draw) -> str:
    """Return how far the direction "up" is rotated at most."""
    largest = max(abs(np.degrees(np.arctan2(m[0, 1], m[0, 0]))) for m in _jacobians(draw))
    if largest <= _MAX_ROTATION + 1:  # a degree for the coarse ramp
        return f"by {_MAX_ROTATION} degrees at most"
    if largest > 135:
        return "up becomes down"
    return "up becomes left or right" if largest > 60 else f"by more than {_MAX_ROTATION} degrees"


def _shear(draw: _Draw) -> str:
    """Return how far rows and columns are from being at right angles, at most."""
    largest = 0.0
    for rows, columns in _jacobians(draw):
        lengths = np.linalg.norm(rows) * np.linalg.norm(columns) + 1e-9
        largest = max(largest, abs(np.degrees(np.arcsin(np.clip(rows @ columns / lengths, -1, 1)))))
    limit = f"{_MAX_SHEAR} degrees"
    return f"{limit} at most" if largest <= _MAX_SHEAR + 1 else f"more than {limit}"


def _zoom_range(draw: _Draw) -> str:
    """Return by which factor the size of the bone changes at most."""
    zooms = [1 / np.sqrt(abs(np.linalg.det(m)) + 1e-9) for m in _jacobians(draw)]
    largest = max(*zooms, *(1 / zoom for zoom in zooms))
    limit = f"a factor of {_MAX_ZOOM}"
    return f"{limit} at most" if largest <= _MAX_ZOOM + 0.05 else f"more than {limit}"


def _sizes(draw: _Draw) -> str:
    shapes = {part.shape[:2] for seed in range(_DRAWS) for part in draw(*_bone(), seed)}
    return "as before" if shapes == {(_SIDE, _SIDE)} else "another one"


def _geometry(draw: _Draw) -> str:
    """Return whether the mask differs between draws."""
    image, mask = _bone()
    moved = [not np.array_equal(draw(image, mask, seed)[1], mask) for seed in range(_DRAWS)]
    return "in many draws" if np.mean(moved) >= 0.2 else "it stays where it was"


def _in_frame(draw: _Draw) -> str:
    """Return whether the middle of the image stays in the frame."""
    image, _ = _bone()
    mask = np.zeros((_SIDE, _SIDE), np.uint8)
    mask[_SIDE // 3 : -_SIDE // 3, _SIDE // 3 : -_SIDE // 3] = 2
    least = min((draw(image, mask, seed)[1] == 2).sum() for seed in range(_DRAWS))
    return "at least half of it" if least >= 0.4 * (mask == 2).sum() else "less than half of it"


def _brightness(draw: _Draw) -> str:
    """Return whether the usual grey of the bone, or of what surrounds it, changes."""
    changed = []
    for seed in range(_DRAWS):
        image, mask = draw(*_bone(), seed)
        pairs = [(image[mask == i], grey) for i, grey in ((0, 60), (2, 160))]
        changed.append(any(abs(np.median(part) - grey) > 2 for part, grey in pairs if part.size))
    return "in many draws" if np.mean(changed) >= 0.2 else "it stays as it was"


def _contrast(draw: _Draw) -> str:
    """Return whether the bone is always brighter than what surrounds it."""
    for seed in range(_DRAWS):
        image, mask = draw(*_bone(), seed)
        bone, surroundings = image[mask == 2], image[mask == 0]
        if bone.size and surroundings.size and bone.mean() <= surroundings.mean():
            return "not in every draw"
    return "yes"


def _ids(draw: _Draw) -> str:
    """Return whether a mask of 0 and 2 holds those (or ignore) alone afterwards."""
    ids = set().union(*(np.unique(draw(*_bone(), seed)[1]) for seed in range(_DRAWS)))
    return "0 and 2" if ids <= {0, 2, 255} else "others as well, such as 1"


def _edges(draw: _Draw) -> str:
    """Return whether a mask of bone alone gets background where nothing is known."""
    image, mask = np.full((_SIDE, _SIDE), 100, np.uint8), np.full((_SIDE, _SIDE), 2, np.uint8)
    invented = any((draw(image, mask, seed)[1] == 0).any() for seed in range(_DRAWS))
    return "0, which is the id of background" if invented else "2, or 255 for ignored"


_QUESTIONS = {
    "what size do image and mask have?": _sizes,
    "which ids does a mask of 0 and 2 hold afterwards?": _ids,
    "which ids does a mask hold that was bone (2) all over?": _edges,
    "how much of the image's middle stays in the frame?": _in_frame,
    "how far does 'up' rotate?": _rotation,
    "how large is the shear?": _shear,
    "by what factor does the bone change its size?": _zoom_range,
    "does the bone move?": _geometry,
    "does the brightness change?": _brightness,
    "is the bone brighter than its surroundings?": _contrast,
    "of what type are the image's pixels?": lambda draw: str(draw(*_bone(), 0)[0].dtype),
}


def _measure(upright: Callable, question: str) -> str | None:
    steps = upright()
    return None if steps is None else _QUESTIONS[question](_pipeline(steps))


def _light() -> A.BasicTransform:
    return A.RandomBrightnessContrast(p=0.5)


def _small_moves(**options: Any) -> A.BasicTransform:
    defaults = {"rotate": (-10, 10), "scale": (0.9, 1.1), "border_mode": cv2.BORDER_REFLECT_101}
    return A.Affine(p=0.8, **defaults | options)


def _hint(upright: Callable) -> str:
    try:
        _pipeline(upright())
    except Exception:
        return "Return a list of transforms, each one called: [A.HorizontalFlip(p=0.5), ...]."
    return "Read the case that failed as a question about your transforms, and draw a few results."


upright = Exercise(
    name="upright",
    measure=_measure,
    reference=lambda: [A.HorizontalFlip(p=0.5), _small_moves(), _light()],
    cases=tuple(
        Case(label, (question,))
        for label, question in zip(
            (
                "the size stays",
                "ids stay ids",
                "no background is invented",
                "the bone stays in the frame",
                "up stays up",
                "angles stay",
                "the bone keeps about its size",
                "the bone moves",
                "the brightness changes",
                "bone stays brighter than its surroundings",
                "still uint8",
            ),
            _QUESTIONS,
            strict=True,
        )
    ),
    mistakes=(
        Mistake(
            lambda: [A.RandomCrop(64, 64), _small_moves(), _light()],
            "The result has another size than the image. Leave the size as it is.",
        ),
        Mistake(
            lambda: [_small_moves(mask_interpolation=cv2.INTER_LINEAR), _light()],
            "The mask was interpolated: leave mask_interpolation at nearest.",
        ),
        Mistake(
            lambda: [_small_moves(border_mode=cv2.BORDER_CONSTANT), _light()],
            "Part of the mask became 0, background, without an annotation: a filled border, or "
            "erased pieces. Use border_mode=cv2.BORDER_REFLECT_101, or fill_mask=255 to ignore it.",
        ),
        Mistake(
            lambda: [
                A.Affine(
                    translate_percent={"x": (0.8, 0.9), "y": (0.0, 0.0)}, fill_mask=255, p=0.8
                ),
                _light(),
            ],
            "The shift is so large that the bone leaves the frame. Shift by a tenth or so.",
        ),
        Mistake(
            lambda: [A.VerticalFlip(p=0.5), _small_moves(), _light()],
            "In some draws up is down: a vertical flip (VerticalFlip, D4), a rotation by 180 "
            "degrees, or a shift beyond the mirrored border.",
        ),
        Mistake(
            lambda: [A.Rotate(p=0.5, border_mode=cv2.BORDER_REFLECT_101), _light()],
            "In some draws up is left or right: Transpose, RandomRotate90, or Rotate without a "
            "small limit=...",
        ),
        Mistake(
            lambda: [_small_moves(rotate=(-45, 45)), _light()],
            f"The patient stands: rotate by {_MAX_ROTATION} degrees at most, in each direction. "
            "A large shear tilts the bone as well.",
        ),
        Mistake(
            lambda: [_small_moves(rotate=(0, 0), shear={"x": (-40, 40), "y": (0, 0)}), _light()],
            "No bone has that shape: a shear changes angles. Keep it small, or leave it out.",
        ),
        Mistake(
            lambda: [_small_moves(scale=(0.4, 2.5)), _light()],
            f"No leg is so small or so large: zoom by a factor of {_MAX_ZOOM} at most.",
        ),
        Mistake(
            lambda: [_light()],
            "The bone hardly moves. Flip it, or rotate, scale and shift it a little.",
        ),
        Mistake(
            lambda: [A.HorizontalFlip(p=0.5), _small_moves()],
            "Exposures differ between X-rays: add a transform for brightness or contrast.",
        ),
        Mistake(
            lambda: [_small_moves(), _light(), A.InvertImg(p=0.5)],
            "In an inverted image bones are dark. The X-rays to predict are not inverted.",
        ),
        Mistake(
            lambda: [_small_moves(), _light(), A.Normalize(mean=0.449, std=0.226)],
            "Normalisation is no augmentation: leave it to the pipeline that follows your list.",
        ),
    ),
    hint=_hint,
)
