"""What `inspect` finds in a network: receptive fields, wiring, costs, and its pictures."""

import matplotlib.pyplot
import pytest
import torch
import torch.nn.functional as F
from matplotlib.colors import to_rgba
from torch import nn

from segkit.errors import ArgumentError
from segkit.models import build, names
from segkit.models.inspect import (
    bounding_box,
    diagram,
    gradient_support,
    plot_receptive_field,
    receptive_field,
    summary,
)

matplotlib.use("Agg")


# -- receptive fields -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, options, field",
    [
        ("dumbnet", {"width": 16}, 7),
        ("unet", {"width": 8}, 204),
        ("unet", {"up": "bilinear"}, 236),
        ("unet", {"up": "nearest", "down": "strided"}, 251),
        ("unet", {"depth": 2}, 44),
        ("unet", {"depth": 2, "up": "bilinear"}, 52),
        ("unet", {"depth": 2, "up": "nearest", "down": "strided"}, 55),
        ("unet", {"depth": 2, "padding": "valid", "norm": False}, 44),
        ("unet", {"depth": 2, "skips": False}, 44),
        ("resnet34_unet", {}, 1219),
        ("pdr_unet", {}, 633),
        ("pdr_unet", {"shortcut": "input"}, 633),
        ("fusionnet", {}, 502),
    ],
)
def test_receptive_field_of_each_network(name, options, field):
    narrow = {"filters" if name == "pdr_unet" else "width": 2}
    assert receptive_field(build(name, **(narrow | options))) == field


def test_receptive_field_of_each_stage():
    def fields_of(*network, **options):
        stages = summary(build(*network, **options), 64).stages
        return {stage.name: stage.receptive_field for stage in stages}

    assert fields_of("dumbnet") == {"down": 3, "up": 7, "out": 7}
    fields = fields_of("pdr_unet", 1, filters=1)
    expected = [5, 13, 29, 61, 125, 253, 381, 509, 573, 605, 621, 629, 633]
    assert [fields[f"blocks.{i}"] for i in range(13)] == expected
    fields = fields_of("resnet34_unet", width=2)
    assert fields["encoder.layer4"] == 899  # the known field of ResNet-34's last layer
    assert fields["encoder.conv1"] == 7
    assert receptive_field(build("unet", width=2), "bottleneck") == 140


@pytest.mark.parametrize("part, field", [("blocks.0.first", 3), ("blocks.4", 125), ("", 633)])
def test_the_gradient_fills_the_receptive_field(part, field):
    model = build("pdr_unet", 1, filters=40)
    support = gradient_support(model, field + 20, part)
    assert bounding_box(support) == (field, field)
    assert support.count_nonzero() == field**2


def pixels_read(layers: list[nn.Module], column: int) -> int:
    """Return how many pixels a column of the output reads, going back through the layers."""
    first = last = column
    for layer in reversed(layers):
        k, s, p, d = (
            getattr(layer, name) for name in ("kernel_size", "stride", "padding", "dilation")
        )
        k, s, p, d = (v if isinstance(v, int) else v[-1] for v in (k, s, p, d))
        if isinstance(layer, nn.ConvTranspose2d):
            first, last = -(-(first + p - k + 1) // s), (last + p) // s
        else:
            first, last = first * s - p, last * s - p + (k - 1) * d
    return last - first + 1


@pytest.mark.parametrize("seed", range(100))
def test_receptive_field_of_layers_in_a_row_is_the_formula_s(seed):
    generator = torch.Generator().manual_seed(seed)

    def draw(*choices):
        return choices[int(torch.randint(len(choices), (1,), generator=generator))]

    layers: list[nn.Module] = [nn.Conv2d(1, 1, 1)]
    for _ in range(6):
        k, s, d = draw(2, 3, 5), draw(1, 1, 2), draw(1, 1, 2, 3)
        kind = draw("conv", "conv", "max", "transposed")
        if kind == "conv":
            layers.append(nn.Conv2d(1, 1, k, stride=s, dilation=d, padding=draw(0, 1)))
        elif kind == "max":
            layers.append(nn.MaxPool2d(k, stride=s))
        else:
            layers.append(nn.ConvTranspose2d(1, 1, k, stride=s, padding=draw(0, 1)))
    expected = max(pixels_read(layers, column) for column in range(64))
    assert receptive_field(nn.Sequential(*layers)) == expected


@pytest.mark.parametrize(
    "pool, field",
    [
        (nn.AvgPool2d(2), 8),
        (nn.AvgPool2d(3, stride=2, padding=1), 9),
        (nn.AvgPool2d((3, 2), ceil_mode=True), 8),
        (nn.MaxPool2d(2), 8),
    ],
)
def test_pooling_as_a_module(pool, field):
    model = nn.Sequential(nn.Conv2d(1, 1, 3), pool, nn.Conv2d(1, 1, 3))
    assert receptive_field(model) == bounding_box(gradient_support(model, 41))[1] == field


def test_more_than_4096_pixels_are_refused():
    model = nn.Sequential(nn.Conv2d(1, 1, 3, dilation=2100, padding=2100))
    with pytest.raises(ArgumentError, match="does not fit into an image of 4096 pixels"):
        receptive_field(model)


# -- tables and wiring ----------------------------------------------------------------------------


def test_summary_table_of_dumbnet():
    assert str(summary(build("dumbnet", 3, 3), 64)).splitlines() == [
        "stage  output    parameters  MFLOP  activation MiB  field  stride",
        "down   16×32×32         480    0.9            0.17      3       2",
        "up     16×64×64       2,352   18.9            0.75      7       1",
        "out    3×64×64           51    0.4            0.00      7       1",
        "total                 2,883   20.2            0.92",
    ]


@pytest.mark.parametrize("name", names())
def test_stages_hold_all_parameters_and_flops(name):
    model = build(name, 3, 2)
    table = summary(model, (64, 96))
    assert table.total("parameters") == sum(p.numel() for p in model.parameters())
    assert table.stages[0].sources == ("image",)
    assert table.stages[-1].shape == (2, 64, 96)
    with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
        model(torch.randn(2, 3, 64, 96))
    assert 2 * table.total("flops") == counter.get_total_flops()


def test_strides_do_not_depend_on_padding():
    for options in ({}, {"padding": "valid", "norm": False}):
        stages = summary(build("unet", width=2, **options), 188).stages
        strides = [s.stride for s in stages if s.name.startswith(("encoder", "bottle", "decoder"))]
        assert strides == [1, 2, 4, 8, 16, 8, 4, 2, 1]


def test_inspecting_leaves_the_network_as_it_was():
    model = build("unet", width=4).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    summary(model, 64)
    gradient_support(model, 32)
    assert model.training
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())


