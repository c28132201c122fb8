"""Decode once: images and masks of one size, kept as uint8 in `data_dir()/cache`.

An entry's name is a hash over the content of the files it came from and all that shaped it, so a
changed file or option leads to another entry, never to a stale one. An entry is written beside its
place and renamed when complete, so a half-written one is never seen. The whole folder may be
deleted at any time.
"""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import PIL
from tqdm import tqdm

from segkit.data import read
from segkit.data.dataset import DataError, Pair
from segkit.paths import data_dir

VERSION = 1  # raise it whenever the same files and options shall give other arrays
STALE = 24 * 3600  # seconds after which a temporary folder belongs to a process that died


def folder() -> Path:
    """Return the folder of all entries; it need not exist."""
    return data_dir() / "cache"


def key(contents: Iterable[str], **options: object) -> str:
    """Return the name of an entry: a hash over file contents, in order, and JSON-able options."""
    facts = [VERSION, PIL.__version__, list(contents), options]
    return hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=16).hexdigest()


def digests(files: Iterable[Path]) -> dict[Path, str]:
    """Return a hash of the content of each file; several are read at a time."""
    files = list(dict.fromkeys(files))
    return dict(zip(files, in_threads(_digest, files), strict=True))


def arrays(
    name: str,
    read_pair: Callable[[int], Pair],
    n: int,
    image_shape: tuple[int, ...],
    keep: bool = True,
) -> Pair:
    """Return images `(n, *image_shape)` and masks `(n, H, W)`, uint8, read once.

    name: from `key`. read_pair: gives item i as image and mask; it is called from several threads,
    and what it refuses with a DataError is gathered and reported together. keep=False decodes into
    memory and leaves the disk alone. What is kept is memory-mapped: pages are read as needed, and
    writing to the arrays does not reach the file.
    Raises OSError where the disk has no room or may not be written.
    """
    shapes = ((n, *image_shape), (n, *image_shape[:2]))
    if not keep:
        images, masks = (np.empty(shape, np.uint8) for shape in shapes)
        for i, (image, mask) in enumerate(_decoded(read_pair, n)):
            images[i], masks[i] = image, mask
        return images, masks
    for _ in range(3):  # again, should another process replace the entry between two lines
        found = _open(folder() / name, shapes)
        if found is not None:
            return found
        _build(folder() / name, shapes, read_pair)
    raise OSError(f"{folder() / name} cannot be read back after writing: is the disk failing?")


def remember(name: str, find: Callable[[], dict]) -> dict:
    """Return what `find()` once returned under this name: a dict that JSON can hold."""
    file = folder() / f"{name}.json"
    with contextlib.suppress(OSError, ValueError):
        return json.loads(file.read_text())
    facts = find()
    with _explained(1):
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=".", dir=file.parent)
        with open(handle, "w") as out:
            json.dump(facts, out)
            _to_disk(out)
        os.replace(temporary, file)
    return facts


def in_threads(work: Callable, items: Iterable) -> Iterator:
    """Yield `work(item)` in order, computed in one thread per core (decoders leave the GIL)."""
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        yield from pool.map(work, items)  # left early, it cancels what has not begun


def _digest(file: Path) -> str:
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "blake2b").hexdigest()


def _decoded(read_pair: Callable[[int], Pair], n: int) -> Iterator[Pair]:
    """Yield all pairs; after the last one, report every item that was refused."""

    def attempt(i: int) -> Pair | str:
        try:
            return read_pair(i)
        except DataError as error:
            return str(error)

    faults = []
    pairs = tqdm(in_threads(attempt, range(n)), "decoding", n, leave=False, disable=None, delay=2)
    for pair in pairs:
        if isinstance(pair, str):
            faults.append(pair)
        else:
            yield pair
    read.refuse(faults, "these images and masks")


def _build(entry: Path, shapes: Sequence[tuple], read_pair: Callable[[int], Pair]) -> None:
    """Write an entry in a temporary folder beside it, then rename it into place."""
    need = sum(int(np.prod(shape)) for shape in shapes) + 4096
    with _explained(need):
        entry.parent.mkdir(parents=True, exist_ok=True)
        _sweep(entry.parent)
        if shutil.disk_usage(entry.parent).free < need:
            raise OSError(errno.ENOSPC, "no space left")
        temporary = Path(tempfile.mkdtemp(prefix=".", dir=entry.parent))
    try:
        with _explained(need):
            _write(temporary, shapes, read_pair)
            if _open(entry, shapes) is None:  # else another process was quicker
                with contextlib.suppress(FileNotFoundError):  # a damaged entry, if any, goes
                    os.rename(entry, temporary / "damaged")
                _rename(temporary, entry)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write(place: Path, shapes: Sequence[tuple], read_pair: Callable[[int], Pair]) -> None:
    # Plain writes, not a memory map: on a full disk a map kills the process without a message.
    with open(place / "images.npy", "wb") as images, open(place / "masks.npy", "wb") as masks:
        for out, shape in zip((images, masks), shapes, strict=True):
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(out, header)
        for image, mask in _decoded(read_pair, shapes[0][0]):
            assert (image.shape, mask.shape) == (shapes[0][1:], shapes[1][1:])
            images.write(image.tobytes())
            masks.write(mask.tobytes())
        for out in (images, masks):
            _to_disk(out)


def _open(entry: Path, shapes: Sequence[tuple]) -> Pair | None:
    """Return the arrays of an entry, or None if it is missing, truncated or of another shape."""
    maps = []
    for file, shape in zip(("images.npy", "masks.npy"), shapes, strict=True):
        try:
            array = np.load(entry / file, mmap_mode="c")
            size = (entry / file).stat().st_size
        except (OSError, ValueError, EOFError):
            return None
        if (array.shape, array.dtype) != (shape, np.uint8) or size != array.offset + array.nbytes:
            return None
        maps.append(array)
    return maps[0], maps[1]


def _rename(temporary: Path, entry: Path) -> None:
    try:
        os.rename(temporary, entry)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise  # else another process was quicker, and its entry is the same


def _sweep(place: Path) -> None:
    """Remove what builds that were killed have left."""
    for leftover in place.glob(".*"):
        with contextlib.suppress(OSError):  # another process may be sweeping too
            if leftover.stat().st_mtime < time.time() - STALE:
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()


def _to_disk(out) -> None:
    out.flush()
    os.fsync(out.fileno())


@contextlib.contextmanager
def _explained(need: int) -> Iterator[None]:
    """Turn a full or read-only disk into a message with the ways out."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise
        raise OSError(
            error.errno,
            f"the cache needs {need / 2**20:,.0f} MiB in {folder()} ({error.strerror}): make room "
            "or delete old entries there, set the environment variable SEGKIT_DATA to a folder "
            "elsewhere, or pass cache=False to keep the images in memory",
        ) from error
