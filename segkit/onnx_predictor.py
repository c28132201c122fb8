"""Predict with an exported network: numpy, pillow and onnxruntime, and nothing else of segkit.

    python onnx_predictor.py model.onnx photo.jpg scan.png --out masks

A copy of this file lies beside every exported network, to be taken along. segkit itself predicts
with the functions below too, so that a mask does not depend on what runs the network.

An image is uint8 (H, W, 3) or, grey, (H, W). A *network* is any function from a batch of images
of one size, uint8 (N, H, W[, 3]), to logits, float32 (N, K, H, W).
"""

import argparse
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

Network = Callable[[np.ndarray], np.ndarray]
Bands = Iterator[tuple[int, np.ndarray]]

# Okabe and Ito's colours (https://jfly.uni-koeln.de/color/), and grey for 255, "ignore".
COLOURS = [
    (40, 40, 48), (230, 159, 0), (86, 180, 233), (0, 158, 115),
    (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167),
]  # fmt: skip
IGNORE_COLOUR = (190, 190, 190)
ORIENTATION = 0x0112  # the EXIF tag that says how a picture is to be turned for looking at it
OPPOSITE = {6: 8, 8: 6}  # quarter turns; every other orientation undoes itself
ROWS = 512  # of a resized mask made at a time


class OnnxNetwork:
    """An exported network with what it needs to be used: `metadata`, stored in the same file.

    Calling it normalises a batch of images and returns logits. Raises ValueError for a file that
    is damaged or that segkit did not export.
    """

    def __init__(self, path: str | Path, threads: int = 0) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads  # 0: as many as there are cores
        if not Path(path).is_file():
            raise ValueError(f"{path}: there is no such file")
        try:
            self.session = onnxruntime.InferenceSession(
                str(path), options, providers=onnxruntime.get_available_providers()
            )
            stored = self.session.get_modelmeta().custom_metadata_map["segkit"]
        except KeyError:
            raise ValueError(f"{path}: segkit did not export it; it lacks class names") from None
        except Exception as error:  # onnxruntime's errors have no common base
            raise ValueError(f"{path}: no ONNX file, or a damaged one ({error})") from error
        self.metadata = json.loads(stored)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return logits (N, K, H, W) for uint8 images (N, H, W[, 3])."""
        name = self.session.get_inputs()[0].name
        batch = normalise(images, self.metadata["mean"], self.metadata["std"])
        return self.session.run(None, {name: batch})[0]


def normalise(images: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """Turn uint8 (N, H, W[, C]) into float32 (N, C, H, W): (pixel / 255 - mean) / std."""
    pixels = images[..., None] if images.ndim == 3 else images
    if pixels.shape[3] != len(mean):
        raise ValueError(f"the network takes {len(mean)} channels, the image has {pixels.shape[3]}")
    scaled = (pixels - np.array(mean, np.float32) * 255) / (np.array(std, np.float32) * 255)
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


def whole_image(network: Network, image: np.ndarray, size: tuple[int, int]) -> Bands:
    """Look at the image once, resized to `size` (H, W); yield logits as `sliding_window` does.

    They are brought back to the size of the image, bilinearly, a band of rows at a time.
    """
    height, width = image.shape[:2]
    planes = [Image.fromarray(plane) for plane in checked(network, resize(image, size)[None])[0]]
    for top in range(0, height, ROWS):
        bottom = min(top + ROWS, height)
        box = (0, top * size[0] / height, size[1], bottom * size[0] / height)
        yield top, np.stack([_bilinear(plane, (bottom - top, width), box) for plane in planes])


def sliding_window(
    network: Network, image: np.ndarray, window: int, overlap: float = 0.25, batch_size: int = 4
) -> Bands:
    """Look at the image through a window; yield (first row, logits (K, rows, W)), top to bottom.

    window: its side in pixels, or less where the image is smaller. overlap: the share of a
    window that its neighbour sees too, 0 to below 1. batch_size: windows at a time.
    Where windows overlap, logits are averaged with Gaussian weights, sigma an eighth of the
    window: a network knows least at the edge of what it sees (Isensee et al., nnU-Net, 2021).
    Sums are float64, so windows that agree come back to the last bit of float32. Memory: one
    row of windows, however tall the image is.
    """
    height, width = image.shape[:2]
    tall, wide = min(window, height), min(window, width)
    tops, lefts = starts(height, tall, overlap), starts(width, wide, overlap)
    weight = gaussian(tall)[:, None] * gaussian(wide)
    weights = np.zeros((tall, width))
    sums: np.ndarray | None = None
    for top, following in zip(tops, [*tops[1:], height], strict=True):
        for first in range(0, len(lefts), batch_size):
            some = lefts[first : first + batch_size]
            seen = np.stack([image[top : top + tall, left : left + wide] for left in some])
            logits = checked(network, seen)
            if sums is None:
                sums = np.zeros((logits.shape[1], tall, width))
            for left, values in zip(some, logits, strict=True):
                sums[:, :, left : left + wide] += weight * values
                weights[:, left : left + wide] += weight
        done = following - top
        yield top, (sums[:, :done] / weights[:done]).astype(np.float32)
        for array in (sums, weights):  # what is left of this row of windows moves up
            array[..., : tall - done, :] = array[..., done:, :].copy()
            array[..., tall - done :, :] = 0


def starts(length: int, window: int, overlap: float) -> list[int]:
    """Return where windows begin along one side; the last one ends where the side does."""
    if not (window >= 1 and 0 <= overlap < 1):
        raise ValueError(f"window={window} must be at least 1, overlap={overlap} 0 to below 1")
    step = max(1, round(window * (1 - overlap)))
    return [*range(0, length - window, step), length - window]


def gaussian(window: int) -> np.ndarray:
    """Return the weights along one side of a window, 1 at its middle."""
    distance = np.arange(window) - (window - 1) / 2
    return np.exp(-0.5 * (distance / (window / 8)) ** 2)


def checked(network: Network, images: np.ndarray) -> np.ndarray:
    """Return the logits of `images`; refuse ones of another size, or that are no numbers."""
    logits = network(images)
    if logits.shape[2:] != images.shape[1:3]:
        raise ValueError(
            f"the network returns {logits.shape[2]}×{logits.shape[3]} for an image of "
            f"{images.shape[1]}×{images.shape[2]}: only one that keeps the size can be used"
        )
    if not np.isfinite(logits).all():
        raise ValueError("the network returns values that are not finite: its weights are broken")
    return logits


def assemble(bands: Bands, shape: tuple[int, int], threshold: float = 0.5) -> np.ndarray:
    """Return the class ids, uint8 `shape`, that bands of logits decide for."""
    mask = np.empty(shape, np.uint8)
    for top, logits in bands:
        mask[top : top + logits.shape[1]] = decide(logits, threshold)
    return mask


def decide(logits: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    """Return class ids, uint8 (H, W), for logits (K, H, W).

    One channel: 1 where sigmoid(logit) > threshold. More: the class with the largest logit.
    """
    if len(logits) > 1:
        return logits.argmax(axis=0).astype(np.uint8)
    return (logits[0] > np.float32(math.log(threshold / (1 - threshold)))).astype(np.uint8)


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return a uint8 image at `size` (H, W), as segkit resizes what it trains on."""
    return _bilinear(Image.fromarray(image), size, None)


