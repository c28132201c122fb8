"""Windows, resizing, masks and their files: what training, prediction and exports share."""

import json
import os
import pickle
import subprocess
import sys
from itertools import pairwise

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from segkit import image_ops as ops
from segkit import metrics
from segkit.data import read
from segkit.data.dataset import DataError
from segkit.data.transforms import Pipeline
from segkit.errors import ArgumentError

quick = settings(max_examples=60, deadline=None, derandomize=True)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def bright(images):
    """Return how far each pixel is above 100: a network with a receptive field of one pixel."""
    return (images[:, None].astype(np.float32) - 100) / 7


def gathered(chunks):
    chunks = list(chunks)
    rows = [top for top, _ in chunks]
    assert rows == [0, *np.cumsum([c.shape[1] for _, c in chunks])[:-1]]
    return np.concatenate([c for _, c in chunks], axis=1)


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
    found = gathered(ops.sliding_window(line, image, window, overlap, batch_size))
    np.testing.assert_array_equal(found, line(image[None])[0])


@quick
@given(
    length=st.integers(1, 300), window=st.integers(1, 300), overlap=st.sampled_from([0.0, 0.3, 0.9])
)
def test_windows_cover_a_side_and_end_with_it(length, window, overlap):
    window = min(window, length)
    found = ops.tile_starts(length, window, overlap)
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
        found = gathered(ops.sliding_window(own_mean, image, 64, overlap))
        steps[overlap] = np.abs(np.diff(found[0, 0])).max()
    assert steps[0.0] == 64
    assert steps[0.5] < 6


def test_windows_refuse_what_cannot_be():
    for window, overlap in ((0, 0.5), (-3, 0.5), (8, 1.0), (8, -0.1)):
        with pytest.raises(ArgumentError, match="window="):
            list(ops.sliding_window(bright, noise(20, 20), window, overlap))


LARGE = """
import json, resource
import numpy as np
from segkit import image_ops as ops
image = np.zeros((10_000, 10_000), np.uint8)
image[::7] = 255
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
network = lambda images: images[:, None].astype(np.float32) - 100
before = peak()
window = ops.stitch(ops.sliding_window(network, image, 512), image.shape)
first = peak() - before
right = bool((window[::7] == 1).all() and window.sum() == window[::7].sum())
whole = ops.stitch(ops.predict_resized(network, image, (256, 256)), image.shape)
print(json.dumps([right, first, peak() - before - first]))
"""


def test_ten_thousand_by_ten_thousand_pixels_need_little_beside_image_and_mask():
    done = subprocess.run(  # in a process of its own, so that its peak can be read
        [sys.executable, "-c", LARGE], capture_output=True, text=True, check=True
    )
    right, window, whole = json.loads(done.stdout)
    mask = 10_000**2 / 2**20
    assert right
    assert window < mask + 200, "MiB"
    assert whole < mask + 200, "MiB"


@pytest.mark.parametrize("shape", [(301, 217), (40, 50), (5, 1200), (16, 16)])
def test_chunks_of_a_resized_prediction_are_those_of_the_whole(shape, monkeypatch):
    monkeypatch.setattr(ops, "_ROWS", 37)
    image = noise(*shape)
    found = gathered(ops.predict_resized(bright, image, (16, 24)))
    small = bright(ops.resize(image, (16, 24))[None])[0, 0]
    np.testing.assert_allclose(found[0], ops.resize(small, shape), atol=1e-5)


def test_images_are_resized_and_normalised_as_in_training():
    for image, channels in ((noise(30, 20), 1), (noise(30, 20, 3), 3)):
        pipeline = Pipeline([], channels)
        ours = ops.normalise(image[None], pipeline.mean, pipeline.std)[0]
        by_hand = (np.atleast_3d(image) / 255 - pipeline.mean) / pipeline.std
        np.testing.assert_allclose(ours, by_hand.transpose(2, 0, 1), atol=1e-5)
        assert torch.equal(torch.from_numpy(ours), pipeline.normalise(image))
        trained = np.array(read.resize_image(Image.fromarray(image), (16, 12)))
        np.testing.assert_array_equal(ops.resize(image, (16, 12)), trained)
    with pytest.raises(ArgumentError, match="takes 1 channels, the image has 3"):
        ops.normalise(noise(1, 4, 4, 3), (0.5,), (0.2,))


@pytest.mark.parametrize("classes", [1, 3])
def test_masks_are_those_that_the_metrics_count(classes):
    logits = torch.randn(4, classes, 9, 8).mul(3).round()  # whole numbers: ties and zeros
    for threshold in (0.1, 0.5, 0.73):
        ids = ops.logits_to_mask(logits.numpy(), threshold)
        one = ops.logits_to_mask(logits[2].numpy(), threshold)
        np.testing.assert_array_equal(ids[2], one)
        counted = metrics.counts(logits, torch.from_numpy(ids).long(), threshold)
        assert counted.fp.sum() == counted.fn.sum() == 0


