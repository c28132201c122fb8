"""Exercises of lesson 15: PDR-UNet."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from segkit.check import Case, Exercise, Mistake


def _measure(choose: Callable[[int], list[int]], pixels: int) -> dict[str, int]:
    """Return the receptive field of a row of blocks, two convolutions of kernel 3 each."""
    dilations = choose(pixels)
    seen = {0}
    for d in [d for d in dilations for _ in range(2)]:
        seen = {position + step for position in seen for step in (-d, 0, d)}
    field = max(seen) - min(seen) + 1
    return {"receptive field": field, "holes": field - len(seen), "blocks": len(dilations)}


def _fewest(pixels: int, growth: int = 4) -> list[int]:
    field, chosen = 1, []
    while field < pixels:
        chosen.append(min(field, (pixels - field) // growth))
        field += growth * chosen[-1]
    return chosen


def _growing(pixels: int, factor: int) -> list[int]:
    """Return dilations 1, factor, factor², ... up to the field; the last one fills up."""
    field, chosen, d = 1, [], 1
    while field < pixels:
        chosen.append(min(d, (pixels - field) // 4))
        field += 4 * chosen[-1]
        d *= factor
    return chosen


choose_dilations = Exercise(
    name="choose_dilations",
    reference=_fewest,
    measure=_measure,
    cases=(
        Case("29 pixels", (29,)),
        Case("125 pixels", (125,)),
        Case("PDR-UNet's 633 pixels", (633,)),
        Case("one pixel", (1,)),
    ),
    mistakes=(
        Mistake(
            lambda pixels: _growing(pixels, 2),
            "Right, but with more blocks than needed: a dilation may be as large as the field.",
        ),
        Mistake(
            lambda pixels: _growing(pixels, 3),
            "A factor of three is the limit after one convolution. A block has two.",
        ),
        Mistake(
            lambda pixels: [1] * ((pixels - 1) // 4),
            "No holes, but dilation 1 adds only 4 pixels a block. Increase the dilation.",
        ),
        Mistake(
            lambda pixels: [(pixels - 1) // 4] if pixels > 1 else [],
            "One block reaches that far, but reads five pixels: the rest are holes. Begin with 1.",
        ),
        Mistake(
            lambda pixels: _fewest(pixels, growth=2),
            "A block has two convolutions of dilation d: it adds 4 * d to the field, not 2 * d.",
        ),
        Mistake(
            lambda pixels: _growing(pixels, 6),
            "Holes: a dilation was larger than the receptive field before it.",
        ),
    ),
    hint="Keep the receptive field so far. The next dilation may be as large, and not larger.",
)


class _Net(nn.Module):
    """A network of three layers, which calls those in `used`, one after the other."""

    def __init__(self, *used: str, spare_discarded: bool = False, zeros: bool = False) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.encoder = nn.Conv2d(1, 2, 1)
        self.spare = nn.Conv2d(2, 2, 1)
        self.decoder = nn.Conv2d(2, 1, 1)
        with torch.no_grad():
            for weight in self.parameters():
                weight.copy_(torch.rand(weight.shape, generator=generator) + 0.1)
            if zeros:
                self.decoder.weight.zero_()
        self._used, self._spare_discarded = used, spare_discarded

    def forward(self, x: Tensor) -> Tensor:
        for name in self._used:
            x = getattr(self, name)(x)
            if self._spare_discarded and name == "encoder":
                self.spare(x)
        return x


def _backward(model: nn.Module, image: Tensor) -> dict[str, Tensor | None]:
    model(image).sum().backward()
    return {name: weight.grad for name, weight in model.named_parameters()}


def _dead(model: nn.Module, image: Tensor) -> list[str]:
    return [name for name, grad in _backward(model, image).items() if grad is None]


def _zero_is_dead(model: nn.Module, image: Tensor) -> list[str]:
    found = _backward(model, image).items()
    return [name for name, grad in found if grad is None or not grad.any()]


def _only_zero(model: nn.Module, image: Tensor) -> list[str]:
    found = _backward(model, image).items()
    return [name for name, grad in found if grad is not None and not grad.any()]


def _never_called(model: nn.Module, image: Tensor) -> list[str]:
    called = set()
    for part, module in model.named_modules():
        module.register_forward_hook(lambda *_, part=part: called.add(part))
    model(image)
    return [n for n, _ in model.named_parameters() if n.rpartition(".")[0] not in called]


_IMAGE = torch.arange(1.0, 10).view(1, 1, 3, 3)
_LAYERS = ("encoder", "spare", "decoder")

dead_weights = Exercise(
    name="dead_weights",
    reference=_dead,
    cases=(
        Case("a block that is never called", (_Net("encoder", "decoder"), _IMAGE)),
        Case("no dead block", (_Net(*_LAYERS), _IMAGE)),
        Case(
            "a block whose output is discarded",
            (_Net("encoder", "decoder", spare_discarded=True), _IMAGE),
        ),
        Case("a last layer that is initialised with zeros", (_Net(*_LAYERS, zeros=True), _IMAGE)),
    ),
    mistakes=(
        Mistake(
            lambda model, image: [n for n, w in model.named_parameters() if w.grad is None],
            "No weight has a gradient before backward: predict, sum the output, call backward.",
        ),
        Mistake(
            _zero_is_dead,
            "A gradient of zeros is not None: that layer is used, and will learn in later steps.",
        ),
        Mistake(
            _only_zero,
            "PyTorch leaves the gradient of an unused weight at None. It does not fill in zeros.",
        ),
        Mistake(
            _never_called,
            "A call is not enough: a layer whose output is discarded learns nothing.",
        ),
        Mistake(
            lambda model, image: [n for n, g in _backward(model, image).items() if g is not None],
            "These are the weights that are used. The others are asked for.",
        ),
        Mistake(
            lambda model, image: sorted({name.split(".")[0] for name in _dead(model, image)}),
            "The right block, but its weights are asked for, as named_parameters() calls them.",
        ),
    ),
    hint="Call backward on the sum of the output, then find the weights whose .grad is None.",
)
