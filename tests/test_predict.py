"""From picture to mask: models, flips and scales, thresholds, clean-up, files and folders."""

import functools
import os
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import Brightness, bright, grey_set, noise, saved
from PIL import Image, ImageOps
from scipy import ndimage

from segkit import data, image_ops, metrics, models, predict
from segkit.data import read
from segkit.errors import ArgumentError
from segkit.model_file import ModelMetadata, save_model
from segkit.train import predict_batches

METADATA = ModelMetadata("dumbnet", ("background", "bone"), (0.0,), (1.0,), (16, 16), in_channels=1)


def test_a_network_that_changes_the_size_or_breaks_is_refused():
    metadata = replace(METADATA, network="unet", options={"padding": "valid", "depth": 1})
    network = predict.as_network(metadata.build(), metadata)
    for options in ({}, {"flips": "h"}, {"scales": (1.0, 2.0)}):
        with pytest.raises(ArgumentError, match="keeps the size"):
            predict.Predictor(network, metadata, window=64, **options).mask(noise(64, 64))
    broken = predict.Predictor(lambda images: bright(images) * np.nan, METADATA)
    with pytest.raises(ArgumentError, match="not finite"):
        broken.mask(noise(64, 64))


@pytest.mark.parametrize("window", [None, 2])
@pytest.mark.parametrize(
    ("image", "found"),
    [
        (np.linspace(0, 1, 16).reshape(4, 4).astype(np.float32), "float32, from 0 to 1:"),
        (np.full((4, 4), 65535, np.uint16), "uint16, from 65535 to 65535:"),
    ],
)
def test_an_image_that_is_not_uint8_is_refused(image, found, window):
    predictor = predict.Predictor(bright, METADATA, window=window)
    with pytest.raises(ArgumentError, match=f"as uint8, this one {found}"):
        predictor.mask(image)
    deep = predict.Predictor(bright, replace(METADATA, intensity=((0, 4095),)), window=window)
    with pytest.raises(ArgumentError, match="made by image_ops"):
        deep.mask(noise(4, 4))


# Test-time augmentation


def test_flips_are_undone_and_averaged():
    def lean(images):  # depends on where a pixel lies
        across = np.arange(images.shape[2], dtype=np.float32)
        return bright(images) * across + np.arange(images.shape[1], dtype=np.float32)[:, None]

    images = noise(2, 6, 9)
    for flips in ("", "h", "v", "hv"):  # no change where one pixel decides
        found = predict.test_time_augmentation(bright, flips)(images)
        np.testing.assert_array_equal(found, bright(images))
    mirrored = lean(images[:, :, ::-1])[..., ::-1]
    averaged = predict.test_time_augmentation(lean, "h")(images)
    np.testing.assert_allclose(averaged, (lean(images) + mirrored) / 2, rtol=1e-5)
    both = predict.test_time_augmentation(lean, "hv")
    for axis in (1, 2):  # an average over all mirror images turns with the picture
        turned = np.flip(both(np.flip(images, axis)), axis + 1)
        np.testing.assert_allclose(turned, both(images), rtol=1e-4, atol=1e-3)


def test_scales_resize_the_image_and_the_logits_back():
    sizes = []

    def watched(images):
        sizes.append(images.shape[1:])
        return np.full((len(images), 2, *images.shape[1:]), 3.5, np.float32)

    found = predict.test_time_augmentation(watched, "h", (0.5, 1.0, 1.5))(noise(2, 10, 8))
    assert sizes == [(5, 4)] * 2 + [(10, 8)] * 2 + [(15, 12)] * 2
    np.testing.assert_array_equal(found, np.full((2, 2, 10, 8), 3.5, np.float32))
    predict.test_time_augmentation(watched, "", (0.01,))(noise(1, 10, 8))
    assert sizes[-1] == (1, 1)
    for options in ({"flips": "x"}, {"scales": ()}, {"scales": (0.0,)}, {"window": 0}):
        with pytest.raises(ArgumentError, match=next(iter(options))):
            predict.Predictor(watched, METADATA, **options)


