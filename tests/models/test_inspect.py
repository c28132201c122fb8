"""What `inspect` says of a network: fields by formula and gradient, wiring, costs, pictures."""

import subprocess
import sys

import matplotlib.pyplot
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from segkit.models import build, names
from segkit.models.inspect import (
    diagram,
    extent,
    gradient_support,
    plot_receptive_field,
    receptive_field,
    receptive_fields,
    summary,
)

matplotlib.use("Agg")

PDR_FIELDS = [5, 13, 29, 61, 125, 253, 381, 509, 573, 605, 621, 629, 633]


def widest(model: nn.Module, size: int, phases: int) -> int:
    """Return the receptive field by gradient: of the pixel that sees most among neighbours."""
    pixels = range(size // 2, size // 2 + phases)
    return max(extent(gradient_support(model, size, pixel=(i, i)))[0] for i in pixels)


# -- receptive fields -----------------------------------------------------------------------------


@pytest.mark.parametrize("shortcut", ["first-conv", "input"])
def test_pdr_unet_sees_5_to_633_pixels_block_by_block(shortcut):
    model = build("pdr_unet", 1, 1, filters=1, shortcut=shortcut)
    fields = receptive_fields(model)
    assert [fields[f"blocks.{i}"] for i in range(13)] == PDR_FIELDS
    assert receptive_field(model) == fields["out"] == 633
    assert receptive_field(model, "blocks.4") == 125


@pytest.mark.parametrize(
    "part, field",
    [
        *(("blocks.0.first", 3), ("blocks.0", 5), ("blocks.3.first", 45), ("blocks.3", 61)),
        *(("blocks.7.first", 445), ("blocks.7", 509), ("blocks.8.first", 541), ("blocks.12", 633)),
    ],
)
def test_pdr_unet_sees_as_far_by_gradient(part, field):
    model = build("pdr_unet", 1, 1, filters=1)
    assert extent(gradient_support(model, field + 20, part)) == (field, field)


def test_dumbnet_sees_7_pixels():
    model = build("dumbnet", 3, 3)
    assert receptive_fields(model) == {"down": 3, "up": 7, "out": 7}
    assert extent(gradient_support(model, 64)) == (7, 7)
    assert extent(gradient_support(model, 64, "down")) == (3, 3)


@pytest.mark.parametrize(
    "options, field",
    [
        ({}, 44),
        ({"up": "bilinear"}, 52),
        ({"up": "nearest", "down": "strided"}, 55),
        ({"padding": "valid", "norm": False}, 44),
        ({"skips": False}, 44),
    ],
)
def test_unet_sees_as_far_by_formula_as_by_gradient(options, field):
    model = build("unet", 1, 1, width=1, depth=2, **options)
    assert receptive_field(model) == field
    assert widest(model, 120, phases=4) == field


def test_deep_networks_see_as_far_by_formula_as_by_gradient():
    unet = build("unet", 1, 1, width=1)
    assert receptive_field(unet) == 204
    assert receptive_field(unet, "bottleneck") == 140
    # Pixels of one 16×16 cell see differently far; the plain rule r + (k - 1)·jump gives 188.
    fields = {extent(gradient_support(unet, 256, pixel=(i, i)))[0] for i in (128, 134)}
    assert fields == {188, 204}


def test_resnet34_sees_899_pixels():
    fields = receptive_fields(build("resnet34_unet", width=2))
    assert fields["encoder.layer4"] == 899  # the known field of ResNet-34's last layer
    assert fields["encoder.conv1"] == 7


@pytest.mark.parametrize("seed", range(6))
def test_the_textbook_s_rule_holds_for_layers_in_a_row(seed):
    generator = torch.Generator().manual_seed(seed)

    def draw(*choices):
        return choices[int(torch.randint(len(choices), (1,), generator=generator))]

    layers, field, jump = [], 1, 1
    for _ in range(5):
        k, s, d = draw(1, 2, 3, 5), draw(1, 1, 2), draw(1, 1, 2, 3)
        if draw(True, False):
            layers.append(nn.Conv2d(1, 1, k, stride=s, dilation=d, padding=draw(0, 1)))
        else:
            d = 1
            layers.append(nn.MaxPool2d(k, stride=s))
        field += (k - 1) * d * jump
        jump *= s
    model = nn.Sequential(nn.Conv2d(1, 1, 1), *layers)
    assert receptive_field(model) == field
    assert extent(gradient_support(model, 3 * field + 40)) == (field, field)


class Odd(nn.Module):
    """Operations that the course's networks do not use, but others do."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 2, 3, padding="same", dilation=2)
        self.grow = nn.ConvTranspose2d(2, 2, 5, stride=3, padding=1, output_padding=1)
        self.last = nn.Conv2d(2, 1, 3, padding="valid")

    def forward(self, x):
        x = F.avg_pool2d(self.first(x), 2)
        x = F.pad(self.grow(x), (1, 2, 1, 2))
        x = F.interpolate(x, scale_factor=1.7, mode="bilinear", align_corners=True)
        return self.last(x)[..., 3:, 3:]


def test_odd_operations_too():
    assert receptive_field(Odd()) == widest(Odd(), 96, phases=30)


@pytest.mark.parametrize(
    "pool, field",
    [
        (nn.AvgPool2d(2), 8),
        (nn.AvgPool2d(3, stride=2, padding=1), 9),
        (nn.AvgPool2d(2, ceil_mode=True), 8),
        (nn.AvgPool2d((3, 2)), 8),
    ],
)
def test_average_pooling_as_a_module(pool, field):
    model = nn.Sequential(nn.Conv2d(1, 1, 3), pool, nn.Conv2d(1, 1, 3))
    assert receptive_field(model) == field
    assert extent(gradient_support(model, 41))[1] == field


def test_an_operation_without_a_rule_is_refused():
    class Shuffled(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 4, 3)

        def forward(self, x):
            return F.pixel_shuffle(self.conv(x), 2)

    with pytest.raises(NotImplementedError, match="no rule says what pixel_shuffle sees"):
        receptive_field(Shuffled())


# -- tables and wiring ----------------------------------------------------------------------------


def test_summary_table_of_dumbnet():
    assert str(summary(build("dumbnet", 3, 3), 64)).splitlines() == [
        "stage  output    parameters  MFLOP  saved MiB  field  stride",
        "down   16×32×32         480    0.9       0.17      3       2",
        "up     16×64×64       2,352   18.9       0.75      7       1",
        "out    3×64×64           51    0.4       0.00      7       1",
        "total                 2,883   20.2       0.92",
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


def test_summary_leaves_the_network_as_it_was():
    model = build("unet", width=4).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    summary(model, 64)
    gradient_support(model, 32)
    assert model.training
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())


def test_skips_and_how_they_join():
    rows = {s.name: s for s in summary(build("unet", width=4), 64).stages}
    for i in range(4):
        assert rows[f"decoder.{i}"].sources == (f"encoder.{3 - i}", f"up.{i}")
        assert rows[f"decoder.{i}"].join == "concat"
        assert rows[f"encoder.{i}"].join == ""
    cut = {s.name: s for s in summary(build("unet", width=4, skips=False), 64).stages}
    assert cut["decoder.0"].sources == ("up.0",)
    one = summary(build("unet", width=4, skips=(False, True, False, False)), 64).stages
    joined = {s.name: s.sources for s in one if s.join}
    assert joined == {"decoder.2": ("encoder.1", "up.2")}  # the second level's, as asked for


def test_long_and_short_sums_of_pdr_unet():
    rows = {s.name: s for s in summary(build("pdr_unet", filters=2), 64).stages}
    joined = {name: row.sources for name, row in rows.items() if len(row.sources) > 1}
    assert {row.join for row in rows.values()} == {"", "sum"}
    long = {f"blocks.{12 - i}": f"blocks.{i}" for i in range(5)}
    for name, source in long.items():
        assert source in joined[name]
    assert joined["blocks.2"] == ("blocks.1", "blocks.0")
    assert joined["blocks.4"] == ("blocks.3", "blocks.2")
    assert set(joined["blocks.9"]) == {"blocks.8", "blocks.7", "blocks.3"}
    assert set(joined["blocks.11"]) == {"blocks.10", "blocks.9", "blocks.1"}


def test_a_network_from_elsewhere():
    smp = pytest.importorskip("segmentation_models_pytorch")
    model = smp.Unet("resnet18", encoder_weights=None)
    table = summary(model, 64)
    assert table.total("parameters") == sum(p.numel() for p in model.parameters())
    assert any(stage.name.startswith("encoder.layer4") for stage in table.stages)
    assert receptive_field(model, "encoder.layer4") == 435  # ResNet-18's


def test_a_stage_called_twice_is_refused():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 1, 3)

        def forward(self, x):
            return self.conv(self.conv(x))

    with pytest.raises(ValueError, match="conv is called twice"):
        summary(Twice())


# -- pictures -------------------------------------------------------------------------------------


def test_diagram_shows_every_stage_and_every_skip():
    ax = diagram(build("unet", width=4, depth=2), 32)
    texts = {text.get_text() for text in ax.texts}
    assert {"encoder\n0", "down\n1", "bottleneck", "decoder\n1", "out", "4", "8", "16"} <= texts
    skips = [line for line in ax.lines if len(line.get_xdata()) == 4]
    assert len(skips) == 2
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["concatenated"]
    matplotlib.pyplot.close("all")


def test_picture_of_the_receptive_field_shows_both():
    _, ax = matplotlib.pyplot.subplots()
    assert plot_receptive_field(build("dumbnet", 1, 1), 21, ax=ax) is ax
    assert ax.get_title(loc="left") == "one pixel sees 7×7\n(dashed: the formula, 7×7)"
    assert ax.patches[0].get_width() == 7
    matplotlib.pyplot.close("all")


def test_models_import_nothing_but_torch():
    code = (
        "import sys, segkit.models as m, segkit.models.inspect; m.build('unet', width=2);"
        "bad = {m.split('.')[0] for m in sys.modules} & {'matplotlib', 'torchvision', 'cv2'};"
        "ours = [m for m in sys.modules if m.startswith('segkit.')"
        " and not m.startswith(('segkit.models', 'segkit.profiles'))];"
        "print(bad, ours); sys.exit(bool(bad or ours))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
