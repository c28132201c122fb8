"""From picture to mask: windows, several looks, thresholds, clean-up, files and folders."""

import json
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from scipy import ndimage

from segkit import data, metrics, models, plot, predict
from segkit import onnx_predictor as op
from segkit.data import read
from segkit.data.dataset import DataError
from segkit.data.transforms import Pipeline
from segkit.model_file import ModelMetadata, save_model

METADATA = ModelMetadata("dumbnet", ("background", "bone"), (0.0,), (1.0,), (16, 16), in_channels=1)
quick = settings(max_examples=60, deadline=None, derandomize=True)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def bright(images):
    """Say how far each pixel is above 100: a network that sees one pixel."""
    return (images[:, None].astype(np.float32) - 100) / 7


def gathered(bands):
    bands = list(bands)
    rows = [top for top, _ in bands]
    assert rows == [0, *np.cumsum([b.shape[1] for _, b in bands])[:-1]]
    return np.concatenate([b for _, b in bands], axis=1)


# Windows


@quick
@given(
    shape=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    window=st.integers(1, 40),
    overlap=st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9]),
    batch_size=st.integers(1, 5),
    slope=st.floats(-3, 3, width=32),
    constant=st.floats(-9, 9, width=32),
)
def test_what_windows_agree_on_comes_back_to_the_last_bit(
    shape, window, overlap, batch_size, slope, constant
):
    def line(images):
        values = np.float32(slope) * images.astype(np.float32) + np.float32(constant)
        return np.stack([values, -values], axis=1)

    image = noise(*shape)
    found = gathered(op.sliding_window(line, image, window, overlap, batch_size))
    np.testing.assert_array_equal(found, line(image[None])[0])


@quick
@given(
    length=st.integers(1, 300), window=st.integers(1, 300), overlap=st.sampled_from([0.0, 0.3, 0.9])
)
def test_windows_cover_a_side_and_end_with_it(length, window, overlap):
    window = min(window, length)
    found = op.starts(length, window, overlap)
    assert found[0] == 0 and found[-1] == length - window
    step = max(1, round(window * (1 - overlap)))
    assert all(0 < b - a <= step for a, b in pairwise(found))


def test_windows_that_disagree_meet_without_a_seam():
    def own_mean(images):
        means = images.mean(axis=(1, 2), dtype=np.float32)
        return np.ones((len(images), 1, *images.shape[1:]), np.float32) * means[:, None, None, None]

    image = np.repeat(np.arange(256, dtype=np.uint8)[None], 64, axis=0)
    steps = {}
    for overlap in (0.0, 0.5):
        found = gathered(op.sliding_window(own_mean, image, 64, overlap))
        steps[overlap] = np.abs(np.diff(found[0, 0])).max()
    assert steps[0.0] == 64
    assert steps[0.5] < 6


def test_windows_refuse_what_cannot_be():
    for window, overlap in ((0, 0.5), (8, 1.0), (8, -0.1)):
        with pytest.raises(ValueError, match="window="):
            list(op.sliding_window(bright, noise(20, 20), window, overlap))


def test_a_network_that_changes_the_size_or_breaks_is_refused():
    metadata = replace(
        METADATA, network="unet", options={"padding": "valid", "depth": 1, "width": 4}
    )
    valid = predict.Predictor(predict.as_network(metadata.build(), metadata), metadata, window=64)
    with pytest.raises(ValueError, match="keeps the size"):
        valid.mask(noise(64, 64))
    broken = predict.Predictor(lambda images: bright(images) * np.nan, METADATA)
    with pytest.raises(ValueError, match="not finite"):
        broken.mask(noise(64, 64))


# 10,000 × 10,000: the numpy part alone, in a process of its own, so that its peak can be read

LARGE = """
import json, resource, sys
import numpy as np
from importlib.util import module_from_spec, spec_from_file_location
spec = spec_from_file_location("op", sys.argv[1])
op = module_from_spec(spec)
spec.loader.exec_module(op)
image = np.zeros((10_000, 10_000), np.uint8)
image[::7] = 255
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
network = lambda images: images[:, None].astype(np.float32) - 100
before = peak()
window = op.assemble(op.sliding_window(network, image, 512), image.shape)
first = peak() - before
right = bool((window[::7] == 1).all() and window.sum() == window[::7].sum())
whole = op.assemble(op.whole_image(network, image, (256, 256)), image.shape)
print(json.dumps([right, first, peak() - before - first]))
"""


