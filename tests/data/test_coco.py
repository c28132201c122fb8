"""COCO's annotations: what they draw, what is refused, and where the images are."""

import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as theirs

from segkit import convert, data
from segkit.data import annotations, coco
from segkit.data.shapes import draw, draw_instances
from segkit.errors import ArgumentError, DataError

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")  # of pycocotools

H, W = 20, 24
SQUARE = [4, 2, 10, 2, 10, 12, 4, 12]
CATEGORIES = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}, {"id": 9, "name": "unused"}]


def annotation(segmentation, category=3, image=1, number=1, **more):
    more = {"iscrowd": 0, **more}
    return {"id": number, "image_id": image, "category_id": category, "bbox": [0, 0, 1, 1]} | {
        "segmentation": segmentation,
        **more,
    }


def write(place, *found, names=("a.png",), file="annotations.json", folder="", **changes):
    """Write images, all alike, and a COCO file; return it."""
    images = []
    for number, name in enumerate(names, start=1):
        picture = place / folder / name.replace("\\", "/")
        picture.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((H, W, 3), 40 * number, np.uint8)).save(picture)
        images.append({"id": number, "file_name": name, "height": H, "width": W})
    content = {"images": images, "annotations": list(found), "categories": CATEGORIES} | changes
    (place / file).write_text(json.dumps(content))
    return place / file


def opened(source, **options):
    options = {"fractions": (1.0, 0.0, 0.0), "cache": False, "channels": 3} | options
    return data.load("coco", "train", (H, W), data_dir=source, transform=None, **options)


def refused(source, *words, **options):
    with pytest.raises(DataError) as error:
        opened(source, **options)
    for word in words:
        assert word in str(error.value)


def rle(mask, compressed):
    code = theirs.encode(np.asfortranarray(mask.astype(np.uint8)))
    if compressed:
        return {"counts": code["counts"].decode(), "size": [H, W]}
    flat = mask.T.ravel().astype(int)
    edges = np.flatnonzero(np.diff(flat, prepend=0)).tolist()
    return {"counts": np.diff([0, *edges, H * W]).tolist(), "size": [H, W]}


def test_polygons_become_masks_of_all_labels_by_alphabet(tmp_path):
    file = write(tmp_path, annotation([SQUARE]), annotation([[12, 14, 20, 14, 20, 18]], 7))
    found = opened(file)
    assert found.class_names == ("background", "cat", "dog")
    mask = found.masks[0]
    assert (mask[2:12, 4:10] == 1).all() and (mask == 1).sum() == 60
    assert 10 < (mask == 2).sum() < 20 and found.names == ("a",)


def test_parts_of_one_object_are_joined_and_later_objects_lie_on_top(tmp_path):
    both = annotation([SQUARE, [14, 2, 16, 2, 16, 4, 14, 4]])
    file = write(tmp_path, both, annotation([[0, 0, 6, 0, 6, 6, 0, 6]], 7, number=2))
    mask = opened(file).masks[0]
    assert (mask == 2).sum() == 36 and (mask == 1).sum() == 60 + 4 - 2 * 4


@pytest.mark.parametrize("compressed", [True, False])
def test_run_lengths_are_those_of_pycocotools(tmp_path, compressed):
    generator = np.random.default_rng(0)
    for density in (0.0, 0.1, 0.5, 0.9, 1.0):
        mask = generator.random((H, W)) < density
        file = write(tmp_path, annotation(rle(mask, compressed), iscrowd=0))
        if density:
            assert np.array_equal(opened(file).masks[0], mask)


def test_polygons_are_nearly_those_of_pycocotools():
    """Which rounds the vertices to a fifth of a pixel."""
    generator = np.random.default_rng(1)
    height = width = 200
    for _ in range(20):
        angles = np.sort(generator.random(9)) * 2 * np.pi
        radius = generator.uniform(40, 90, 9)
        points = np.stack([100 + radius * np.cos(angles), 100 + radius * np.sin(angles)], 1)
        ring = points.ravel().tolist()
        expected = theirs.decode(theirs.frPyObjects([ring], height, width))[..., 0]
        shape = coco._shape("x", [ring], height, width)
        mask = draw([shape], {"x": 1}, height, width)
        assert (mask & expected).sum() / (mask | expected).sum() > 0.98