# Clean-up and threshold


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 999), min_size=st.integers(0, 12), classes=st.sampled_from([2, 255]))
def test_small_components_go_and_all_else_stays(seed, min_size, classes):
    random = np.random.default_rng(seed)
    labels = (0, 1, classes)
    mask = random.choice(labels, p=[0.7, 0.15, 0.15], size=(24, 31)).astype(np.uint8)
    expected = mask.copy()
    for label in labels[1:]:
        parts, n = ndimage.label(mask == label, structure=np.ones((3, 3)))
        for k in range(1, n + 1):
            if (parts == k).sum() < min_size:
                expected[parts == k] = 0
    before = mask.copy()
    np.testing.assert_array_equal(predict.remove_small_components(mask, min_size), expected)
    np.testing.assert_array_equal(mask, before)


def test_the_chosen_threshold_is_the_best_of_all_and_of_equals_nearest_a_half():
    model, dataset = Brightness(), grey_set()
    found = predict.choose_threshold(model, dataset, batch_size=5)
    images, masks = next(iter(data.loader(dataset, 24)))
    scores = [float(metrics.counts(model(images), masks, t).iou()) for t in metrics.THRESHOLDS]
    assert found.scores == pytest.approx(scores)
    assert found.score == pytest.approx(max(scores))
    assert found.value == metrics.THRESHOLDS[scores.index(max(scores))] != 0.5
    dataset.masks[:] = dataset.images > 127
    assert predict.choose_threshold(Brightness(0.0, gain=3000), dataset).value == 0.5


# Models and files


@pytest.mark.parametrize(
    ("classes", "dtype"), [(1, torch.float32), (3, torch.float64), (1, torch.bfloat16)]
)
def test_a_loaded_model_predicts_as_it_did(tmp_path, classes, dtype):
    border = "class" if classes == 3 else "ignore"
    dataset = data.load("toy-pets", "test", 32, count=3, border=border)
    model = models.build("unet", 3, classes, width=4).to(dtype).eval()
    save_model(tmp_path / "m.safetensors", model, ModelMetadata.of(dataset, "unet", width=4))
    assert classes == 3 or predict.choose_threshold(model, dataset).score > 0
    predictor = predict.Predictor.load(tmp_path / "m.safetensors", device="cpu")
    image = dataset.raw(0)[0]
    with torch.inference_mode():
        expected = model.float()(dataset[0][0][None])[0].numpy()
    logits = predictor.logits(image)
    np.testing.assert_allclose(logits, expected, atol=0.1 if dtype == torch.bfloat16 else 1e-5)
    np.testing.assert_array_equal(predictor.mask(image), image_ops.logits_to_mask(logits))
    predictor.window = 20
    assert predictor.mask(noise(50, 41, 3)).shape == (50, 41)


def test_images_reach_the_network_in_channels_last():
    metadata = replace(METADATA, in_channels=3, mean=(0.5,) * 3, std=(0.2,) * 3)
    seen, model = [], metadata.build()
    is_last = functools.partial(torch.Tensor.is_contiguous, memory_format=torch.channels_last)
    model.register_forward_pre_hook(lambda _, x: seen.append(is_last(x[0])))
    predict.as_network(model, metadata)(noise(2, 16, 16, 3))
    next(predict_batches(model, data.load("toy-pets", "test", 32, border="pet", count=2)))
    assert seen == [True, True]


def test_the_models_threshold_decides():
    for threshold in (0.2, 0.5, 0.8):
        predictor = predict.Predictor(bright, replace(METADATA, threshold=threshold))
        cut = 7 * np.log(threshold / (1 - threshold)) + 100
        np.testing.assert_array_equal(predictor.mask(noise(16, 16)), noise(16, 16) > cut)


@pytest.mark.parametrize("orientation", range(9))
def test_a_mask_lies_on_the_pixels_as_they_are_stored(tmp_path, orientation):
    exif = Image.Exif()
    exif[image_ops.ORIENTATION] = orientation
    saved(tmp_path / "a.png", 9, 14, exif=exif)
    shapes = []

    def network(images):
        shapes.append(images.shape[1:])
        return bright(images)

    predictor = predict.Predictor(network, METADATA, window=64)
    (outcome,) = predict.predict_folder(predictor, tmp_path, tmp_path / "out")
    assert not outcome.error
    with Image.open(tmp_path / "a.png") as image, Image.open(outcome.mask) as mask:
        np.testing.assert_array_equal(np.array(mask), np.array(image) > 100)
        upright, viewed = ImageOps.exif_transpose(image), ImageOps.exif_transpose(mask)
        assert shapes == [upright.size[::-1]]  # the network's input is what a viewer shows
        np.testing.assert_array_equal(np.array(viewed), np.array(upright) > 100)


