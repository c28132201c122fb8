"""Label Studio's export: what it draws, what is refused, and where the images are."""

import json

import numpy as np
import pytest
from PIL import Image

from segkit import data
from segkit.data import annotations, labelstudio
from segkit.data.shapes import Rules, draw
from segkit.errors import DataError
from segkit.issues import IssueError

H, W = 20, 30
IDS = {"cell": 1, "cut": 2}


def region(kind, label="cell", **value):
    return {
        "type": kind,
        "original_height": H,
        "original_width": W,
        "value": {kind: [label]} | value,
    }


def square(label="cell", left=10, top=10, side=50, **more):
    return region("rectanglelabels", label, x=left, y=top, width=side, height=side, **more)


def task(*regions, image="/data/upload/1/0a1b2c3d-a.png", number=1, annotations=1, **more):
    one = {"result": list(regions), "was_cancelled": False}
    return {"id": number, "data": {"image": image}, "annotations": [one] * annotations} | more


def write(place, *tasks, names=("a.png",)):
    for name in names:
        Image.fromarray(np.full((H, W, 3), 90, np.uint8)).save(place / name)
    (place / "export.json").write_text(json.dumps(list(tasks)))
    return place / "export.json"


def mask(source, **options):
    """Return the mask of the only example."""
    ((example,), issues) = labelstudio.find(source, **options)
    assert not issues
    image, shapes = labelstudio.open_example(example)
    assert image.shape == (H, W, 3)
    return draw(shapes, IDS, H, W)


def encoded(values, repeat=True):
    """Return Label Studio's run-length code of a flat uint8 array."""
    text = f"{len(values):032b}" + f"{7:05b}"  # values of 8 bits
    lengths = (3, 4, 8, 16)
    text += "".join(f"{n - 1:04b}" for n in lengths)
    start = 0
    while start < len(values):
        end = start + 1
        while end < len(values) and end - start < 2**16 and values[end] == values[start]:
            end += 1
        if not repeat:
            end = min(start + 5, len(values))
        which = next(k for k, n in enumerate(lengths) if end - start <= 2**n)
        block = values[start : start + 1] if repeat else values[start:end]
        text += f"{int(repeat)}{which:02b}{end - start - 1:0{lengths[which]}b}"
        text += "".join(f"{value:08b}" for value in block)
        start = end
    text += "0" * (-len(text) % 8)
    return [int(text[i : i + 8], 2) for i in range(0, len(text), 8)]


@pytest.mark.parametrize("repeat", [True, False])
def test_a_brush_is_what_is_more_than_half_opaque(tmp_path, repeat):
    rng = np.random.default_rng(0)
    painted = rng.integers(0, 2, (H, W)).astype(np.uint8)
    painted[:, :10] = 1
    pixels = np.zeros((H, W, 4), np.uint8)
    pixels[..., :3] = 77
    pixels[..., 3] = np.where(painted == 1, rng.integers(128, 256, (H, W)), 127)
    code = encoded(pixels.ravel(), repeat)
    source = write(tmp_path, task(region("brushlabels", format="rle", rle=code)))
    assert (mask(source) == painted).all()


def test_polygons_and_rectangles_are_in_percent(tmp_path):
    triangle = region("polygonlabels", "cut", points=[[0, 0], [100, 0], [0, 100]])
    found = mask(write(tmp_path, task(square(), triangle)))
    y, x = np.mgrid[:H, :W] + 0.5
    expected = ((x > 3) & (x < 18) & (y > 2) & (y < 12)).astype(int)
    expected[x / W + y / H < 1] = 2  # later ones lie on top
    assert (found == expected).all()


def test_a_rotation_is_clockwise_about_the_corner(tmp_path):
    turned = square(left=60, top=0, side=50)
    turned["value"] |= {"rotation": 90, "width": 20, "height": 40}
    found = mask(write(tmp_path, task(turned)))
    # 6 pixels wide and 8 high before; the corner (18, 0) stays
    expected = np.zeros((H, W), int)
    expected[0:6, 10:18] = 1
    assert (found == expected).all()


def test_an_ellipse_has_two_radii_and_a_rotation(tmp_path):
    oval = region("ellipselabels", x=50, y=50, radiusX=40, radiusY=20, rotation=0)
    y, x = np.mgrid[:H, :W] + 0.5
    expected = ((x - 15) / 12) ** 2 + ((y - 10) / 4) ** 2 < 1
    assert np.mean(mask(write(tmp_path, task(oval))) != expected) < 0.01
    oval["value"] |= {"rotation": 90, "radiusX": 20}
    expected = ((x - 15) / 4) ** 2 + ((y - 10) / 6) ** 2 < 1
    assert np.mean(mask(write(tmp_path, task(oval))) != expected) < 0.02


@pytest.mark.parametrize(
    "address",
    [
        "/data/upload/1/0a1b2c3d-a.png",
        "/data/local-files/?d=scans/a.png",
        "s3://bucket/folder/a.png",
        "https://host/x/a.png",
        "a.png",
        "C:\\scans\\a.png",
    ],
)
@pytest.mark.parametrize("folder", ["", "images", "elsewhere"])
def test_an_image_is_found_by_its_name(tmp_path, address, folder):
    source = write(tmp_path, task(square(), image=address), names=())
    (tmp_path / folder).mkdir(exist_ok=True)
    write(tmp_path / folder, names=("a.png",)).unlink() if folder else write(
        tmp_path, task(square(), image=address)
    )
    options = {"images": tmp_path / folder} if folder == "elsewhere" else {}
    assert mask(source, **options).any()


