import numpy as np
import pytest
import torch

from segkit import data
from segkit.data.dataset import DataError, SeededSampler, SegmentationDataset, loader


def made(n=10, size=16, channels=3, transform=None):
    rng = np.random.default_rng(0)
    shape = (n, size, size, 3) if channels == 3 else (n, size, size)
    images = rng.integers(0, 256, shape, dtype=np.uint8)
    masks = rng.integers(0, 2, (n, size, size), dtype=np.uint8)
    return SegmentationDataset(images, masks, ("background", "thing"), transform=transform)


@pytest.mark.parametrize("channels", [1, 3])
def test_an_item_is_what_a_network_takes(channels):
    image, mask = made(channels=channels)[3]
    assert image.shape == (channels, 16, 16) and image.dtype == torch.float32
    assert mask.shape == (16, 16) and mask.dtype == torch.int64
    assert image.min() >= 0 and image.max() <= 1
    raw, raw_mask = made(channels=channels).raw(3)
    pixel = raw[2, 5] if channels == 3 else raw[2:3, 5]
    assert torch.allclose(image[:, 2, 5] * 255, torch.tensor(pixel).float())
    assert (mask.numpy() == raw_mask).all()


def test_classes_is_what_a_network_needs():
    two, three = made(), made()
    three.class_names = ("background", "a", "b")
    assert (two.classes, three.classes) == (1, 3)


def test_images_and_masks_must_match():
    with pytest.raises(DataError, match="3 images but 2 masks"):
        SegmentationDataset(np.zeros((3, 4, 4)), np.zeros((2, 4, 4)), ("a", "b"))
    with pytest.raises(DataError, match="differ"):
        SegmentationDataset(np.zeros((2, 4, 4, 3)), np.zeros((2, 4, 5)), ("a", "b"))


def test_a_subset_keeps_its_names_and_groups():
    whole = data.load("toy-pets", "train", 32, border="pet", count=6)
    part = whole.subset([4, 1])
    assert part.names == (whole.names[4], whole.names[1])
    assert part.groups == (whole.groups[4], whole.groups[1])
    assert (part.images[0] == whole.images[4]).all() and len(part) == 2
    assert torch.equal(part[1][0], whole[1][0])


def seen(batches):
    return torch.cat([images for images, _ in batches])


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