def test_the_mask_has_the_size_of_the_file_and_shares_that_add_up(tmp_path):
    predictor, out = predict.Predictor(bright, METADATA), tmp_path / "out"
    for shape, size in (((301, 217), (217, 301)), ((64, 4096), (2048, 32))):
        saved(tmp_path / "a.png", *shape)
        (outcome,) = predict.predict_folder(predictor, tmp_path, out, overlays=True)
        mask = read.mask(outcome.mask)
        assert mask.shape == shape
        assert outcome.shares == {"background": 1 - mask.mean(), "bone": mask.mean()}
        with Image.open(outcome.overlay) as picture:
            assert (picture.format, picture.size) == ("JPEG", size)


def test_a_large_picture_is_no_cause_for_alarm(tmp_path, monkeypatch, recwarn):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)
    files = [saved(tmp_path / "large.png", 20, 20), saved(tmp_path / "larger.png", 30, 30)]
    outcomes = predict.predict_folder(predict.Predictor(bright, METADATA), files, tmp_path / "o")
    assert not [w for w in recwarn if "bomb" in str(w.message)]
    assert not outcomes[0].error and "exceeds limit" in outcomes[1].error


def test_a_folder_with_broken_files_is_done_but_for_them(tmp_path):
    place, out = tmp_path / "pictures", tmp_path / "masks"
    for name in ("a.png", "b.jpg", "twin.png", "twin.jpg", "._a.png"):
        saved(place / name, 40, 30, 3)
    (place / "cut.jpg").write_bytes((place / "b.jpg").read_bytes()[:500])
    for name in ("text.png", "notes.txt"):
        (place / name).write_text("no picture")
    (place / "folder.png").mkdir()
    (place / "link.png").symlink_to(tmp_path / "nowhere.png")
    os.mkfifo(place / "pipe.png")
    Image.fromarray(noise(40, 30).astype(np.uint16) * 200).save(place / "deep.png")
    watched, started, predictor = [], time.monotonic(), predict.Predictor(bright, METADATA)
    outcomes = predict.predict_folder(predictor, place, out, overlays=True, watch=watched.append)
    assert watched == outcomes and time.monotonic() - started < 60
    failed = {o.file.name: o.error for o in outcomes if o.error}
    assert set(failed) == {"cut.jpg", "text.png", "deep.png"}
    assert all(str(place / name) in error for name, error in failed.items())
    stems = ("a", "b", "twin.png", "twin.jpg")
    written = {f"{s}.png" for s in stems} | {f"{s}_overlay.jpg" for s in stems}
    assert {path.name for path in out.iterdir()} == written


@pytest.mark.parametrize(
    "error", [MemoryError("no room"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_a_picture_too_large_for_the_memory_ends_no_folder(tmp_path, error):
    def network(images):
        if images[0, 0, 0] == 255:
            raise error
        return bright(images)

    for k, value in enumerate((10, 255, 20)):
        Image.fromarray(np.full((20, 20), value, np.uint8)).save(tmp_path / f"{k}.png")
    predictor = predict.Predictor(network, METADATA)
    outcomes = predict.predict_folder(predictor, tmp_path, tmp_path / "out")
    assert [bool(outcome.mask) for outcome in outcomes] == [True, False, True]
    assert f"1.png: too large for the memory; use windows ({error})" in outcomes[1].error


def test_a_folder_is_refused_where_nothing_can_be_done(tmp_path):
    predictor, out = predict.Predictor(bright, METADATA), tmp_path / "out"
    for source in (tmp_path, tmp_path / "none"):
        with pytest.raises(ArgumentError, match="neither a picture nor a folder"):
            predict.predict_folder(predictor, source, out)
    file = saved(tmp_path / "a.png", 9, 9)
    outcomes = predict.predict_folder(predictor, [file, tmp_path], out)
    assert [o.file.name for o in outcomes] == ["a.png"]
    assert predict.predict_folder(predictor, file, out)[0].mask == out / "a.png"
