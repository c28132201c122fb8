"""Decode once: images and masks of one size, kept by joblib.Memory in `data_dir()/cache`.

An entry is named by the content of its files and everything that shaped it, so a changed file or
option leads to another entry, never to a stale one. The folder may be deleted at any time.
"""

import errno
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from joblib import Memory
from tqdm import tqdm

from segkit.data.dataset import DataError, Pair
from segkit.data.issues import refuse
from segkit.files import FileError
from segkit.paths import data_dir

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)
VERSION = 2  # raise it whenever the same files and options shall give other arrays


def key(contents: Iterable[str], **options: object) -> str:
    """Return the name of an entry: a hash over file contents, in order, and JSON-able options."""
    facts = [VERSION, PIL.__version__, list(contents), options]
    return hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=16).hexdigest()


def digests(files: Iterable[Path]) -> dict[Path, str]:
    """Return a hash of the content of each file; several are read at a time."""
    files = list(dict.fromkeys(files))
    return dict(zip(files, in_threads(_digest, files), strict=True))


def _digest(file: Path) -> str:
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "blake2b").hexdigest()


def in_threads(work: Callable, items: Iterable) -> Iterator:
    """Yield `work(item)` in order, computed in one thread per core (decoders leave the GIL)."""
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        yield from pool.map(work, items)  # left early, it cancels what has not begun


def arrays(
    name: str,
    read_pair: Callable[[int], Pair],
    n: int,
    image_shape: tuple[int, ...],
    keep: bool = True,
) -> Pair:
    """Return images `(n, *image_shape)` and masks `(n, H, W)`, uint8, decoded once.

    Args:
        name: from `key`.
        read_pair: returns item i as image and mask; called from several threads. What it refuses
            with a DataError is gathered and reported together.
        n: how many items.
        image_shape: `(H, W)` or `(H, W, 3)`.
        keep: whether to keep the arrays on disk, memory-mapped and copied on writing.
    """
    if not keep:
        return _decode(name, read_pair, n, image_shape)
    need = n * (math.prod(image_shape) + math.prod(image_shape[:2]))
    return _kept(_decode, need, name, read_pair, n, image_shape)


def remember(name: str, find: Callable[[], dict]) -> dict:
    """Return what `find()` once returned under this name."""
    return _kept(_call, 0, name, find)


def _call(name: str, function: Callable[[], dict]) -> dict:
    return function()


def _decode(name: str, function: Callable[[int], Pair], n: int, image_shape: tuple) -> Pair:
    def attempt(i: int) -> Pair | str:
        try:
            return function(i)
        except DataError as error:
            return str(error)

    images = np.empty((n, *image_shape), np.uint8)
    masks = np.empty((n, *image_shape[:2]), np.uint8)
    faults = []
    pairs = tqdm(in_threads(attempt, range(n)), "decoding", n, leave=False, disable=None, delay=2)
    for i, pair in enumerate(pairs):
        if isinstance(pair, str):
            faults.append(pair)
        else:
            images[i], masks[i] = pair
    refuse(faults, "these images and masks")
    return images, masks


def _kept(compute: Callable, need: int, *args) -> Any:
    """Return `compute(*args)` from joblib's cache, where it is written if it is new."""
    folder = data_dir() / "cache"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(folder).free < need:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        memory = Memory(folder, mmap_mode="c", verbose=0)
        return memory.cache(compute, ignore=["function"])(*args)
    except (OSError, KeyError) as error:
        # Where joblib cannot write an entry it warns, and then does not find it: a KeyError.
        unwritten = isinstance(error, KeyError) and "Non-existing item" in str(error)
        if not unwritten and getattr(error, "errno", None) not in FULL:
            raise
        reason = "it cannot be written" if unwritten else error.strerror
        raise FileError(
            f"the cache needs {need / 2**20:,.0f} MiB in {folder} ({reason}): make room or delete "
            "old entries there, set the environment variable SEGKIT_DATA to a folder elsewhere, "
            "or pass cache=False to keep the images in memory"
        ) from error
