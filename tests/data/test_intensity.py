"""Images of 16 bits, floats, one to many channels: from the file to the mask."""

import cv2
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from segkit import doctor, image_ops
from segkit.config import from_config
from segkit.data import SegmentationDataset, intensity, load, read, transforms
from segkit.data.folder import open_folder
from segkit.errors import ArgumentError, CheckpointError, DataError
from segkit.evaluate import evaluate
from segkit.image_ops import ImageError, read_array, rescale
from segkit.model_file import ModelMetadata, load_model, read_metadata, save_model
from segkit.predict import Predictor

BOTH = {"percentile": "percentile", "pair": (300, 1500)}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGKIT_DATA", str(tmp_path / "data"))


def numbers(seed=0, channels=1, size=(20, 24)):
    """Return whole numbers from 300 to 1,500, (H, W, C), and a mask of the bright disc in them."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[: size[0], : size[1]]
    row, column = random.integers(6, 14, 2)
    mask = ((y - row) ** 2 + (x - column) ** 2 < 25).astype(np.uint8)
    image = 400 + 900.0 * mask[..., None] + random.normal(0, 30, (*size, channels))
    return image.clip(300, 1500).astype(np.uint16), mask


def write(path, image):
    """Write an image (H, W, C) as its suffix says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, image)
    elif path.suffix == ".tif":
        tifffile.imwrite(path, np.moveaxis(image, 2, 0), photometric="minisblack")
    elif image.shape[2] == 1:
        Image.fromarray(image[..., 0]).save(path)
    else:
        cv2.imwrite(str(path), image[..., ::-1])
    return path


def fill(root, suffix, channels=1, n=20, dtype=np.uint16, factor=1):
    for i in range(n):
        image, mask = numbers(i, channels)
        write(root / "images" / f"{i:02d}{suffix}", (image * factor).astype(dtype))
        (root / "masks").mkdir(exist_ok=True)
        Image.fromarray(mask).save(root / "masks" / f"{i:02d}.png")
    return root


@pytest.mark.parametrize(
    ("suffix", "channels", "dtype"),
    [
        (".png", 1, np.uint16), (".png", 3, np.uint16), (".png", 3, np.uint8),
        (".tif", 1, np.uint16), (".tif", 5, np.uint16), (".tif", 2, np.float32),
        (".npy", 1, np.float64), (".npy", 7, np.int32),
    ],
)  # fmt: skip
def test_numbers_come_back_as_they_are_stored(tmp_path, suffix, channels, dtype):
    image = (numbers(0, channels)[0] // (8 if dtype == np.uint8 else 1)).astype(dtype)
    stored, orientation = read_array(write(tmp_path / f"a{suffix}", image))
    assert stored.dtype == dtype and orientation == 1
    np.testing.assert_array_equal(stored, image)
    np.testing.assert_array_equal(
        stored, read_array("a" + suffix, (tmp_path / f"a{suffix}").read_bytes())[0]
    )


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((20, 24, 4), {"photometric": "rgb"}),  # channels beside each other
        ((4, 20, 24), {"photometric": "minisblack"}),  # pages
        ((1, 1, 20, 24), {"metadata": {"axes": "TCYX"}}),
    ],
)
def test_tiffs_of_any_layout_have_their_channels_last(tmp_path, shape, options):
    written = np.random.default_rng(0).integers(0, 4096, shape, dtype=np.uint16)
    options = {"ome": False} | options
    tifffile.imwrite(tmp_path / "a.tif", written, **options)
    stored, _ = read_array(tmp_path / "a.tif")
    expected = written if shape[2:] == (4,) else written.reshape(-1, 20, 24).transpose(1, 2, 0)
    np.testing.assert_array_equal(stored, expected)


