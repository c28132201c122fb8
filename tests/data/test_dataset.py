import inspect
from importlib import import_module

import cv2
import numpy as np
import pytest
import torch

from segkit import data
from segkit.data import splits
from segkit.data.dataset import SeededSampler, SegmentationDataset, loader
from segkit.errors import ArgumentError, DataError


def made(n=10, size=16, channels=3, transform=None):
    rng = np.random.default_rng(0)
    shape = (n, size, size, 3) if channels == 3 else (n, size, size)
    images = rng.integers(0, 256, shape, dtype=np.uint8)
    masks = rng.integers(0, 2, (n, size, size), dtype=np.uint8)
    return SegmentationDataset(images, masks, ("background", "thing"), transform=transform)


@pytest.mark.parametrize("channels", [1, 3])
def test_an_item_is_what_a_network_takes(channels):
    dataset = made(channels=channels)
    (image, mask), (raw, raw_mask) = dataset[3], dataset.raw(3)
    assert image.dtype == torch.float32 and mask.dtype == torch.int64
    raw = raw.reshape(16, 16, channels).transpose(2, 0, 1)
    assert torch.allclose(image * 255, torch.tensor(raw).float()) and image.max() <= 1
    assert (mask.numpy() == raw_mask).all()
    assert dataset.classes == 1  # what a network needs: one channel for two classes
    dataset.class_names = ("background", "a", "b")
    assert dataset.classes == 3


UINT8 = np.zeros((2, 4, 4), np.uint8)


@pytest.mark.parametrize(
    ("images", "masks", "options", "message"),
    [
        (np.zeros((3, 4, 4), np.uint8), UINT8, {}, "3 images but 2 masks: one per item"),
        (np.zeros((2, 4, 5, 3), np.uint8), UINT8, {}, "differ"),
        (np.zeros((2, 4, 4, 3, 1), np.uint8), UINT8, {}, "differ"),
        (np.zeros((2, 4, 4, 3)), UINT8, {}, "images are float64: give 0 to 255 as uint8"),
        (UINT8, np.zeros((2, 4, 4)), {}, "masks are float64: give ids as uint8"),
        (UINT8, np.zeros((2, 4, 4), int), {}, "masks are int64"),
        (UINT8, UINT8, {"names": ["x"]}, "2 images but 1 names"),
        (UINT8, UINT8, {"groups": ["x"] * 3}, "2 images but 3 groups"),
    ],
)
def test_what_would_train_a_wrong_model_is_refused(images, masks, options, message):
    with pytest.raises(DataError, match=message):
        SegmentationDataset(images, masks, ("a", "b"), **options)


def test_a_subset_keeps_its_names_and_groups():
    whole = data.load("toy-pets", "train", 32, border="pet", count=6)
    part = whole.subset([4, 1])
    assert part.names == (whole.names[4], whole.names[1])
    assert part.groups == (whole.groups[4], whole.groups[1])
    assert (part.images[0] == whole.images[4]).all() and len(part) == 2
    assert torch.equal(part[1][0], whole[1][0])


@pytest.mark.parametrize("as_array", [list, np.array, torch.tensor])
def test_a_subset_by_booleans_keeps_the_items_that_are_true(as_array):
    keep = as_array([True, False, True, False, False, True])
    assert made(n=6).subset(keep).names == ("00000", "00002", "00005")


@pytest.mark.parametrize("indices", [[0.9, 1.7], [True, False], ["a"], [[0, 1]], [6]])
def test_a_subset_by_anything_else_is_refused(indices):
    with pytest.raises(ArgumentError, match="whole numbers, or one boolean for each of the 6"):
        made(n=6).subset(indices)


@pytest.mark.parametrize(
    ("indices", "mapped"),
    [(range(2, 8), True), (range(1, 10, 3), True), ([4, 1], False), ([1, 1], False), ([3], False)],
)
def test_an_evenly_spaced_subset_of_a_memory_map_is_a_view(tmp_path, indices, mapped):
    whole = made()
    for name in ("images", "masks"):
        np.save(tmp_path / f"{name}.npy", getattr(whole, name))
        setattr(whole, name, np.load(tmp_path / f"{name}.npy", mmap_mode="c"))
    part = whole.subset(indices)
    assert np.shares_memory(part.images, whole.images) == mapped
    assert (part.images == made().images[list(indices)]).all()
    assert (part.masks == made().masks[list(indices)]).all()
    assert part.names == tuple(whole.names[i] for i in indices)


@pytest.mark.parametrize("transform", [None, data.transforms.build("light")])
def test_items_count_from_the_end_too_and_beyond_it_there_is_none(transform):
    dataset = made(n=6, transform=transform)
    assert torch.equal(dataset[-1, 2][0], dataset[5, 2][0])
    for i in (6, -7):
        with pytest.raises(IndexError, match="data set of 6"):
            dataset[i]
    assert len(list(dataset)) == 6