def test_thresholds_and_numbers_of_classes_that_no_mask_can_have_are_refused():
    for threshold in (0, 1, 2, -0.1, float("nan")):
        with pytest.raises(ArgumentError, match="between 0 and 1"):
            ops.logits_to_mask(np.zeros((1, 2, 2)), threshold)
    assert ops.logits_to_mask(np.eye(255)[:, :, None])[:, 0].tolist() == [*range(255)]
    with pytest.raises(ArgumentError, match="256 classes"):
        ops.logits_to_mask(np.zeros((256, 2, 2)))


def test_masks_are_ids_for_every_reader(tmp_path):
    mask = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for form, mode in (("palette", "P"), ("ids", "L")):
        ops.write_mask(tmp_path / "m.png", mask, form=form)
        np.testing.assert_array_equal(read.mask(tmp_path / "m.png"), mask)
        with Image.open(tmp_path / "m.png") as picture:
            assert picture.mode == mode
            shown = np.array(picture.convert("RGB"))
        if form == "palette":
            np.testing.assert_array_equal(shown, ops.PALETTE[mask])
    assert len(np.unique(ops.PALETTE[:30], axis=0)) == 30
    assert ops.PALETTE[255].tolist() == [190] * 3 and ops.PALETTE[6].tolist() == [213, 94, 0]
    with pytest.raises(ArgumentError, match="form="):
        ops.write_mask(tmp_path / "m.png", mask, form="jpeg")


def test_images_are_read_as_training_reads_them_and_what_it_refuses_is_refused(tmp_path):
    files = {"grey.png": noise(6, 9), "colour.png": noise(6, 9, 3)}
    files["opaque.png"] = np.dstack([noise(6, 9, 3), np.full((6, 9), 255, np.uint8)])
    for name, pixels in files.items():
        Image.fromarray(pixels).save(tmp_path / name)
        for channels in (1, 3):
            expected = read.image(tmp_path / name, channels, exif="apply")
            np.testing.assert_array_equal(ops.read_image(tmp_path / name, channels)[0], expected)
    cv2.imwrite(str(tmp_path / "rgb16.png"), np.full((6, 6, 3), 256, np.uint16))
    Image.fromarray(noise(6, 6).astype(np.uint16)).save(tmp_path / "grey16.png")
    Image.fromarray(noise(6, 6, 4)).save(tmp_path / "glass.png")
    Image.fromarray(noise(6, 6, 4), "CMYK").save(tmp_path / "print.jpg")
    frames = [Image.fromarray(noise(6, 6, seed=k)) for k in range(2)]
    frames[0].save(tmp_path / "film.gif", save_all=True, append_images=frames[1:])
    (tmp_path / "text.png").write_text("no picture")
    refused = {
        "rgb16.png": ("bit-depth", "8 bits"), "grey16.png": ("bit-depth", "8 bits"),
        "glass.png": ("transparent", "transparent"), "print.jpg": ("colour-space", "CMYK"),
        "film.gif": ("frames", "2 pictures"), "text.png": ("unreadable", "cannot be read"),
        "none.png": ("unreadable", "cannot be read"),
    }  # fmt: skip
    for name, (code, reason) in refused.items():
        with pytest.raises(ops.ImageError, match=rf"{name}: .*{reason}") as raised:
            ops.read_image(tmp_path / name, 3)
        assert raised.value.code == code and pickle.loads(pickle.dumps(raised.value)).code == code
        with pytest.raises(DataError):
            read.image(tmp_path / name, 3, exif="apply")


def test_a_png_is_decoded_once(tmp_path, monkeypatch):
    Image.fromarray(noise(8, 8)).save(tmp_path / "a.png")
    loaded = []
    real = Image.core.zip_decoder
    monkeypatch.setattr(Image.core, "zip_decoder", lambda *a: loaded.append(1) or real(*a))
    ops.read_image(tmp_path / "a.png", 1)
    assert loaded == [1]


def test_masks_are_named_after_their_images_and_never_replace_them(tmp_path):
    out = tmp_path / "masks"
    files = [tmp_path / name for name in ("a.png", "b.jpg", "b.png")]
    assert [f.name for f in ops.mask_files(files, out)] == ["a.png", "b.jpg.png", "b.png.png"]
    with pytest.raises(ArgumentError, match="give another folder"):
        ops.mask_files(files, tmp_path)
    with pytest.raises(ArgumentError, match="have one name"):
        ops.mask_files([*files, tmp_path / "more" / "a.png"], out)
    out.mkdir()
    Image.fromarray(noise(4, 4)).save(out / "original.png")
    os.symlink(out / "original.png", tmp_path / "link.png")
    with pytest.raises(ArgumentError, match="give another folder"):
        ops.mask_files([tmp_path / "link.png"], out)
