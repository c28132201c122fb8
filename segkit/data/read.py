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
from segkit.data.dataset import DataError

EIGHT_BIT = ("1", "L", "LA", "P", "PA", "RGB", "RGBA")  # Pillow's modes that lose nothing here
ORIENTATION = 0x0112  # the EXIF tag; 1 is upright, 0 is written by cameras that do not know


@contextmanager
def opened(path: str | Path, data: bytes | None = None) -> Iterator[Image.Image]:
    """Open the picture at `path`, or the one in `data`, which is then only called `path`.

    Whatever a decoder raises on damaged bytes, here or inside the block, becomes a DataError that
    names the file.
    """
    try:
        with Image.open(path if data is None else io.BytesIO(data)) as picture:
            yield picture
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such file", "unreadable") from error
    except Exception as error:  # decoders raise far more than OSError on arbitrary bytes
        raise DataError(
            f"{path}: cannot be read ({error}). The file is truncated, damaged or no picture: "
            "fetch it again, or remove it together with its mask",
            "unreadable",
        ) from error


def image(
    path: str | Path,
    channels: int | None = None,
    size: tuple[int, int] | None = None,
    exif: str = "refuse",
    data: bytes | None = None,
) -> np.ndarray:
    """Return an image as uint8 `(H, W, 3)` or, grey, `(H, W)`.

    channels: 3 repeats a grey image, 1 turns colour into luminance (0.299 R + 0.587 G + 0.114 B,
    exact where the channels are equal), None keeps what the file has. exif: what to do with a
    rotation that is only noted in the file, "refuse" it or "apply" it to the pixels. An alpha
    channel is dropped where it is opaque throughout.
    Raises DataError for a file that is unreadable, transparent, 16-bit, float or CMYK.
    """
    if channels not in (None, 1, 3):
        raise ValueError(f"channels={channels}: choose 1 (grey), 3 (colour) or None (as stored)")
    _check_policy(exif)
    with opened(path, data) as picture:
        _check_image(path, picture)
        picture.load()
        if exif == "refuse":
            _check_upright(path, picture)
        else:
            picture = ImageOps.exif_transpose(picture)
        picture = _without_alpha(path, picture)
        picture = picture.convert("L" if (channels or _channels(picture.mode)) == 1 else "RGB")
        return np.array(picture if size is None else resize_image(picture, size))


def image_header(
    path: str | Path, exif: str = "refuse", data: bytes | None = None
) -> tuple[tuple[int, int], int]:
    """Return size `(H, W)` and channels of an image from its header; refuse what `image` would.

    Quick, because nothing is decoded; damage and transparency come out only in `image`.
    """
    _check_policy(exif)
    with opened(path, data) as picture:
        _check_image(path, picture)
        if exif == "refuse":
            _check_upright(path, picture)
        return picture.size[::-1], _channels(picture.mode)


