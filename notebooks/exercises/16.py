"""Exercises of lesson 16: library models."""

from collections.abc import Callable

import torch
from torch import Tensor

from segkit.check import Case, Exercise, Mistake

_State = dict[str, Tensor]
_LUMINANCE = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)


def _first(change: Callable[[Tensor], Tensor]) -> Callable[[_State], _State]:
    return lambda state: state | {"conv1.weight": change(state["conv1.weight"])}


def _every(state: _State) -> _State:
    return {
        name: t.sum(dim=1, keepdim=True) if t.ndim == 4 else t.clone() for name, t in state.items()
    }


def _checkpoint(first: Tensor) -> _State:
    """Return a small colour checkpoint in torchvision's names."""
    return {
        "conv1.weight": first,
        "bn1.weight": torch.tensor([0.5, 2.0]),
        "bn1.num_batches_tracked": torch.tensor(7),
        "layer1.0.conv1.weight": torch.arange(8.0).view(4, 2, 1, 1),
    }


grey_checkpoint = Exercise(
    name="grey_checkpoint",
    reference=_first(lambda w: w.sum(dim=1, keepdim=True)),
    cases=(
        Case(
            "two 1×1 filters",
            (_checkpoint(torch.tensor([[1.0, 2, 3], [4, 5, -6]]).view(2, 3, 1, 1)),),
        ),
        Case("7×7 filters", (_checkpoint(torch.linspace(-1, 2, 294).view(2, 3, 7, 7)),)),
    ),
    mistakes=(
        Mistake(
            _first(lambda w: w.mean(dim=1, keepdim=True)),
            "The mean is a third of the sum. A grey image was the input of all three channels.",
        ),
        Mistake(
            _first(lambda w: w[:, :1]),
            "You kept red and dropped green and blue. The grey image was the input of all three.",
        ),
        Mistake(
            _first(lambda w: w.sum(dim=1)),
            "The filters lost an axis: a convolution needs (out, in, height, width). Use keepdim.",
        ),
        Mistake(
            _first(lambda w: w.sum(dim=0, keepdim=True)),
            "That sums over the filters. Colours are the second axis: (out, in, height, width).",
        ),
        Mistake(
            _first(lambda w: (w * _LUMINANCE).sum(dim=1, keepdim=True)),
            "Luminance weights turn a colour image grey. Here it is grey already: a plain sum.",
        ),
        Mistake(_every, "Deeper layers have feature maps, not colours. Change conv1.weight alone."),
        Mistake(
            lambda state: {"conv1.weight": state["conv1.weight"].sum(dim=1, keepdim=True)},
            "All other tensors are gone. Return the whole checkpoint.",
        ),
    ),
    hint="Only conv1.weight, (out, 3, height, width), changes: to (out, 1, height, width).",
)

fitting_pairs = Exercise(
    name="fitting_pairs",
    reference={"a", "d", "e", "g"},
    mistakes=(
        Mistake(
            {"a", "d", "e"},
            "Three are right. Which threshold of a logit is a probability of one half?",
        ),
        Mistake(
            {"a", "d", "g"},
            "Three are right. BCEWithLogits applies the sigmoid itself: which output does it need?",
        ),
        Mistake({"a", "e", "g"}, "Three are right. For which output is from_logits=False right?"),
        Mistake(
            {"a", "b", "d", "e", "g"},
            "b: the network applies a sigmoid, and the loss, which expects logits, another one.",
        ),
        Mistake(
            {"a", "c", "d", "e", "g"},
            "c: logits of −3 or 5 would be summed as if they were probabilities.",
        ),
        Mistake(
            {"a", "d", "e", "f", "g"},
            "f: BCEWithLogits applies a second sigmoid; no output is left that means 'background'.",
        ),
        Mistake(
            {"a", "d", "e", "g", "h"},
            "h: a probability is never below 0, so every pixel would be object.",
        ),
    ),
    hint="Follow the output: is a sigmoid applied exactly once before it is a probability?",
)
