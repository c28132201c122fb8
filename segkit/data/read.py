"""Strict reading of one image or one mask: what could silently train a wrong model is refused.

Sizes are `(height, width)` and squash: the whole picture is kept, its aspect ratio is not. Images
shrink with antialiasing (Pillow's BILINEAR); masks take the value under the new pixel's centre
(Pillow's NEAREST, torch's "nearest-exact"), so no value is invented and nothing shifts.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from segkit import image_ops
from segkit.data.issues import IssueError, issue, refuse
from segkit.errors import ArgumentError, SegkitError

__all__ = ["ORIENTATION", "as_size", "image", "image_header", "mask", "opened", "refuse",
           "resize_image", "resize_mask"]  # fmt: skip

ORIENTATION = 0x0112  # the EXIF tag; 1 is upright, 0 is written by cameras that do not know
_EIGHT_BIT = ("1", "L", "LA", "P", "PA", "RGB", "RGBA")  # Pillow's modes that lose nothing here


@contextmanager
def opened(path: str | Path, data: bytes | None = None) -> Iterator[Image.Image]:
    """Open the picture at `path`, or the one in `data`, which is then only called `path`.

    Raises:
        IssueError: whatever a decoder raised on damaged bytes, here or inside the block.
    """
    try:
        with Image.open(path if data is None else io.BytesIO(data)) as picture:
            yield picture
    except SegkitError:
        raise
    except FileNotFoundError as error:
        raise IssueError(issue("unreadable", path, "there is no such file")) from error
    except Image.DecompressionBombError as error:
        raise IssueError(issue("too-large", path, str(error))) from error
    except Exception as error:  # decoders raise far more than OSError on arbitrary bytes
        raise IssueError(issue("unreadable", path, str(error))) from error


def image(
    path: str | Path,
    channels: int | None = None,
    size: tuple[int, int] | None = None,
    exif: str = "refuse",
    data: bytes | None = None,
) -> np.ndarray:
    """Return an image as uint8 `(H, W, 3)` or, grey, `(H, W)`.

    Args:
        path: the file, or only its name if there is `data`.
        channels: 3 repeats a grey image, 1 turns colour into luminance (0.299 R + 0.587 G +
            0.114 B, exact where the channels are equal), None keeps what the file has.
        size: `(H, W)` to resize to; None keeps the size.
        exif: what to do with a rotation that is only noted in the file: "refuse" the file, or
            "apply" the rotation to the pixels.
        data: the content of the file, if it is in memory.

    Raises:
        IssueError: the file is unreadable, transparent (an alpha channel that is opaque
            throughout is dropped), 16-bit, float or CMYK.
    """
    if channels not in (None, 1, 3):
        raise ArgumentError(f"channels={channels}: choose 1 (grey), 3 (colour) or None (as stored)")
    with opened(path, data) as picture:
        _check_image(path, picture, exif)
        picture.load()
        if exif == "apply":
            picture = ImageOps.exif_transpose(picture)
        else:
            _check_upright(path, picture)
        picture = _without_alpha(path, picture)
        picture = picture.convert("L" if (channels or _channels(picture.mode)) == 1 else "RGB")
        return np.array(picture if size is None else resize_image(picture, size))


def image_header(
    path: str | Path, exif: str = "refuse", data: bytes | None = None
) -> tuple[tuple[int, int], int]:
    """Return size `(H, W)` and channels of an image from its header; refuse what `image` would.

    Nothing is decoded; damage and transparency show only in `image`.
    """
    with opened(path, data) as picture:
        _check_image(path, picture, exif)
        if exif == "refuse":
            _check_upright(path, picture)
        return picture.size[::-1], _channels(picture.mode)


def mask(path: str | Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """Return a mask as uint8 `(H, W)`: palette indices or grey values, as they are stored.

    A colour file is accepted where its channels are equal. What the values mean is decided over
    a whole folder (`segkit.data.folder.infer_label_encoding`), never here.

    Raises:
        IssueError: the file is unreadable, coloured, 16-bit, float or turned by EXIF.
    """
    with opened(path) as picture:
        stored = _raw_mode(picture)
        # Readers stretch grey values of less than 8 bits to 0..255.
        if _deep(picture) or picture.mode not in _EIGHT_BIT or stored in ("L;2", "L;4"):
            raise IssueError(issue("mask-depth", path, f"it is {stored}"))
        _check_frames(path, picture)
        picture.load()
        _check_upright(path, picture)
        if picture.mode not in ("1", "L", "P"):
            picture = _single_channel(path, picture)
        picture = picture if size is None else resize_mask(picture, size)
        return np.array(picture, dtype=np.uint8)


def is_upright(path: str | Path) -> bool:
    """Return whether an image is stored as it is to be seen, without a rotation in EXIF."""
    with opened(path) as picture:
        return picture.getexif().get(ORIENTATION, 1) in (0, 1)


def resize_image(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Return an image at `size`, `(H, W)`: each pixel averages those it covers."""
    return Image.fromarray(image_ops.resize(np.asarray(picture), size))