def test_skips_and_how_they_join():
    def joined(name, **options):
        stages = summary(build(name, width=4, **options), 64).stages
        return {s.name: (s.join, *s.sources) for s in stages if s.join}

    below = ("bottleneck", "decoder.0", "decoder.1", "decoder.2")
    skips = {f"decoder.{i}": ("concat", f"encoder.{3 - i}", below[i]) for i in range(4)}
    assert joined("unet") == skips
    assert joined("unet", skips=False) == {}
    one = joined("unet", skips=(False, True, False, False))
    assert one == {"decoder.2": skips["decoder.2"]}  # the second level's, as asked for
    assert joined("fusionnet")["decoder.3"] == ("sum", "decoder.2", "encoder.0")


def test_long_and_short_sums_of_pdr_unet():
    rows = {s.name: s for s in summary(build("pdr_unet", filters=2), 64).stages}
    joined = {name: set(row.sources) for name, row in rows.items() if len(row.sources) > 1}
    assert {row.join for row in rows.values()} == {"", "sum"}
    for i in range(5):
        assert f"blocks.{i}" in joined[f"blocks.{12 - i}"]
    assert joined["blocks.2"] == {"blocks.1", "blocks.0"}
    assert joined["blocks.4"] == {"blocks.3", "blocks.2"}
    assert joined["blocks.9"] == {"blocks.8", "blocks.7", "blocks.3"}
    assert joined["blocks.11"] == {"blocks.10", "blocks.9", "blocks.1"}


def test_a_network_from_elsewhere():
    smp = pytest.importorskip("segmentation_models_pytorch")
    model = smp.Unet("resnet18", encoder_weights=None)
    table = summary(model, 64)
    assert table.total("parameters") == sum(p.numel() for p in model.parameters())
    rows = {stage.name: stage for stage in table.stages}
    assert rows["encoder.layer4"].receptive_field == 435  # ResNet-18's
    assert rows["decoder"].join == "concat" and "encoder.layer1" in rows["decoder"].sources


class Twice(nn.Module):
    """Shares one convolution, and pools in its forward."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3)

    def forward(self, x):
        return self.conv(F.max_pool2d(self.conv(x), 2))


def test_a_stage_called_twice_has_a_receptive_field_but_no_row():
    assert receptive_field(Twice()) == 8
    with pytest.raises(ArgumentError, match="conv is called twice"):
        summary(Twice())


# -- pictures -------------------------------------------------------------------------------------


def test_diagram_shows_every_stage_and_every_skip():
    ax = diagram(build("unet", width=4, depth=2), 32)
    texts = {text.get_text() for text in ax.texts}
    assert {"encoder\n0", "down\n1", "bottleneck", "decoder\n1", "out", "4", "8", "16"} <= texts
    arrows = [text.arrow_patch for text in ax.texts if hasattr(text, "arrow_patch")]
    skips = [arrow for arrow in arrows if arrow.get_edgecolor() == to_rgba("#0072b2")]
    assert (len(arrows), len(skips)) == (9, 2)
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["concatenated"]
    matplotlib.pyplot.close("all")


def test_picture_of_the_receptive_field_names_its_size():
    ax = plot_receptive_field(build("dumbnet", 1, 1), 21)
    assert ax.get_title(loc="left") == "receptive field of the central pixel: 7×7"
    assert (ax.patches[0].get_width(), ax.patches[0].get_xy()) == (7, (6.5, 6.5))
    matplotlib.pyplot.close("all")