def test_ten_thousand_by_ten_thousand_pixels_need_little_beside_image_and_mask():
    done = subprocess.run(
        [sys.executable, "-c", LARGE, op.__file__], capture_output=True, text=True, check=True
    )
    right, window, whole = json.loads(done.stdout)
    mask = 10_000**2 / 2**20
    assert right
    assert window < mask + 200, "MiB"
    assert whole < mask + 200, "MiB"


# The whole image


@pytest.mark.parametrize("shape", [(301, 217), (40, 50), (5, 1200), (16, 16)])
def test_bands_of_a_resized_mask_are_those_of_the_whole(shape, monkeypatch):
    monkeypatch.setattr(op, "ROWS", 37)
    image = noise(*shape)
    found = gathered(op.whole_image(bright, image, (16, 24)))
    small = bright(op.resize(image, (16, 24))[None])
    np.testing.assert_allclose(found, op.resize_logits(small, shape)[0], atol=1e-5)


def test_images_are_resized_and_normalised_as_in_training():
    for image, channels in ((noise(30, 20), 1), (noise(30, 20, 3), 3)):
        pipeline = Pipeline([], channels)
        ours = op.normalise(image[None], pipeline.mean, pipeline.std)[0]
        assert torch.equal(torch.from_numpy(ours), pipeline.normalise(image))
        trained = np.array(read.resize_image(Image.fromarray(image), (16, 12)))
        np.testing.assert_array_equal(op.resize(image, (16, 12)), trained)


@pytest.mark.parametrize("classes", [1, 3])
def test_decisions_are_those_the_metrics_count(classes):
    logits = torch.randn(4, classes, 9, 8).mul(3).round()  # whole numbers: ties and zeros
    for threshold in (0.1, 0.5, 0.73):
        ids = np.stack([op.decide(image.numpy(), threshold) for image in logits])
        counted = metrics.counts(logits, torch.from_numpy(ids).long(), threshold)
        assert counted.fp.sum() == counted.fn.sum() == 0


# Several looks


def test_a_network_that_sees_one_pixel_gains_nothing_from_flips():
    images = noise(3, 11, 14)
    for flips in ("", "h", "v", "hv"):
        found = predict.averaged(bright, flips)(images)
        np.testing.assert_array_equal(found, bright(images))


def test_flips_are_undone_and_averaged():
    def lean(images):  # depends on where a pixel lies
        across = np.arange(images.shape[2], dtype=np.float32)
        return bright(images) * across + np.arange(images.shape[1], dtype=np.float32)[:, None]

    images = noise(2, 6, 9)
    mirrored = lean(images[:, :, ::-1])[..., ::-1]
    np.testing.assert_allclose(
        predict.averaged(lean, "h")(images), (lean(images) + mirrored) / 2, rtol=1e-5
    )
    both = predict.averaged(lean, "hv")
    for axis in (1, 2):  # an average over all mirror images turns with the picture
        turned = np.flip(both(np.flip(images, axis)), axis + 1)
        np.testing.assert_allclose(turned, both(images), rtol=1e-4, atol=1e-3)


def test_scales_look_larger_and_smaller_and_come_back():
    seen = []

    def watched(images):
        seen.append(images.shape[1:])
        return np.full((len(images), 2, *images.shape[1:]), 3.5, np.float32)

    found = predict.averaged(watched, "h", (0.5, 1.0, 1.5))(noise(2, 10, 8))
    assert seen == [(5, 4)] * 2 + [(10, 8)] * 2 + [(15, 12)] * 2
    np.testing.assert_array_equal(found, np.full((2, 2, 10, 8), 3.5, np.float32))
    for flips, scales in (("x", (1.0,)), ("", ()), ("", (0.0,))):
        with pytest.raises(ValueError, match="flips="):
            predict.averaged(watched, flips, scales)


# Clean-up and threshold


@quick
@given(seed=st.integers(0, 999), min_size=st.integers(0, 12))
def test_small_parts_go_and_all_else_stays(seed, min_size):
    random = np.random.default_rng(seed)
    mask = random.choice(3, p=[0.7, 0.15, 0.15], size=(24, 31)).astype(np.uint8)
    expected = mask.copy()
    for label in (1, 2):
        parts, n = ndimage.label(mask == label, structure=np.ones((3, 3)))
        for k in range(1, n + 1):
            if (parts == k).sum() < min_size:
                expected[parts == k] = 0
    before = mask.copy()
    np.testing.assert_array_equal(predict.without_small(mask, min_size), expected)
    np.testing.assert_array_equal(mask, before)