def resize_mask(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Return a mask at `size`, `(H, W)`: each pixel takes the value under its centre."""
    return picture.resize(size[::-1], Image.Resampling.NEAREST)


def as_size(size: int | tuple[int, int]) -> tuple[int, int]:
    """Return `size`, the side of a square or `(H, W)`, as `(H, W)`."""
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < 1:
        raise ArgumentError(f"size={size}: give a side in pixels, or (height, width)")
    return int(height), int(width)


def _check_image(path: str | Path, picture: Image.Image, exif: str) -> None:
    if exif not in ("refuse", "apply"):
        raise ArgumentError(f'exif={exif!r}: choose "refuse" or "apply"')
    if _deep(picture):
        raise IssueError(issue("bit-depth", path, f"it is {_raw_mode(picture)}"))
    if picture.mode not in _EIGHT_BIT:
        raise IssueError(issue("colour-space", path, f"they are {picture.mode}"))
    _check_frames(path, picture)


def _check_frames(path: str | Path, picture: Image.Image) -> None:
    # A phone's MPO file is a JPEG with a preview behind it; elsewhere frames are content.
    frames = getattr(picture, "n_frames", 1)
    if frames > 1 and picture.format != "MPO":
        raise IssueError(issue("frames", path, f"{frames} pictures"))


def _check_upright(path: str | Path, picture: Image.Image) -> None:
    if picture.format == "PNG" and picture.tile and "exif" not in picture.info:
        return  # not decoded yet, and Pillow would do so to look behind the pixels for EXIF
    turn = picture.getexif().get(ORIENTATION, 1)
    if turn not in (0, 1):
        raise IssueError(issue("exif", path, f"EXIF orientation {turn}"))


def _without_alpha(path: str | Path, picture: Image.Image) -> Image.Image:
    """Return the picture without its alpha channel or transparent colour, if all is opaque."""
    if "A" not in picture.mode and "transparency" not in picture.info:
        return picture
    rgba = picture.convert("RGBA")
    if rgba.getextrema()[3][0] < 255:
        raise IssueError(issue("transparent", path))
    return rgba.convert("L" if _channels(picture.mode) == 1 else "RGB")


def _single_channel(path: str | Path, picture: Image.Image) -> Image.Image:
    """Return the one channel that a mask saved as colour repeats; refuse real colours."""
    rgb = _without_alpha(path, picture).convert("RGB")
    red, green, blue = rgb.split()
    if red.tobytes() == green.tobytes() == blue.tobytes():
        return red
    colours = rgb.getcolors(256)
    found = f"{len(colours)} colours" if colours else "hundreds of colours: JPEG or interpolated?"
    raise IssueError(issue("mask-colours", path, found))


def _channels(mode: str) -> int:
    return 1 if mode in ("1", "L", "LA") else 3


def _deep(picture: Image.Image) -> bool:
    # Pillow opens a 16-bit RGB file in mode "RGB" and drops the low bytes without a word.
    return picture.mode[0] in "IF" or any(x in _raw_mode(picture) for x in (";16B", ";16L", ";16N"))


def _raw_mode(picture: Image.Image) -> str:
    """Return how the file itself stores a pixel, e.g. "RGB;16B"; known before decoding only."""
    args = picture.tile[0][3] if picture.tile else None
    raw = args[0] if isinstance(args, tuple) and args else args
    return raw if isinstance(raw, str) else picture.mode
