import numpy as np
import pytest
import torch

from segkit import data
from segkit.data import transforms
from segkit.errors import ArgumentError

NAMES = tuple(("evaluation", "light", "geometric", "medium"))


@pytest.fixture
def pair():
    dataset = data.load("toy-pets", "train", 48, border="class", count=1)
    return dataset.raw(0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("channels", [1, 3])
def test_tensors_for_a_network_with_no_new_class(name, channels, pair):
    image, mask = pair
    pipeline = transforms.build(name, channels)
    for seed in range(20):
        x, y = pipeline(image if channels == 3 else image[..., 0], mask, seed)
        assert x.shape == (channels, 48, 48) and x.dtype == torch.float32
        assert y.shape == (48, 48) and y.dtype == torch.int64
        assert set(y.unique().tolist()) <= {0, 1, 2}


@pytest.mark.parametrize("name", ["light", "geometric", "medium"])
def test_image_and_mask_move_together(name, pair):
    # An image that is its own mask: whatever happens to one must happen to the other.
    _, mask = pair
    pair_image = np.repeat(np.where(mask >= 1, 170, 60).astype(np.uint8)[..., None], 3, axis=2)
    pipeline = transforms.build(name)
    agree = []
    for seed in range(20):
        image, moved = pipeline.augment(pair_image, mask, seed)
        # the light may change, the order of dark and bright does not
        middle = (int(image[..., 1].max()) + int(image[..., 1].min())) / 2
        agree.append(((image[..., 1] > middle) == (moved >= 1)).mean())
    assert np.mean(agree) > 0.9
    moved_at_all = [(pipeline.augment(pair_image, mask, s)[1] != mask).any() for s in range(20)]
    assert any(moved_at_all)


@pytest.mark.parametrize("name", ["light", "geometric", "medium"])
def test_the_seed_decides(name, pair):
    a, b = transforms.build(name), transforms.build(name)
    results = [a(*pair, seed=s)[0] for s in (1, 2, 1)] + [b(*pair, seed=1)[0]]
    assert torch.equal(results[0], results[2]) and torch.equal(results[0], results[3])
    assert any(not torch.equal(a(*pair, seed=s)[0], results[0]) for s in range(2, 8))


def test_normalisation_matches_torchvision(pair):
    from torchvision.transforms import v2

    scaled = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])(pair[0].copy())
    theirs = v2.Normalize(transforms.MEAN[3], transforms.STD[3])(scaled)
    assert torch.allclose(transforms.build("evaluation").normalise(pair[0]), theirs, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_denormalise_goes_back(channels, pair):
    image = pair[0] if channels == 3 else pair[0][..., 0]
    pipeline = transforms.build("evaluation", channels)
    assert (pipeline.denormalise(pipeline.normalise(image)) == image).all()


def test_wrong_channels_say_what_to_do(pair):
    with pytest.raises(ValueError, match="channels=1"):
        transforms.build("evaluation", 3).normalise(pair[0][..., 0])


def test_a_mask_of_fractions_is_refused():
    with pytest.raises(ArgumentError, match=r"the mask is float64: give class ids"):
        transforms.build("evaluation")(np.zeros((4, 4, 3), np.uint8), np.full((4, 4), 0.7))
