"""ResNet34-UNet: torchvision's encoder, its weights, the decoder's wiring, freezing."""

import urllib.error

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import ResNet34_Weights, resnet34

from segkit.errors import ArgumentError
from segkit.models import build
from segkit.models.resnet34_unet import NycuBlock


def image(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    """torchvision's network with lively weights, saved as torchvision saves them."""
    torch.manual_seed(3)
    network = resnet34(weights=None).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    path = tmp_path_factory.mktemp("hub") / "hub" / "checkpoints" / "resnet34-b627a593.pth"
    path.parent.mkdir(parents=True)
    torch.save(network.state_dict(), path)
    return network, path


def features(network, x):
    x = half = network.relu(network.bn1(network.conv1(x)))
    x = network.maxpool(x)
    maps = [half]
    for layer in (network.layer1, network.layer2, network.layer3, network.layer4):
        x = layer(x)
        maps.append(x)
    return maps


def test_encoder_has_torchvision_s_tensors_and_features(imagenet):
    network, path = imagenet
    encoder = build("resnet34_unet", pretrained=path).encoder.eval()
    theirs = {k: v.shape for k, v in network.state_dict().items() if not k.startswith("fc.")}
    assert {k: v.shape for k, v in encoder.state_dict().items()} == theirs
    for size in [(64, 64), (67, 71)]:
        x = image(1, 3, *size)
        with torch.no_grad():
            for got, expected in zip(encoder(x), features(network, x), strict=True):
                torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("channels", [1, 2, 4, 7])
def test_the_same_picture_in_every_channel_gives_the_features_of_grey(imagenet, channels):
    network, path = imagenet
    encoder = build("resnet34_unet", channels, pretrained=path).encoder.eval()
    grey = image(1, 1, 64, 64)
    with torch.no_grad():
        expected = features(network, grey.repeat(1, 3, 1, 1))
        for got, want in zip(encoder(grey.repeat(1, channels, 1, 1)), expected, strict=True):
            torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)


def test_pretrained_goes_through_torchvision_s_cache(imagenet, monkeypatch):
    network, path = imagenet
    monkeypatch.setenv("TORCH_HOME", str(path.parents[2]))
    encoder = build("resnet34_unet", pretrained=True).encoder
    assert torch.equal(encoder.layer3[5].conv2.weight, network.layer3[5].conv2.weight)


def test_offline_says_which_file_to_put_where(tmp_path, monkeypatch):
    def offline(*args, **kwargs):
        raise urllib.error.URLError("no network here")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", offline)
    with pytest.raises(ArgumentError) as caught:
        build("resnet34_unet", pretrained=True)
    for part in ("no network here", ResNet34_Weights.IMAGENET1K_V1.url, str(tmp_path), "PATH"):
        assert part in str(caught.value)


def test_missing_or_foreign_weights_are_refused(imagenet, tmp_path):
    with pytest.raises(ArgumentError, match=r"nowhere\.pth' is no file of weights.*No such file"):
        build("resnet34_unet", pretrained=tmp_path / "nowhere.pth")
    network, _ = imagenet
    state = network.state_dict()
    del state["layer4.2.bn2.bias"]
    torch.save(state, tmp_path / "short.pth")
    with pytest.raises(
        ArgumentError, match=r"(?s)not ResNet-34's.*Missing key.*layer4\.2\.bn2\.bias"
    ):
        build("resnet34_unet", pretrained=tmp_path / "short.pth")


@pytest.mark.parametrize("option", [{"block": "nycu"}, {"width": 8}])
def test_pretrained_weights_fit_resnet34_alone(imagenet, option):
    with pytest.raises(ValueError, match="ImageNet weights exist for ResNet-34 itself"):
        build("resnet34_unet", pretrained=imagenet[1], **option)


def test_a_seed_gives_the_decoder_the_same_weights_with_and_without_pretraining(imagenet):
    scratch, tuned = build("resnet34_unet"), build("resnet34_unet", pretrained=imagenet[1])
    assert torch.equal(scratch.bottleneck[0].weight, tuned.bottleneck[0].weight)


def test_only_a_block_that_changes_the_shape_projects():
    network = build("resnet34_unet", width=4)
    blocks = [b for i in (1, 2, 3, 4) for b in getattr(network.encoder, f"layer{i}")]
    assert [block.downsample is not None for block in blocks].count(True) == 3
    assert len(blocks) == 16


@pytest.mark.parametrize("stride, channels", [(1, 6), (2, 6), (2, 12)])
def test_the_nycu_block_has_its_relu_before_the_sum(stride, channels):
    """Computed by hand with functions: conv, BN, ReLU twice; plus BN of the 1×1 convolution."""
    block = NycuBlock(6, channels, stride).train()
    x = image(2, 6, 9, 10)

    def conv(layer, y, norm, **options):
        return F.batch_norm(
            F.conv2d(y, layer.weight, layer.bias, **options),
            None,
            None,
            norm.weight,
            norm.bias,
            training=True,
        )

    first, norm1, _, second, norm2, _ = block.double_conv
    y = F.relu(conv(first, x, norm1, stride=stride, padding=1))
    y = F.relu(conv(second, y, norm2, padding=1))
    projection, norm = block.skip_connect
    shortcut = conv(projection, x, norm, stride=stride)
    torch.testing.assert_close(block(x), y + shortcut, atol=1e-5, rtol=1e-5)
    assert (block(x) < 0).any()  # no ReLU after the sum
    assert (block(x) - shortcut >= -1e-5).all()  # what is added is never negative


def test_decoder_is_the_lab_s():
    """The lab's wiring: interpolate, 1×1 convolution, concatenate, two convolutions."""
    network = build("resnet34_unet", width=4).eval()
    x = image(2, 3, 64, 96)

    def up(i, y):
        convolve = network.decoder[i].upsample[0]
        return convolve(F.interpolate(y, scale_factor=2, mode="bilinear"))

    with torch.no_grad():
        maps = network.encoder(x)
        y = network.bottleneck(maps[4])
        for i in range(4):
            y = network.decoder[i].block(torch.cat([maps[3 - i], up(i, y)], dim=1))
        torch.testing.assert_close(network(x), network.out(up(4, y)), atol=1e-5, rtol=1e-4)


def test_frozen_encoder_stays_as_it_is_through_train():
    network = build("resnet34_unet", width=4)
    network.freeze_encoder()
    assert network.encoder.training is False  # at once, not from the next train() on
    before = {k: v.clone() for k, v in network.state_dict().items()}
    optimizer = torch.optim.AdamW(network.parameter_groups(lr=0.1, encoder_lr=0.1))
    for _ in range(2):
        network.train()
        network(image(2, 3, 64, 64)).square().mean().backward()
        optimizer.step()
    after = network.state_dict()
    changed = {k for k in before if not torch.equal(before[k], after[k])}
    assert changed == {k for k in before if not k.startswith("encoder.")}
    assert network.training
    assert not network.encoder.bn1.training


def test_parameter_groups_hold_every_parameter_once():
    network = build("resnet34_unet", width=4)
    decoder, encoder = network.parameter_groups(lr=1e-3, encoder_lr=1e-4)
    assert (encoder["lr"], decoder["lr"]) == (1e-4, 1e-3)
    assert {id(p) for p in encoder["params"]} == {id(p) for p in network.encoder.parameters()}
    together = [id(p) for p in encoder["params"] + decoder["params"]]
    assert sorted(together) == sorted(id(p) for p in network.parameters())
