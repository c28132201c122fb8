"""The procedural pictures: the same every time, different from each other, and worth learning."""

import numpy as np
import pytest

from segkit import data
from segkit.data import toy

FAMILIES = ("toy-pets", "toy-xray", "toy-embryo")


def load(name, split="train", size=32, count=6, seed=0, **options):
    return data.load(name, split, size, border="class", count=count, seed=seed, **options)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_picture_depends_on_the_seed_and_not_on_how_many_are_drawn(name):
    few, many, other = load(name, count=3), load(name, count=9), load(name, seed=1)
    assert (few.images == many.images[:3]).all() and (few.masks == many.masks[:3]).all()
    assert (few.masks != other.masks[:3]).any()


@pytest.mark.parametrize("name", FAMILIES)
def test_no_picture_is_in_two_splits_or_twice(name):
    pictures = np.concatenate(
        [load(name, split, count=20).images for split in ("train", "val", "test")]
    )
    assert len({picture.tobytes() for picture in pictures}) == 60


@pytest.mark.parametrize("name", FAMILIES)
def test_a_picture_shows_the_same_scene_at_every_size(name):
    small, large = load(name, size=48, count=8), load(name, size=96, count=8)
    centres = large.masks[:, 1::2, 1::2]
    assert (centres == small.masks).mean() > 0.85
    # and it is the scene, not the emptiness around it: other scenes agree far less
    assert (centres[1:] == small.masks[:-1]).mean() < (centres == small.masks).mean() - 0.1


@pytest.mark.parametrize(
    ("name", "options", "classes", "channels"),
    [
        ("toy-pets", {}, {0, 1, 2}, 3),
        ("toy-xray", {"bones": 1}, {0, 1}, 1),
        ("toy-xray", {"bones": 2}, {0, 1, 2}, 1),
        ("toy-embryo", {}, {0, 1}, 1),
    ],
)
def test_masks_hold_every_class_and_nothing_else(name, options, classes, channels):
    dataset = load(name, size=64, count=12, **options)
    assert set(np.unique(dataset.masks)) == classes == set(range(len(dataset.class_names)))
    assert dataset.channels == channels
    assert dataset.images.dtype == dataset.masks.dtype == np.uint8
    marked = np.mean(dataset.masks != 0, axis=(1, 2))
    assert marked.min() > 0.03 and marked.max() < 0.9


def test_colour_alone_does_not_solve_pets():
    dataset = data.load("toy-pets", "train", 64, border="pet", count=64)
    coarse = (dataset.images // 16).reshape(-1, 3).astype(int) @ [256, 16, 1]
    marked = dataset.masks.ravel() == 1
    pet = np.bincount(coarse[marked], minlength=4096)
    rest = np.bincount(coarse[~marked], minlength=4096)
    guess = (pet > rest)[coarse]  # the best answer that only looks at the colour of a pixel
    iou = (guess & marked).sum() / (guess | marked).sum()
    assert 0.2 < iou < 0.75


def test_breeds_are_all_there_and_cats_sort_before_dogs():
    dataset = load("toy-pets", count=200)
    assert set(dataset.groups) == set(toy._BREEDS)
    ordered = sorted(dataset.names)
    cats = [name[0].isupper() for name in ordered]
    assert cats == sorted(cats, reverse=True) and any(cats) and not all(cats)


def test_the_border_lies_between_pet_and_background():
    dataset = load("toy-pets", size=64, count=10)
    for mask in dataset.masks:
        beside = (mask[:, 1:] == 1) & (mask[:, :-1] == 0) | (mask[:, 1:] == 0) & (mask[:, :-1] == 1)
        assert not beside.any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "toy-cats"}, "there are: toy-pets"),
        ({"split": "valid"}, "there are: train, val, test"),
        ({"size": 8}, "at least 16 pixels"),
        ({"count": 0}, "at least one picture"),
        ({"name": "toy-xray", "bones": 3}, "choose 1"),
        ({"name": "toy-xray", "bone": 2}, "it has: bones"),
        ({"border": "edge"}, "there are: ignore, pet"),
        ({"border": None}, "choose what it becomes"),
        ({"transform": "strong"}, "there are: evaluation, light"),
        ({"name": "folder"}, "data_dir"),
    ],
)
def test_what_does_not_exist_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        data.load(**({"name": "toy-pets", "border": "pet", "count": 2, "size": 32} | arguments))
