"""Damaged and hostile files against every reader: a result or a clear error, and nothing else.

Any exception but the reader's own, a hang (a minute for the file) or a crash fails the test. The
examples are the same on every run.
"""

import base64
import io
import json
import math
import os
import pickle

import cv2
import numpy as np
import pytest
import safetensors.torch
import tifffile
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from labelme_files import png, shape
from PIL import Image

from segkit import doctor, image_ops, model_file
from segkit.data import read
from segkit.data.annotations import open_annotated
from segkit.data.folder import open_folder
from segkit.errors import CheckpointError, DataError
from segkit.model_file import ModelMetadata, load_model, save_model
from segkit.train import load_weights, save_weights

pytestmark = pytest.mark.timeout(60)
H, W = 12, 16


def fuzz(examples):
    return settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGKIT_DATA", str(tmp_path / "data"))


@st.composite
def damaged(draw, contents):
    """Return bytes with a few changes: bytes replaced, a stretch dropped, doubled or cut off."""
    content = bytearray(draw(st.sampled_from(contents)))
    for _ in range(draw(st.integers(1, 4))):
        n = len(content)
        at = draw(st.integers(0, max(0, min(n - 1, draw(st.sampled_from([40, 400, n]))))))
        length = draw(st.sampled_from([1, 2, 4, 30, n]))
        kind = draw(st.sampled_from(["replace", "replace", "drop", "double", "cut", "insert"]))
        if kind == "replace":
            content[at : at + 4] = draw(st.binary(min_size=1, max_size=4))
        elif kind == "drop":
            del content[at : at + length]
        elif kind == "double":
            content[at:at] = content[at : at + length]
        elif kind == "cut":
            del content[at:]
        else:
            content[at:at] = draw(st.binary(max_size=20))
    return bytes(content)


# Pictures


def encoded(picture, kind, **options):
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def pictures():
    """Return a small picture of many formats and modes, as bytes."""
    rgb = Image.fromarray(np.random.default_rng(0).integers(0, 255, (H, W, 3), np.uint8))
    grey, indexed = rgb.convert("L"), rgb.quantize(8)
    exif = Image.Exif()
    exif[0x0112] = 6
    return [
        encoded(grey, "PNG"),
        encoded(rgb.convert("RGBA"), "PNG", exif=exif),
        encoded(indexed, "PNG", transparency=1),
        encoded(Image.fromarray(np.array(grey, np.uint16)), "PNG"),
        encoded(rgb, "JPEG", exif=exif),
        encoded(rgb.convert("CMYK"), "JPEG", progressive=True),
        encoded(indexed, "GIF", save_all=True, append_images=[indexed.rotate(90)]),
        encoded(rgb, "TIFF", compression="tiff_lzw"),
        encoded(rgb, "WEBP"),
        encoded(indexed, "BMP"),
    ]


PICTURES = pictures()


@fuzz(250)
@given(damaged(PICTURES), st.sampled_from([None, 1, 3]), st.booleans())
def test_damaged_pictures(tmp_path, content, channels, turn):
    file = tmp_path / "a.png"
    file.write_bytes(content)
    for reader in (
        lambda: read.image(file, channels, (8, 8)),
        lambda: image_ops.read_image("embedded", channels, content)[0],
        lambda: read.image_header(file, turn),
        lambda: read.mask(file, (8, 8)),
    ):
        try:
            result = reader()
        except DataError as error:
            assert "a.png: " in str(error) or "embedded: " in str(error)
        else:
            assert isinstance(result, tuple) or result.dtype == np.uint8