def test_files_that_hold_no_image_are_refused(tmp_path):
    def refused(name, code):
        with pytest.raises(ImageError) as caught:
            read_array(tmp_path / name)
        assert caught.value.code == code, caught.value

    for name, array in {
        "line": np.zeros(5), "film": np.zeros((3, 9, 9, 2)), "empty": np.zeros((0, 4)),
        "text": np.full((4, 4), "a"), "complex": np.zeros((4, 4), complex),
        "first": np.zeros((3, 300, 400)),
    }.items():  # fmt: skip
        np.save(tmp_path / f"{name}.npy", array)
        refused(f"{name}.npy", "array")
    np.save(tmp_path / "objects.npy", np.array([[{}]]), allow_pickle=True)
    refused("objects.npy", "unreadable")
    tifffile.imwrite(tmp_path / "film.tif", np.zeros((2, 3, 9, 9), "u2"), photometric="minisblack")
    refused("film.tif", "array")
    with tifffile.TiffWriter(tmp_path / "two.tif") as file:
        file.write(np.zeros((9, 9), "u2"))
        file.write(np.zeros((7, 7), "u2"))
    refused("two.tif", "frames")
    for suffix in (".npy", ".tif", ".png"):
        (tmp_path / f"cut{suffix}").write_bytes(b"II*\0" + bytes(3))
        refused(f"cut{suffix}", "unreadable")


def test_rescale_maps_the_ends_and_cuts_off_what_lies_outside():
    image = np.array([[100, 200, 300, 150]], np.int32)
    np.testing.assert_array_equal(rescale(image, ((100, 200),)), [[0, 65535, 65535, 32768]])
    assert rescale(image, ((0, 65535),)).tolist() == image.tolist()
    two = np.dstack([image, image])
    found = rescale(two, ((100, 200), (0, 400)))
    np.testing.assert_array_equal(found[..., 1], [[16384, 32768, 49151, 24576]])
    tall = np.arange(1000.0)[:, None]  # more rows than are computed at once
    np.testing.assert_array_equal(
        rescale(tall, ((0, 999),))[:, 0], np.round(np.arange(1000) * 65535 / 999)
    )
    with pytest.raises(ImageError, match="2, not 3"):
        rescale(two, ((0, 1),) * 3)
    with pytest.raises(ImageError, match="finite"):
        rescale(np.array([[np.nan]]), ((0, 1),))


def test_grey_and_colour_become_each_other_and_nothing_else(tmp_path):
    grey = write(tmp_path / "grey.png", numbers(0)[0])
    colour = write(tmp_path / "colour.png", numbers(0, 3)[0])
    ends = ((0, 65535),)
    repeated = read.image(grey, 3, intensity=ends)
    assert (repeated == repeated[..., :1]).all()
    luminance = read.image(colour, 1, intensity=ends)
    expected = numbers(0, 3)[0] @ [0.299, 0.587, 0.114]
    assert np.abs(luminance - expected).max() <= 0.5
    with pytest.raises(ImageError, match="3, not 4"):
        read.image(colour, 4, intensity=ends)
    with pytest.raises(ArgumentError, match="or give an intensity"):
        read.image(colour, 4)


def test_percentiles_are_those_of_the_training_images(tmp_path):
    for split, factor in (("train", 1), ("val", 3), ("test", 3)):
        fill(tmp_path / split, ".png", n=4, factor=factor)
    ends = [
        open_folder(tmp_path, split, 20, intensity="percentile", values="ids").info["intensity"]
        for split in ("train", "val", "test")
    ]
    train = np.concatenate([numbers(i)[0].ravel() for i in range(4)])
    assert ends[0] == ends[1] == ends[2]
    np.testing.assert_allclose(ends[0], [np.percentile(train, (0.1, 99.9))])


def test_percentiles_do_not_depend_on_the_count_or_the_split(tmp_path):
    fill(tmp_path, ".tif", 2)
    options = {"intensity": "percentile", "values": "ids"}
    ends = [
        open_folder(tmp_path, split, 20, count=count, **options).info["intensity"]
        for split, count in (("train", None), ("train", 3), ("val", 1), ("test", 2))
    ]
    assert len(set(ends)) == 1 and len(ends[0]) == 2


