import base64
import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.path import Path as Curve
from PIL import Image

from segkit.data import load
from segkit.data.dataset import DataError
from segkit.data.labelme import open_labelme, paint, rasterise

H, W = 20, 24
SQUARE = [[4, 2], [10, 2], [10, 12], [4, 12]]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGKIT_DATA", str(tmp_path / "data"))


def shape(label="bone", points=SQUARE, kind="polygon", **more):
    return {"label": label, "points": points, "shape_type": kind, "flags": {}, **more}


def png(array):
    out = io.BytesIO()
    Image.fromarray(array).save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()


def annotate(place, name="a", shapes=None, embed=False, **changes):
    """Write an image and its JSON as LabelMe does."""
    place.mkdir(parents=True, exist_ok=True)
    image = np.full((H, W, 3), 50, np.uint8)
    if not embed:
        Image.fromarray(image).save(place / f"{name}.png")
    content = {
        "version": "5.5.0",
        "flags": {},
        "shapes": [shape()] if shapes is None else shapes,
        "imagePath": f"{name}.png",
        "imageData": png(image) if embed else None,
        "imageHeight": H,
        "imageWidth": W,
        **changes,
    }
    (place / f"{name}.json").write_text(json.dumps(content))


@pytest.fixture
def root(tmp_path):
    for i in range(10):
        annotate(tmp_path / "mine", f"a{i}")
    return tmp_path / "mine"


def opened(root, split="train", size=(H, W), **options):
    return open_labelme(root, split, size, **options)


def refused(root, *words, **options):
    with pytest.raises(DataError) as error:
        opened(root, **options)
    for word in words:
        assert word in str(error.value)


# What is read


def test_polygons_become_ids(root):
    data = opened(root)
    assert data.class_names == ("background", "bone")
    assert len(data) == 7
    wanted = np.zeros((H, W), np.uint8)
    wanted[2:12, 4:10] = 1
    assert all(np.array_equal(mask, wanted) for mask in data.masks)
    assert (data.images == 50).all()


@pytest.mark.parametrize("embed", [False, True])
def test_the_image_is_the_file_or_the_one_inside(tmp_path, embed):
    annotate(tmp_path / "train", embed=embed)
    assert (tmp_path / "train" / "a.png").exists() is not embed
    assert opened(tmp_path).images.shape == (1, H, W, 3)


def test_images_may_lie_elsewhere(tmp_path):
    annotate(tmp_path / "train", imagePath="..\\pictures\\a.png")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "train" / "a.png").rename(tmp_path / "pictures" / "a.png")
    assert len(opened(tmp_path)) == 1


def test_ready_splits_labels_over_all_of_them_and_load(tmp_path):
    annotate(tmp_path / "train", "a", [shape("tibia")])
    annotate(tmp_path / "val", "b", [shape("femur"), shape("_background_")])
    annotate(tmp_path / "test", "c", [])
    for split, values in (("train", {0, 2}), ("val", {0}), ("test", {0})):
        data = load("labelme", split, H, data_dir=tmp_path)
        assert data.class_names == ("background", "femur", "tibia")
        assert set(np.unique(data.masks)) == values


def test_class_names_fix_the_ids(tmp_path):
    annotate(
        tmp_path / "train", "a", [shape("tibia"), shape("__ignore__", [[0, 0], [2, 0], [2, 2]])]
    )
    data = opened(tmp_path, class_names=["none", "femur", "tibia"])
    assert data.class_names == ("none", "femur", "tibia")
    assert set(np.unique(data.masks)) == {0, 2, 255}


def test_groups_count_and_channels(root):
    data = opened(root, group_by=r"\d", count=3, channels=1, cache=False)
    assert data.images.shape == (3, H, W)
    assert data.groups == tuple(name[1] for name in data.names)


