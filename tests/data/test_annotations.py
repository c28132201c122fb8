import numpy as np
import pytest
from labelme_files import SQUARE, H, W, png, shape
from labelme_files import annotate as write
from PIL import Image

from segkit.convert import convert
from segkit.data import load
from segkit.data.annotations import open_annotated
from segkit.data.shapes import Rules
from segkit.errors import DataError


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGKIT_DATA", str(tmp_path / "data"))


def annotate(place, name="a", shapes=None, **changes):
    write(place, name, [shape()] if shapes is None else shapes, **changes)


@pytest.fixture
def root(tmp_path):
    for i in range(10):
        annotate(tmp_path / "mine", f"a{i}")
    return tmp_path / "mine"


def opened(root, split="train", size=(H, W), **options):
    return open_annotated(root, split, size, form="labelme", **options)


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


@pytest.mark.parametrize(
    "path", ["b.png", "C:\\\\me\\\\a.png", "a.PNG", "", "..\\elsewhere\\a.png"]
)
def test_the_image_may_lie_elsewhere_and_is_else_the_one_of_the_same_stem(tmp_path, path):
    annotate(tmp_path / "train", imagePath=path)
    if "elsewhere" in path:
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "train" / "a.png").rename(tmp_path / "elsewhere" / "a.png")
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
    ignored = shape("__ignore__", [[0, 0], [2, 0], [2, 2]])
    annotate(tmp_path / "train", "a", [shape("tibia"), ignored])
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
    assert (image[:, -1] == 200).all() and (image[:, :-1] == 0).all()


# Shapes


def drawn(place, *shapes):
    """Return the mask of some shapes, whose ids are in the order of their labels."""
    annotate(place / "train", shapes=list(shapes))
    return opened(place, cache=False).masks[0]


def test_later_shapes_lie_on_top(tmp_path):
    shapes = [shape("a"), shape("b", [[4, 2], [10, 2], [10, 7], [4, 7]])]
    assert np.bincount(drawn(tmp_path, *shapes).ravel()).tolist() == [H * W - 60, 30, 30]
    assert np.bincount(drawn(tmp_path, *shapes[::-1]).ravel()).tolist() == [H * W - 60, 60]


def test_rectangles_circles_and_stamps(tmp_path):
    for kind, points in (("rectangle", [[10, 12], [4, 2]]), ("oriented_rectangle", SQUARE)):
        mask = drawn(tmp_path, shape(points=points, kind=kind))
        assert np.array_equal(mask, drawn(tmp_path, shape()))
    mask = drawn(tmp_path, shape(points=[[12, 10], [12, 16.3]], kind="circle"))
    y, x = np.mgrid[:H, :W] + 0.5
    assert np.array_equal(mask, np.hypot(x - 12, y - 10) <= 6.3)
    stamp = np.random.default_rng(0).integers(0, 2, (5, 7)).astype(bool)
    mask = drawn(tmp_path, shape(points=[[3, 4], [9, 8]], kind="mask", mask=png(stamp)))
    assert np.array_equal(mask[4:9, 3:10], stamp)
    assert mask.sum() == stamp.sum()


def test_what_leaves_the_image_is_cut_off(tmp_path):
    mask = drawn(tmp_path, shape(points=[[-5, -5], [5, -5], [5, 5], [-5, 5]]))
    assert mask[:5, :5].all() and mask.sum() == 25
    everything = [[-1e5, -1e5], [1e5, -1e5], [1e5, 1e5], [-1e5, 1e5]]
    assert drawn(tmp_path, shape(points=everything)).all()
    stamp = {"kind": "mask", "mask": png(np.ones((5, 7), bool))}
    mask = drawn(tmp_path, shape(points=[[-3, 4], [3, 8]], **stamp))
    assert mask[4:9, :4].all() and mask.sum() == 20
    mask = drawn(tmp_path, shape(points=[[20, 18], [26, 22]], **stamp))
    assert mask[18:, 20:].all() and mask.sum() == 8


