import shutil
import subprocess
import sys
import time
from collections import namedtuple

import numpy as np
import pytest
from joblib import numpy_pickle

from segkit.data import cache
from segkit.data.dataset import DataError
from segkit.files import FileError

N, SHAPE = 12, (6, 5, 3)

# Builds the entry "e", whose item i is filled with i and takes a while, in two processes if asked.
BUILDER = f"""
import os, sys, time
from pathlib import Path
import numpy as np
from segkit.data import cache

def read_pair(i):
    Path(sys.argv[1], f"item{{i}}").touch()
    time.sleep(float(sys.argv[2]))
    return np.full({SHAPE}, i, np.uint8), np.full({SHAPE[:2]}, i, np.uint8)

child = os.fork() if sys.argv[3] == "twice" else 0
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

    def __init__(self):
        self.calls = 0

    def __call__(self, i):
        self.calls += 1
        return np.full(SHAPE, i, np.uint8), np.full(SHAPE[:2], i, np.uint8)


def build(name="e", reader=None, **options):
    images, masks = cache.arrays(name, reader or Reader(), N, SHAPE, **options)
    assert images.shape == (N, *SHAPE) and masks.shape == (N, *SHAPE[:2])
    assert images.dtype == masks.dtype == np.uint8
    assert (images[:, 0, 0, 0] == range(N)).all() and (masks[:, -1, -1] == range(N)).all()
    return images, masks


def start(tmp_path, seconds, times):
    command = [sys.executable, "-c", BUILDER, str(tmp_path), str(seconds), times]
    return subprocess.Popen(command, stderr=subprocess.PIPE)


def test_decodes_once_and_then_maps_the_file_copy_on_write():
    reader = Reader()
    first, _ = build(reader=reader)
    images, masks = build(reader=reader)
    assert reader.calls == N
    assert all(isinstance(array, np.memmap) for array in (first, images, masks))
    images[:] = 0
    build(reader=reader)
    build("another", reader)
    assert reader.calls == 2 * N


def test_without_cache_nothing_is_written(home):
    images, _ = build(keep=False)
    assert not isinstance(images, np.memmap) and not home.exists()


def test_the_key_follows_content_order_options_and_version(tmp_path, monkeypatch):
    for name, text in (("a", "a"), ("b", "b"), ("copy of a", "a")):
        (tmp_path / name).write_text(text)
    a, b, copy = cache.digests([tmp_path / "a", tmp_path / "b", tmp_path / "copy of a"]).values()
    assert a == copy != b
    keys = [
        cache.key([a, b], size=8),
        cache.key([b, a], size=8),
        cache.key([a, b], size=9),
        cache.key([a, b], size=8, border="pet"),
    ]
    assert cache.key([copy, b], size=8) == keys[0]
    monkeypatch.setattr(cache, "VERSION", cache.VERSION + 1)
    assert len({*keys, cache.key([a, b], size=8)}) == 5


@pytest.mark.parametrize("damage", ["truncated", "missing", "empty", "text"])
def test_a_damaged_entry_is_found_and_rebuilt(home, damage):
    build()
    (path,) = home.rglob("output.pkl")
    content = path.read_bytes()
    damaged = {"truncated": content[:-50], "empty": b"", "text": b"hello"}
    path.unlink()
    if damage != "missing":
        path.write_bytes(damaged[damage])
    reader = Reader()
    build(reader=reader)
    build(reader=reader)
    assert reader.calls == N


def test_faults_are_gathered_and_leave_nothing(home):
    def read_pair(i):
        if i % 5 == 1:
            raise DataError(f"file {i} is broken")
        return Reader()(i)

    for keep in (True, False):
        with pytest.raises(DataError) as error:
            cache.arrays("e", read_pair, N, SHAPE, keep)
        assert str(error.value).splitlines()[0].startswith("3 faults in")
        assert all(f"file {i} is broken" in str(error.value) for i in (1, 6, 11))
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


def test_killed_in_the_middle_it_leaves_no_entry(home, tmp_path):
    process = start(tmp_path, 0.2, "once")
    deadline = time.monotonic() + 60
    while not (tmp_path / f"item{N // 2}").exists() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert process.returncode == -9 and not list(home.rglob("output.pkl"))
    build()


@pytest.mark.parametrize("damaged", [False, True])
def test_two_processes_that_build_at_once_both_end_right(home, tmp_path, damaged):
    if damaged:
        build()
        next(home.rglob("output.pkl")).write_bytes(b"")
    process = start(tmp_path, 0.05, "twice")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors.decode()
    build()


def check_message(error, home):
    message = str(error.value)
    assert f"MiB in {home}" in message and "SEGKIT_DATA" in message and "cache=False" in message


def test_no_room_is_reported_before_anything_is_decoded(home, monkeypatch):
    usage = namedtuple("usage", "total used free")(10, 0, 10)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    reader = Reader()
    with pytest.raises(FileError, match="No space left") as error:
        cache.arrays("e", reader, N, (1024, 1024, 3))
    assert "the cache needs 48 MiB" in str(error.value)
    check_message(error, home)
    assert reader.calls == 0


@pytest.mark.filterwarnings("ignore:Unable to cache")
def test_a_disk_that_fills_up_while_writing(home, monkeypatch):
    def full(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(numpy_pickle, "dump", full)
    with pytest.raises(FileError, match="cannot be written") as error:
        build()
    check_message(error, home)


def test_a_place_that_cannot_be_written(home, monkeypatch):
    def refuse(*args, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(cache, "Memory", refuse)
    with pytest.raises(FileError, match="Permission denied") as error:
        build()
    check_message(error, home)


def test_remember_finds_once_and_survives_damage(home):
    calls = []

    def find():
        calls.append(1)
        return {"found": [1, [2, 3]]}

    for _ in range(3):
        assert cache.remember("facts", find) == {"found": [1, [2, 3]]}
    assert len(calls) == 1
    next(home.rglob("output.pkl")).write_bytes(b"")
    assert cache.remember("facts", find) == {"found": [1, [2, 3]]} and len(calls) == 2


def test_threads_keep_the_order():
    def slow_first(i):
        time.sleep(0.02 if i == 0 else 0)
        return i * i

    assert list(cache.in_threads(slow_first, range(50))) == [i * i for i in range(50)]