class Brightness(torch.nn.Module):
    """Logits from the grey value alone, with a wrong offset that a threshold can mend."""

    def __init__(self, gain=6.0, offset=-2.0):
        super().__init__()
        self.gain, self.offset = torch.nn.Parameter(torch.tensor(gain)), offset

    def forward(self, x):
        return self.gain * x + self.offset


def grey_set(n=12):
    images = noise(n, 20, 20, seed=1)
    random = np.random.default_rng(2)
    masks = (images + random.normal(0, 40, images.shape) > 150).astype(np.uint8)
    masks[:, 0] = 255
    return data.SegmentationDataset(images, masks, ("background", "light"))


@pytest.mark.parametrize("metric", ["iou", "dice"])
def test_the_chosen_threshold_is_the_best_of_all(metric):
    model, dataset = Brightness(), grey_set()
    found = predict.choose_threshold(model, dataset, metric, batch_size=5)
    images, masks = next(iter(data.loader(dataset, 12)))
    scores = {
        t: float(getattr(metrics.counts(model(images), masks, t), metric)())
        for t in metrics.THRESHOLDS
    }
    assert found.score == pytest.approx(max(scores.values()))
    assert scores[found.value] == max(scores.values())
    assert found.value != 0.5
    assert found.scores == pytest.approx(tuple(scores.values()))


def test_of_equal_thresholds_the_one_nearest_a_half_is_chosen():
    dataset = grey_set()
    dataset.masks[:] = dataset.images > 127
    sure = Brightness(gain=3000.0, offset=-1500.0)
    assert predict.choose_threshold(sure, dataset).value == 0.5


# Models and files


@pytest.mark.parametrize("classes", [1, 3])
def test_a_loaded_model_predicts_as_it_did(tmp_path, classes):
    dataset = data.load(
        "toy-pets", "test", 32, count=3, border="class" if classes == 3 else "ignore"
    )
    model = models.build("unet", 3, classes, width=4)
    save_model(tmp_path / "m.safetensors", model, ModelMetadata.of(dataset, "unet", width=4))
    predictor = predict.Predictor.load(tmp_path / "m.safetensors", device="cpu")
    image = dataset.raw(0)[0]
    with torch.inference_mode():
        expected = model.eval()(dataset[0][0][None])[0].numpy()
    np.testing.assert_allclose(predictor.logits(image), expected, atol=1e-5)
    np.testing.assert_array_equal(predictor.mask(image), op.decide(predictor.logits(image)))
    predictor.window = 20
    assert predictor.mask(noise(50, 41, 3)).shape == (50, 41)


def test_the_models_threshold_decides():
    image = noise(16, 16)
    for threshold in (0.2, 0.5, 0.8):
        predictor = predict.Predictor(bright, replace(METADATA, threshold=threshold))
        cut = 7 * np.log(threshold / (1 - threshold)) + 100
        np.testing.assert_array_equal(predictor.mask(image), image > cut)


def test_masks_are_ids_whoever_reads_them(tmp_path):
    mask = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for form, mode in (("palette", "P"), ("ids", "L")):
        op.write_mask(tmp_path / "m.png", mask, form=form)
        np.testing.assert_array_equal(read.mask(tmp_path / "m.png"), mask)
        with Image.open(tmp_path / "m.png") as picture:
            assert picture.mode == mode
            shown = np.array(picture.convert("RGB"))
        if form == "palette":
            known = np.isin(mask, [*range(len(plot.PALETTE)), 255])
            np.testing.assert_array_equal(shown[known], plot.colours(mask)[known])
            assert len(np.unique(shown.reshape(-1, 3)[:30], axis=0)) == 30
    with pytest.raises(ValueError, match="form="):
        op.write_mask(tmp_path / "m.png", mask, form="jpeg")