def test_a_pixel_is_inside_when_its_centre_is(tmp_path):
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:H, :W] + 0.5
    for corners in range(3, 43):
        points = rng.uniform((-10, -10), (W + 10, H + 10), (corners, 2))
        if corners > 9:  # simple outlines with many corners; the others cross themselves
            turns = np.sort(rng.uniform(0, 2 * np.pi, corners))
            points = (12, 10) + 9 * np.stack([np.cos(turns), np.sin(turns)], axis=1)
        inside = np.zeros((H, W), bool)
        for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, axis=0), strict=True):
            crosses = (y0 <= y) != (y1 <= y)  # the edge, the line from a centre to the right
            inside ^= crosses & (x < x0 + (x1 - x0) * (y - y0) / (y1 - y0))
        assert np.array_equal(drawn(tmp_path, shape(points=points.tolist())), inside)


# What does not fit


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"shape_type": "linestrip"},
            "a shape 'bone' is a linestrip, which has no area without a line width",
        ),
        ({"shape_type": None}, "a shape 'bone' is a None"),
        ({"shape_type": []}, "a shape 'bone' is a []"),
        ({"points": [[1, 2], [3, 4]]}, "a polygon 'bone' has not the 3 points it needs"),
        ({"points": "here"}, "has not the 3 points"),
        ({"points": [[1, 2, 3]] * 3}, "has not the 3 points"),
        ({"points": [[1, 2], [3, 4], [5]]}, "has not the 3 points"),
        ({"points": None}, "has not the 3 points"),
        ({"points": [[True, "2"]] * 3}, "has not the 3 points"),
        ({"points": [[10**400, 1]] * 3}, "has not the 3 points"),
        ({"points": [[1, 2], [3, 4], [5, float("nan")]]}, "impossible coordinates"),
        ({"points": [[1, 2], [3, 4], [5, 1e300]]}, "impossible coordinates"),
        ({"shape_type": "circle"}, "a circle 'bone' has not the 2 points"),
        ({"label": None}, "a shape has no label"),
        ({"label": ""}, "a shape has no label"),
    ],
)
def test_a_shape_that_cannot_be_drawn_is_refused(root, changes, words):
    annotate(root, "a3", [shape(), shape() | changes])
    refused(root, "a3.json: ", words)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"points": [[30, 2], [40, 2], [40, 12]]}, "lies outside the image"),
        ({"points": [[3, -20], [4, -20], [4, -12]]}, "lies outside the image"),
        ({"points": [[7, 7], [7, 7]], "shape_type": "rectangle"}, "has no area"),
        ({"points": [[5, 5], [5, 9], [5, 20]]}, "has no area"),
        (
            {"shape_type": "mask", "points": [[-9, 4], [-3, 8]], "mask": png(np.ones((5, 7)) > 0)},
            "lies outside the image",
        ),
    ],
)
def test_a_shape_outside_the_image_or_without_area_is_refused(root, changes, problem):
    for i in range(10):
        annotate(root, f"a{i}", [shape(), shape() | changes])
    refused(root, "7 faults", ".json: holds a shape", f"'bone' {problem})")


@pytest.mark.parametrize("mask", [None, "", "%%%", "abcd"])
def test_a_damaged_stamp_is_refused(tmp_path, mask):
    annotate(tmp_path / "train", "a", [shape(kind="mask", points=[[1, 1], [2, 2]], mask=mask)])
    refused(tmp_path, "a.json: ", "a mask 'bone'")


@pytest.mark.parametrize("path", ["b.png", "a" * 5000, "\0", "/dev/zero", "..", ""])
def test_an_image_path_that_leads_nowhere_is_refused(tmp_path, path):
    annotate(tmp_path / "train", imagePath=path)
    (tmp_path / "train" / "a.png").unlink()
    refused(tmp_path, "a.json: ")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "no readable JSON"),
        ("\xff\xfe\x00", "no readable JSON"),
        ('{"shapes": [', "no readable JSON"),
        ("[" * 100_000, "no readable JSON"),
        ('{"categories": []}', 'is no file of annotations that can be used (no "shapes")'),
        ("[1, 2]", 'is no file of annotations that can be used (no "shapes")'),
        ('{"shapes": [], "imagePath": 3}', "imagePath is 3"),
        ('{"shapes": [], "imageHeight": "20", "imagePath": "a3.png"}', "imageHeight is '20'"),
    ],
)
def test_what_is_no_labelme_file_is_refused(root, content, words):
    (root / "a3.json").write_bytes(content.encode("latin-1"))
    refused(root, "a3.json: ", words)


