import json
import shutil
import socket

import numpy as np
import pytest
from PIL import Image
from skimage.filters import sobel
from skimage.measure import label
from skimage.segmentation import find_boundaries

from segkit import paths
from segkit.data import photos
from segkit.data.annotations import open_annotated
from segkit.data.labelme import as_shapes
from segkit.data.shapes import draw
from segkit.errors import ArgumentError

FOLDER = paths.root() / "data" / "photos"
ANNOTATED = ["astronaut", "chelsea", "coffee", "coins", "rocket"]
SHAPES = {
    "chelsea": (300, 451, 3),
    "coffee": (400, 600, 3),
    "astronaut": (512, 512, 3),
    "rocket": (427, 640, 3),
    "coins": (303, 384),
    "cell": (660, 550),
    "retina": (1411, 1411, 3),
    "immunohistochemistry": (512, 512, 3),
    "horse": (328, 400),
}
DOWNLOADED = {"skin", "human_mitosis", "cells3d", "kidney", "lily", "eagle", "brain"}


def content(name):
    return json.loads((FOLDER / f"{name}.json").read_text("utf-8"))


def drawn(shapes, ids, name, mask):
    """Return the mask of some of a photograph's shapes."""
    return draw(as_shapes(shapes, *mask.shape, FOLDER / f"{name}.json"), ids, *mask.shape)


# Photographs


def test_only_photographs_inside_the_wheel_are_listed():
    assert set(photos._NAMES) == set(SHAPES)
    assert not DOWNLOADED & set(photos._NAMES)
    licences = ("CC0", "public domain", "no known copyright restrictions")
    assert all(text.endswith(licences) for text in photos._NAMES.values())


