"""Windows, resizing, masks and their files: what training, prediction and exports share."""

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
from pictures import bright, noise, saved
from PIL import Image

from segkit import image_ops as ops
from segkit import metrics
from segkit.data import read
from segkit.data.transforms import Pipeline
from segkit.errors import ArgumentError

quick = settings(max_examples=60, deadline=None, derandomize=True)


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
@given(length=st.integers(1, 300), window=st.integers(1, 300), overlap=st.floats(0, 0.95))
def test_windows_cover_a_side_and_end_with_it(length, window, overlap):
    window = min(window, length)
    found = ops.tile_starts(length, window, overlap)
    assert found[0] == 0 and found[-1] == length - window
    step = max(1, round(window * (1 - overlap)))
    assert all(0 < b - a <= step for a, b in pairwise(found))
    for window, overlap in ((0, 0.5), (-3, 0.5), (8, 1.0), (8, -0.1)):
        with pytest.raises(ArgumentError, match="window="):
            ops.tile_starts(length, window, overlap)


def test_windows_that_disagree_meet_without_a_seam():
    def own_mean(images):
        means = images.mean(axis=(1, 2), dtype=np.float32)
        return np.ones((len(images), 1, *images.shape[1:]), np.float32) * means[:, None, None, None]

    image = np.repeat(np.arange(256, dtype=np.uint8)[None], 64, axis=0)
    for overlap, largest in ((0.0, 64), (0.5, 6)):
        found = gathered(ops.sliding_window(own_mean, image, 64, overlap))
        assert np.abs(np.diff(found[0, 0])).max() <= largest


LARGE = """
import resource
import numpy as np
from segkit import image_ops as ops
image = np.zeros((10_000, 10_000), np.uint8)
image[::7] = 255
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
network = lambda images: images[:, None].astype(np.float32) - 100
before = peak()
mask = ops.stitch(ops.sliding_window(network, image, 512))
print(peak() - before)
assert (mask[::7] == 1).all() and mask.sum() == mask[::7].sum()
del mask
ops.stitch(ops.predict_resized(network, image, (256, 256)))
print(peak() - before)
"""


def test_ten_thousand_by_ten_thousand_pixels_need_little_beside_image_and_mask():
    command = [sys.executable, "-c", LARGE]  # in a process of its own, so that its peak can be read
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    window, whole = map(float, done.stdout.split())
    assert max(window, whole) < 10_000**2 / 2**20 + 200, "MiB"


@pytest.mark.parametrize("shape", [(301, 217), (40, 50), (1300, 5), (16, 16)])
def test_chunks_of_a_resized_prediction_are_those_of_the_whole(shape):
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
    with pytest.raises(ArgumentError, match="takes 1 channels, the image has 3"):
        ops.normalise(noise(1, 4, 4, 3), (0.5,), (0.2,))


@pytest.mark.parametrize("classes", [1, 3])
def test_masks_are_those_that_the_metrics_count(classes):
    logits = torch.randn(4, classes, 9, 8).mul(3).round()  # whole numbers: ties and zeros
    for threshold in (0.1, 0.5, 0.73):
        ids = ops.logits_to_mask(logits.numpy(), threshold)
        np.testing.assert_array_equal(ids[2], ops.logits_to_mask(logits[2].numpy(), threshold))
        counted = metrics.counts(logits, torch.from_numpy(ids).long(), threshold)
        assert counted.fp.sum() == counted.fn.sum() == 0
    for threshold in (0, 1, 2, -0.1, float("nan")):
        with pytest.raises(ArgumentError, match="between 0 and 1"):
            ops.logits_to_mask(logits.numpy(), threshold)


def test_a_mask_holds_255_classes_and_no_more():
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


REFUSED = {
    "rgb16.png": ("bit-depth", "8 bits"), "grey16.png": ("bit-depth", "8 bits"),
    "glass.png": ("transparent", "transparent"), "print.jpg": ("colour-space", "CMYK"),
    "film.gif": ("frames", "2 pictures"), "text.png": ("unreadable", "cannot be read"),
    "none.png": ("unreadable", "cannot be read"),
}  # fmt: skip


def test_images_of_which_something_would_be_lost_are_refused_as_in_training(tmp_path):
    cv2.imwrite(str(tmp_path / "rgb16.png"), np.full((6, 6, 3), 256, np.uint16))
    Image.fromarray(noise(6, 6).astype(np.uint16)).save(tmp_path / "grey16.png")
    saved(tmp_path / "glass.png", 6, 6, 4)
    Image.fromarray(noise(6, 6, 4), "CMYK").save(tmp_path / "print.jpg")
    more = [Image.fromarray(noise(6, 6, seed=1))]
    saved(tmp_path / "film.gif", 6, 6, save_all=True, append_images=more)
    (tmp_path / "text.png").write_text("no picture")
    for name, (code, reason) in REFUSED.items():
        with pytest.raises(ops.ImageError, match=rf"{name}: .*{reason}") as raised:
            ops.read_image(tmp_path / name, 3)
        assert raised.value.code == code and pickle.loads(pickle.dumps(raised.value)).code == code


def test_masks_are_named_after_their_images_and_never_replace_them(tmp_path):
    out = tmp_path / "masks"
    files = [tmp_path / name for name in ("a.png", "b.jpg", "b.png")]
    assert [f.name for f in ops.mask_files(files, out)] == ["a.png", "b.jpg.png", "b.png.png"]
    with pytest.raises(ArgumentError, match="give another folder"):
        ops.mask_files(files, tmp_path)
    with pytest.raises(ArgumentError, match="have one name"):
        ops.mask_files([*files, tmp_path / "more" / "a.png"], out)
    os.symlink(saved(out / "original.png", 4, 4), tmp_path / "link.png")
    with pytest.raises(ArgumentError, match="give another folder"):
        ops.mask_files([tmp_path / "link.png"], out)
