"""From an image to a network's input, and from its logits to a mask, in numpy and Pillow.

An image is uint8 or uint16, (H, W, C) or, grey, (H, W). A *network* is any function from a batch
of images of one size, (N, H, W[, C]), to logits, float32 (N, K, H, W). To bound the memory, logits
of an image come in *row chunks*, (first row, logits (K, rows, W)), from top to bottom.
"""

import io
import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from segkit.errors import ArgumentError, DataError, SegkitError
from segkit.files import atomic_file

Network = Callable[[np.ndarray], np.ndarray]
Intensity = Sequence[tuple[float, float]]  # of each channel: the numbers that become 0 and 65,535
RowChunks = Iterator[tuple[int, np.ndarray]]

# Okabe and Ito's colours (https://jfly.uni-koeln.de/color/), which people with any colour vision
# can tell apart. From id 8 on, the seven of the classes return, darker; 255, "ignore", is grey.
_BACKGROUND, *_CLASSES = ((40, 40, 48), (230, 159, 0), (86, 180, 233), (0, 158, 115),
                          (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167))  # fmt: skip
_SHADED = [np.multiply(_CLASSES[k % 7], 0.75 ** (k // 7)).round() for k in range(254)]
PALETTE = np.array([_BACKGROUND, *_SHADED, (190, 190, 190)], np.uint8)
IGNORE_COLOUR, FALSE_POSITIVE, FALSE_NEGATIVE = PALETTE[255], PALETTE[6], PALETTE[2]

GREY_MODES = ("1", "L", "LA")
ORIENTATION = 0x0112  # the EXIF tag that says how a viewer turns a picture; 1 is upright
REASONS = {  # code: what is wrong with a file, and what to do
    "unreadable": ("cannot be read",
        "if it is truncated, damaged or no picture, fetch it again, or remove it with its mask"),
    "too-large": ("has more pixels than Pillow opens",
        "cut it into parts; if you trust the file, raise PIL.Image.MAX_IMAGE_PIXELS"),
    "bit-depth": ("has more than 8 bits a channel, or more channels than three",
        "to train on such files, say what is black and white: intensity=percentile, dtype or "
        "(0, 4095); for a network trained on 8 bits, scale it to 0..255 as its images were"),
    "channels": ("has other channels than the rest, or than asked for",
        "give the number that all images have as channels, and leave out those that differ"),
    "array": ("is no array (H, W) or (H, W, channels) of finite numbers",
        "np.moveaxis(array, 0, -1) brings channels to the end; replace what is not finite"),
    "colour-space": ("its colours are neither RGB nor grey",
        'Image.open(path).convert("RGB"), look at the result, and save it as PNG'),
    "frames": ("holds several pictures", "save each as a file of its own"),
    "transparent": ("is transparent in places, and what shows there depends on the viewer",
        "lay it on a background first, e.g. with Image.alpha_composite, and save it as RGB"),
}  # fmt: skip


class ImageError(DataError):
    """An image file that cannot be used: `code` is a key of `REASONS`, `detail` what was found."""

    def __init__(self, path: str | Path, code: str, detail: str = "") -> None:
        super().__init__(path, code, detail)
        self.path, self.code, self.detail = path, code, detail

    def __str__(self) -> str:
        what, remedy = REASONS[self.code]
        return f"{self.path}: {what}{self.detail and f' ({self.detail})'}: {remedy}"


@contextmanager
def opened(path: str | Path, data: bytes | None = None) -> Iterator[Image.Image]:
    """Open the picture at `path`, or the one in `data`; what a decoder raises is an ImageError."""
    if Path(path).suffix.lower() == ".npy":
        raise ImageError(path, "bit-depth", "it is an array")
    try:
        with Image.open(path if data is None else io.BytesIO(data)) as picture:
            yield picture
    except SegkitError:
        raise
    except FileNotFoundError as error:
        raise ImageError(path, "unreadable", "there is no such file") from error
    except Exception as error:  # decoders raise far more than OSError on damaged files
        large = isinstance(error, (Image.DecompressionBombError, MemoryError))
        detail = str(error) or type(error).__name__
        raise ImageError(path, "too-large" if large else "unreadable", detail) from error


def allow_large() -> None:
    """Let Pillow open pictures of up to half a gigapixel; windows predict them part by part."""
    Image.MAX_IMAGE_PIXELS = 2**28  # it warns above, and refuses twice as many


def raw_mode(picture: Image.Image) -> str:
    """Return how a file stores a pixel, such as "RGB;16B"; known only before it is decoded."""
    args = picture.tile[0][3] if picture.tile else None
    raw = args[0] if isinstance(args, tuple) and args else args
    return raw if isinstance(raw, str) else picture.mode


def check_format(picture: Image.Image, path: str | Path) -> None:
    """Raise ImageError if decoding would drop a part of the picture without notice."""
    raw = raw_mode(picture)  # Pillow opens 16-bit RGB in mode "RGB" and drops the low bytes
    if picture.mode[0] in "IF" or any(depth in raw for depth in (";16B", ";16L", ";16N")):
        raise ImageError(path, "bit-depth", f"it is {raw}")
    if picture.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA"):
        raise ImageError(path, "colour-space", f"they are {picture.mode}")
    frames = getattr(picture, "n_frames", 1)
    if frames > 1 and picture.format != "MPO":  # a phone's JPEG with a preview behind it
        raise ImageError(path, "frames", f"{frames} pictures")


def without_alpha(picture: Image.Image, path: str | Path) -> Image.Image:
    """Return a picture without its alpha channel; raise ImageError if it is not opaque."""
    if "A" not in picture.mode and "transparency" not in picture.info:
        return picture
    rgba = picture.convert("RGBA")
    if rgba.getextrema()[3][0] < 255:
        raise ImageError(path, "transparent")
    return rgba.convert("L" if picture.mode in GREY_MODES else "RGB")


def exif_orientation(picture: Image.Image) -> int:
    """Return how a viewer turns a picture, by its EXIF: 1 is upright, or unknown."""
    return picture.getexif().get(ORIENTATION, 1) or 1  # cameras that do not know it write 0


def read_image(
    path: str | Path,
    channels: int | None = None,
    data: bytes | None = None,
    intensity: Intensity | None = None,
) -> tuple[np.ndarray, int]:
    """Return an upright image, and the EXIF orientation of its file, 1 if it has none.

    Args:
        path: the file, or only its name if there is `data`.
        channels: 3 repeats a grey image, 1 turns colour into luminance (0.299 R + 0.587 G +
            0.114 B, exact where the channels are equal), None keeps what the file has.
        intensity: reads any numbers in any channels as uint16, see `rescale`; None reads grey and
            colour of 8 bits as uint8.

    Raises:
        ImageError: the file is unreadable, transparent anywhere, CMYK, has other channels than
            asked for, or, without `intensity`, 16 bits, floats or more than three channels.
    """
    if intensity is not None:
        stored, orientation = read_array(path, data)
        return rescale(with_channels(stored, channels, path), intensity, path), orientation
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # large is fine
        with opened(path, data) as picture:
            check_format(picture, path)
            grey = channels == 1 or (channels is None and picture.mode in GREY_MODES)
            orientation = exif_orientation(picture)
            upright = ImageOps.exif_transpose(picture) if orientation != 1 else picture
            return _pixels(without_alpha(upright, path), "L" if grey else "RGB"), orientation


def _pixels(picture: Image.Image, mode: str) -> np.ndarray:
    """Return a picture as an array, some rows at a time: a large one has no second copy."""
    width, height = picture.size
    pixels = np.empty((height, width, 3) if mode == "RGB" else (height, width), np.uint8)
    for top in range(0, height, 128):
        rows = picture.crop((0, top, width, min(height, top + 128)))
        pixels[top : top + 128] = rows.convert(mode)
    return pixels


def read_array(path: str | Path, data: bytes | None = None) -> tuple[np.ndarray, int]:
    """Return the numbers stored in a picture, a TIFF or a `.npy` file, (H, W, C), and orientation.

    The pages of a TIFF are channels. Raises ImageError for what is none of these.
    """
    suffix, orientation = Path(path).suffix.lower(), 1
    try:
        if suffix == ".npy":
            stored = np.load(path if data is None else io.BytesIO(data), allow_pickle=False)
            axes = "YXC"[: stored.ndim]
        elif suffix in (".tif", ".tiff"):
            import tifffile

            with tifffile.TiffFile(path if data is None else io.BytesIO(data)) as file:
                stored, axes = file.series[0].asarray(), file.series[0].axes
                if len(file.series) > 1:
                    raise ImageError(path, "frames", f"{len(file.series)}, of different shapes")
        else:
            with opened(path, data) as picture:
                deep = any(depth in raw_mode(picture) for depth in (";16B", ";16L", ";16N"))
                if deep and picture.mode != "I;16":  # Pillow would drop the low bytes
                    stored = _decode_deep(path, data)
                elif picture.mode[0] in "IF":
                    stored = np.array(picture)
                else:
                    stored, orientation = read_image(path, None, data)
            axes = "YXC"[: stored.ndim]
    except SegkitError:
        raise
    except Exception as error:  # as in `opened`
        raise ImageError(path, "unreadable", str(error) or type(error).__name__) from error
    return _channels_last(stored, axes, path), orientation


def _decode_deep(path: str | Path, data: bytes | None) -> np.ndarray:
    """Return a 16-bit colour PNG, which OpenCV has as blue, green, red."""
    import cv2

    content = np.frombuffer(Path(path).read_bytes() if data is None else data, np.uint8)
    return cv2.cvtColor(cv2.imdecode(content, cv2.IMREAD_UNCHANGED), cv2.COLOR_BGR2RGB)


def _channels_last(stored: np.ndarray, axes: str, path: str | Path) -> np.ndarray:
    """Return an array with named axes as (H, W, C); raise ImageError if it has others."""
    others = [k for k, axis in enumerate(axes) if axis not in "YX"]
    long = [k for k in others if stored.shape[k] > 1] or others[:1]
    if not {"Y", "X"} <= set(axes) or len(axes) != stored.ndim or len(long) > 1:
        raise ImageError(path, "array", f"its shape is {stored.shape}")
    order = [axes.index("Y"), axes.index("X"), *long]
    shape = [stored.shape[k] for k in order] + [1] * (not long)
    rest = [k for k in range(stored.ndim) if k not in order]
    stored = stored.transpose(*order, *rest).reshape(shape)
    if stored.dtype.kind not in "uif" or stored.size == 0 or stored.shape[2] > 256:
        raise ImageError(path, "array", f"it is {stored.dtype}, {stored.shape}")
    return stored


def with_channels(image: np.ndarray, channels: int | None, path: str | Path) -> np.ndarray:
    """Return an image (H, W, C) with as many channels as asked for: grey and colour change."""
    found = image.shape[2]
    if channels in (None, found):
        return image
    if (found, channels) == (1, 3):
        return np.repeat(image, 3, axis=2)
    if (found, channels) == (3, 1):
        return image @ np.array([[0.299], [0.587], [0.114]])
    raise ImageError(path, "channels", f"{found}, not {channels}")


def rescale(image: np.ndarray, intensity: Intensity, path: str | Path = "the image") -> np.ndarray:
    """Return an image (H, W[, C]) of any numbers as uint16: `low` becomes 0, `high` 65,535.

    What lies outside is cut off. intensity: one pair (low, high) for all channels, or one each.

    Raises:
        ImageError: the image has other channels, or numbers that are not finite.
    """
    low, high = np.array(intensity, np.float64).reshape(-1, 2).T
    pixels = image[..., None] if image.ndim == 2 else image
    if len(low) not in (1, pixels.shape[2]):
        raise ImageError(path, "channels", f"{pixels.shape[2]}, not {len(low)}")
    scaled = np.empty(pixels.shape, np.uint16)
    for top in range(0, len(pixels), 256):  # a few rows at a time: floats take up to 8 bytes
        rows = (pixels[top : top + 256] - low) * (65535 / (high - low))
        if not np.isfinite(rows).all():
            raise ImageError(path, "array")
        scaled[top : top + 256] = np.clip(rows, 0, 65535).round()
    return scaled[..., 0] if scaled.shape[2] == 1 else scaled


def as_pairs(pairs: Sequence) -> Intensity:
    """Return (low, high), or such a pair for each channel, as a tuple of pairs of floats."""
    try:
        made = tuple((float(low), float(high)) for low, high in np.reshape(pairs, (-1, 2)))
    except (TypeError, ValueError):
        made = ()
    if not made or not all(np.isfinite(pair).all() and pair[0] < pair[1] for pair in made):
        what = "give (low, high) with low below high, or one pair for each channel"
        raise ArgumentError(f"intensity={pairs!r}: {what}")
    return made


def check_pixels(image: np.ndarray, intensity: Intensity | None = None) -> None:
    """Raise ArgumentError for an image that is not uint8, or uint16 if there is `intensity`."""
    if image.dtype == (np.uint8 if intensity is None else np.uint16):
        return
    found = f"{image.dtype}, from {np.nanmin(image):g} to {np.nanmax(image):g}"
    if intensity is None:
        raise ArgumentError(
            f"an image holds 0 to 255 as uint8, this one {found}: scale it by what its numbers "
            "mean, as (image * 255).round().astype(np.uint8) for floats from 0 to 1"
        )
    raise ArgumentError(
        f"an image for this network is uint16, made by image_ops.rescale(image, {intensity}); "
        f"this one is {found}"
    )


def normalise(images: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """Turn images (N, H, W[, C]) into float32 (N, C, H, W): (pixel / top - mean) / std.

    `top` is 255 for uint8, and 65,535 for uint16.
    """
    if images.dtype != np.uint16:
        check_pixels(images)
    top = np.iinfo(images.dtype).max
    pixels = images[..., None] if images.ndim == 3 else images
    if (found := pixels.shape[3]) != len(mean):
        raise ArgumentError(f"the network takes {len(mean)} channels, the image has {found}")
    planes = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
    scaled = np.subtract(planes, np.array(mean, np.float32)[:, None, None] * top, dtype=np.float32)
    scaled /= np.array(std, np.float32)[:, None, None] * top
    return scaled


def resize(image: np.ndarray, size: tuple[int, int], box: tuple | None = None) -> np.ndarray:
    """Resize an image, or one plane of logits, to `size` (H, W), bilinearly with antialiasing.

    box: the part to take, (left, top, right, bottom) in pixels of `image`; None takes all.
    """
    if (image.dtype == np.uint8 and image.shape[2:] in ((), (3,))) or image.dtype == np.float32:
        picture = Image.fromarray(image)
        return np.array(picture.resize(size[::-1], Image.Resampling.BILINEAR, box))
    planes = image.reshape(*image.shape[:2], -1).astype(np.float32)
    resized = np.dstack([resize(plane, size, box) for plane in np.moveaxis(planes, 2, 0)])
    return resized.round().astype(image.dtype).reshape(*size, *image.shape[2:])


def predict_resized(network: Network, image: np.ndarray, size: tuple[int, int]) -> RowChunks:
    """Predict the whole image at `size` (H, W); yield row chunks at the image's own size."""
    height, width = image.shape[:2]
    planes = network_logits(network, resize(image, size)[None])[0]
    for top in range(0, height, 512):
        bottom = min(top + 512, height)
        box = (0, top * size[0] / height, size[1], bottom * size[0] / height)
        yield top, np.stack([resize(plane, (bottom - top, width), box) for plane in planes])


def sliding_window(
    network: Network, image: np.ndarray, window: int, overlap: float = 0.25, batch_size: int = 4
) -> RowChunks:
    """Predict an image of any size through a sliding window; yield row chunks.

    Where windows overlap, logits are averaged with Gaussian weights, sigma an eighth of the
    window: a prediction is least reliable at the edge of its input (Isensee et al., nnU-Net,
    2021). Sums are float64, so windows that agree come back to the last bit of float32. Memory:
    one row of windows.

    Args:
        window: side of the window in pixels; less where the image is smaller.
        overlap: share of a window that its neighbour covers too, 0 to below 1.
        batch_size: windows at a time.
    """
    height, width = image.shape[:2]
    tall, wide = min(window, height), min(window, width)
    tops, lefts = tile_starts(height, tall, overlap), tile_starts(width, wide, overlap)
    weight = _gaussian_window(tall)[:, None] * _gaussian_window(wide)
    sums, weights = np.zeros((1, tall, width)), np.zeros((tall, width))
    for top, following in zip(tops, [*tops[1:], height], strict=True):
        for first in range(0, len(lefts), batch_size):
            batch = lefts[first : first + batch_size]
            tiles = np.stack([image[top : top + tall, left : left + wide] for left in batch])
            logits = network_logits(network, tiles)
            if len(sums) < logits.shape[1]:  # only now are the channels known
                sums = np.zeros((logits.shape[1], tall, width))
            for left, values in zip(batch, logits, strict=True):
                sums[:, :, left : left + wide] += weight * values
                weights[:, left : left + wide] += weight
        done = following - top
        yield top, (sums[:, :done] / weights[:done]).astype(np.float32)
        for array in (sums, weights):  # the rows that the next windows cover too move up
            array[..., : tall - done, :] = array[..., done:, :]
            array[..., tall - done :, :] = 0


def tile_starts(length: int, window: int, overlap: float) -> list[int]:
    """Return where windows begin along a side of `length` pixels; the last one ends with it."""
    if not (window >= 1 and 0 <= overlap < 1):
        raise ArgumentError(f"window={window} must be at least 1, overlap={overlap} 0 to below 1")
    step = max(1, round(window * (1 - overlap)))
    return [*range(0, length - window, step), length - window]


def _gaussian_window(length: int) -> np.ndarray:
    """Return Gaussian weights along one side of a window, 1 at its middle, sigma `length` / 8."""
    distance = np.arange(length) - (length - 1) / 2
    return np.exp(-0.5 * (distance / (length / 8)) ** 2)


def network_logits(network: Network, images: np.ndarray) -> np.ndarray:
    """Return the network's logits; raise ArgumentError for another size, or values not finite."""
    logits, size = network(images), images.shape[1:3]
    if logits.shape[2:] != size:
        found = f"{logits.shape[2:]} for an image of {size}"
        raise ArgumentError(
            f"the network returns {found}: only one that keeps the size can be used"
        )
    if not np.isfinite(logits).all():
        raise ArgumentError("the network returns values that are not finite: check its weights")
    return logits


def logits_to_mask(logits: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    """Return class ids, uint8 ([N, ]H, W): the class with the largest of logits ([N, ]K, H, W).

    threshold: where there is one channel, the probability above which a pixel is foreground.
    """
    if not 0 < threshold < 1:
        raise ArgumentError(f"threshold {threshold} is not between 0 and 1")
    if (classes := logits.shape[-3]) > 255:
        raise ArgumentError(f"{classes} classes: an 8-bit mask holds at most 255, ids 0 to 254")
    if classes > 1:
        return logits.argmax(axis=-3).astype(np.uint8)
    cut = np.float32(math.log(threshold / (1 - threshold)))
    return (logits[..., 0, :, :] > cut).astype(np.uint8)


def stitch(chunks: RowChunks, threshold: float = 0.5) -> np.ndarray:
    """Return the mask, uint8 (H, W), that row chunks of logits add up to."""
    return np.concatenate([logits_to_mask(logits, threshold) for _, logits in chunks])


def colours(mask: np.ndarray) -> np.ndarray:
    """Return a mask of class ids `(H, W)` in colours, uint8 `(H, W, 3)`; "ignore" is grey."""
    return PALETTE[np.asarray(mask).astype(np.uint8)]


def rgb(image: np.ndarray) -> np.ndarray:
    """Return an image as uint8 `(H, W, 3)`: grey is repeated, of more channels three are shown."""
    image = (image >> 8).astype(np.uint8) if image.dtype == np.uint16 else image
    if image.ndim == 2:
        return np.repeat(image[..., None], 3, axis=2)
    missing = max(0, 3 - image.shape[2])
    return np.pad(image[..., :3], ((0, 0), (0, 0), (0, missing)))


def overlay(image: np.ndarray, mask: np.ndarray, alpha: float = 0.55) -> np.ndarray:
    """Lay the classes of `mask` over the image, uint8 `(H, W, 3)`; the background stays clear."""
    picture = rgb(image).astype(np.float32)
    marked = np.asarray(mask) != 0
    picture[marked] = (1 - alpha) * picture[marked] + alpha * colours(mask)[marked]
    return picture.round().astype(np.uint8)


def mask_files(images: Sequence[Path], out: str | Path) -> list[Path]:
    """Return the file for the mask of each image: its name in the folder `out`, as PNG.

    Images whose names differ in the suffix alone keep it: a.jpg.png, a.png.png. Raises
    ArgumentError if masks would be written among the images, or two would have one name.
    """
    folders = {folder for f in images for folder in (f.parent.resolve(), f.resolve().parent)}
    if Path(out).resolve() in folders:
        raise ArgumentError(f"{out} holds the pictures themselves: give another folder for masks")
    stems, names = Counter(file.stem for file in images), {}
    for file in images:
        name = file.stem if stems[file.stem] == 1 else file.name
        if (other := names.setdefault(name, file)) is not file:
            raise ArgumentError(
                f"{other} and {file} have one name: predict their folders separately"
            )
    return [Path(out) / f"{name}.png" for name in names]


def write_mask(
    path: str | Path, mask: np.ndarray, orientation: int = 1, form: str = "palette"
) -> None:
    """Write class ids, uint8 (H, W), as a PNG.

    Args:
        orientation: of the image's file. The mask is stored in the same EXIF orientation, so it
            lies on the stored image pixel by pixel, and viewers turn both alike.
        form: "palette" shows each id in its colour; "ids" is grey, and looks black.
    """
    if form not in ("palette", "ids"):
        raise ArgumentError(f'form={form!r}: choose "palette" or "ids"')
    picture, exif = Image.fromarray(mask), Image.Exif()
    if form == "palette":
        picture.putpalette(PALETTE.tobytes())
    if orientation in range(2, 9):
        exif[ORIENTATION] = orientation
        picture.getexif()[ORIENTATION] = {6: 8, 8: 6}.get(orientation, orientation)  # undoes it
        picture = ImageOps.exif_transpose(picture)
    with atomic_file(path) as part:
        picture.save(part, "PNG", exif=exif)