@pytest.mark.parametrize(
    "use",
    [
        lambda seed: loader(made(), 4, seed=seed),
        lambda seed: data.load("toy-xray", count=2, seed=seed),
        lambda seed: splits.random_split(10, seed=seed),
        lambda seed: splits.stratified_split([0, 1] * 9, seed=seed),
        lambda seed: splits.grouped_split(range(9), seed=seed),
    ],
)
@pytest.mark.parametrize("seed", [-1, 0.5, None])
def test_a_seed_that_is_none_is_named(use, seed):
    with pytest.raises(ArgumentError, match=r"seed=.*whole number of 0 or more"):
        use(seed)


@pytest.mark.parametrize("name", data.names())
def test_the_options_of_load_are_those_of_the_function_that_opens(name):
    module, function = data._SOURCES[name].opener.split(":")
    known = inspect.signature(getattr(import_module(f"segkit.{module}"), function)).parameters
    taken = {p for p, v in known.items() if v.kind is not v.VAR_KEYWORD}
    more = {"fractions", "group_by", "count", "seed"} if len(taken) < len(known) else set()
    renamed = {"data_dir" if p == "root" else p for p in taken - {"form"}}  # that is the name
    assert renamed | more == {*data.options(name)} - {"transform"}


def test_a_home_folder_may_be_written_with_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=str(tmp_path / "pets")):
        data.load("oxford-pet", border="pet", data_dir="~/pets")


def seen(batches):
    return torch.cat([images for images, _ in batches])


def test_opencv_has_no_threads_that_forked_workers_would_wait_for():
    before = cv2.getNumThreads()
    cv2.setNumThreads(2)
    try:
        loader(made(), 4)
        assert cv2.getNumThreads() == 2
        loader(made(), 4, workers=1)
        assert cv2.getNumThreads() == 1
    finally:
        cv2.setNumThreads(before)


@pytest.mark.parametrize("workers", [1, 2])
def test_order_and_augmentation_do_not_depend_on_workers(workers):
    augmented = made(transform=data.transforms.build("medium"))
    here = loader(augmented, 4, shuffle=True, seed=3)
    there = loader(augmented, 4, shuffle=True, seed=3, workers=workers)
    for epoch in range(2):  # persistent workers have to hear of the new epoch too
        here.sampler.set_epoch(epoch)
        there.sampler.set_epoch(epoch)
        assert torch.equal(seen(here), seen(there))


def test_an_epoch_brings_another_order_and_another_augmentation():
    augmented = made(transform=data.transforms.build("medium"))
    batches = loader(augmented, 10, shuffle=False, seed=3)
    first, again = seen(batches), seen(batches)
    batches.sampler.set_epoch(1)
    assert torch.equal(first, again) and not torch.equal(first, seen(batches))
    orders = [list(SeededSampler(50, seed=s)) for s in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]


def test_an_interrupted_epoch_goes_on_where_it_stopped():
    sampler = SeededSampler(10, seed=5)
    sampler.set_epoch(2)
    whole = list(sampler)
    sampler.set_epoch(2, start=4)
    assert list(sampler) == whole[4:] and len(sampler) == 6


@pytest.mark.parametrize("length", [10, 12, 1])
def test_ranks_share_the_items_evenly_and_leave_none_out(length):
    ranks = [list(SeededSampler(length, seed=1, rank=r, ranks=4)) for r in range(4)]
    assert len({len(r) for r in ranks}) == 1
    assert {i for r in ranks for i, _ in r} == set(range(length))


def test_an_empty_or_vanishing_epoch_is_refused():
    with pytest.raises(DataError, match="empty"):
        loader(made().subset([]), 4)
    with pytest.raises(DataError, match="smaller batch_size"):
        loader(made(n=3), 4, drop_last=True)


def test_normalised_data_keep_all_but_mean_and_std():
    dataset = made(transform=data.transforms.build("light"))
    changed = dataset.normalised([0.1, 0.2, 0.3], [1.0, 1.0, 1.0])
    assert (changed.transform.mean, changed.transform.std) == ((0.1, 0.2, 0.3), (1.0, 1.0, 1.0))
    assert changed.transform.steps is dataset.transform.steps
    assert changed.images is dataset.images and dataset.transform.mean != changed.transform.mean


@pytest.mark.parametrize("transform", [None, lambda image, mask, seed: (image, mask)])
def test_a_transform_that_does_not_normalise_is_named(transform):
    with pytest.raises(
        ArgumentError, match=r'transform.* has no mean and std: load .*"evaluation"'
    ):
        made(transform=transform).normalised([0.5] * 3, [0.5] * 3)


@pytest.mark.parametrize(("mean", "std"), [([0.5], [0.5]), ([0.5] * 3, [0.5])])
def test_a_normalisation_of_other_channels_is_refused(mean, std):
    with pytest.raises(ArgumentError, match="the images have 3 channels"):
        made(transform=data.transforms.build("light")).normalised(mean, std)
