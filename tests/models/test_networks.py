"""What every network promises: any size, gradients, formats, compilation, export, seeds."""

import copy

import pytest
import torch
from torch.export import Dim

from segkit.errors import ArgumentError
from segkit.models import build, names, options

NARROW = {
    "dumbnet": {"width": 4},
    "unet": {"width": 4},
    "resnet34_unet": {"width": 4},
    "pdr_unet": {"filters": 4, "dropout": 0.0},
    "fusionnet": {"width": 4},
    "pretrained_unet": {"width": 4},
}
NETWORKS = pytest.mark.parametrize("name", NARROW)


def narrow(name: str, in_channels: int = 3, classes: int = 1, **more):
    return build(name, in_channels, classes, **{**NARROW[name], **more})


def image(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_every_network_is_tested():
    assert set(NARROW) == set(names())


@NETWORKS
@pytest.mark.parametrize("batch, height, width", [(2, 64, 64), (2, 67, 71), (1, 33, 200)])
def test_forward_and_backward_at_any_size(name, batch, height, width):
    model = narrow(name, in_channels=2, classes=3)
    logits = model(image(batch, 2, height, width))
    assert logits.shape == (batch, 3, height, width)
    (logits * image(batch, 3, height, width, seed=1)).mean().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, f"{key} is not used"
        assert parameter.grad.isfinite().all(), key
        if parameter.dim() > 1:
            assert parameter.grad.abs().max() > 0, f"{key} never learns"


@NETWORKS
def test_single_pixel_and_single_row(name):
    model = narrow(name).eval()
    for size in [(1, 1), (1, 50), (50, 2)]:
        assert model(image(1, 3, *size)).shape == (1, 1, *size)


@NETWORKS
def test_channels_last_gives_the_same(name):
    model, x = narrow(name).eval(), image(2, 3, 64, 48)
    expected = model(x)
    got = model.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)


@NETWORKS
def test_bfloat16_autocast(name):
    model, x = narrow(name, classes=2), image(2, 3, 64, 64)
    expected = model(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = model(x)
    assert got.dtype == torch.bfloat16
    assert got.isfinite().all()
    both = torch.stack([got.float().flatten(), expected.flatten()])
    assert torch.corrcoef(both)[0, 1] > 0.8  # rounding grows through 26 normalised layers


@NETWORKS
def test_training_step_compiles_as_one_graph_for_any_size(name):
    torch.compiler.reset()
    plain = narrow(name)
    other = copy.deepcopy(plain)
    compiled = torch.compile(other, fullgraph=True, backend="eager")
    for size in [(40, 39), (33, 42)] if name == "unet" else [(40, 39)]:
        x = image(2, 3, *size)
        plain(x).square().mean().backward()
        compiled(x).square().mean().backward()
    for (key, a), b in zip(plain.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=key)


@NETWORKS
@pytest.mark.skipif(torch.__version__ < "2.15", reason="older torch ties max-pooling to odd sizes")
def test_exports_with_dynamic_batch_and_size(name):
    model = narrow(name).eval()
    dynamic = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    program = torch.export.export(model, (image(2, 3, 96, 70),), dynamic_shapes=(dynamic,))
    exported = program.module()
    for shape in [(1, 3, 67, 71), (3, 3, 40, 200), (2, 3, 64, 64)]:
        x = image(*shape)
        torch.testing.assert_close(exported(x), model(x), atol=1e-5, rtol=1e-4)


@NETWORKS
def test_weights_come_from_the_seed_alone(name):
    torch.manual_seed(123)
    first = narrow(name).state_dict()
    drawn = torch.rand(3)
    torch.manual_seed(456)
    second, other = narrow(name).state_dict(), narrow(name, seed=1).state_dict()
    torch.manual_seed(123)
    assert torch.equal(torch.rand(3), drawn), "build disturbed the global random state"
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


def test_without_a_seed_the_global_state_decides():
    torch.manual_seed(5)
    first = narrow("dumbnet", seed=None)
    torch.manual_seed(5)
    second, third = narrow("dumbnet", seed=None), narrow("dumbnet", seed=None)
    assert torch.equal(first.out.weight, second.out.weight)
    assert not torch.equal(first.out.weight, third.out.weight)


def test_a_misspelt_name_or_option_lists_the_known_ones():
    with pytest.raises(ArgumentError, match=r"no network 'u-net' .*there are: dumbnet, unet, res"):
        build("u-net")
    with pytest.raises(
        ArgumentError, match=r"unet has no option widht; there are: width=64, depth=4"
    ):
        build("unet", widht=8)
    assert options("unet")["up"] == "transposed"


@pytest.mark.parametrize(
    "name, option",
    [
        ("unet", {"down": "avgpool"}),
        ("unet", {"up": "bicubic"}),
        ("unet", {"padding": "reflect"}),
        ("pdr_unet", {"shortcut": "none"}),
        ("resnet34_unet", {"block": "basic"}),
        ("pretrained_unet", {"encoder": "resnet00"}),
    ],
)
def test_a_misspelt_value_lists_the_values(name, option):
    with pytest.raises(ArgumentError, match=f"no .*{next(iter(option.values()))}.*there are: .*, "):
        build(name, **option)