@pytest.mark.parametrize("content", PICTURES, ids=lambda content: content[:4].hex())
def test_every_length_of_a_cut_picture(tmp_path, content):
    file = tmp_path / "a.png"
    for length in range(0, len(content), max(1, len(content) // 60)):
        file.write_bytes(content[:length])
        for reader in (read.image, read.mask):
            try:
                reader(file)
            except DataError as error:
                assert str(error).startswith(f"{file}: ")


@fuzz(40)
@given(damaged(PICTURES), damaged(PICTURES))
def test_folders_of_damaged_pictures(tmp_path, image, mask):
    root = tmp_path / "mine"
    for folder, content in (("images", image), ("masks", mask)):
        (root / folder).mkdir(parents=True, exist_ok=True)
        for i in range(3):
            good = encoded(Image.fromarray(np.full((H, W), i % 2, np.uint8)), "PNG")
            (root / folder / f"{i}.png").write_bytes(content if i == 1 else good)
    report = doctor.check(root)
    json.dumps(report.to_dict())
    try:
        open_folder(root, "train", 8, cache=False, fractions=(0.4, 0.3, 0.3))
        assert report.ok
    except DataError:
        pass


# Arrays


def arrays():
    """Return small TIFFs and arrays of many types and layouts, as suffix and bytes."""
    made = []
    for dtype in ("u1", "u2", "f4", "i4"):
        for size, options in (((H, W), {}), ((3, H, W), {"photometric": "minisblack"})):
            out, array = io.BytesIO(), np.arange(math.prod(size)).reshape(size).astype(dtype)
            tifffile.imwrite(out, array, compression="zlib" if dtype == "u2" else None, **options)
            made.append((".tif", out.getvalue()))
            out = io.BytesIO()
            np.save(out, array)
            made.append((".npy", out.getvalue()))
    deep = np.arange(H * W * 3, dtype=np.uint16).reshape(H, W, 3)
    return [*made, (".png", cv2.imencode(".png", deep)[1].tobytes()), (".png", PICTURES[3])]


ARRAYS = arrays()


@pytest.mark.filterwarnings("ignore")  # of numpy and tifffile, about what they read
@fuzz(250)
@given(st.sampled_from([".tif", ".npy", ".png"]), st.data())
def test_damaged_arrays(tmp_path, suffix, data):
    file = tmp_path / f"a{suffix}"
    file.write_bytes(data.draw(damaged([content for s, content in ARRAYS if s == suffix])))
    try:
        result = read.image(file, data.draw(st.sampled_from([None, 1, 3])), (8, 8), ((0, 500),))
    except DataError as error:
        assert str(error).startswith(f"{file}: ")
    else:
        assert result.dtype == np.uint16


# Annotations


def annotation(**changes):
    stamp = {"mask": png(np.full((5, 6), 255, np.uint8))}
    shapes = [
        shape("a", [[2, 2], [9, 3], [5, 9]]),
        shape("b", [[1, 1], [4, 4]], "circle"),
        shape("a", [[3, 2], [9, 7]], "mask", **stamp),
    ]
    content = {"shapes": shapes, "imagePath": "a.png", "imageData": None}
    return content | {"imageHeight": H, "imageWidth": W} | changes


EMBEDDED = [annotation(imageData=base64.b64encode(content).decode()) for content in PICTURES[:3]]


def opens_or_refuses(root, form="labelme"):
    options = {"form": form, "cache": False, "fractions": (0.4, 0.3, 0.3)}
    try:
        dataset = open_annotated(root, "train", 8, **options)
    except DataError as error:
        assert ".json" in str(error) or "label" in str(error) or str(root) in str(error)
    else:
        assert dataset.masks.dtype == np.uint8
    if form == "labelme":
        json.dumps(doctor.check(root).to_dict())


def labelme_folder(tmp_path, content):
    root = tmp_path / "mine"
    root.mkdir(exist_ok=True)
    Image.new("RGB", (W, H)).save(root / "a.png")
    for i, text in enumerate((json.dumps(annotation()).encode(), content, content)):
        (root / f"{'abc'[i]}.json").write_bytes(text)
    return root


@fuzz(60)
@given(damaged([json.dumps(content).encode() for content in [annotation(), *EMBEDDED]]))
def test_damaged_labelme_files(tmp_path, content):
    opens_or_refuses(labelme_folder(tmp_path, content))


numbers = st.one_of(
    st.integers(-3, 20),
    st.floats(allow_nan=True),
    st.sampled_from([10**400, -(10**400), 10**19, 1e308, -1, 2**31]),
)
scalars = st.one_of(st.none(), st.booleans(), numbers, st.text(max_size=4))
anything = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)
points = st.lists(st.lists(numbers, min_size=2, max_size=2), min_size=1, max_size=5)
shapes = st.fixed_dictionaries(
    {
        "label": st.sampled_from(["a", "background", "__ignore__", "\ud800"]) | anything,
        "shape_type": st.sampled_from(["polygon", "circle", "rectangle", "mask"]) | anything,
        "points": st.one_of(points, points, anything),
    },
    optional={"mask": st.one_of(st.just(base64.b64encode(PICTURES[0]).decode()), anything)},
)


@fuzz(100)
@given(
    st.one_of(
        st.builds(lambda s: annotation(shapes=s), st.lists(shapes, max_size=3)),
        st.builds(
            lambda field, value: annotation(**{field: value}),
            st.sampled_from(["shapes", "imagePath", "imageData", "imageHeight", "imageWidth"]),
            st.one_of(anything, st.sampled_from(["\0", "..", "/", "a" * 300, "b.json", "\ud800"])),
        ),
        anything,
    )
)
def test_labelme_files_with_anything_in_them(tmp_path, content):
    opens_or_refuses(labelme_folder(tmp_path, json.dumps(content).encode()))


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"shapes":' * 50_000, "9" * 5000, "NaN", "\ufeff"], ids=len
)
def test_json_that_breaks_parsers(tmp_path, text):
    opens_or_refuses(labelme_folder(tmp_path, text.encode()))