def resize_logits(logits: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return logits (N, K, h, w) at `size`: (N, K, H, W)."""
    planes = [_bilinear(Image.fromarray(p), size, None) for image in logits for p in image]
    return np.stack(planes).reshape(*logits.shape[:2], *size)


def _bilinear(picture: Image.Image, size: tuple[int, int], box: tuple | None) -> np.ndarray:
    return np.array(picture.resize(size[::-1], Image.Resampling.BILINEAR, box))


def read_image(path: str | Path, channels: int) -> tuple[np.ndarray, int]:
    """Return an upright image, and the EXIF orientation in which the file holds it (1: upright)."""
    with Image.open(path) as picture:
        if picture.mode[0] in "IF":
            raise ValueError(f"{path}: more than 8 bits a channel; scale it to 0..255 first")
        orientation = picture.getexif().get(ORIENTATION, 1)
        upright = ImageOps.exif_transpose(picture).convert("L" if channels == 1 else "RGB")
    return np.array(upright), orientation


def write_mask(
    path: str | Path, mask: np.ndarray, orientation: int = 1, form: str = "palette"
) -> None:
    """Write class ids, uint8 (H, W), as a PNG whose pixels are the ids.

    form: "palette" shows each id in a colour of its own; "ids" is grey, and looks black.
    orientation: of the image's file. The mask is turned as that is, and says so in its EXIF, so
    it lies on the stored image pixel by pixel, and viewers turn both alike.
    """
    if form not in ("palette", "ids"):
        raise ValueError(f'form={form!r}: choose "palette" or "ids"')
    picture = Image.fromarray(mask)
    if form == "palette":
        picture.putpalette(palette())
    exif = Image.Exif()
    if orientation in range(2, 9):
        exif[ORIENTATION] = OPPOSITE.get(orientation, orientation)
        picture.getexif()[ORIENTATION] = exif[ORIENTATION]
        picture = ImageOps.exif_transpose(picture)
        exif[ORIENTATION] = orientation
    with whole_file(path) as part:
        picture.save(part, "PNG", exif=exif.tobytes() if len(exif) else None)


def palette() -> list[int]:
    """Return 256 colours as PNG wants them; beyond eight classes the seven return, darker."""
    colours = [COLOURS[0]]
    for k in range(255):
        shade = 0.75 ** (k // 7)
        colours.append(tuple(round(value * shade) for value in COLOURS[1 + k % 7]))
    colours[255] = IGNORE_COLOUR
    return [value for colour in colours for value in colour]


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Give a name to write to, and move it to `path` when all is written: whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        with open(part, "rb+") as written:
            os.fsync(written.fileno())  # else a power cut may leave the name without its content
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def main() -> int:
    """Predict the masks of the files on the command line; 1 if one could not be used."""
    parser = argparse.ArgumentParser(description="Segment images with an exported network.")
    parser.add_argument("model", help="the .onnx file")
    parser.add_argument("images", nargs="+", help="image files")
    parser.add_argument("--out", default="masks", help="folder for the masks")
    parser.add_argument("--window", type=int, help="slide a window of this side; else resize")
    parser.add_argument("--threshold", type=float, help="instead of the one in the model")
    chosen = parser.parse_args()
    network = OnnxNetwork(chosen.model)
    metadata, failed = network.metadata, 0
    for file in chosen.images:
        try:
            image, orientation = read_image(file, metadata["in_channels"])
        except Exception as error:  # decoders raise far more than OSError on damaged files
            print(f"{file}: {error}", file=sys.stderr)
            failed = 1
            continue
        if chosen.window:
            bands = sliding_window(network, image, chosen.window)
        else:
            bands = whole_image(network, image, tuple(metadata["size"]))
        mask = assemble(bands, image.shape[:2], chosen.threshold or metadata["threshold"])
        out = Path(chosen.out, f"{Path(file).stem}.png")
        write_mask(out, mask, orientation)
        print(out)
    return failed


if __name__ == "__main__":
    sys.exit(main())