@pytest.mark.parametrize("name", photos._NAMES)
def test_they_load_without_a_network(name, monkeypatch):
    def refuse(*args, **options):
        raise AssertionError(f"{name} asks the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    image = photos.load(name)
    assert image.dtype == np.uint8
    assert image.shape == SHAPES[name]
    assert image.max() > 200


def test_the_horse_is_black_on_white():
    assert np.unique(photos.load("horse")).tolist() == [0, 255]
    assert photos.load("horse")[150, 200] == 0


@pytest.mark.parametrize("call", [photos.load, photos.annotated])
def test_an_unknown_photograph_is_refused(call):
    with pytest.raises(ArgumentError, match=r"no photograph 'chelsee' \(did you mean chelsea\?\)"):
        call("chelsee")
    for name in DOWNLOADED:
        with pytest.raises(ArgumentError, match=f"no photograph '{name}'.*there are: chelsea, "):
            call(name)


# Annotations


@pytest.mark.parametrize("name", sorted(set(SHAPES) - set(ANNOTATED)))
def test_a_photograph_without_annotation_is_refused(name):
    having = ", ".join(ANNOTATED)
    with pytest.raises(ArgumentError, match=f"'{name}' has no annotation; .* one: {having}"):
        photos.annotated(name)


def test_an_unknown_label_is_refused():
    with pytest.raises(ArgumentError, match="no label 'dog'; there are: cat"):
        photos.annotated("chelsea", ["dog"])
    with pytest.raises(ArgumentError, match=r"labels \('cat', 'cat'\): name each once"):
        photos.annotated("chelsea", ["cat", "cat"])


def test_every_annotated_photograph_is_listed_here():
    assert sorted(file.name for file in FOLDER.iterdir()) == [f"{name}.json" for name in ANNOTATED]


@pytest.mark.parametrize("name", ANNOTATED)
def test_an_annotation_is_of_the_size_of_its_photograph(name):
    data = content(name)
    height, width = SHAPES[name][:2]
    assert (data["imageHeight"], data["imageWidth"]) == (height, width)
    assert data["imagePath"] == f"{name}.png" and data["imageData"] is None
    for shape in data["shapes"]:
        points = np.array(shape["points"])
        assert (points >= 0).all() and (points <= (width, height)).all()
        assert np.array_equal(points, points.round(1))


@pytest.mark.parametrize("name", ANNOTATED)
def test_image_mask_and_names_fit_together(name):
    image, mask, names = photos.annotated(name)
    assert np.array_equal(image, photos.load(name))
    assert mask.dtype == np.uint8 and mask.shape == image.shape[:2]
    assert np.unique(mask).tolist() == list(range(len(names)))
    assert names[0] == "background"


@pytest.mark.parametrize(
    ("name", "label", "low", "high"),
    [
        ("chelsea", "cat", 0.75, 0.79),
        ("coffee", "cup", 0.20, 0.22),
        ("coffee", "saucer", 0.23, 0.25),
        ("coffee", "spoon", 0.025, 0.029),
        ("astronaut", "person", 0.40, 0.43),
        ("rocket", "rocket", 0.017, 0.019),
        ("coins", "coin", 0.32, 0.35),
    ],
)
def test_areas(name, label, low, high):
    _, mask, names = photos.annotated(name)
    assert low < (mask == names.index(label)).mean() < high


# Pixels (x, y), found by looking at the photograph. Pairs on both sides of an outline lie 8 pixels
# or less apart.
POINTS = {
    ("chelsea", "cat"): {
        "eyes, nose": [(172, 112), (155, 115), (313, 133), (330, 130), (262, 245)],
        "ears, where they leave the picture": [(44, 2), (70, 5), (370, 5), (396, 2)],
        "outline": [(37, 60), (33, 90), (360, 140), (376, 30), (354, 85), (335, 200), (345, 228)],
        "body": [(4, 295), (4, 130), (80, 250), (200, 297), (295, 297)],
    },
    ("chelsea", "background"): {
        "walls": [(2, 2), (10, 60), (3, 115), (440, 10), (410, 60), (400, 140), (440, 220)],
        "outline": [(37, 2), (29, 60), (26, 90), (369, 140), (384, 30), (361, 85), (342, 205)],
        "below": [(360, 225), (360, 285), (390, 255), (440, 295)],
    },
    ("coffee", "cup"): {
        "coffee, rim, body": [(290, 160), (290, 21), (176, 110), (405, 120), (290, 220)],
        "handle": [(228, 256), (200, 285), (222, 305), (245, 275)],
        "reflection of the spoon": [(335, 245), (322, 255)],
    },
    ("coffee", "spoon"): {
        "handle, behind the cup": [(412, 75), (412, 100), (387, 205)],
        "bowl": [(365, 285), (330, 285), (403, 275), (360, 322)],
    },
    ("coffee", "saucer"): {
        "rim": [(80, 215), (283, 387), (476, 235), (440, 129), (165, 79)],
        "between cup and spoon": [(366, 232)],
        "around the handle": [(205, 240), (190, 285), (250, 300)],
    },
    ("coffee", "background"): {
        "outline": [(73, 215), (283, 394), (484, 235), (448, 126), (155, 77), (290, 13), (428, 75)],
    },
    ("astronaut", "person"): {
        "face, hair": [(225, 110), (232, 19), (157, 75), (298, 85), (276, 131), (176, 128)],
        "ring, neck": [(130, 180), (300, 225), (225, 220), (150, 153)],
        "suit": [(30, 400), (50, 290), (345, 280), (356, 340), (250, 450), (180, 470), (272, 500)],
    },
    ("astronaut", "background"): {
        "outline": [(232, 11), (149, 75), (305, 85), (276, 141), (174, 140), (308, 225)],
        "between face and ring": [(264, 165), (178, 143)],
        "flag, model": [(20, 200), (14, 400), (42, 282), (365, 320), (410, 200)],
        "helmet": [(285, 450), (310, 395), (350, 359), (430, 440), (400, 349)],
    },
    ("rocket", "rocket"): {
        "nose, body": [(322, 128), (313, 160), (332, 160), (316, 200), (328, 300), (322, 405)],
    },
    ("rocket", "background"): {
        "outline": [(322, 122), (308, 160), (337, 160), (322, 411)],
        "what holds it": [(311, 200), (333, 200), (310, 300), (334, 300), (305, 380), (340, 380)],
        "masts": [(201, 160), (446, 150), (60, 200)],
    },
}


@pytest.mark.parametrize(("name", "label"), POINTS)
def test_pixels_chosen_by_looking(name, label):
    _, mask, names = photos.annotated(name)
    for where, points in POINTS[name, label].items():
        found = {(x, y): names[mask[y, x]] for x, y in points}
        assert set(found.values()) == {label}, where


@pytest.mark.parametrize("name", ANNOTATED)
def test_outlines_lie_on_edges_of_the_photograph(name):
    image, mask, _ = photos.annotated(name)
    edges = sobel(image.astype(float) if image.ndim == 2 else image.mean(axis=2))
    outline = find_boundaries(mask)
    here = edges[outline].mean()
    for shift in ((0, 3), (0, -3), (3, 0), (-3, 0)):
        assert edges[np.roll(outline, shift, axis=(0, 1))].mean() < here


def test_each_coin_is_one_shape_and_one_component():
    image, mask, names = photos.annotated("coins")
    shapes = content("coins")["shapes"]
    assert names == ("background", "coin")
    assert [shape["label"] for shape in shapes] == ["coin"] * 24
    components = label(mask)
    assert components.max() == 24
    sizes = np.bincount(components.ravel())[1:]
    assert sizes.min() > 1000 and sizes.max() < 3300
    each = [drawn([shape], {"coin": 1}, "coins", mask) for shape in shapes]
    assert np.array_equal(sum(each), mask)
    assert {int(components[one > 0][0]) for one in each} == set(range(1, 25))
    assert image[mask == 1].mean() > image[mask == 0].mean() + 50


def test_of_two_shapes_in_coffee_the_later_lies_on_top():
    shapes = content("coffee")["shapes"]
    assert [shape["label"] for shape in shapes] == ["saucer", "spoon", "cup"]
    _, mask, names = photos.annotated("coffee")
    ids = {name: i for i, name in enumerate(names)}

    saucer, spoon, cup = (drawn([shape], ids, "coffee", mask) > 0 for shape in shapes)
    assert (saucer & cup).sum() > 30_000 and (mask[saucer & cup] == ids["cup"]).all()
    assert (saucer & spoon & ~cup).sum() > 5_000
    assert (mask[saucer & spoon & ~cup] == ids["spoon"]).all()
    hidden = spoon & cup  # a part of the spoon's handle
    assert hidden.sum() > 500 and (mask[hidden] == ids["cup"]).all()
    assert not np.array_equal(mask, drawn(shapes[::-1], ids, "coffee", mask))


def test_labels_choose_the_classes_and_their_order():
    _, every, names = photos.annotated("coffee")
    assert names == ("background", "cup", "saucer", "spoon")
    _, mask, names = photos.annotated("coffee", ["spoon", "saucer"])
    assert names == ("background", "spoon", "saucer")
    assert np.array_equal(mask, np.array([0, 0, 2, 1])[every])  # the cup still hides what it hides


@pytest.mark.parametrize("name", ANNOTATED)
def test_the_folder_loader_reads_the_same_mask(name, tmp_path):
    image, mask, names = photos.annotated(name)
    (tmp_path / "train").mkdir()
    shutil.copy(FOLDER / f"{name}.json", tmp_path / "train")
    Image.fromarray(image).save(tmp_path / "train" / f"{name}.png")
    data = open_annotated(tmp_path, "train", mask.shape, form="labelme", cache=False)
    assert data.class_names == names
    assert np.array_equal(data.images[0], image)
    assert np.array_equal(data.masks[0], mask)
