"""PDR-UNet: checkpointing changes nothing but memory; dropout is where the paper has it."""

import importlib.util
from pathlib import Path

import pytest
import torch

from segkit.models import build


def bench():
    path = Path(__file__).parents[1] / "bench" / "bench_models.py"
    spec = importlib.util.spec_from_file_location("bench_models", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("shortcut", "dropout", "compiled"),
    [("first-conv", 0.3, False), ("input", 0.3, False), ("first-conv", 0.0, True)],
)
def test_checkpointing_gives_the_same_gradients(shortcut, dropout, compiled):
    torch.compiler.reset()
    options = {"filters": 4, "shortcut": shortcut, "dropout": dropout}
    plain, lean = (build("pdr_unet", 1, 1, checkpointing=c, **options) for c in (False, True))
    x = torch.randn(2, 1, 24, 31, generator=torch.Generator().manual_seed(0))
    called = torch.compile(lean, fullgraph=True, backend="eager") if compiled else lean
    for model in (plain, called):
        for step in range(2):
            torch.manual_seed(step)  # the same dropout
            model(x).square().mean().backward()
    for (key, a), b in zip(plain.named_parameters(), lean.parameters(), strict=True):
        torch.testing.assert_close(b.grad, a.grad, msg=key)


def test_checkpointing_needs_less_than_half_of_the_memory():
    measure = bench().peak_bytes
    x = torch.randn(1, 1, 64, 64)
    plain, lean = build("pdr_unet", 1, 1), build("pdr_unet", 1, 1, checkpointing=True)
    assert measure(lean, x) < 0.5 * measure(plain, x)


def test_dropout_follows_blocks_6_and_7_and_leaves_evaluation_alone():
    model = build("pdr_unet", 1, 1, filters=4, dropout=0.5)
    x = torch.randn(1, 1, 32, 32)
    reached = {}
    for i, drop in enumerate(model.dropout):
        drop.register_forward_hook(lambda m, args, out, i=i: reached.update({i: (args[0], out)}))
    for i in (5, 6):
        model.blocks[i].register_forward_hook(lambda m, a, out, i=i: reached.update({f"b{i}": out}))
    model(x)
    for i in (0, 1):
        before, after = reached[i]
        assert before is reached[f"b{i + 5}"]
        alive = before > 0
        assert 0.3 < (after[alive] == 0).float().mean() < 0.7
    model.eval()
    assert torch.equal(model(x), model(x))
