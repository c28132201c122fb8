"""Read one image or one mask; refuse what could silently train a wrong model.

Sizes are `(height, width)`, and resizing keeps the whole picture, not its aspect ratio. Images
shrink with antialiasing (Pillow's BILINEAR); masks take the value under the new pixel's centre
(Pillow's NEAREST, torch's "nearest-exact"), so no value is invented and nothing shifts.
"""

from collections.abc import Iterator
from operator import index
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from segkit import image_ops
from segkit.data.issues import IssueError, issue
from segkit.errors import ArgumentError
from segkit.image_ops import ORIENTATION, ImageError, check_format, raw_mode, without_alpha


@contextmanager
def opened(path: str | Path, data: bytes | None = None) -> Iterator[Image.Image]:
    """Open the picture at `path`, or that in `data`; what a decoder raises is an IssueError."""
    try:
        with image_ops.opened(path, data) as picture:
            yield picture
    except ImageError as error:
        raise IssueError(issue(error.code, path, error.detail)) from error


def image(
    path: str | Path,
    channels: int | None = None,
    size: tuple[int, int] | None = None,
    turn: bool = False,
    data: bytes | None = None,
) -> np.ndarray:
    """Return an image as uint8 `(H, W, 3)` or, grey, `(H, W)`.

    Args:
        path: the file, or only its name if there is `data`.
        channels: 3 repeats a grey image, 1 turns colour into luminance (0.299 R + 0.587 G +
            0.114 B, exact where the channels are equal), None keeps what the file has.
        size: `(H, W)` to resize to; None keeps the size.
        turn: whether to turn the image upright as its EXIF says, rather than to refuse it.

    Raises:
        IssueError: the file is unreadable, turned, transparent anywhere, 16-bit, float or CMYK.
    """
    if channels not in (None, 1, 3):
        raise ArgumentError(f"channels={channels}: choose 1 (grey), 3 (colour) or None (as stored)")
    with opened(path, data) as picture:
        check_format(picture, path)
        picture.load()
        if turn:
            picture = ImageOps.exif_transpose(picture)
        else:
            _check_upright(picture, path)
        picture = without_alpha(picture, path)
        picture = picture.convert("L" if (channels or _channels(picture)) == 1 else "RGB")
        return np.array(picture) if size is None else resize_image(picture, size)


def image_header(
    path: str | Path, turn: bool = False, data: bytes | None = None
) -> tuple[tuple[int, int], int]:
    """Return size `(H, W)` and channels of an image; refuse what shows without decoding it."""
    with opened(path, data) as picture:
        check_format(picture, path)
        # To find EXIF behind the pixels of a PNG, Pillow would decode them.
        if not turn and (picture.format != "PNG" or "exif" in picture.info):
            _check_upright(picture, path)
        return picture.size[::-1], _channels(picture)


def mask(path: str | Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """Return a mask as uint8 `(H, W)`: palette indices or grey values, as they are stored.

    A colour file is accepted where its channels are equal. What the values mean is decided over
    a whole folder (`segkit.data.folder.infer_label_encoding`), never here.

    Raises:
        IssueError: the file is unreadable, coloured, 16-bit, float or turned by EXIF.
    """
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
        picture.load()
        _check_upright(picture, path)
        if picture.mode not in ("1", "L", "P"):
            picture = _single_channel(picture, path)
        ids = np.array(picture, dtype=np.uint8)
        return ids if size is None else resize_mask(ids, size)


def is_upright(path: str | Path) -> bool:
    """Return whether an image is stored as it is to be seen, without a rotation in EXIF."""
    with opened(path) as picture:
        return _orientation(picture) == 1


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return an image at `size`, `(H, W)`: each pixel averages those it covers."""
    return image_ops.resize(np.asarray(image), size)


def resize_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return a mask at `size`, `(H, W)`: each pixel takes the value under its centre."""
    return np.array(Image.fromarray(np.asarray(mask)).resize(size[::-1], Image.Resampling.NEAREST))


def as_size(size: int | tuple[int, int]) -> tuple[int, int]:
    """Return `size`, the side of a square or `(H, W)`, as `(H, W)`."""
    try:
        height, width = map(index, size if isinstance(size, (tuple, list)) else (size, size))
    except (TypeError, ValueError):
        height = width = 0
    if min(height, width) < 1:
        raise ArgumentError(f"size={size!r}: give a side in pixels, or (height, width)")
    return height, width


def _orientation(picture: Image.Image) -> int:
    """Return the EXIF orientation, 1 if upright or unknown (cameras then write 0)."""
    return picture.getexif().get(ORIENTATION, 1) or 1


def _check_upright(picture: Image.Image, path: str | Path) -> None:
    orientation = _orientation(picture)
    if orientation != 1:
        raise IssueError(issue("exif", path, f"EXIF orientation {orientation}"))


def _single_channel(picture: Image.Image, path: str | Path) -> Image.Image:
    """Return the one channel that a mask saved as colour repeats; refuse real colours."""
    rgb = without_alpha(picture, path).convert("RGB")
    red, green, blue = rgb.split()
    if red.tobytes() == green.tobytes() == blue.tobytes():
        return red
    colours = rgb.getcolors(256)
    found = f"{len(colours)} colours" if colours else "hundreds of colours: JPEG or interpolated?"
    raise IssueError(issue("mask-colours", path, found))


def _channels(picture: Image.Image) -> int:
    return 1 if picture.mode in ("1", "L", "LA") else 3