def test_the_image_is_turned_as_labelme_shows_it(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    annotate(tmp_path / "train")
    stored = np.zeros((W, H, 3), np.uint8)
    stored[0] = 200  # the top row of what is stored is the right column of what is seen
    Image.fromarray(stored).save(tmp_path / "train" / "a.png", exif=exif)
    image = opened(tmp_path).images[0]
    assert (image[:, -1] == 200).all()
    assert (image[:, :-1] == 0).all()


# Shapes


def test_later_shapes_lie_on_top():
    shapes = [shape("a"), shape("b", [[4, 2], [10, 2], [10, 7], [4, 7]])]
    ids = {"a": 1, "b": 2}
    assert np.bincount(paint(shapes, ids, H, W).ravel()).tolist() == [H * W - 60, 30, 30]
    assert np.bincount(paint(shapes[::-1], ids, H, W).ravel()).tolist() == [H * W - 60, 60]


def test_a_rectangle_a_circle_and_a_stamp():
    mask = paint([shape(points=[[10, 12], [4, 2]], kind="rectangle")], {"bone": 1}, H, W)
    assert np.array_equal(mask, paint([shape()], {"bone": 1}, H, W))
    mask = paint([shape(points=[[12, 10], [12, 16.3]], kind="circle")], {"bone": 1}, H, W)
    y, x = np.mgrid[:H, :W] + 0.5
    assert np.array_equal(mask, np.hypot(x - 12, y - 10) <= 6.3)
    stamp = np.random.default_rng(0).integers(0, 2, (5, 7)).astype(bool)
    mask = paint([shape(points=[[3, 4], [9, 8]], kind="mask", mask=png(stamp))], {"bone": 1}, H, W)
    assert np.array_equal(mask[4:9, 3:10], stamp)
    assert mask.sum() == stamp.sum()


def test_what_leaves_the_image_is_cut_off():
    mask = paint([shape(points=[[-5, -5], [5, -5], [5, 5], [-5, 5]])], {"bone": 1}, H, W)
    assert mask[:5, :5].all()
    assert mask.sum() == 25
    everything = [[-1e5, -1e5], [1e5, -1e5], [1e5, 1e5], [-1e5, 1e5]]
    assert paint([shape(points=everything)], {"bone": 1}, H, W).all()


@given(
    st.lists(
        st.tuples(st.floats(-10, 40, width=32), st.floats(-10, 30, width=32)),
        min_size=3,
        max_size=9,
    )
)
def test_a_pixel_is_inside_when_its_centre_is(corners):
    points = np.array(corners) + (1e-4, 3e-4)  # off the centres, where inside is undecided
    y, x = np.mgrid[:H, :W] + 0.5
    centres = np.stack([x.ravel(), y.ravel()], axis=1)
    # Winding by angle, summed over the edges: an odd number of turns is inside.
    a = points[None] - centres[:, None]
    b = np.roll(points, -1, axis=0)[None] - centres[:, None]
    turns = np.arctan2(a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0], (a * b).sum(-1)).sum(1)
    wanted = np.round(turns / (2 * np.pi)).astype(int) % 2 == 1
    near = _distance(centres, points) < 1e-6
    assert ((rasterise(points, H, W).ravel() == wanted) | near).all()


def _distance(places, points):
    """Distance of each place to the outline."""
    start, end = points[None], np.roll(points, -1, axis=0)[None]
    along = end - start
    length = np.maximum((along**2).sum(-1), 1e-30)
    t = np.clip(((places[:, None] - start) * along).sum(-1) / length, 0, 1)
    return np.sqrt(((start + t[..., None] * along - places[:, None]) ** 2).sum(-1)).min(1)


def test_a_simple_polygon_agrees_with_matplotlib():
    turns = np.sort(np.random.default_rng(3).uniform(0, 2 * np.pi, 40))
    radius = np.random.default_rng(4).uniform(20, 90, 40)
    points = np.stack([100 + radius * np.cos(turns), 95 + radius * np.sin(turns)], axis=1)
    y, x = np.mgrid[:190, :200] + 0.5
    wanted = Curve(points).contains_points(np.stack([x.ravel(), y.ravel()], axis=1))
    assert np.array_equal(rasterise(points, 190, 200).ravel(), wanted)
    assert wanted.sum() > 5000


# What does not fit


def break_shape(root, name="a3", **changes):
    annotate(root, name, [shape(), {**shape(), **changes}])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"shape_type": "linestrip"}, "a shape 'bone' is a linestrip, which covers no area"),
        ({"shape_type": None}, "a shape 'bone' is a None"),
        ({"shape_type": []}, "a shape 'bone' is a []"),
        ({"points": [[1, 2], [3, 4]]}, "a polygon 'bone' has not the 3 points it needs"),
        ({"points": "here"}, "has not the 3 points"),
        ({"points": [[1, 2, 3]] * 3}, "has not the 3 points"),
        ({"points": [[1, 2], [3, 4], [5]]}, "has not the 3 points"),
        ({"points": None}, "has not the 3 points"),
        ({"points": [[1, 2], [3, 4], [5, float("nan")]]}, "impossible coordinates"),
        ({"points": [[1, 2], [3, 4], [5, 1e300]]}, "impossible coordinates"),
        ({"shape_type": "circle"}, "a circle 'bone' has not the 2 points"),
        ({"label": None}, "a shape has no label"),
        ({"label": ""}, "a shape has no label"),
    ],
)
def test_a_shape_that_cannot_be_drawn_is_refused(root, changes, words):
    break_shape(root, **changes)
    refused(root, "a3.json: ", words)


