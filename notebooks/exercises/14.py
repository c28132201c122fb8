"""Exercises of lesson 14: ResNet34-UNet."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from segkit.check import Case, Exercise, Mistake

_Layers = list[nn.Module]


def _residual(
    x: Tensor,
    layers: _Layers,
    shortcut: Callable[[Tensor], Tensor] | None,
    *,
    relu_between: bool = True,
    relu_before_sum: bool = False,
    relu_after_sum: bool = True,
    summed: bool = True,
) -> Tensor:
    y = x
    for layer in layers[:-1]:
        y = torch.relu(layer(y)) if relu_between else layer(y)
    y = layers[-1](y)
    if relu_before_sum:
        y = torch.relu(y)
    if summed:
        y = y + (x if shortcut is None else shortcut(x))
    return torch.relu(y) if relu_after_sum else y


def _but(**changes: bool) -> Callable:
    return lambda *args: _residual(*args, **changes)


def _sum_at_each_layer(x: Tensor, layers: _Layers, shortcut: nn.Module | None) -> Tensor:
    x = layers[0](x) + (x if shortcut is None else shortcut(x))
    for layer in layers[1:]:
        x = torch.relu(x)
        x = layer(x) + x
    return torch.relu(x)


def _conv(before: int, after: int, kernel: int = 3, stride: int = 1) -> nn.Module:
    """Return a convolution whose weights need no random generator."""
    conv = nn.Conv2d(before, after, kernel, stride=stride, padding=kernel // 2, bias=False)
    numbers = torch.arange(conv.weight.numel(), dtype=torch.float32)
    with torch.no_grad():
        conv.weight.copy_(torch.sin(1 + 7 * numbers).view_as(conv.weight))
    return conv.requires_grad_(False)


def _image(channels: int) -> Tensor:
    return torch.cos(torch.arange(channels * 16.0)).view(1, channels, 4, 4)


residual = Exercise(
    name="residual",
    reference=_residual,
    cases=(
        Case("two layers, no projection", (_image(1), [_conv(1, 1), _conv(1, 1)], None)),
        Case(
            "two layers, half the size, a projection",
            (_image(1), [_conv(1, 2, stride=2), _conv(2, 2)], _conv(1, 2, 1, 2)),
        ),
        Case(
            "three layers, as in ResNet-50",
            (_image(2), [_conv(2, 1, 1), _conv(1, 1), _conv(1, 2, 1)], None),
        ),
        Case(
            "one shape, and yet a projection",
            (_image(1), [_conv(1, 1), _conv(1, 1)], _conv(1, 1, 1)),
        ),
    ),
    mistakes=(
        Mistake(
            _but(relu_before_sum=True),
            "No ReLU after the last layer: what is added must be able to be negative.",
        ),
        Mistake(_but(relu_after_sum=False), "The sum is right. A ReLU follows it."),
        Mistake(
            _but(relu_between=False),
            "A ReLU is missing between two layers; without it, two convolutions equal one.",
        ),
        Mistake(_but(summed=False), "The input is not added: it has to bypass the layers."),
        Mistake(
            lambda x, layers, shortcut: _residual(x, layers, None),
            "The input is added as it is, although there is a shortcut that projects it.",
        ),
        Mistake(
            lambda x, layers, shortcut: _residual(x, layers, lambda x: shortcut(x)),
            "shortcut may be None: then the input itself is added, and nothing is called.",
        ),
        Mistake(
            lambda x, layers, shortcut: _residual(torch.relu(layers[0](x)), layers[1:], shortcut),
            "The shortcut starts after the first layer. It has to start at the block's input.",
        ),
        Mistake(_sum_at_each_layer, "One sum for the whole block, after its last layer."),
    ),
    hint="Keep x. Layers with a ReLU between them, plus x or shortcut(x), then one more ReLU.",
)


_FOREIGN = "module.backbone."
_PARTS = {"norm1": "bn1", "norm2": "bn2", "shortcut": "downsample"}


def _rename(
    checkpoint: dict[str, Tensor],
    prefix: str = _FOREIGN,
    first: int = 1,
    parts: dict[str, str] = _PARTS,
    keep: tuple[str, str | tuple[str, ...]] = (_FOREIGN, ""),  # how names begin and end
) -> dict[str, Tensor]:
    ours = {}
    for name, tensor in checkpoint.items():
        words = [parts.get(word, word) for word in name.removeprefix(prefix).split(".")]
        if words[0] == "stem":
            words = [{"conv": "conv1", "norm": "bn1"}[words[1]], *words[2:]]
        elif words[0] == "stages":
            words = [f"layer{int(words[1]) + first}", *words[2:]]
        if name.startswith(keep[0]) and name.endswith(keep[1]):
            ours[".".join(words)] = tensor
    return ours


def _all_digits(checkpoint: dict[str, Tensor]) -> dict[str, Tensor]:
    ours = {}
    for name, tensor in _rename(checkpoint).items():
        words = [str(int(w) + 1) if w.isdigit() else w for w in name.split(".")]
        ours[".".join(words)] = tensor
    return ours


def _but_rename(**changes: Any) -> Callable:
    return lambda checkpoint: _rename(checkpoint, **changes)


def _tensors(*names: str) -> dict[str, Tensor]:
    return {name: torch.tensor([float(i)]) for i, name in enumerate(names)}


def _backbone(*names: str) -> dict[str, Tensor]:
    return _tensors(*(_FOREIGN + name for name in names))


_STAGES = ("stages.0.2.conv1.weight", "stages.0.2.norm1.weight", "stages.2.5.conv2.weight")
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")

rename = Exercise(
    name="rename",
    reference=_rename,
    cases=(
        Case("the stem", (_backbone("stem.conv.weight", "stem.norm.bias"),)),
        Case("a block", (_backbone(*_STAGES),)),
        Case(
            "the statistics of batch normalisation",
            (_backbone(*(f"stages.3.0.norm2.{name}" for name in _STATISTICS)),),
        ),
        Case(
            "a projection",
            (_backbone("stages.1.0.shortcut.0.weight", "stages.1.0.shortcut.1.running_var"),),
        ),
        Case(
            "with the classifier's head",
            (_tensors("module.backbone.stem.norm.weight", "module.head.weight"),),
        ),
    ),
    mistakes=(
        Mistake(
            _but_rename(prefix="module."),
            "`backbone.` is still in front: none of our names begins with it.",
        ),
        Mistake(
            _but_rename(first=0),
            "Their stages count from 0, our layers from 1: stages.0 is layer1.",
        ),
        Mistake(
            _all_digits,
            "Only the number of the stage goes up by one. The others count from 0 here too.",
        ),
        Mistake(
            _but_rename(parts={"norm1": "bn1", "norm2": "bn2"}),
            "The name of a projection in our encoder is `downsample`.",
        ),
        Mistake(
            _but_rename(keep=(_FOREIGN, (".weight", ".bias"))),
            "Batch normalisation's running mean and variance are part of the network too.",
        ),
        Mistake(
            _but_rename(keep=(_FOREIGN, (".weight", ".bias", "_mean", "_var"))),
            "num_batches_tracked is a tensor of the network too. Leave out the head, nothing else.",
        ),
        Mistake(
            _but_rename(keep=("", "")),
            "Our encoder has no head: leave out what is not in the backbone.",
        ),
    ),
    hint="Take one name, write its new name beside it by hand, and compare the two.",
)
