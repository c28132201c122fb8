"""Exercises of lesson 20: your own data."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from segkit.check import Case, Exercise, Mistake

_END = "_mask"


def _paired(images: Sequence[str], masks: Sequence[str]) -> dict[str, str]:
    """Pair by the stem of each name."""
    mask_of = {Path(mask).stem.removesuffix(_END): mask for mask in masks}
    return {image: mask_of[Path(image).stem] for image in images if Path(image).stem in mask_of}


def _in_order(images: Sequence[str], masks: Sequence[str]) -> dict[str, str]:
    """Pair the first with the first."""
    return dict(zip(sorted(images), sorted(masks), strict=False))


def _by_beginning(images: Sequence[str], masks: Sequence[str]) -> dict[str, str]:
    """Take the first mask that begins as the image does."""
    found = {i: [m for m in sorted(masks) if m.startswith(Path(i).stem)] for i in images}
    return {image: its[0] for image, its in found.items() if its}


def _cut_at_dot(images: Sequence[str], masks: Sequence[str]) -> dict[str, str]:
    """Take for the stem what stands before the first dot."""
    mask_of = {mask.split(".")[0].removesuffix(_END): mask for mask in masks}
    return {i: mask_of[i.split(".")[0]] for i in images if i.split(".")[0] in mask_of}


def _with_none(images: Sequence[str], masks: Sequence[str]) -> dict[str, str | None]:
    """Keep images without a mask."""
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
        Mistake(_in_order, "One missing mask, and all that follow get their neighbour's."),
        Mistake(
            _by_beginning, "`s10_mask.png` begins with `s1`, but is not its mask: compare all."
        ),
        Mistake(
            _cut_at_dot, "A name may have several dots: Path(name).stem cuts off the last part."
        ),
        Mistake(_with_none, "An image without a mask is left out, not paired with None."),
    ),
    hint="Make a dictionary from the mask's stem without `_mask` to the mask. Then look images up.",
)


def _ids(mask: np.ndarray, colours: Sequence[tuple[int, ...]]) -> np.ndarray:
    """Return the place of each pixel's colour; refuse any other."""
    same = (mask[:, :, None] == np.array(colours, np.uint8)).all(axis=-1)
    if not same.any(axis=-1).all():
        raise ValueError("a colour of no class")
    return same.argmax(axis=-1).astype(np.uint8)


def _counted(mask: np.ndarray, colours: Sequence[tuple[int, ...]]) -> np.ndarray:
    """Number the colours that are in this mask."""
    _ids(mask, colours)
    pixels = mask.reshape(-1, 3)
    numbers = np.unique(pixels, axis=0, return_inverse=True)[1]
    return numbers.reshape(mask.shape[:2]).astype(np.uint8)


def _nearest(mask: np.ndarray, colours: Sequence[tuple[int, ...]]) -> np.ndarray:
    """Take the colour that is least far away."""
    apart = np.abs(mask[:, :, None].astype(int) - np.array(colours)).sum(axis=-1)
    return apart.argmin(axis=-1).astype(np.uint8)


def _unknown_is_background(mask: np.ndarray, colours: Sequence[tuple[int, ...]]) -> np.ndarray:
    """Leave 0 where no colour fits."""
    same = (mask[:, :, None] == np.array(colours, np.uint8)).all(axis=-1)
    return same.argmax(axis=-1).astype(np.uint8)


def _one_channel(mask: np.ndarray, colours: Sequence[tuple[int, ...]]) -> np.ndarray:
    """Compare the red channel only."""
    return _ids(np.repeat(mask[..., :1], 3, axis=2), [(c[0],) * 3 for c in colours])


def _picture(places: Sequence[Sequence[int]], palette: Sequence[tuple[int, ...]]) -> np.ndarray:
    return np.array(palette, np.uint8)[np.array(places)]


_COLOURS = [(0, 0, 0), (255, 0, 0), (0, 255, 0), (255, 0, 255)]
_BLUE_FIRST = [(0, 0, 255), (0, 0, 0), (200, 0, 0)]
ids_of_colours = Exercise(
    name="ids_of_colours",
    reference=_ids,
    cases=(
        Case("all four classes", (_picture([[0, 1], [2, 3]], _COLOURS), _COLOURS)),
        Case("one class is not in this mask", (_picture([[0, 2], [2, 0]], _COLOURS), _COLOURS)),
        Case("the background is not black", (_picture([[0, 0], [1, 2]], _BLUE_FIRST), _BLUE_FIRST)),
        Case(
            "a smoothed edge",
            (np.array([[[0, 0, 0], [160, 0, 0], [255, 0, 0]]], np.uint8), _COLOURS),
        ),
    ),
    mistakes=(
        Mistake(_counted, "Numbered mask by mask, the id of a colour changes from mask to mask."),
        Mistake(_nearest, "The nearest colour hides a smoothed edge: say that it is no class."),
        Mistake(
            _unknown_is_background, "A colour of no class became background, and nobody hears."
        ),
        Mistake(_one_channel, "Two classes may share their red: compare all three channels."),
    ),
    hint="Compare with each colour, `(mask == colour).all(axis=-1)`; each pixel must be hit once.",
)

silent_faults = Exercise(
    name="silent_faults",
    reference={0, 2, 4},
    mistakes=(
        Mistake({0, 2}, "Two are right. One more harms not the network, but what you say of it."),
        Mistake({2, 4}, "Two are right. JPEG leaves values of 1, 2, 3 near edges: what is `> 0`?"),
        Mistake({0, 4}, "Two are right. Does any line of `plain` know which mask is whose?"),
        Mistake({0, 1, 2, 4}, "Does Image.open read a text file, whatever its name?"),
        Mistake({0, 2, 3, 4}, "A mask of 0 and 1 looks black. What does `> 0` make of it?"),
        Mistake({0, 2, 4, 5}, "What does `.convert` do with a grey picture?"),
    ),
    hint="Follow each through the lines of `plain`: does it stop, do no harm, or get learned?",
)
