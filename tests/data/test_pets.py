import hashlib
import os
import shutil
import tarfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import OxfordIIITPet

from segkit.data import load
from segkit.data.pets import from_trimap, open_pets, trimap_classes
from segkit.errors import DataError

REAL = os.environ.get("SEGKIT_REAL_DATA")
real = pytest.mark.skipif(not REAL, reason="SEGKIT_REAL_DATA is not set")

BREEDS = {"Abyssinian": 20, "Bengal": 10, "pug": 5}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGKIT_DATA", str(tmp_path / "home"))


def trimap(i):
    """Return a trimap whose pet (1) and border (3) lie at a place that depends on i."""
    marks = np.full((30, 40), 2, np.uint8)
    marks[5 : 20 + i % 5, 5:30] = 3
    marks[8 : 17 + i % 5, 8:27] = 1
    return marks


def make_pets(parent):
    """Write a small data set of the official layout: 35 trainval items, 7 for testing."""
    root = parent / "oxford-iiit-pet"
    (root / "images").mkdir(parents=True)
    (root / "annotations" / "trimaps").mkdir(parents=True)
    lists = {"trainval": [], "test": []}
    for label, (breed, n) in enumerate(BREEDS.items(), 1):
        for i in range(n + n // 5):
            name = f"{breed}_{i}"
            lists["trainval" if i < n else "test"].append(f"{name} {label} 1 {label}\n")
            colour = np.full((30, 40, 3), (10 * label, i, 100), np.uint8)
            Image.fromarray(colour).save(root / "images" / f"{name}.jpg", format="PNG")
            file = root / "annotations" / "trimaps" / f"{name}.png"
            Image.fromarray(trimap(i)).save(file)
            file.with_name(f"._{name}.png").write_bytes(b"\x00\x05\x16\x07")
    for part, lines in lists.items():
        (root / "annotations" / f"{part}.txt").write_text("".join(lines))
    return parent


@pytest.fixture
def root(tmp_path):
    return make_pets(tmp_path)


def refused(kind, root, *words, **options):
    with pytest.raises(kind) as error:
        open_pets(root, "train", 16, **{"border": "ignore", **options})
    for word in words:
        assert word in str(error.value)


def test_the_official_split_and_a_validation_part_by_breed(root):
    parts = {s: open_pets(root, s, 16, border="pet") for s in ("train", "val", "test")}
    counts = {s: [list(p.groups).count(b) for b in BREEDS] for s, p in parts.items()}
    assert counts == {"train": [16, 8, 4], "val": [4, 2, 1], "test": [4, 2, 1]}
    names = [name for part in parts.values() for name in part.names]
    assert len(set(names)) == len(names) == 42
    assert "Abyssinian_20" in parts["test"].names
    again = open_pets(root, "val", 16, border="pet", seed=1)
    assert again.names != parts["val"].names
    assert open_pets(root, "test", 16, border="pet", seed=1).names == parts["test"].names


def test_items_are_what_torchvision_gives(root):
    data = open_pets(root, "test", (30, 40), border="class")
    official = OxfordIIITPet(root, "test", "segmentation")
    table = np.array([9, 1, 0, 2], np.uint8)
    assert data.images.shape == (7, 30, 40, 3)
    for i, (image, marks) in enumerate(official):
        assert np.array_equal(data.images[i], np.array(image))
        assert np.array_equal(data.masks[i], table[np.array(marks)])
        assert data.names[i] == official._images[i].stem


@pytest.mark.parametrize(
    ("border", "edge", "names"),
    [
        ("ignore", 255, ("background", "pet")),
        ("pet", 1, ("background", "pet")),
        ("background", 0, ("background", "pet")),
        ("class", 2, ("background", "pet", "border")),
    ],
)
def test_the_border_rules(root, border, edge, names):
    mask = from_trimap(np.array([[1, 2, 3]], np.uint8), border)
    assert mask.tolist() == [[1, 0, edge]] and mask.dtype == np.uint8
    data = open_pets(root, "train", 16, border=border)
    assert data.class_names == trimap_classes(border) == names and data.info["border"] == border
    assert set(np.unique(data.masks)) == {0, 1, edge}
    pet = (from_trimap(trimap(0), "pet") == 1).sum()
    assert pet > 1.3 * (from_trimap(trimap(0), "class") == 1).sum()


def test_a_border_rule_must_be_chosen(root):
    refused(ValueError, root, "no border rule 'skip'", border="skip")
    with pytest.raises(ValueError, match="no split 'dev'"):
        open_pets(root, "dev", border="pet")
    with pytest.raises(DataError, match=r"also \[0, 4\]"):
        from_trimap(np.array([[0, 4, 1]], np.uint8), "pet")


def test_the_folder_itself_its_parent_and_the_default(root, monkeypatch):
    a = open_pets(root, "val", 16, border="pet")
    assert open_pets(root / "oxford-iiit-pet", "val", 16, border="pet").names == a.names
    monkeypatch.setenv("SEGKIT_DATA", str(root))
    assert load("oxford-pet", "val", 16, border="pet").names == a.names


def test_count_keeps_the_breeds_in_proportion(root):
    for seed in range(6):
        data = open_pets(root, "train", 16, border="pet", count=14, seed=seed)
        assert [list(data.groups).count(b) for b in BREEDS] == pytest.approx([8, 4, 2], abs=1)
    assert data.names == open_pets(root, "train", 16, border="pet", count=14, seed=5).names
    with pytest.warns(UserWarning, match="count=29, but there are 28 items: all 28 are used"):
        assert len(open_pets(root, "train", 16, border="pet", count=29)) == 28


# What is missing or damaged


def test_nothing_there_says_where_to_put_what(tmp_path):
    place = tmp_path / "none"
    archives = "data/images.tar.gz", "data/annotations.tar.gz", "download=True"
    refused(FileNotFoundError, place, f"not complete in {place / 'oxford-iiit-pet'}", *archives)
    assert not place.exists()


def test_half_a_download_is_noticed(root):
    annotations = root / "oxford-iiit-pet" / "annotations"
    for file in (annotations / "trimaps").glob("pug_*"):
        file.unlink()
    missing = "5 listed files are missing, the first is"
    refused(FileNotFoundError, root, missing, "trimaps/pug_0.png")
    listed = annotations / "trainval.txt"
    listed.write_text(listed.read_text()[:-4])
    refused(FileNotFoundError, root, "not complete", "not enough values")
    listed.unlink()
    refused(FileNotFoundError, root, "trainval.txt", "download=True")


def test_damaged_files_are_named(root):
    image = root / "oxford-iiit-pet" / "images" / "Bengal_3.jpg"
    image.write_bytes(image.read_bytes()[:60])
    trimaps = root / "oxford-iiit-pet" / "annotations" / "trimaps"
    marks, small = trimaps / "Bengal_4.png", trimaps / "Bengal_5.png"
    Image.fromarray(trimap(0) - 1).save(marks)
    Image.fromarray(trimap(0)[::2]).save(small)
    found = ""
    for split in ("train", "val"):
        try:
            open_pets(root, split, 16, border="pet")
        except DataError as error:
            found += f"{error}\n"
    assert f"{image}: cannot be read" in found
    assert f"{marks}: a trimap holds 1 (pet), 2 (background) and 3 (border)" in found
    assert f"{small}: is no grey picture of its image's size" in found


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Serve `tmp_path / "server"` on this machine."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path / "server")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        Thread(target=http.serve_forever, daemon=True).start()
        yield tmp_path / "server", f"http://127.0.0.1:{http.server_port}"
        http.shutdown()


def pack(parent, place, address="http://127.0.0.1:9"):
    """Pack a data set as the archives that torchvision fetches from `address`; return its table."""
    place.mkdir(parents=True)
    resources = []
    for part in ("images", "annotations"):
        file = place / f"{part}.tar.gz"
        with tarfile.open(file, "w:gz") as archive:
            archive.add(parent / "oxford-iiit-pet" / part, part)
        digest = hashlib.md5(file.read_bytes()).hexdigest()
        resources.append((f"{address}/{file.name}", digest))
    return resources


def test_downloads_checks_and_unpacks(root, tmp_path, monkeypatch, server):
    monkeypatch.setattr(OxfordIIITPet, "_RESOURCES", pack(root, *server))
    data = open_pets(tmp_path / "new", "train", 16, border="pet", download=True)
    assert data.names == open_pets(root, "train", 16, border="pet").names
    shutil.rmtree(server[0])
    assert len(open_pets(tmp_path / "new", "test", 16, border="pet", download=True)) == 7


def test_archives_put_in_place_by_hand_are_unpacked_without_a_network(root, tmp_path, monkeypatch):
    packed = pack(root, tmp_path / "new" / "oxford-iiit-pet")
    monkeypatch.setattr(OxfordIIITPet, "_RESOURCES", packed)
    assert len(open_pets(tmp_path / "new", "train", 16, border="pet", download=True)) == 28


def test_a_download_that_fails_or_is_damaged_says_what_to_do(root, tmp_path, monkeypatch, server):
    wrong = [(url, "0" * 32) for url, _ in pack(root, *server)]
    monkeypatch.setattr(OxfordIIITPet, "_RESOURCES", wrong)
    refused(FileNotFoundError, tmp_path / "new", "corrupted", download=True)
    shutil.rmtree(server[0])
    refused(FileNotFoundError, tmp_path / "new", "not complete", "put these two in", download=True)


# Real data


@real
def test_the_714_real_pets():
    parts = {s: open_pets(REAL, s, 32, border="ignore") for s in ("train", "val", "test")}
    assert [len(part) for part in parts.values()] == [298, 74, 342]
    for part in parts.values():
        assert set(np.unique(part.masks)) == {0, 1, 255}
        assert 0.2 < (part.masks == 1).mean() < 0.5
        assert 0.05 < (part.masks == 255).mean() < 0.2
    names = sum((part.names for part in parts.values()), ())
    assert len(set(names)) == 714
    share = [np.mean(np.array(parts[s].groups) == "Abyssinian") for s in ("train", "val")]
    assert share[0] == pytest.approx(share[1], abs=0.02)