def test_issues_are_listed_together(root):
    (root / "a1.png").unlink()
    (root / "a2.png").write_bytes(b"nothing")
    (root / "a3.json").unlink()
    annotate(root, "a4", imageData="abcd")
    refused(
        root,
        "3 faults",
        "a1.json: names an image that is not there, and holds no copy of it (a1.png)",
        "a2.png (cannot identify",
        "a3.png: an image without a mask of the same name (no .json)",
        "a4.json (cannot identify",
    )


def test_an_image_that_is_not_the_annotated_one_is_refused(tmp_path):
    annotate(tmp_path / "train", imageHeight=H + 1)
    refused(tmp_path, "a.json: was drawn on", "(24×21 pixels, this one has 24×20)")


def test_old_files_without_a_size_and_with_a_byte_order_mark_are_read(tmp_path):
    annotate(tmp_path / "train", imageHeight=None, imageWidth=None)
    file = tmp_path / "train" / "a.json"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert opened(tmp_path).masks.any()


def test_labels_that_are_not_classes_are_refused(root):
    annotate(root, "a3", [shape("bonne")])
    names = ["background", "bone"]
    classes = "the classes are background, bone"
    refused(root, "a3.json: holds a label", f"'bonne', {classes}", class_names=names)
    # The first class is the background: its shapes would be lost.
    names = ["bone", "bonne"]
    refused(root, "9 files: holds shapes of the first class", "a0.json ('bone'", class_names=names)


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


def test_the_four_corners_of_a_rectangle_are_one_too(tmp_path):
    corners = [[4, 2], [10, 2], [10, 12], [4, 12]]
    write(tmp_path / "train", "a", [shape(points=corners, kind="rectangle")])
    assert (opened(tmp_path).masks[0] == 1).sum() == 60


@pytest.mark.parametrize(
    ("kind", "points", "rows"),
    [
        ("line", [[2.5, 5.5], [12.5, 5.5]], {4: (2, 13), 5: (1, 14), 6: (2, 13), 3: (0, 0)}),
        ("linestrip", [[2.5, 2.5], [12.5, 2.5], [12.5, 12.5]], {1: (2, 13), 9: (11, 14)}),
        ("point", [[6.5, 8.5]], {7: (6, 7), 8: (5, 8), 9: (6, 7), 10: (0, 0)}),
    ],
)
def test_lines_and_points_have_the_width_that_is_asked_for(tmp_path, kind, points, rows):
    write(tmp_path / "train", "a", [shape(points=points, kind=kind)])
    refused(tmp_path, f"is a {kind}, which has no area without a line width")
    mask = opened(tmp_path, line_width=2.2).masks[0]
    for row, (left, right) in rows.items():
        assert np.flatnonzero(mask[row]).tolist() == [*range(left, right)], row


def test_what_is_no_region_may_be_skipped(tmp_path):
    for name, bad in (
        ("a", shape("crack", [[1, 1], [9, 9]], "line")),
        ("b", shape(points=[[1, 1]])),
    ):
        write(
            tmp_path / "train", name, [shape(), bad, shape(points=[[90, 90], [99, 90], [99, 99]])]
        )
    found = opened(tmp_path, skip=True)
    assert found.class_names == ("background", "bone") and (found.masks == 1).sum() == 2 * 60
    rules = Rules(skipped=set())
    convert("labelme", tmp_path, tmp_path.parent / f"{tmp_path.name} out", rules=rules)
    assert sorted(rules.skipped) == [
        "a.json: a polygon 'bone' lies outside the image",
        "a.json: a shape 'crack' is a line, which has no area without a line width",
        "b.json: a polygon 'bone' has not the 3 points it needs",
        "b.json: a polygon 'bone' lies outside the image",
    ]
