import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

from segkit.data import cache
from segkit.data.dataset import DataError

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
    assert images.shape == (N, *SHAPE)
    assert masks.shape == (N, *SHAPE[:2])
    assert images.dtype == masks.dtype == np.uint8
    assert (images[:, 0, 0, 0] == range(N)).all()
    assert (masks[:, -1, -1] == range(N)).all()
    return images, masks


def start(tmp_path, seconds, times):
    command = [sys.executable, "-c", BUILDER, str(tmp_path), str(seconds), times]
    return subprocess.Popen(command, stderr=subprocess.PIPE)


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_decodes_once_and_then_maps_the_file(home):
    reader = Reader()
    build(reader=reader)
    images, _ = build(reader=reader)
    assert reader.calls == N
    assert isinstance(images, np.memmap)
    assert sorted(file.name for file in home.rglob("*")) == ["e", "images.npy", "masks.npy"]


def test_writing_to_the_arrays_does_not_reach_the_file():
    images, _ = build()
    images[:] = 0
    build()


def test_without_cache_nothing_is_written(home):
    images, _ = build(keep=False)
    assert not isinstance(images, np.memmap)
    assert not home.exists()


def test_the_key_follows_content_order_and_options(tmp_path):
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    (tmp_path / "copy of a").write_text("a")
    a, b, copy = cache.digests([tmp_path / "a", tmp_path / "b", tmp_path / "copy of a"]).values()
    assert a == copy != b
    names = [
        cache.key([a, b], size=8),
        cache.key([b, a], size=8),
        cache.key([a, b], size=9),
        cache.key([a, b], size=8, border="pet"),
    ]
    assert len(set(names)) == len(names)
    assert cache.key([copy, b], size=8) == names[0]


def test_the_key_follows_the_version(monkeypatch):
    before = cache.key(["a"])
    monkeypatch.setattr(cache, "VERSION", cache.VERSION + 1)
    assert cache.key(["a"]) != before


@pytest.mark.parametrize("file", ["images.npy", "masks.npy"])
@pytest.mark.parametrize("damage", ["truncated", "longer", "missing", "empty", "other", "text"])
def test_a_damaged_entry_is_found_and_rebuilt(home, file, damage):
    build()
    path = home / "e" / file
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "other":
        np.save(path, np.zeros((N, 2, 2), np.uint8))
    else:
        path.write_bytes(
            {"truncated": content[:-1], "longer": content + b"x", "empty": b"", "text": b"hello"}[
                damage
            ]
        )
    reader = Reader()
    build(reader=reader)
    assert reader.calls == N
    build(reader=reader)
    assert reader.calls == N
    assert not list(home.glob(".*"))


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
    assert not list(home.iterdir())


def test_another_error_stops_at_once_and_leaves_nothing(home):
    reader = Reader()

    def read_pair(i):
        if i == 2:
            raise KeyboardInterrupt
        time.sleep(0.01)
        return reader(i % N)

    with pytest.raises(KeyboardInterrupt):
        cache.arrays("e", read_pair, 5000, SHAPE)
    assert reader.calls < 1000
    assert not list(home.iterdir())


def test_killed_in_the_middle_it_leaves_no_entry(home, tmp_path):
    process = start(tmp_path, 0.2, "once")
    wait_for(lambda: (tmp_path / f"item{N // 2}").exists() or process.poll() is not None)
    process.kill()
    process.communicate()
    assert process.returncode == -9
    assert not (home / "e").exists()
    (leftover,) = home.glob(".*")
    build()
    assert leftover.exists()  # it might belong to a process that lives
    os.utime(leftover, (0, 0))
    (home / ".old").write_text("")
    os.utime(home / ".old", (0, 0))
    build("another")
    assert not list(home.glob(".*"))


@pytest.mark.parametrize("damaged", [False, True])
def test_two_processes_that_build_at_once_both_end_right(home, tmp_path, damaged):
    if damaged:
        build()
        (home / "e" / "masks.npy").write_bytes(b"")
    process = start(tmp_path, 0.05, "twice")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors.decode()
    reader = Reader()
    build(reader=reader)
    assert reader.calls == 0
    assert not list(home.glob(".*"))


def test_many_threads_that_build_at_once_all_end_right(home):
    barrier, failures = threading.Barrier(8), []

    def work():
        barrier.wait()
        try:
            build()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert [file.name for file in home.iterdir()] == ["e"]


def test_another_that_is_quicker_by_a_hair_is_believed(home, monkeypatch):
    rename, quicker = os.rename, []

    def late(source, target):
        if Path(target) == home / "e" and not quicker:
            quicker.append(1)
            build()
        rename(source, target)

    monkeypatch.setattr(os, "rename", late)
    build()
    assert quicker
    assert [file.name for file in home.iterdir()] == ["e"]


def check_message(error, home):
    message = str(error.value)
    assert "MiB in " + str(home) in message
    assert "SEGKIT_DATA" in message
    assert "cache=False" in message


def test_no_room_is_said_before_anything_is_decoded(home, monkeypatch):
    usage = namedtuple("usage", "total used free")(10, 0, 10)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    reader = Reader()
    with pytest.raises(OSError, match="no space left") as error:
        cache.arrays("e", reader, N, (1024, 1024, 3))
    assert "the cache needs 48 MiB" in str(error.value)
    check_message(error, home)
    assert reader.calls == 0
    assert not list(home.iterdir())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_disk_that_fills_up_while_writing(home, monkeypatch):
    make = tempfile.mkdtemp

    def on_a_full_disk(**options):
        place = make(**options)
        os.symlink("/dev/full", Path(place, "masks.npy"))
        return place

    monkeypatch.setattr(tempfile, "mkdtemp", on_a_full_disk)
    with pytest.raises(OSError, match="No space left") as error:
        build()
    check_message(error, home)
    assert not list(home.iterdir())


def test_a_place_that_cannot_be_written(home, monkeypatch):
    def refuse(*args, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    with pytest.raises(OSError, match="Permission denied") as error:
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
    (home / "facts.json").write_text('{"found": [1')
    assert cache.remember("facts", find) == {"found": [1, [2, 3]]}
    assert len(calls) == 2
    assert [file.name for file in home.iterdir()] == ["facts.json"]


def test_threads_keep_the_order():
    def slow_first(i):
        time.sleep(0.02 if i == 0 else 0)
        return i * i

    assert list(cache.in_threads(slow_first, range(50))) == [i * i for i in range(50)]