def test_crowds_are_ignored_below_everything_else(tmp_path):
    crowd = rle(np.ones((H, W), bool), compressed=True)
    file = write(tmp_path, annotation([SQUARE]), annotation(crowd, 7, number=2, iscrowd=1))
    found = opened(file)
    assert found.class_names == ("background", "cat")
    assert (found.masks[0] == 1).sum() == 60 and (found.masks[0] == 255).sum() == H * W - 60


def test_chosen_classes_and_what_others_become(tmp_path):
    file = write(tmp_path, annotation([SQUARE]), annotation([[12, 14, 20, 14, 20, 18, 12, 18]], 7))
    names = ["background", "dog"]
    refused(file, "a label that is not among the classes ('cat'", class_names=names)
    for others, value in (("background", 0), ("ignore", 255)):
        found = opened(file, class_names=names, others=others)
        assert (found.masks[0][2:12, 4:10] == value).all() and (found.masks[0] == 1).sum() == 32
    with pytest.raises(ArgumentError, match=r"no choice for other labels 'none'.*background, ign"):
        opened(file, class_names=names, others="none")


@pytest.mark.parametrize(
    ("file", "folder", "name"),
    [
        ("a.json", "", "a.png"),
        ("a.json", "images", "a.png"),
        ("annotations/instances.json", "images", "sub/a.png"),
        ("annotations/instances.json", "", "train2017/a.png"),
        ("a.json", "images", "sub\\a.png"),
    ],
)
def test_images_are_found_where_programs_put_them(tmp_path, file, folder, name):
    (tmp_path / "annotations").mkdir()
    source = write(tmp_path, annotation([SQUARE]), names=[name], file=file, folder=folder)
    for place in (source, tmp_path):
        found = opened(place)
        assert found.names == (name.replace("\\", "_").replace("/", "_")[:-4],)
    other = tmp_path / "elsewhere"
    (tmp_path / (folder or name.split("/")[0])).rename(other)
    refused(source, "names an image that is not there")
    if folder:
        assert len(opened(source, images=other)) == 1


def test_splits_lie_in_folders_as_roboflow_writes_them(tmp_path):
    for split in ("train", "valid", "test"):
        (tmp_path / split).mkdir()
        write(tmp_path / split, annotation([SQUARE]), file="_annotations.coco.json")
    for split in ("train", "val", "test"):
        assert len(data.load("coco", split, 16, data_dir=tmp_path, cache=False)) == 1
    (tmp_path / "train" / "more.json").write_text("{}")
    refused(tmp_path, "it holds _annotations.coco.json, more.json")


def test_instances_are_numbered_and_crowds_are_none(tmp_path):
    crowd = annotation(rle(np.ones((H, W), bool), True), number=3, iscrowd=1)
    file = write(
        tmp_path,
        annotation([SQUARE]),
        crowd,
        annotation([[8, 0, 14, 0, 14, 6, 8, 6]], number=2),
    )
    names, counts = convert.convert("coco", file, tmp_path / "out", instances=True)
    assert names == ("background", "cat") and counts == {"": 1}
    labels = np.array(Image.open(tmp_path / "out" / "instances" / "a.png"))
    assert labels.dtype == np.uint16 and np.bincount(labels.ravel())[1:].tolist() == [52, 36]
    mask = np.array(Image.open(tmp_path / "out" / "masks" / "a.png"))
    assert np.array_equal(mask == 1, labels > 0)
    again = data.load("folder", size=(H, W), data_dir=tmp_path / "out", fractions=(1, 0, 0))
    assert np.array_equal(again.masks[0], mask)


def test_an_image_without_annotations_is_background(tmp_path):
    file = write(tmp_path, annotation([SQUARE]), names=["a.png", "b.png"])
    found = opened(file)
    assert sorted(int(mask.max()) for mask in found.masks) == [0, 1]


