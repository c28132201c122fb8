"""Read one image or one mask; refuse what could silently train a wrong model.

Sizes are `(height, width)`, and resizing keeps the whole picture, not its aspect ratio. Images
shrink with antialiasing (Pillow's BILINEAR); masks take the value under the new pixel's centre
(Pillow's NEAREST, torch's "nearest-exact"), so no value is invented and nothing shifts.
"""

import json
from collections.abc import Mapping
from operator import index
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from segkit import image_ops
from segkit.errors import ArgumentError
from segkit.image_ops import (
    GREY_MODES,
    ImageError,
    Intensity,
    check_format,
    exif_orientation,
    opened,
    raw_mode,
)
from segkit.issues import IssueError, issue

Colour = tuple[int, int, int]  # red, green, blue, each 0 to 255
Table = Mapping[int, int] | Mapping[Colour, int]  # the id of each value, or of each colour


def image(
    path: str | Path,
    channels: int | None = None,
    size: tuple[int, int] | None = None,
    intensity: Intensity | None = None,
) -> np.ndarray:
    """Return an image as uint8 `(H, W, 3)` or, grey, `(H, W)`; as uint16 if there is `intensity`.

    Args:
        channels: 1 (grey), 3 (colour), another number if there is `intensity`, or None for what
            the file has; see `image_ops.read_image`.
        size: `(H, W)` to resize to; None keeps the size.
        intensity: see `image_ops.rescale`.

    Raises:
        ImageError: see `image_ops.read_image`.
        IssueError: EXIF says that the image is to be turned, and its mask might not be.
    """
    if intensity is None and channels not in (None, 1, 3):
        raise ArgumentError(
            f"channels={channels}: choose 1 (grey), 3 (colour) or None (as stored), or give an "
            "intensity, which reads any number"
        )
    pixels, orientation = image_ops.read_image(path, channels, intensity=intensity)
    _check_upright(orientation, path)
    return pixels if size is None else image_ops.resize(pixels, size)


def image_header(
    path: str | Path, turn: bool = False, data: bytes | None = None
) -> tuple[tuple[int, int], int]:
    """Return size `(H, W)` and channels of an image; refuse what shows without decoding it.

    Args:
        turn: whether an image that EXIF turns is accepted.
        data: the content of the file, if it is not at `path`.
    """
    with opened(path, data) as picture:
        check_format(picture, path)
        # To find EXIF behind the pixels of a PNG, Pillow would decode them.
        if not turn and (picture.format != "PNG" or "exif" in picture.info):
            _check_upright(exif_orientation(picture), path)
        return picture.size[::-1], 1 if picture.mode in GREY_MODES else 3


def stored(path: str | Path) -> np.ndarray:
    """Return the numbers in an image file of any type and channels, `(H, W, C)`.

    Raises:
        ImageError: see `image_ops.read_array`.
        IssueError: EXIF says that the image is to be turned, and its mask might not be.
    """
    numbers, orientation = image_ops.read_array(path)
    _check_upright(orientation, path)
    return numbers


def mask(
    path: str | Path, size: tuple[int, int] | None = None, table: Table | None = None
) -> np.ndarray:
    """Return a mask as uint8 `(H, W)`: palette indices or grey values, as stored, or their ids.

    A colour file is accepted where its channels are equal, or the table has colours. What values
    mean without one is decided over a whole folder (`segkit.data.folder.infer_label_encoding`).

    Args:
        size: `(H, W)` to resize to; None keeps the size.
        table: the id of each value or, whether they are in a palette or not, of each colour.

    Raises:
        ImageError: the file is unreadable, transparent, or holds several pictures.
        IssueError: the file is coloured, 16-bit, float or turned by EXIF, or the table lacks what
            it holds.
    """
    coloured = table and isinstance(next(iter(table)), tuple)
    if Path(path).suffix.lower() == ".npy":
        raise IssueError(issue("mask-depth", path, "it is an array"))
    with opened(path) as picture:
        stored = raw_mode(picture)
        try:
            check_format(picture, path)
            if stored in ("L;2", "L;4"):  # decoders stretch grey values of 2 or 4 bits to 0..255
                raise ImageError(path, "bit-depth")
        except ImageError as error:
            if error.code == "frames":
                raise
            raise IssueError(issue("mask-depth", path, f"it is {stored}")) from error
        _check_upright(exif_orientation(picture), path)
        if coloured:
            rgb = np.array(image_ops.without_alpha(picture, path).convert("RGB"), np.int64)
            ids = rgb @ (1 << 16, 1 << 8, 1)
        else:
            if picture.mode not in ("1", "L", "P"):
                picture = _single_channel(picture, path)
            ids = np.array(picture, dtype=np.uint8)
    if table:
        present = np.unique(ids) if coloured else np.flatnonzero(np.bincount(ids.ravel()))
        keys = [(v >> 16, v >> 8 & 255, v & 255) if coloured else v for v in present.tolist()]
        if unknown := [hexadecimal(v) if coloured else str(v) for v in keys if v not in table]:
            held = ", ".join(unknown[:8]) + ", …" * (len(unknown) > 8)
            raise IssueError(issue("unknown-value", path, f"it holds {held}"))
        ids = np.array([table[key] for key in keys], np.uint8)[np.searchsorted(present, ids)]
    return ids if size is None else resize_mask(ids, size)


def hexadecimal(colour: Colour) -> str:
    """Return a colour as "#rrggbb"."""
    return "#{:02x}{:02x}{:02x}".format(*colour)


def resize_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return a mask at `size`, `(H, W)`: each pixel takes the value under its centre."""
    return np.array(Image.fromarray(mask).resize(size[::-1], Image.Resampling.NEAREST))


def as_size(size: int | tuple[int, int]) -> tuple[int, int]:
    """Return `size`, the side of a square or `(H, W)`, as `(H, W)`."""
    try:
        height, width = map(index, size if isinstance(size, (tuple, list)) else (size, size))
    except (TypeError, ValueError):
        height = width = 0
    if min(height, width) < 1:
        raise ArgumentError(f"size={size!r}: give a side in pixels, or (height, width)")
    return height, width


def _check_upright(orientation: int, path: str | Path) -> None:
    if orientation != 1:
        raise IssueError(issue("exif", path, f"EXIF orientation {orientation}"))


def _single_channel(picture: Image.Image, path: str | Path) -> Image.Image:
    """Return the one channel that a mask saved as colour repeats; refuse real colours."""
    rgb = image_ops.without_alpha(picture, path).convert("RGB")
    red, green, blue = rgb.split()
    if red.tobytes() == green.tobytes() == blue.tobytes():
        return red
    found = "hundreds of colours: JPEG or interpolated?"
    if colours := rgb.getcolors(256):
        shown = ", ".join(sorted(hexadecimal(colour) for _, colour in colours)[:8])
        found = f"{len(colours)} colours: {shown}{', …' if len(colours) > 8 else ''}"
    raise IssueError(issue("mask-colours", path, found))


def json_file(path: Path) -> Any:
    """Return the content of a JSON file; a byte-order mark at its start is left out.

    Raises:
        IssueError: it cannot be read.
    """
    try:
        return json.loads(text_file(path))
    except (ValueError, RecursionError) as error:
        raise IssueError(issue("annotation-file", path, f"no readable JSON: {error}")) from error


def text_file(path: Path) -> str:
    """Return the content of a text file; a byte-order mark at its start is left out.

    Raises:
        IssueError: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise IssueError(issue("annotation-file", path, f"no readable text: {error}")) from error
