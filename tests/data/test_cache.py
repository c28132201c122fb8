import shutil
import subprocess
import sys
import time
from collections import namedtuple

import numpy as np
import pytest
from joblib import numpy_pickle

from segkit.data import cache
from segkit.errors import DataError
from segkit.files import FileError

N, SHAPE = 12, (6, 5, 3)

# Builds the entry "e", whose item i is filled with i and takes a while, in two processes.
BUILDER = f"""
import os, time
import numpy as np
from segkit.data import cache

def read_pair(i):
    time.sleep(0.05)
    return np.full({SHAPE}, i, np.uint8), np.full({SHAPE[:2]}, i, np.uint8)

child = os.fork()
images, masks = cache.arrays("e", read_pair, {N}, {SHAPE})
assert (images[:, 0, 0, 0] == range({N})).all() and (masks[:, 0, 0] == range({N})).all()
assert not child or os.waitpid(child, 0)[1] == 0
"""


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGKIT_DATA", str(tmp_path / "data"))
    return tmp_path / "data" / "cache"


class Reader:
    """Makes item i, filled with i, and counts how often it was asked."""

    calls = 0

    def __call__(self, i):
        self.calls += 1
        return np.full(SHAPE, i, np.uint8), np.full(SHAPE[:2], i, np.uint8)


def build(name="e", reader=None, **options):
    images, masks = cache.arrays(name, reader or Reader(), N, SHAPE, **options)
    assert images.shape == (N, *SHAPE) and masks.shape == (N, *SHAPE[:2])
    assert images.dtype == masks.dtype == np.uint8
    assert (images[:, 0, 0, 0] == range(N)).all() and (masks[:, -1, -1] == range(N)).all()
    return images, masks


def test_decodes_once_and_then_maps_the_file_copy_on_write():
    reader = Reader()
    first, _ = build(reader=reader)
    images, masks = build(reader=reader)
    assert reader.calls == N
    assert all(isinstance(array, np.memmap) for array in (first, images, masks))
    images[:] = 0
    build(reader=reader)
    assert reader.calls == N


def test_without_cache_nothing_is_written(home):
    images, _ = build(keep=False)
    assert not isinstance(images, np.memmap) and not home.exists()


def test_content_order_options_and_version_lead_to_another_entry(tmp_path, monkeypatch):
    for name, text in (("a", "a"), ("b", "b"), ("copy of a", "a")):
        (tmp_path / name).write_text(text)
    a, b, copy = cache.digests([tmp_path / "a", tmp_path / "b", tmp_path / "copy of a"]).values()
    assert a == copy != b
    reader, names = Reader(), ([a, b, 8], [b, a, 8], [a, b, 9], [a, b, 8, "pet"], [copy, b, 8])
    for name in names:
        build(name, reader)
    assert reader.calls == 4 * N
    monkeypatch.setattr(cache, "_VERSION", cache._VERSION + 1)
    build(names[0], reader)
    assert reader.calls == 5 * N


@pytest.mark.parametrize("damage", ["truncated", "missing", "empty", "text"])
def test_a_damaged_entry_is_found_and_rebuilt(home, damage):
    build()
    (path,) = home.rglob("output.pkl")
    damaged = {"truncated": path.read_bytes()[:-50], "empty": b"", "text": b"hello"}
    path.unlink()
    if damage != "missing":
        path.write_bytes(damaged[damage])
    reader = Reader()
    build(reader=reader)
    build(reader=reader)
    assert reader.calls == N


@pytest.mark.parametrize("keep", [True, False])
def test_faults_are_gathered_and_leave_nothing(home, keep):
    def read_pair(i):
        if i != 3:
            raise DataError(f"file {i} is broken")
        return Reader()(i)

    with pytest.raises(
        DataError, match=r"^11 faults in.*:\n- file 0 is broken\n(.*\n)+- and 3 more$"
    ):
        cache.arrays("e", read_pair, N, SHAPE, keep)
    assert not list(home.rglob("output.pkl"))


@pytest.mark.parametrize("kind", [KeyboardInterrupt, FileNotFoundError, KeyError])
def test_another_error_stops_at_once_and_is_not_taken_for_the_disk(home, kind):
    reader = Reader()

    def read_pair(i):
        if i == 2:
            raise kind("x")
        time.sleep(0.01)
        return reader(i % N)

    with pytest.raises(kind, match="x"):
        cache.arrays("e", read_pair, 5000, SHAPE)
    assert reader.calls < 1000 and not list(home.rglob("output.pkl"))


@pytest.mark.parametrize("damaged", [False, True])
def test_two_processes_that_build_at_once_both_end_right(home, damaged):
    if damaged:
        build()
        next(home.rglob("output.pkl")).write_bytes(b"")
    subprocess.run([sys.executable, "-c", BUILDER], timeout=120, check=True)
    build()


def test_no_room_is_reported_before_anything_is_decoded(monkeypatch):
    usage = namedtuple("usage", "total used free")(10, 0, 10)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    reader = Reader()
    with pytest.raises(FileError, match=r"cache needs 48 MiB .*No space left"):
        cache.arrays("e", reader, N, (1024, 1024, 3))
    assert reader.calls == 0


@pytest.mark.filterwarnings("ignore:Unable to cache")
@pytest.mark.parametrize(
    ("module", "name", "error", "reason"),
    [
        (numpy_pickle, "dump", OSError(28, "No space left on device"), "cannot be written"),
        (cache, "Memory", PermissionError(13, "Permission denied"), "Permission denied"),
    ],
    ids=["a full disk", "no permission"],
)
def test_a_cache_that_cannot_be_written(home, monkeypatch, module, name, error, reason):
    def refuse(*args, **options):
        raise error

    monkeypatch.setattr(module, name, refuse)
    with pytest.raises(FileError, match=f"MiB in {home}.*{reason}.*SEGKIT_DATA.*cache=False"):
        build()
