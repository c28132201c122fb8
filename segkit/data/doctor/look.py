"""A close look at one example: how its files are stored, its mask's values, its image's hash."""

import hashlib
from pathlib import Path

import cv2
import imagehash
import numpy as np
from PIL import Image

from segkit.data import read
from segkit.data.dataset import IGNORE
from segkit.data.doctor.report import Example
from segkit.data.doctor.sources import Fault, Folder

EDGE = 7  # pixels across which interpolation may have smeared an edge
FRINGE = 5  # the same, where the values themselves are nothing special
THIN = 0.8  # share of pixels between neighbours, from which on a value is an edge's
LOSSY = ("JPEG", "MPO")
HASH, LOOK = 16, 32  # bits and pixels a side


def examine(source: Folder, example: Example) -> None:
    """Read an example and fill in what is found; what is wrong goes to the faults of `source`."""
    image, mask = source.read(example)
    if image is not None:
        example.size = image.shape[:2]
        example.digest = hashlib.blake2b(repr(image.shape).encode() + image.tobytes()).digest()
        example.hash, example.look = fingerprint(image)
        example.modes = (stored(example.image, source).mode,)
    if mask is not None:
        example.counts = np.bincount(mask.ravel(), minlength=256)
        example.thin = between(mask)
        example.jumps, example.strips = jumps(mask)
        form = stored(example.mask, source)
        example.lossy = form.format in LOSSY
        example.colours = {v: form.palette[v] for v in example.values if v in form.palette}


class Stored:
    """How a picture file is stored: Pillow's mode and format, and its palette by index."""

    def __init__(self, picture: Image.Image | None = None) -> None:
        self.mode = picture.mode if picture else "in JSON"
        self.format = picture.format if picture else None
        colours = (picture and picture.mode == "P" and picture.getpalette()) or []
        triples = zip(*[iter(colours)] * 3, strict=False)
        self.palette = dict(enumerate(triples))


def stored(file: Path, source: Folder) -> Stored:
    """Return how a file is stored; a name that says something else is a fault."""
    if file.suffix == ".json":
        return Stored()
    with read.opened(file) as picture:
        named = Image.registered_extensions().get(file.suffix.lower())
        if picture.format != named and not {picture.format, named} <= set(LOSSY):
            told = f"is {picture.format}, {picture.mode}"
            source.faults.append(Fault("wrong-suffix", file, told))
        return Stored(picture)


def fingerprint(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a perceptual hash, bool (256,), and the image in small, normalised, float (1024,)."""
    picture = Image.fromarray(image).convert("L")
    small = np.asarray(picture.resize((LOOK, LOOK), Image.Resampling.BOX), dtype=np.float32).ravel()
    small = small - small.mean()
    norm = np.linalg.norm(small)
    return imagehash.phash(picture, HASH).hash.ravel(), small / norm if norm > 1 else small * 0


def between(mask: np.ndarray) -> np.ndarray:
    """Count the pixels of each value that have a lower and a higher one nearby, int (256,)."""
    return np.bincount(mask[_between(mask, mask, EDGE)], minlength=256)


def jumps(mask: np.ndarray) -> tuple[float, int]:
    """Return which share of the steps from id to id leaves out one in between, and the strips.

    Those are the pixels close to both a lower and a higher id. The share is NaN where no id is
    larger than 1.
    """
    ids = np.where(mask == IGNORE, 0, mask)
    if ids.max() < 2:
        return np.nan, 0
    steps = []
    for one, next_one in ((mask[1:], mask[:-1]), (mask[:, 1:], mask[:, :-1])):
        judged = (one != IGNORE) & (next_one != IGNORE) & (one != next_one)
        steps.append(np.abs(one[judged].astype(int) - next_one[judged]))
    strips = _between(mask, ids, FRINGE).sum()
    return float((np.concatenate(steps or [[0]]) > 1).mean()), int(strips)


def _between(low_from: np.ndarray, high_from: np.ndarray, width: int) -> np.ndarray:
    window = np.ones((width, width), np.uint8)
    low, high = cv2.erode(low_from, window), cv2.dilate(high_from, window)
    return (low < low_from) & (low_from < high)
