"""Exercises of lesson 20: your own data."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from segkit.check import Case, Exercise, Mistake


def _paired(images: Sequence[str], masks: Sequence[str]) -> dict[str, str]:
    mask_of = {Path(mask).stem.removesuffix("_mask"): mask for mask in masks}
    return {image: mask_of[Path(image).stem] for image in images if Path(image).stem in mask_of}


def _in_order(images: Sequence[str], masks: Sequence[str]) -> dict[str, str]:
    return dict(zip(sorted(images), sorted(masks), strict=False))


def _by_prefix(images: Sequence[str], masks: Sequence[str]) -> dict[str, str]:
    found = {i: [m for m in sorted(masks) if m.startswith(Path(i).stem)] for i in images}
    return {image: matches[0] for image, matches in found.items() if matches}


def _split_at_dot(images: Sequence[str], masks: Sequence[str]) -> dict[str, str]:
    mask_of = {mask.split(".")[0].removesuffix("_mask"): mask for mask in masks}
    return {i: mask_of[i.split(".")[0]] for i in images if i.split(".")[0] in mask_of}


def _with_none(images: Sequence[str], masks: Sequence[str]) -> dict[str, str | None]:
    found = _paired(images, masks)
    return {image: found.get(image) for image in images}


pair_by_name = Exercise(
    name="pair_by_name",
    reference=_paired,
    cases=(
        Case("two pairs", (["a.jpg", "b.jpg"], ["b_mask.png", "a_mask.png"])),
        Case(
            "an image without a mask",
            (["s_01.jpg", "s_02.jpg", "s_03.jpg"], ["s_01_mask.png", "s_03_mask.png"]),
        ),
        Case("one name begins as another", (["s1.jpg", "s10.jpg"], ["s10_mask.png"])),
        Case(
            "a dot in the name",
            (["dose_1.5.png", "dose_1.0.png"], ["dose_1.0_mask.png", "dose_1.5_mask.png"]),
        ),
    ),
    mistakes=(
        Mistake(_in_order, "With one mask missing, all that follow get their neighbour's."),
        Mistake(_by_prefix, "`s10_mask.png` begins with `s1`, but is not its mask: compare all."),
        Mistake(
            _split_at_dot, "A name may have several dots: Path(name).stem removes the last part."
        ),
        Mistake(_with_none, "An image without a mask is left out, not paired with None."),
    ),
    hint="Make a dictionary from the mask's stem without `_mask` to the mask. Then look images up.",
)


def _ids(mask: np.ndarray, colours: Sequence[tuple[int, ...]]) -> np.ndarray:
    same = (mask[:, :, None] == np.array(colours, np.uint8)).all(axis=-1)
    if not same.any(axis=-1).all():
        raise ValueError("a colour of no class")
    return same.argmax(axis=-1).astype(np.uint8)


def _unique(mask: np.ndarray, colours: Sequence[tuple[int, ...]]) -> np.ndarray:
    _ids(mask, colours)
    numbers = np.unique(mask.reshape(-1, 3), axis=0, return_inverse=True)[1]
    return numbers.reshape(mask.shape[:2]).astype(np.uint8)


def _nearest(mask: np.ndarray, colours: Sequence[tuple[int, ...]]) -> np.ndarray:
    distance = np.abs(mask[:, :, None].astype(int) - np.array(colours)).sum(axis=-1)
    return distance.argmin(axis=-1).astype(np.uint8)


def _unknown_is_background(mask: np.ndarray, colours: Sequence[tuple[int, ...]]) -> np.ndarray:
    same = (mask[:, :, None] == np.array(colours, np.uint8)).all(axis=-1)
    return same.argmax(axis=-1).astype(np.uint8)


def _one_channel(mask: np.ndarray, colours: Sequence[tuple[int, ...]]) -> np.ndarray:
    return _ids(np.repeat(mask[..., :1], 3, axis=2), [(c[0],) * 3 for c in colours])


def _coloured(ids: Sequence[Sequence[int]], palette: Sequence[tuple[int, ...]]) -> np.ndarray:
    return np.array(palette, np.uint8)[np.array(ids)]


_COLOURS = [(0, 0, 0), (255, 0, 0), (0, 255, 0), (255, 0, 255)]
_BLUE_FIRST = [(0, 0, 255), (0, 0, 0), (200, 0, 0)]
ids_of_colours = Exercise(
    name="ids_of_colours",
    reference=_ids,
    cases=(
        Case("all four classes", (_coloured([[0, 1], [2, 3]], _COLOURS), _COLOURS)),
        Case("one class is not in this mask", (_coloured([[0, 2], [2, 0]], _COLOURS), _COLOURS)),
        Case(
            "the background is not black", (_coloured([[0, 0], [1, 2]], _BLUE_FIRST), _BLUE_FIRST)
        ),
        Case(
            "a smoothed edge",
            (np.array([[[0, 0, 0], [160, 0, 0], [255, 0, 0]]], np.uint8), _COLOURS),
        ),
    ),
    mistakes=(
        Mistake(_unique, "Numbered mask by mask, the id of a colour changes from mask to mask."),
        Mistake(_nearest, "The nearest colour hides a smoothed edge: raise an error."),
        Mistake(_unknown_is_background, "A colour of no class became background, silently."),
        Mistake(_one_channel, "Two classes may share their red: compare all three channels."),
    ),
    hint="Compare with each colour, `(mask == colour).all(axis=-1)`; each pixel must match one.",
)

silent_faults = Exercise(
    name="silent_faults",
    reference={0, 2, 4},
    mistakes=(
        Mistake({0, 2}, "Two are right. One more does not harm the network, but its score."),
        Mistake({2, 4}, "Two are right. JPEG leaves values of 1, 2, 3 near edges: what is `> 0`?"),
        Mistake(
            {0, 4}, "Two are right. Does any line of `plain` compare the names of image and mask?"
        ),
        Mistake({0, 1, 2, 4}, "Does Image.open read a text file, whatever its name?"),
        Mistake({0, 2, 3, 4}, "A mask of 0 and 1 looks black. What does `> 0` make of it?"),
        Mistake({0, 2, 4, 5}, "What does `.convert` do with a grey image?"),
    ),
    hint="Follow each through the lines of `plain`: does it raise, do no harm, or get learned?",
)