@pytest.mark.parametrize(
    "changes",
    [
        {"points": [[30, 2], [40, 2], [40, 12]]},
        {"points": [[3, -20], [4, -20], [4, -12]]},
        {"shape_type": "mask", "points": [[20, 4], [26, 8]], "mask": png(np.ones((5, 7), bool))},
        {"shape_type": "mask", "points": [[-3, 4], [3, 8]], "mask": png(np.ones((5, 7), bool))},
        {"shape_type": "mask", "points": [[-9, 4], [-3, 8]], "mask": png(np.ones((5, 7), bool))},
    ],
)
def test_a_shape_outside_the_image_is_refused(root, changes):
    for i in range(10):
        break_shape(root, f"a{i}", **changes)
    refused(root, "7 faults", ".json: a ", "'bone' lies outside the image")


@pytest.mark.parametrize("mask", [None, "", "%%%", "abcd"])
def test_a_damaged_stamp_is_refused(tmp_path, mask):
    annotate(tmp_path / "train", "a", [shape(kind="mask", points=[[1, 1], [2, 2]], mask=mask)])
    refused(tmp_path, "a.json: ")


@pytest.mark.parametrize("path", ["b.png", "a" * 5000, "\0", "/dev/zero", "..", ""])
def test_an_image_path_that_leads_nowhere_is_refused(tmp_path, path):
    annotate(tmp_path / "train", imagePath=path)
    refused(tmp_path, "a.json: ")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "is not readable JSON"),
        ('{"shapes": [', "is not readable JSON"),
        ("[" * 100_000, "is not readable JSON"),
        ('{"categories": []}', 'is no LabelMe file (no "shapes")'),
        ("[1, 2]", 'is no LabelMe file (no "shapes")'),
        ('{"shapes": []}', "imageHeight is None"),
        ('{"shapes": [], "imageHeight": 20, "imageWidth": 24}', "imagePath is None"),
    ],
)
def test_what_is_no_labelme_file_is_refused(root, content, words):
    (root / "a3.json").write_text(content)
    refused(root, "a3.json: ", words)


def test_bytes_that_are_no_text_are_refused(root):
    (root / "a3.json").write_bytes(b"\xff\xfe\x00")
    refused(root, "a3.json: is not readable JSON")


def test_faults_are_listed_together(root):
    (root / "a1.png").unlink()
    (root / "a2.png").write_bytes(b"nothing")
    (root / "a3.json").unlink()
    annotate(root, "a4", imageData="abcd")
    refused(
        root,
        "4 faults",
        "a1.json: names the image a1.png, which is not there, and holds no copy",
        "a2.png: cannot be read",
        "1 images have no .json of the same name (a3.png)",
        "a4.json: cannot be read",
    )


def test_an_image_that_is_not_the_annotated_one_is_refused(tmp_path):
    annotate(tmp_path / "train", imageHeight=H + 1)
    refused(tmp_path, "a.json: was drawn on an image of 24×21 pixels, this one has 24×20")


def test_labels_that_are_not_classes_are_refused(root):
    annotate(root, "a3", [shape("bonne")])
    refused(
        root,
        "labels 'bonne' (a3.json) are not among the classes 'background', 'bone'",
        class_names=["background", "bone"],
    )


def test_no_label_at_all_is_refused(tmp_path):
    annotate(tmp_path / "train", "a", [])
    refused(tmp_path, "there is no label in these files")


def test_sidecars_and_empty_folders(root, tmp_path):
    (root / "._a0.json").write_bytes(b"\x00\x05")
    (root / "._a0.png").write_bytes(b"\x00\x05")
    assert len(opened(root)) == 7
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no LabelMe files"):
        opened(tmp_path / "empty")
    with pytest.raises(ValueError, match=r"labelme has no option values; it has: .*group_by"):
        load("labelme", size=16, data_dir=root, values="ids")
