"""Parameter counts to the last digit, as the sources have them, and what the tables add up to."""

import pytest
import torch

from segkit.errors import ArgumentError
from segkit.models import build
from segkit.models.inspect import parameters, summary
from segkit.models.unet import valid_size

MIB = 2**20


def on_meta(name: str, in_channels: int = 3, classes: int = 1, **options):
    with torch.device("meta"):
        return build(name, in_channels, classes, **options)


@pytest.mark.parametrize(
    "count, name, in_channels, classes, options",
    [
        (2_883, "dumbnet", 3, 3, {}),
        (31_037_633, "unet", 3, 1, {}),
        (31_037_698, "unet", 3, 2, {}),
        (31_043_521, "unet", 3, 1, {"bias": True}),
        (34_525_121, "unet", 3, 1, {"bias": True, "up": "nearest"}),
        (34_177_921, "unet", 3, 1, {"bias": True, "down": "strided"}),
        (37_659_521, "unet", 3, 1, {"bias": True, "down": "strided", "up": "nearest"}),
        (28_954_561, "unet", 3, 1, {"bias": True, "up": "bilinear"}),
        (31_030_658, "unet", 1, 2, {"norm": False, "padding": "valid"}),
        (361_482, "pdr_unet", 1, 2, {"norm": False}),
        (363_521, "pdr_unet", 1, 1, {"shortcut": "input"}),
        (392_561 - 29_040, "pdr_unet", 1, 1, {}),
        (78_531_137, "fusionnet", 1, 1, {}),
    ],
)
def test_parameter_counts(count, name, in_channels, classes, options):
    assert parameters(on_meta(name, in_channels, classes, **options)) == count


def test_pdr_unet_has_the_paper_s_convolutions_with_batch_normalisation_too():
    convolutions = [
        m for m in on_meta("pdr_unet", 1, 2).modules() if isinstance(m, torch.nn.Conv2d)
    ]
    assert len(convolutions) == 27
    assert sum(map(parameters, convolutions)) == 361_482


def test_resnet34_encoder_and_the_lab_report_s_network():
    network = on_meta("resnet34_unet")
    assert parameters(network.encoder) == 21_284_672
    assert len(network.encoder.state_dict()) == 216
    report = on_meta("resnet34_unet", block="nycu")
    assert parameters(report) == 29_531_169 == parameters(network) + 932_544


def test_a_removed_skip_takes_its_weights_with_it():
    whole, cut = on_meta("unet", width=8), on_meta("unet", width=8, skips=(False, True, True, True))
    assert parameters(whole) - parameters(cut) == 8 * 8 * 9
    with pytest.raises(ValueError, match="skips has 2 entries; depth=4"):
        on_meta("unet", skips=(True, False))


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_valid_size_is_what_the_network_does(depth):
    assert valid_size(572) == 388  # the paper's, of depth 4
    network = on_meta("unet", 1, 1, width=2, depth=depth, norm=False, padding="valid")
    for size in (*range(185, 201), 572):
        image = torch.empty(1, 1, size, size, device="meta")
        assert network(image).shape[-1] == valid_size(size, depth)


def test_too_small_an_image_for_valid_convolutions_is_refused():
    network = on_meta("unet", 1, 1, width=2, padding="valid")
    assert network(torch.empty(2, 1, 173, 300, device="meta")).shape[-2] > 0
    with pytest.raises(ArgumentError, match="172 pixels is too small for depth=4"):
        network(torch.empty(2, 1, 172, 300, device="meta"))


def test_costs_of_the_full_networks_at_256():
    unet, pdr = summary(on_meta("unet")), summary(on_meta("pdr_unet", 1, shortcut="input"))
    # Backward costs twice forward, less the gradient of the image that the first layer need not.
    first = 2 * 3 * 64 * 9 * 256 * 256
    assert (3 * unet.total("flops") - first) / 1e9 == pytest.approx(288.8, abs=0.05)
    first = 2 * 1 * 40 * 9 * 256 * 256
    assert (3 * pdr.total("flops") - first) / 1e9 == pytest.approx(141.9, abs=0.3)
    assert unet.total("activation_bytes") / MIB == pytest.approx(327, abs=0.5)
    assert pdr.total("activation_bytes") / MIB == pytest.approx(630, abs=0.5)