@pytest.mark.parametrize(
    ("dtype", "factor", "ends"),
    [(np.uint16, 1, (0, 65535)), (np.float32, 1 / 2000, (0, 1)), (np.int16, 1, (0, 32767))],
)
def test_dtype_is_the_range_of_the_files_type(tmp_path, dtype, factor, ends):
    fill(tmp_path, ".npy", 1, dtype=dtype, factor=factor)
    found = open_folder(tmp_path, "train", 20, intensity="dtype", values="ids")
    assert found.info["intensity"] == (ends,) and found.images.dtype == np.uint16


def test_what_fits_no_rule_is_said(tmp_path):
    samples = [np.zeros((4, 1), np.float32), np.full((4, 1), 3, np.float32)]
    with pytest.raises(DataError, match="from 0 to 3, not 0 to 1: choose percentile"):
        intensity.fit("dtype", samples, 1)
    with pytest.raises(DataError, match="float32 and uint16"):
        intensity.fit("percentile", [samples[0], np.zeros((4, 1), np.uint16)], 1)
    with pytest.raises(DataError, match="no training images"):
        intensity.fit("percentile", [], 1)
    with pytest.raises(ArgumentError, match="low below high"):
        intensity.fit("percentile", samples[:1], 1)
    for wrong in ("auto", (5, 5), (1, 0), (0, np.nan), "0", 7, [[0, 1, 2]], []):
        with pytest.raises(ArgumentError, match="intensity="):
            intensity.fit(wrong, samples, 1)
    for split in ("val", "test"):
        fill(tmp_path / split, ".png", n=2)
    with pytest.raises(DataError, match="no training images"):
        open_folder(tmp_path, "val", 20, intensity="percentile", values="ids")
    assert len(open_folder(tmp_path, "val", 20, intensity=(0, 4095), values="ids")) == 2


def test_without_an_intensity_the_remedy_is_named(tmp_path):
    for place, suffix, channels in (("a", ".png", 1), ("b", ".tif", 4), ("c", ".npy", 2)):
        with pytest.raises(DataError, match="intensity=percentile"):
            open_folder(fill(tmp_path / place, suffix, channels), "train", 20)


@pytest.mark.parametrize("name", ["evaluation", "light", "geometric", "medium"])
@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_augmentation_keeps_sixteen_bits_and_every_channel(name, channels):
    image, mask = numbers(0, channels, (32, 40))
    image = rescale(image, ((300, 1500),))
    pipeline = transforms.build(name, channels)
    found, moved = pipeline.augment(image, mask, seed=3)
    assert found.shape == image.shape and found.dtype == np.uint16 and moved.shape == mask.shape
    if (name, channels) != ("medium", 3):  # hue is changed in 8 bits
        assert (found % 257 != 0).any()
    tensor, _ = pipeline(image, mask, seed=3)
    assert tensor.shape == (channels, 32, 40) and tensor.isfinite().all()


def test_sixteen_bits_are_the_same_network_input_as_eight():
    eight = np.random.default_rng(0).integers(0, 256, (2, 9, 8, 3), dtype=np.uint8)
    deep, how = eight.astype(np.uint16) * 257, ((0.5, 0.4, 0.3), (0.2, 0.3, 0.25))
    np.testing.assert_allclose(
        image_ops.normalise(eight, *how), image_ops.normalise(deep, *how), rtol=1e-5, atol=1e-6
    )
    masks = np.zeros((2, 9, 8), np.uint8)
    plain = [SegmentationDataset(images, masks, ("a", "b"))[0][0] for images in (eight, deep)]
    torch.testing.assert_close(*plain)
    small = image_ops.resize(deep[0], (4, 5))
    assert small.dtype == np.uint16
    assert np.abs(small / 257 - image_ops.resize(eight[0], (4, 5))).max() < 1


