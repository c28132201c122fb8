"""Exercises of lesson 14: ResNet34-UNet."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from segkit.check import Case, Exercise, Mistake

_Layers = list[nn.Module]


def _residual(x: Tensor, layers: _Layers, shortcut: nn.Module | None) -> Tensor:
    y = x
    for layer in layers[:-1]:
        y = torch.relu(layer(y))
    return torch.relu(layers[-1](y) + (x if shortcut is None else shortcut(x)))


def _relu_before_sum(x: Tensor, layers: _Layers, shortcut: nn.Module | None) -> Tensor:
    y = x
    for layer in layers:
        y = torch.relu(layer(y))
    return torch.relu(y + (x if shortcut is None else shortcut(x)))


def _no_last_relu(x: Tensor, layers: _Layers, shortcut: nn.Module | None) -> Tensor:
    y = x
    for layer in layers[:-1]:
        y = torch.relu(layer(y))
    return layers[-1](y) + (x if shortcut is None else shortcut(x))


def _no_relu_between(x: Tensor, layers: _Layers, shortcut: nn.Module | None) -> Tensor:
    y = nn.Sequential(*layers)(x)
    return torch.relu(y + (x if shortcut is None else shortcut(x)))


def _no_shortcut(x: Tensor, layers: _Layers, shortcut: nn.Module | None) -> Tensor:
    for layer in layers[:-1]:
        x = torch.relu(layer(x))
    return torch.relu(layers[-1](x))


def _never_projected(x: Tensor, layers: _Layers, shortcut: nn.Module | None) -> Tensor:
    return _residual(x, layers, None)


def _always_projected(x: Tensor, layers: _Layers, shortcut: nn.Module | None) -> Tensor:
    return _residual(x, layers, shortcut or (lambda x: shortcut(x)))


def _leaves_late(x: Tensor, layers: _Layers, shortcut: nn.Module | None) -> Tensor:
    return _residual(torch.relu(layers[0](x)), layers[1:], shortcut)


def _sum_at_each_layer(x: Tensor, layers: _Layers, shortcut: nn.Module | None) -> Tensor:
    x = layers[0](x) + (x if shortcut is None else shortcut(x))
    for layer in layers[1:]:
        x = torch.relu(x)
        x = layer(x) + x
    return torch.relu(x)


def _conv(before: int, after: int, kernel: int = 3, stride: int = 1) -> nn.Module:
    """Return a convolution with weights that need no random generator."""
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
            _relu_before_sum,
            "No ReLU after the last layer: what is added must be able to be negative.",
        ),
        Mistake(_no_last_relu, "The sum is right. A ReLU follows it."),
        Mistake(
            _no_relu_between,
            "Between two layers stands a ReLU; without it, two are no more than one.",
        ),
        Mistake(_no_shortcut, "Nothing is added: the input has to come past the layers."),
        Mistake(
            _never_projected,
            "The input is added as it is, although there is a shortcut that projects it.",
        ),
        Mistake(
            _always_projected,
            "shortcut may be None: then the input itself is added, and nothing is called.",
        ),
        Mistake(
            _leaves_late,
            "The shortcut leaves after the first layer. It has to leave at the block's input.",
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
    keep: Callable[[str], bool] = lambda name: name.startswith(_FOREIGN),
) -> dict[str, Tensor]:
    """Map the names; the options are what one gets wrong."""
    ours = {}
    for name, tensor in checkpoint.items():
        if not keep(name):
            continue
        words = name.removeprefix(prefix).split(".")
        words = [parts.get(word, word) for word in words]
        if words[0] == "stem":
            words = [{"conv": "conv1", "norm": "bn1"}[words[1]], *words[2:]]
        elif words[0] == "stages":
            words = [f"layer{int(words[1]) + first}", *words[2:]]
        ours[".".join(words)] = tensor
    return ours


def _all_digits(checkpoint: dict[str, Tensor]) -> dict[str, Tensor]:
    ours = {}
    for name, tensor in _rename(checkpoint).items():
        words = [str(int(w) + 1) if w.isdigit() else w for w in name.split(".")]
        ours[".".join(words)] = tensor
    return ours


def _weights_only(name: str) -> bool:
    return name.startswith(_FOREIGN) and name.endswith((".weight", ".bias"))


def _without_counter(name: str) -> bool:
    return name.startswith(_FOREIGN) and not name.endswith("num_batches_tracked")


def _tensors(*names: str) -> dict[str, Tensor]:
    return {name: torch.tensor([float(i)]) for i, name in enumerate(names)}


rename = Exercise(
    name="rename",
    reference=_rename,
    cases=(
        Case(
            "the stem",
            (_tensors("module.backbone.stem.conv.weight", "module.backbone.stem.norm.bias"),),
        ),
        Case(
            "a block",
            (
                _tensors(
                    "module.backbone.stages.0.2.conv1.weight",
                    "module.backbone.stages.0.2.norm1.weight",
                    "module.backbone.stages.2.5.conv2.weight",
                ),
            ),
        ),
        Case(
            "what batch normalisation measured",
            (
                _tensors(
                    "module.backbone.stages.3.0.norm2.running_mean",
                    "module.backbone.stages.3.0.norm2.running_var",
                    "module.backbone.stages.3.0.norm2.num_batches_tracked",
                ),
            ),
        ),
        Case(
            "a projection",
            (
                _tensors(
                    "module.backbone.stages.1.0.shortcut.0.weight",
                    "module.backbone.stages.1.0.shortcut.1.running_var",
                ),
            ),
        ),
        Case(
            "with the classifier's head",
            (_tensors("module.backbone.stem.norm.weight", "module.head.weight"),),
        ),
    ),
    mistakes=(
        Mistake(
            lambda checkpoint: _rename(checkpoint, prefix="module."),
            "`backbone.` is still in front: none of our names begins so.",
        ),
        Mistake(
            lambda checkpoint: _rename(checkpoint, first=0),
            "Their stages count from 0, our layers from 1: stages.0 is layer1.",
        ),
        Mistake(
            _all_digits,
            "Only the number of the stage goes up by one. The others count from 0 with us too.",
        ),
        Mistake(
            lambda checkpoint: _rename(checkpoint, parts={"norm1": "bn1", "norm2": "bn2"}),
            "A projection is `downsample` with us.",
        ),
        Mistake(
            lambda checkpoint: _rename(checkpoint, keep=_weights_only),
            "Batch normalisation's running mean and variance are part of the network too.",
        ),
        Mistake(
            lambda checkpoint: _rename(checkpoint, keep=_without_counter),
            "num_batches_tracked is a tensor of the network too. Leave out the head, nothing else.",
        ),
        Mistake(
            lambda checkpoint: _rename(checkpoint, keep=lambda name: True),
            "Our encoder has no head: leave out what does not lie in the backbone.",
        ),
    ),
    hint="Take one name, write its new name beside it by hand, and look at what has changed.",
)