@pytest.mark.parametrize("orientation", range(9))
def test_a_mask_lies_on_the_pixels_as_they_are_stored(tmp_path, orientation):
    stored = noise(9, 14)
    exif = Image.Exif()
    exif[op.ORIENTATION] = orientation
    Image.fromarray(stored).save(tmp_path / "a.png", exif=exif)
    shapes = []

    def network(images):
        shapes.append(images.shape[1:])
        return bright(images)

    predictor = predict.Predictor(network, METADATA, window=64)
    outcome = predict.predict_file(predictor, tmp_path / "a.png", tmp_path / "out" / "a.png")
    assert not outcome.error
    with Image.open(tmp_path / "a.png") as image, Image.open(outcome.mask) as mask:
        np.testing.assert_array_equal(np.array(mask), np.array(image) > 100)
        upright, looked_at = ImageOps.exif_transpose(image), ImageOps.exif_transpose(mask)
        assert shapes == [upright.size[::-1]]  # the network saw it as people do
        np.testing.assert_array_equal(np.array(looked_at), np.array(upright) > 100)


def test_the_mask_has_the_size_of_the_file_and_shares_that_add_up(tmp_path):
    Image.fromarray(noise(301, 217)).save(tmp_path / "a.png")
    predictor = predict.Predictor(bright, METADATA)
    outcome = predict.predict_file(predictor, tmp_path / "a.png", tmp_path / "m.png", overlay=True)
    mask = read.mask(outcome.mask)
    assert mask.shape == (301, 217)
    assert outcome.shares == {"background": 1 - mask.mean(), "bone": mask.mean()}
    with Image.open(outcome.overlay) as picture:
        assert (picture.format, picture.size) == ("JPEG", (217, 301))


def test_overlays_of_large_images_are_reduced(tmp_path, monkeypatch):
    monkeypatch.setattr(predict, "OVERLAY", 50)
    predict.write_overlay(tmp_path / "o.jpg", noise(100, 30), noise(100, 30) % 2)
    with Image.open(tmp_path / "o.jpg") as picture:
        assert picture.size == (15, 50)


def test_a_large_picture_is_no_cause_for_alarm(tmp_path, monkeypatch, recwarn):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)
    Image.fromarray(noise(20, 20)).save(tmp_path / "large.png")
    Image.fromarray(noise(30, 30)).save(tmp_path / "far_larger.png")
    outcomes = predict.predict_folder(
        predict.Predictor(bright, METADATA), tmp_path, tmp_path / "out"
    )
    assert not [w for w in recwarn if "bomb" in str(w.message)]
    assert "exceeds limit" in outcomes[0].error and not outcomes[1].error


def test_a_folder_with_broken_files_is_done_but_for_them(tmp_path):
    place = tmp_path / "pictures"
    place.mkdir()
    for name in ("a.png", "b.jpg", "twin.png", "twin.jpg", "._a.png"):
        Image.fromarray(noise(40, 30, 3)).save(place / name)
    whole = (place / "b.jpg").read_bytes()
    (place / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (place / "text.png").write_text("no picture")
    (place / "notes.txt").write_text("no picture either")
    Image.fromarray(noise(40, 30).astype(np.uint16) * 200).save(place / "deep.png")
    watched = []
    out = tmp_path / "masks"
    predictor = predict.Predictor(bright, METADATA)
    outcomes = predict.predict_folder(predictor, place, out, overlays=True, watch=watched.append)
    assert watched == outcomes
    failed = {o.file.name: o.error for o in outcomes if o.error}
    assert set(failed) == {"cut.jpg", "text.png", "deep.png"}
    assert all(str(place / name) in error for name, error in failed.items())
    written = {path.name for path in out.iterdir()}
    stems = ("a", "b", "twin.png", "twin.jpg")
    assert written == {f"{s}.png" for s in stems} | {f"{s}_overlay.jpg" for s in stems}


def test_a_folder_is_refused_where_nothing_can_be_done(tmp_path):
    predictor = predict.Predictor(bright, METADATA)
    for source in (tmp_path, tmp_path / "none"):
        with pytest.raises(DataError, match="neither a picture nor a folder"):
            predict.predict_folder(predictor, source, tmp_path / "out")
    Image.fromarray(noise(9, 9)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="give another folder"):
        predict.predict_folder(predictor, tmp_path, tmp_path)
    outcomes = predict.predict_folder(predictor, tmp_path / "a.png", tmp_path / "out")
    assert [o.file.name for o in outcomes] == ["a.png"]


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("before")
    with pytest.raises(RuntimeError), op.whole_file(target) as part:
        part.write_text("half")
        raise RuntimeError
    assert target.read_text() == "before"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
