"""Splits as folders and lists, and LabelMe's shapes as masks."""

import csv
import json

import numpy as np
import pytest
from labelme_files import annotate, shape
from PIL import Image

from segkit import convert
from segkit.data import load
from segkit.errors import DataError
from segkit.files import atomic_folder


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Twenty pairs of five patients; every fourth mask is empty, as its number says."""
    monkeypatch.setenv("SEGKIT_DATA", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    root = tmp_path / "scans"
    for part in ("images", "masks"):
        (root / part).mkdir(parents=True)
    for i in range(20):
        mask = np.zeros((12, 16), np.uint8)
        mask[2:5, 3:9] = i % 4 > 0
        noise = rng.integers(0, 256, mask.shape, dtype=np.uint8)
        for part, content in (("images", noise), ("masks", mask)):
            Image.fromarray(content).save(root / part / f"p{i // 4}_{i:02}.png")
    return root


def names(found, split):
    return {item.name for item in found.parts[split]}


def test_a_split_takes_every_pair_once_and_its_seed_counts(folder):
    found = convert.split(folder, (0.6, 0.2, 0.2), seed=1)
    assert found.counts() == {"train": 12, "val": 4, "test": 4}
    assert len(set.union(*(names(found, split) for split in found.parts))) == 20
    assert found.parts == convert.split(folder, (0.6, 0.2, 0.2), seed=1).parts
    assert found.parts != convert.split(folder, (0.6, 0.2, 0.2), seed=2).parts


def test_groups_stay_whole(folder):
    found = convert.split(folder, (0.6, 0.2, 0.2), group_by=r"p\d")
    patients = [{name[:2] for name in names(found, split)} for split in found.parts]
    assert [len(group) for group in patients] == [3, 1, 1]
    assert len(set.union(*patients)) == 5
    assert found.groups["p3_12"] == "p3"


def test_the_mix_is_the_same_in_all_splits(folder):
    rule = {"fractions": (0.6, 0.2, 0.2), "seed": 3}
    found = convert.split(folder, stratify_by="classes", **rule)
    for split, count in found.counts().items():
        empty = sum(int(name[-2:]) % 4 == 0 for name in names(found, split))
        assert abs(empty - count / 4) <= 1
    found = convert.split(folder, stratify_by=r"p\d", **rule)
    for split, count in found.counts().items():
        each = [sum(n.startswith(f"p{p}") for n in names(found, split)) for p in range(5)]
        assert max(each) - min(each) <= 1 + count // 5


def test_a_split_that_leaks_is_refused(folder):
    for part in ("images", "masks"):
        (folder / part / "copy.png").write_bytes((folder / part / "p0_00.png").read_bytes())
    seeds = []
    for seed in range(8):
        try:
            found = convert.split(folder, seed=seed)
        except DataError as error:
            assert "p0_00 = copy" in str(error) or "copy = p0_00" in str(error)
            seeds.append(seed)
        else:
            (split,) = [split for split in found.parts if "copy" in names(found, split)]
            assert "p0_00" in names(found, split)
    assert 0 < len(seeds) < 8


def test_what_cannot_be_split_is_refused(folder, tmp_path):
    convert.write_folders(convert.split(folder), tmp_path / "out")
    with pytest.raises(DataError, match="is split already, into train, val, test"):
        convert.split(tmp_path / "out")
    with pytest.raises(ValueError, match="exclude each other"):
        convert.split(folder, group_by="p", stratify_by="p")
    (folder / "masks" / "p0_00.png").unlink()
    with pytest.raises(DataError, match="an image without a mask"):
        convert.split(folder)


def test_copies_are_the_files_and_load_as_that_split(folder, tmp_path):
    found = convert.split(folder, seed=4)
    convert.write_folders(found, tmp_path / "out")
    for split, items in found.parts.items():
        place = tmp_path / "out" / split
        assert {p.stem for p in (place / "images").iterdir()} == names(found, split)
        for item in items:
            for sub, file in zip(("images", "masks"), item.files, strict=True):
                assert (place / sub / file.name).read_bytes() == file.read_bytes()
        opened = load("folder", split, 8, data_dir=tmp_path / "out")
        assert set(opened.names) == names(found, split)


def test_lists_name_every_file(folder, tmp_path):
    found = convert.split(folder, group_by=r"p\d")
    convert.write_list(found, tmp_path / "a.csv")
    convert.write_list(found, tmp_path / "a.json")
    rows = list(csv.DictReader((tmp_path / "a.csv").open()))
    listed = json.loads((tmp_path / "a.json").read_text())
    assert rows == listed["items"] == found.rows() and len(rows) == 20
    assert listed["counts"] == found.counts() and listed["rule"] == r"grouped by p\d"
    for row in rows:
        assert (folder / row["image"]).is_file() and (folder / row["mask"]).is_file()
        assert row["group"] == row["name"][:2]
    with pytest.raises(ValueError, match=r"a\.txt: a list is a \.csv or a \.json file"):
        convert.write_list(found, tmp_path / "a.txt")


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    for name in ("source", "full", "empty"):
        (tmp_path / name).mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "out", tmp_path / "source") as part:
        (part / "half").touch()
        raise RuntimeError
    wrong = {"full": "not empty", "source": "inside", "source/in": "inside", ".": "around it"}
    for name, message in wrong.items():
        place = atomic_folder(tmp_path / name, tmp_path / "source")
        with pytest.raises(OSError, match=message), place:
            pytest.fail("it was given away")
    with atomic_folder(tmp_path / "empty", tmp_path / "source") as part:
        (part / "x").touch()
    assert {p.name for p in tmp_path.iterdir()} == {"source", "full", "empty"}
    assert (tmp_path / "empty" / "x").exists()


# ---------------------------------------------------------------- LabelMe


BOX = [[2, 1], [6, 1], [6, 5], [2, 5]]
LATER = [[4, 3], [9, 3], [9, 8], [4, 8]]


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGKIT_DATA", str(tmp_path / "cache"))
    rng = np.random.default_rng(1)
    photo = rng.integers(0, 256, (10, 14, 3), dtype=np.uint8)
    place = tmp_path / "drawn"
    annotate(place, "photo a", [shape("nail", BOX), shape("bone", LATER)], photo)
    annotate(place, "photo b", [shape("__ignore__", BOX)], photo[::-1], embed=True)
    size = {"imageHeight": 10, "imageWidth": 14}
    annotate(place, "photo c", [shape("bone", LATER)], np.rot90(photo), "photo c.jpg", **size)
    turned = Image.Exif()
    turned[0x0112] = 6  # stored on its side, seen upright
    Image.fromarray(np.rot90(photo)).save(place / "photo c.jpg", exif=turned)
    return place


def test_shapes_become_masks_on_their_images(drawn, tmp_path):
    found, counts = convert.convert("labelme", drawn, tmp_path / "out")
    assert found == ("background", "bone", "nail") and counts == {"": 3}
    assert len(list((tmp_path / "out").rglob("photo*.*"))) == 6
    assert (tmp_path / "out" / "classes.txt").read_text() == "background\nbone\nnail\n"
    expected = np.zeros((10, 14), np.uint8)
    expected[1:5, 2:6] = 2
    expected[3:8, 4:9] = 1
    with Image.open(tmp_path / "out" / "masks" / "photo a.png") as picture:
        np.testing.assert_array_equal(np.array(picture), expected)
    images = tmp_path / "out" / "images"
    assert (images / "photo a.png").read_bytes() == (drawn / "photo a.png").read_bytes()
    with Image.open(images / "photo c.png") as upright:
        assert upright.size == (14, 10) and not upright.getexif()


def test_converted_and_drawn_load_alike(drawn, tmp_path):
    found, _ = convert.convert("labelme", drawn, tmp_path / "out")
    rule = {"size": (10, 14), "fractions": (0.34, 0.33, 0.33)}
    for split in ("train", "val", "test"):
        one = load("labelme", split, data_dir=drawn, **rule)
        more = {"class_names": found, "values": "ids"}
        two = load("folder", split, data_dir=tmp_path / "out", **more, **rule)
        assert one.names == two.names and one.class_names == two.class_names
        np.testing.assert_array_equal(one.images, two.images)
        np.testing.assert_array_equal(one.masks, two.masks)


def test_splits_and_chosen_classes_are_kept(tmp_path, drawn):
    for split in ("train", "test"):
        (tmp_path / "parts").mkdir(exist_ok=True)
        (tmp_path / "parts" / split).symlink_to(drawn)
    order = ["background", "nail", "bone"]
    found, counts = convert.convert(
        "labelme", tmp_path / "parts", tmp_path / "out", class_names=order
    )
    assert found == tuple(order) and counts == {"train": 3, "test": 3}
    with Image.open(tmp_path / "out" / "test" / "masks" / "photo c.png") as picture:
        assert np.array(picture)[5, 6] == 2
    with pytest.raises(DataError, match=r"photo a.json: holds a label .*'nail'"):
        convert.convert("labelme", drawn, tmp_path / "no", class_names=["background", "bone"])


def test_all_faults_are_listed_and_nothing_is_written(drawn, tmp_path):
    (drawn / "photo b.json").write_text("{")
    (drawn / "photo a.png").write_bytes(b"no picture")
    before = sorted(p.name for p in tmp_path.iterdir())
    with pytest.raises(DataError, match=r"(?s)2 faults in .*photo a.*photo b"):
        convert.convert("labelme", drawn, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == before
