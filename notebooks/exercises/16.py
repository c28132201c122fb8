"""Exercises of lesson 16: library models."""

import re
from collections.abc import Callable

import torch
from torch import Tensor, nn

from segkit.check import Case, Exercise, Mistake


def _network(deep: bool) -> nn.Sequential:
    """Return a small encoder and a decoder, with the same weights each time."""

    def block(inputs: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(inputs, outputs, kernel_size=3), nn.BatchNorm2d(outputs), nn.ReLU()
        )

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = block(1, 4)
        if deep:
            encoder.append(nn.Sequential(block(4, 4), nn.Sequential(nn.BatchNorm2d(4))))
        return nn.Sequential(encoder, nn.Conv2d(4, 2, kernel_size=1))


def _train_frozen(freeze: Callable, model: nn.Sequential) -> dict[str, float | str]:
    """Freeze the encoder of a network, train the network, and return what changed."""
    images = torch.linspace(-1, 2, 2 * 8 * 8).view(2, 1, 8, 8)
    encoder, decoder = model
    wanted = encoder.eval()(images).detach()
    before = decoder.weight.detach().clone()
    model.train()
    freeze(encoder)
    in_training = []
    for _ in range(2):
        model.train()
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
        features = encoder(images)
        in_training.append((features - wanted).abs().max().item())
        model(images).square().mean().backward()
        optimizer.step()
        model.eval()
    return {
        "parameters with a gradient": sum(p.grad is not None for p in encoder.parameters()),
        "features in training mode": _same_or_not(max(in_training)),
        "features after training": _same_or_not((encoder(images) - wanted).abs().max().item()),
        "decoder": "frozen too" if torch.equal(before, decoder.weight) else "trained",
    }


def _same_or_not(difference: float) -> str:
    return "as before" if difference < 1e-5 else "changed"


def _without_gradients(module: nn.Module) -> None:
    module.requires_grad_(False)


def _in_evaluation_mode(module: nn.Module) -> None:
    module.eval()
    module.train = lambda mode=True: module


def _all_frozen(module: nn.Module) -> None:
    module.requires_grad_(False).eval()
    module.train = lambda mode=True: module


def _without_momentum(module: nn.Module) -> None:
    module.requires_grad_(False)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = 0.0


freeze = Exercise(
    name="freeze",
    reference=_all_frozen,
    measure=_train_frozen,
    cases=(
        Case("an encoder with batch normalisation", (_network(deep=False),)),
        Case("batch normalisation deep inside", (_network(deep=True),)),
    ),
    mistakes=(
        Mistake(
            _without_gradients,
            "No gradients, but after net.train() batch normalisation is in training mode. An "
            "eval() alone is undone by net.train(), which calls module.train(): change that.",
        ),
        Mistake(
            _in_evaluation_mode,
            "Evaluation mode stays, but the parameters still get gradients: requires_grad_(False).",
        ),
        Mistake(
            _without_momentum,
            "The running statistics stay, but in training mode the layer normalises by the "
            "batch's own. It must be in evaluation mode.",
        ),
    ),
    hint="After freeze(module) and net.train(): which parameters have requires_grad, and what is "
    "module.training?",
)

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


def _converted(convert: Callable[[_State], _State], state: _State) -> object:
    """Return the new checkpoint, or what happened to the given one if it was changed."""
    given = {name: tensor.clone() for name, tensor in state.items()}
    converted = convert(state)
    kept = state.keys() == given.keys() and all(torch.equal(state[n], given[n]) for n in given)
    return converted if kept else "the given checkpoint was changed"


def _in_place(state: _State) -> _State:
    state["conv1.weight"] = state["conv1.weight"].sum(dim=1, keepdim=True)
    return state


grey_checkpoint = Exercise(
    name="grey_checkpoint",
    reference=_first(lambda w: w.sum(dim=1, keepdim=True)),
    measure=_converted,
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
        Mistake(
            _in_place,
            "Right, but you wrote into the given dictionary. Begin with a copy: dict(state).",
        ),
        Mistake(_every, "Deeper layers have feature maps, not colours. Change conv1.weight alone."),
        Mistake(
            lambda state: {"conv1.weight": state["conv1.weight"].sum(dim=1, keepdim=True)},
            "All other tensors are gone. Return the whole checkpoint.",
        ),
    ),
    hint="Only conv1.weight, (out, 3, height, width), changes: to (out, 1, height, width).",
)

_FITTING = {"a", "d", "e", "g"}


def _count_letters(answer: object) -> str:
    """Return how many letters of an answer are right, and how many wrong."""
    letters = set(re.findall(r"[a-z]", str(answer).lower()))
    right, wrong = len(letters & _FITTING), len(letters - _FITTING)
    return (
        f"{right} of your letters fit, {wrong} do not. Follow the output: is a sigmoid applied "
        "exactly once before it is a probability?"
    )


fitting_pairs = Exercise(
    name="fitting_pairs",
    reference=_FITTING,
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
    hint=_count_letters,
)