def other_folder(tmp_path, content):
    """Return a file of annotations beside the images that it names."""
    root = tmp_path / "mine"
    root.mkdir(exist_ok=True)
    for name in "abcd":
        Image.new("RGB", (W, H)).save(root / f"{name}.png")
    (root / "annotations.json").write_bytes(content)
    return root / "annotations.json"


def coco_file(changes=None, field=None):
    """Return COCO annotations of four images, with `changes` to one of the first entries."""
    names = [
        {"id": i, "file_name": f"{n}.png", "height": H, "width": W} for i, n in enumerate("abcd")
    ]
    shapes = [
        [[1, 1, 9, 1, 9, 9]],
        {"counts": [20, 30, H * W - 50], "size": [H, W]},
        {"counts": "T2O0OX5", "size": [H, W]},
    ]
    objects = [
        {"id": i, "image_id": i, "category_id": 5 + i % 2, "iscrowd": i % 2, "segmentation": one}
        for i, one in enumerate(shapes)
    ]
    classes = [{"id": 5, "name": "cat"}, {"id": 6, "name": "dog"}]
    content = {"images": names, "annotations": objects, "categories": classes}
    if field:
        (content if field in content else content["annotations"][0])[field] = changes
    return content


def labelstudio_file(changes=None, field=None):
    """Return the tasks of a Label Studio export, with `changes` to the first region."""
    size = {"original_height": H, "original_width": W}
    values = {
        "polygonlabels": {"points": [[5, 5], [60, 10], [30, 90]]},
        "brushlabels": {"format": "rle", "rle": [0, 0, 3, 0, 7]},
        "ellipselabels": {"x": 50, "y": 50, "radiusX": 20, "radiusY": 9},
    }
    regions = [size | {"type": k, "value": v | {k: ["cat"]}} for k, v in values.items()]
    tasks = [
        {"data": {"image": f"{name}.png"}, "annotations": [{"result": [region]}]}
        for name, region in zip("abcd", [*regions, regions[0]], strict=True)
    ]
    if field:
        region = tasks[0]["annotations"][0]["result"][0]
        (region if field in region else region["value"])[field] = changes
    return tasks


FILES = {"coco": coco_file, "labelstudio": labelstudio_file}
rles = st.fixed_dictionaries(
    {"counts": st.lists(numbers, max_size=5) | st.text(max_size=9), "size": anything}
)
FIELDS = {
    "coco": [
        "images",
        "annotations",
        "categories",
        "image_id",
        "category_id",
        "segmentation",
        "iscrowd",
    ],
    "labelstudio": ["type", "value", "points", "polygonlabels", "original_height", "rle", "format"],
}


@fuzz(80)
@given(st.sampled_from([*FILES]), st.data())
def test_damaged_annotations(tmp_path, form, data):
    content = data.draw(damaged([json.dumps(FILES[form]()).encode()]))
    opens_or_refuses(other_folder(tmp_path, content), form)


@fuzz(160)
@given(st.sampled_from([*FILES]), st.data())
def test_annotations_with_anything_in_them(tmp_path, form, data):
    field = data.draw(st.sampled_from(FIELDS[form]))
    changes = data.draw(
        st.one_of(anything, rles, st.lists(st.lists(numbers, max_size=7), max_size=3))
    )
    opens_or_refuses(other_folder(tmp_path, json.dumps(FILES[form](changes, field)).encode()), form)


LABELMAP = b"# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:128,0,0::\n"