def mask(path: str | Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """Return a mask as uint8 `(H, W)`: palette indices or grey values, as they are stored.

    A colour file is accepted where its channels are equal. Which values mean what is decided over
    a whole folder (`segkit.data.folder.value_rule`), never here.
    Raises DataError for a file that is unreadable, coloured, 16-bit, float or turned by EXIF.
    """
    with opened(path) as picture:
        _check_mask(path, picture)
        picture.load()
        _check_upright(path, picture)
        if picture.mode not in ("1", "L", "P"):
            picture = _single_channel(path, picture)
        picture = picture if size is None else resize_mask(picture, size)
        return np.array(picture, dtype=np.uint8)


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
        raise ValueError(f"size={size}: give a side in pixels, or (height, width)")
    return int(height), int(width)


def values(mask: np.ndarray) -> list[int]:
    """Return the distinct values of a uint8 mask, in order."""
    return np.flatnonzero(np.bincount(mask.ravel(), minlength=256)).tolist()


def refuse(faults: list[str], where: str | Path, show: int = 8) -> None:
    """Raise one DataError that lists the first few `faults` found in `where`; none, no error."""
    if len(faults) == 1:
        raise DataError(faults[0])
    if faults:
        lines = [f"- {fault}" for fault in faults[:show]]
        if len(faults) > show:
            lines.append(f"- and {len(faults) - show} more")
        raise DataError("\n".join([f"{len(faults)} faults in {where}:", *lines]))


def _check_policy(exif: str) -> None:
    if exif not in ("refuse", "apply"):
        raise ValueError(f'exif={exif!r}: choose "refuse" or "apply"')


def _check_image(path: str | Path, picture: Image.Image) -> None:
    if _deep(picture):
        raise DataError(
            f"{path}: has more than 8 bits a channel ({_raw_mode(picture)}), and cutting them off "
            "loses contrast: scale it to 0..255 yourself (the same scale for every image) and "
            "save it as 8-bit PNG",
            "bit-depth",
        )
    if picture.mode not in EIGHT_BIT:
        raise DataError(
            f"{path}: its colours are {picture.mode}, not RGB or grey: "
            'Image.open(path).convert("RGB"), look at the result, and save it as PNG',
            "colour-space",
        )
    _check_frames(path, picture)


def _check_mask(path: str | Path, picture: Image.Image) -> None:
    if _deep(picture) or picture.mode not in EIGHT_BIT:
        raise DataError(
            f"{path}: a mask holds class ids 0..255 in 8 bits, this one is {_raw_mode(picture)}: "
            "round nothing, go back to the ids and save "
            'Image.fromarray(ids.astype("uint8")) as PNG',
            "bit-depth",
        )
    if _raw_mode(picture) in ("L;2", "L;4"):
        raise DataError(
            f"{path}: a grey PNG of less than 8 bits, whose values readers stretch to 0..255: "
            "save the ids as 8-bit PNG",
            "bit-depth",
        )
    _check_frames(path, picture)


def _check_frames(path: str | Path, picture: Image.Image) -> None:
    # A phone's MPO file is a JPEG with a preview behind it; elsewhere frames are content.
    if getattr(picture, "n_frames", 1) > 1 and picture.format != "MPO":
        raise DataError(
            f"{path}: holds {picture.n_frames} pictures, of which one would be used: "
            "save each as a file of its own",
            "frames",
        )


def _check_upright(path: str | Path, picture: Image.Image) -> None:
    if picture.format == "PNG" and picture.tile and "exif" not in picture.info:
        return  # not decoded yet, and Pillow would do so to look behind the pixels for EXIF
    turn = picture.getexif().get(ORIENTATION, 1)
    if turn not in (0, 1):
        raise DataError(
            f"{path}: is stored turned (EXIF orientation {turn}), so viewers show it another way "
            "round than its pixels, and perhaps its mask, are: save "
            "PIL.ImageOps.exif_transpose(image) and check that the mask fits",
            "exif",
        )


def _without_alpha(path: str | Path, picture: Image.Image) -> Image.Image:
    """Return the picture without its alpha channel or transparent colour, if all is opaque."""
    if "A" not in picture.mode and "transparency" not in picture.info:
        return picture
    rgba = picture.convert("RGBA")
    if rgba.getextrema()[3][0] < 255:
        raise DataError(
            f"{path}: is transparent in places, and what shows there depends on the viewer: lay it "
            'on a background, e.g. Image.alpha_composite(Image.new("RGBA", image.size, "white"), '
            'image).convert("RGB")',
            "transparent",
        )
    return rgba.convert("L" if _channels(picture.mode) == 1 else "RGB")


def _single_channel(path: str | Path, picture: Image.Image) -> Image.Image:
    """Return the one channel that a mask saved as colour repeats; refuse real colours."""
    rgb = _without_alpha(path, picture).convert("RGB")
    red, green, blue = rgb.split()
    if red.tobytes() == green.tobytes() == blue.tobytes():
        return red
    colours = rgb.getcolors(256)
    found = f"{len(colours)} colours" if colours else "hundreds of colours (JPEG or interpolated?)"
    raise DataError(
        f"{path}: a colour picture ({found}), not class ids: turn each colour into its id, "
        "ids[(rgb == colour).all(-1)] = id, and save the ids as 8-bit PNG",
        "mask-colours",
    )


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