@pytest.mark.parametrize(("suffix", "channels"), [(".png", 1), (".tif", 5), (".npy", 2)])
@pytest.mark.parametrize("rule", BOTH)
def test_training_prediction_and_evaluation_read_numbers_alike(tmp_path, suffix, channels, rule):
    root, file = fill(tmp_path / "scans", suffix, channels), tmp_path / "run" / "model.safetensors"
    result = from_config(
        {
            "data": {"name": "folder", "data_dir": str(root), "size": [20, 24], "values": "ids",
                     "intensity": BOTH[rule]},
            "model": {"name": "unet", "width": 4, "depth": 2},
            "fit": {"epochs": 12, "lr": 0.03, "batch_size": 4, "device": "cpu",
                    "out": str(file.parent)},
        },
        log=lambda text: None,
    )  # fmt: skip
    assert result.metadata.in_channels == channels
    model, metadata = load_model(file)
    assert metadata.intensity == result.metadata.intensity
    test = load("folder", "test", (20, 24), data_dir=root, values="ids", intensity=BOTH[rule])
    evaluation = evaluate(model, metadata, test)
    assert evaluation.counts.iou() > 0.8
    predictor = Predictor.load(file, "cpu")
    image = image_ops.read_image(
        root / "images" / f"{test.names[0]}{suffix}", channels, intensity=metadata.intensity
    )[0]
    np.testing.assert_array_equal(image, test.images[0])
    hits = (predictor.mask(image) == 1) & (test.masks[0] == 1)
    assert evaluation.counts.tp[0].sum() == hits.sum()


def test_other_numbers_than_the_models_are_refused(tmp_path):
    root = fill(tmp_path, ".png")
    train = open_folder(root, "train", 20, intensity=(0, 4095), values="ids")
    train.transform = transforms.build("evaluation", 1)
    metadata = ModelMetadata.of(train, "dumbnet")
    assert metadata.intensity == ((0, 4095),)
    model = metadata.build()
    other = open_folder(root, "test", 20, intensity="dtype", values="ids")
    with pytest.raises(DataError, match="intensity"):
        evaluate(model, metadata, other)
    save_model(tmp_path / "a.safetensors", model, metadata)
    assert load_model(tmp_path / "a.safetensors")[1].intensity == metadata.intensity
    for wrong in ([[1, 0]], [[0, 1]] * 2, [], 5, "percentile"):
        stored = metadata.to_json().replace("[[0.0, 4095.0]]", str(wrong).replace("'", '"'))
        assert stored != metadata.to_json()
        with pytest.raises(CheckpointError):
            read_metadata("a", stored)


def test_the_doctor_shows_the_range_of_each_channel(tmp_path, capsys):
    root = fill(tmp_path / "scans", ".tif", 2)
    assert "bit-depth" in {one.code for one in doctor.check(root).issues}
    report = doctor.check(root, values="ids", intensity="percentile")
    assert report.ok, report.issues
    stored = np.concatenate([numbers(i, 2)[0].reshape(-1, 2) for i in range(20)])
    for channel, found in enumerate(report.statistics["intensity"]):
        assert found["lowest"] == stored[:, channel].min()
        assert found["highest"] == stored[:, channel].max()
        at_the_top = (stored[:, channel] == stored[:, channel].max()).mean()
        assert found["share_highest"] == pytest.approx(at_the_top)
    report.print()
    assert "uint16 × 2 20" in capsys.readouterr().out
    report.write_html(tmp_path / "check.html")
    write(root / "images" / "00.tif", numbers(0, 3)[0])
    found = doctor.check(root, values="ids", intensity="percentile")
    assert [one.code for one in found.issues if one.severity == "error"] == ["mixed-types"]
    floats = fill(tmp_path / "floats", ".npy", dtype=np.float32)
    found = doctor.check(floats, values="ids", intensity="dtype")
    assert [one.code for one in found.issues if one.severity == "error"] == ["intensity"]


def test_eight_bit_folders_show_their_range_too(tmp_path):
    load("toy-xray", "train", 32, count=2)  # for its cache
    root = fill(tmp_path, ".png", 3, dtype=np.uint8, factor=1 / 8)
    channels = doctor.check(root, values="ids").statistics["intensity"]
    assert len(channels) == 3 and all(c["highest"] <= 255 for c in channels)
