"""Decode once: images and masks of one size, kept by joblib.Memory in `data_dir()/cache`."""

import errno
import hashlib
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from joblib import Memory
from tqdm import tqdm

from segkit.data.dataset import Pair
from segkit.errors import DataError
from segkit.files import FileError
from segkit.issues import joined
from segkit.paths import data_dir

_VERSION = 4  # raise it whenever the same files and options shall give other arrays


def digests(files: Iterable[Path]) -> dict[Path, str]:
    """Return a hash of the content of each file; several are read at a time."""

    def digest(file: Path) -> str:
        try:
            return hashlib.blake2b(file.read_bytes()).hexdigest()
        except OSError as error:
            raise DataError(f"{file}: cannot be read ({error.strerror})") from error

    files = list(dict.fromkeys(files))
    return dict(zip(files, in_threads(digest, files), strict=True))


def in_threads(work: Callable, items: Iterable) -> Iterator:
    """Yield `work(item)` in order, computed in one thread per core (decoders leave the GIL)."""
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        yield from pool.map(work, items)  # left early, it cancels what has not begun


def arrays(
    name: object,
    read_pair: Callable[[int], Pair],
    n: int,
    image_shape: tuple,
    keep: bool = True,
    dtype: type = np.uint8,
) -> Pair:
    """Return images `(n, *image_shape)` of `dtype`, and masks `(n, H, W)`, uint8, decoded once.

    Args:
        name: digests of the files, in order, and all options that shape the arrays.
        read_pair: returns item i; called from several threads. Its DataErrors are gathered.
        keep: whether to keep the arrays on disk, memory-mapped and copied on writing.
    """
    decode = partial(_decode, read_pair, n, image_shape, dtype)
    depth = np.dtype(dtype).itemsize
    size = n * (math.prod(image_shape) * depth + math.prod(image_shape[:2]))
    return once(name, decode, size) if keep else decode()


def once(name: object, find: Callable[[], Any], size: int = 0) -> Any:
    """Return `find()`, or what it returned when it was first called under this name.

    Args:
        name: all that the result depends on.
        size: of the result on disk, in bytes, if it is large. No room for it is a FileError.
    """
    entry = hashlib.blake2b(repr((_VERSION, PIL.__version__, name)).encode()).hexdigest()
    folder = data_dir() / "cache"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(folder).free < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return Memory(folder, mmap_mode="c", verbose=0).cache(_call, ignore=["find"])(entry, find)
    except (OSError, KeyError) as error:
        # Where joblib cannot write an entry it warns, and then does not find it: a KeyError.
        full = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)
        if getattr(error, "errno", None) not in full and "Non-existing item" not in str(error):
            raise
        reason = getattr(error, "strerror", "it cannot be written")
        raise FileError(
            f"the cache needs {size / 2**20:,.0f} MiB in {folder} ({reason}): make room there, set "
            "SEGKIT_DATA to a folder elsewhere, or pass cache=False to keep the images in memory"
        ) from error


def _call(entry: str, find: Callable[[], Any]) -> Any:
    return find()


def _decode(read_pair: Callable[[int], Pair], n: int, image_shape: tuple, dtype: type) -> Pair:
    images = np.empty((n, *image_shape), dtype)
    masks = np.empty((n, *image_shape[:2]), np.uint8)

    def attempt(i: int) -> str | None:
        try:
            images[i], masks[i] = read_pair(i)
        except DataError as error:
            return str(error)

    found = tqdm(in_threads(attempt, range(n)), "decoding", n, leave=False, disable=None, delay=2)
    if faults := [fault for fault in found if fault]:
        raise DataError(joined(faults, "these images and masks"))
    return images, masks