@pytest.mark.parametrize(
    ("outline", "message"),
    [
        ([], "it has no outline, perhaps only a box"),
        (None, "it has no outline"),
        ([[1, 2, 3, 4]], "three points or more"),
        ([[1, 2, 3, 4, 5]], "three points or more"),
        ([["a", "b", 1, 2, 3, 4]], "could not convert"),
        ([[1, 2, 3, 4, 5, 1e9]], "impossible coordinates"),
        ([[1, 2, float("nan"), 4, 5, 6]], "impossible coordinates"),
        ([[100, 100, 120, 100, 120, 120]], "outside the image, or has no area"),
        ([[-9, -9, -2, -9, -2, -2]], "outside the image, or has no area"),
        ({"size": [H, W]}, "'counts'"),
        ({"size": [H, W], "counts": [10, 10**9, 5]}, "does not fill the image"),
        ({"size": [H, W], "counts": [-5, 5, H * W]}, "does not fill the image"),
        ({"size": [W, H], "counts": [H * W]}, "does not fill the image"),
        ({"size": [H, W], "counts": ""}, "does not fill the image"),
        ({"size": [H, W], "counts": "0123zzz"}, "run-length code"),
        ({"size": [H, W], "counts": "~~~~"}, "run-length code"),
        ({"size": [H, W], "counts": "äö"}, "ascii"),
    ],
)
def test_an_outline_that_cannot_be_drawn_is_named(tmp_path, outline, message):
    file = write(tmp_path, annotation([SQUARE]), annotation(outline, number=5))
    refused(file, "annotations.json: holds a shape", "annotation 5, 'cat', of a.png", message)
    with pytest.raises(DataError):
        convert.convert("coco", file, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"annotations": None}, 'no list "annotations"'),
        ({"annotations": [3]}, 'no list "annotations"'),
        ({"categories": {}}, 'no list "categories"'),
        ({"images": [{"id": 1}]}, "file_name is None"),
        (
            {"images": [{"id": 1, "file_name": "a.png", "height": "20", "width": 24}]},
            "height is '2",
        ),
        ({"images": [{"id": 1, "file_name": "a.png", "height": 9, "width": 24}]}, "24×9 pixels"),
        ({"images": [{"id": 1, "file_name": "../a.png", "height": H, "width": W}]}, "not there"),
        ({"images": [{"id": 1, "file_name": "/etc/passwd", "height": H, "width": W}]}, "not there"),
        (
            {"images": 2 * [{"id": 1, "file_name": "a.png", "height": H, "width": W}]},
            "1 stands twi",
        ),
        ({"annotations": [annotation([SQUARE], 8)]}, "category 8, and there is no such"),
        ({"annotations": [annotation([SQUARE], 3, 44)]}, "image 44, category 3, and there"),
    ],
)
def test_a_record_that_does_not_fit_is_named(tmp_path, changes, message):
    inner = tmp_path / "inner"
    inner.mkdir()
    Image.fromarray(np.zeros((H, W, 3), np.uint8)).save(tmp_path / "a.png")
    refused(write(inner, annotation([SQUARE]), **changes), "annotations.json: ", message)


@pytest.mark.parametrize("content", [b"", b"[1]", b"{", b"\xff\xfe", b"[" * 10**5])
def test_what_is_no_coco_file_is_refused(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    refused(tmp_path / "a.json", "is no file of annotations that can be used")


def test_a_byte_order_mark_is_no_obstacle(tmp_path):
    file = write(tmp_path, annotation([SQUARE]))
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert len(opened(file)) == 1


def test_an_unknown_format_lists_the_known_ones(tmp_path):
    with pytest.raises(ArgumentError, match=r"no format 'pascal'.* are: labelme, coco, labelst"):
        annotations.find("pascal", tmp_path)


def test_more_objects_than_colours_keep_their_numbers():
    squares = [coco._shape("x", [[i, 0, i + 1, 0, i + 1, 1, i, 1]], 2, 400) for i in range(400)]
    labels = draw_instances(squares, {"x": 1}, 2, 400)
    assert labels[0].tolist() == list(range(1, 401)) and not labels[1].any()