@fuzz(60)
@given(damaged([LABELMAP]), damaged(PICTURES), st.sampled_from(["voc", "camvid", "cityscapes"]))
def test_layouts_with_damaged_masks(tmp_path, labelmap, mask, form):
    root = tmp_path / "mine"
    places = {
        "voc": ("JPEGImages/{}.png", "SegmentationClass/{}.png"),
        "camvid": ("train/{}.png", "trainannot/{}.png"),
        "cityscapes": (
            "leftImg8bit/train/x/{}_leftImg8bit.png",
            "gtFine/train/x/{}_gtFine_labelIds.png",
        ),
    }
    for k, place in enumerate(places[form]):
        for i in range(3):
            file = root / place.format(i)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(
                mask
                if k and i == 1
                else PICTURES[0]
                if not k
                else encoded(Image.new("L", (W, H)), "PNG")
            )
    if form == "voc":
        (root / "labelmap.txt").write_bytes(labelmap)
    opens_or_refuses(root, form)


# Checkpoints and model files

METADATA = ModelMetadata("dumbnet", ("a", "b"), (0.5,), (0.2,), (H, W), 1, 1, {"width": 4})


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Return a model file and a file of weights, as bytes."""
    folder = tmp_path_factory.mktemp("good")
    model = METADATA.build()
    save_model(folder / "model", model, METADATA)
    save_weights(folder / "weights", model)
    return [(folder / name).read_bytes() for name in ("model", "weights")]


READERS = (load_model, lambda path: load_weights(path, METADATA.build()))


def refused_or_read(path):
    for reader in READERS:
        try:
            reader(path)
        except CheckpointError as error:
            assert str(path) in str(error)


@fuzz(120)
@given(st.data())
def test_damaged_checkpoints(tmp_path, files, data):
    path = tmp_path / "a.safetensors"
    path.write_bytes(data.draw(damaged(files)))
    refused_or_read(path)


def written(path, text, weights):
    """Write a model file whose checksum is right, whatever is in it."""
    header = {"segkit": text, "checksum": model_file._checksum(text, weights)}
    safetensors.torch.save_file(weights, path, header)


options = st.dictionaries(
    st.sampled_from(["width", "depth", "filters", "dilations", "up", "down", "x"]),
    st.one_of(anything, st.sampled_from([64, -1, 0, math.inf, [4096] * 9])),
    max_size=3,
)
metadata = st.builds(
    lambda network, options, field, value: {
        **json.loads(json.dumps(vars(METADATA))),
        **{"network": network, "options": options, field: value},
    },
    st.sampled_from(["dumbnet", "unet", "pdr_unet", "fusionnet", "resnet34_unet", "?"]),
    options,
    st.sampled_from(["mean", "std", "size", "classes", "in_channels", "threshold", "notes", "?"]),
    anything,
)  # fmt: skip


@fuzz(150)
@given(st.one_of(metadata, anything))
def test_model_files_with_any_metadata(tmp_path, metadata):
    path = tmp_path / "a.safetensors"
    written(path, json.dumps(metadata), {"0": torch.zeros(2, 3)})
    with pytest.raises(CheckpointError, match=path.name):
        load_model(path)


@pytest.mark.parametrize("dtype", [torch.bool, torch.float8_e4m3fn, torch.complex64, torch.uint64])
@pytest.mark.parametrize("shape", [(), (0, 3), (2,)])
def test_tensors_of_every_kind(tmp_path, dtype, shape):
    path = tmp_path / "a.safetensors"
    written(path, METADATA.to_json(), {"out.bias": torch.zeros(shape, dtype=dtype)})
    with pytest.raises(CheckpointError, match=r"out\.bias|down"):
        load_model(path)


class Trap:
    def __reduce__(self):
        return os.mkdir, (os.environ["TRAP"],)


def test_no_pickle_is_ever_opened(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAP", str(tmp_path / "sprung"))
    path = tmp_path / "a.safetensors"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        path.write_bytes(pickle.dumps(Trap(), protocol))
        refused_or_read(path)
    for new in (True, False):
        torch.save({"model": Trap()}, path, _use_new_zipfile_serialization=new)
        refused_or_read(path)
        with pytest.raises(CheckpointError):
            load_model(path)
    written(path, "{}", {"0": torch.zeros(1)})
    path.write_bytes(path.read_bytes() + pickle.dumps(Trap()))
    refused_or_read(path)
    assert not (tmp_path / "sprung").exists()
    pickle.loads(pickle.dumps(Trap()))  # the trap works
    assert (tmp_path / "sprung").is_dir()