def test_a_name_with_its_prefix_comes_first(tmp_path):
    source = write(tmp_path, task(square()), names=("a.png", "0a1b2c3d-a.png"))
    ((example,), _) = labelstudio.find(source)
    assert example.image.name == "0a1b2c3d-a.png"


def test_no_name_leads_out_of_the_folder(tmp_path):
    (tmp_path / "in").mkdir()
    write(tmp_path, names=("a.png",))
    for address in ("../a.png", "..", "/", "", "%2e%2e/a.png", "..\\a.png"):
        source = write(tmp_path / "in", task(square(), image=address), names=())
        examples, issues = labelstudio.find(source)
        assert not examples and "names an image that is not there" in str(issues[0])


def test_cancelled_annotations_and_answers_about_the_whole_image_do_not_count(tmp_path):
    whole = task(square(), {"type": "choices", "value": {"choices": ["good"]}})
    whole["annotations"].append({"result": [], "was_cancelled": True})
    whole["predictions"] = [{"result": [square("cut")]}]
    assert set(np.unique(mask(write(tmp_path, whole)))) == {0, 1}


def test_it_opens_as_a_data_set(tmp_path):
    names = tuple(f"{k}.png" for k in range(4))
    tasks = [task(square(), image=f"/x/{name}", number=k) for k, name in enumerate(names)]
    source = write(tmp_path, *tasks, names=names)
    options = {"fractions": (1.0, 0.0, 0.0), "cache": False, "transform": None}
    opened = data.load("labelstudio", "train", (H, W), data_dir=source, **options)
    assert opened.names == ("0", "1", "2", "3") and opened.class_names == ("background", "cell")
    assert (opened.masks.reshape(4, -1).sum(1) == 150).all()


TRUNCATED = encoded(np.zeros(4 * H * W, np.uint8))[:6]
OTHER_SIZE = encoded(np.zeros(4 * H, np.uint8))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (task(square(), annotations=2), "task 1 has 2 annotations: export it with exactly one"),
        (task(square(), annotations=0), "task 1 has 0 annotations"),
        (task(square(), image="b.png"), "task 1: b.png"),
        ({"id": 3}, "task 3 has no annotations or no data"),
        (task({**square(), "original_width": 31}), "31×20 pixels"),
        (task(region("rectanglelabels", label=3)), "rectanglelabels without one label"),
        (task({"type": "polygonlabels"}), "polygonlabels without one label"),
    ],
)
def test_a_task_that_cannot_be_used_is_named(tmp_path, change, words):
    examples, issues = labelstudio.find(write(tmp_path, change))
    assert not examples and len(issues) == 1 and words in str(issues[0])
    assert "export.json" in str(issues[0])


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (region("brushlabels", rle=TRUNCATED), "ends too early"),
        (region("brushlabels", rle=OTHER_SIZE), "not of an image of 30×20 pixels"),
        (region("brushlabels", rle=[300]), "bytes must be in range"),
        (region("brushlabels", rle="text"), "brushlabels 'cell' of a.png"),
        (region("brushlabels"), "'rle'"),
        (region("polygonlabels", points=[[0, 0], [9, 9]]), "three points or more"),
        (region("polygonlabels", points=[[0, 0], [1e9, 0], [0, 1e9]]), "impossible coordinates"),
        (region("polygonlabels", points=[[0, 0], [float("nan"), 0], [0, 9]]), "impossible"),
        (square(left=200), "lies outside the image, or has no area"),
        (square(side=0), "lies outside the image, or has no area"),
        (region("keypointlabels", x=1, y=2), "covers no area: use polygonlabels"),
        (region("ellipselabels", x=1, y=2), "'radiusX'"),
    ],
)
def test_a_region_that_cannot_be_drawn_is_named_or_skipped(tmp_path, wrong, words):
    source = write(tmp_path, task(square(), wrong))
    ((example,), _) = labelstudio.find(source)
    with pytest.raises(IssueError) as error:
        labelstudio.open_example(example)
    assert words in str(error.value) and "export.json" in str(error.value)
    rules = Rules(skipped=set())
    _, shapes = labelstudio.open_example(example, rules)
    assert len(shapes) == 1 and words in str(rules.skipped)


def test_two_tasks_with_one_image_are_refused(tmp_path):
    _, issues = labelstudio.find(write(tmp_path, task(square()), task(square(), number=2)))
    assert "a is the image of two tasks" in str(issues[0])


@pytest.mark.parametrize("content", ["{}", "[3]", "[", "", "[[[", "null", "\ufeff[]x"])
def test_a_file_of_another_kind_is_refused(tmp_path, content):
    (tmp_path / "export.json").write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=r"export\.json"):
        labelstudio.find(tmp_path / "export.json")


def test_damaged_exports_are_refused_or_read(tmp_path):
    pixels = np.zeros((H, W, 4), np.uint8)
    pixels[4:9, 4:9, 3] = 255
    brush = region("brushlabels", rle=encoded(pixels.ravel()))
    source = write(tmp_path, task(square(), brush), task(brush, image="b.png", number=2))
    whole, rng, seen = source.read_bytes(), np.random.default_rng(0), set()
    for k in range(400):
        broken = bytearray(whole[: rng.integers(len(whole))] if k % 3 == 0 else whole)
        for place in rng.integers(0, max(len(broken), 1), size=rng.integers(1, 4)):
            if broken:
                broken[place] = rng.integers(32, 127)
        source.write_bytes(broken)
        try:
            examples, _ = annotations.find("labelstudio", source)
            for example in examples:
                labelstudio.open_example(example)
            seen.add("read")
        except DataError as error:
            assert str(tmp_path) in str(error)
            seen.add("refused")
    assert seen == {"read", "refused"}
