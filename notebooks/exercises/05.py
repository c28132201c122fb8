"""Exercises of lesson 05: downsampling and upsampling."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from segkit.check import Case, Exercise, Mistake

_NOT_TWO = "no two whole numbers"


def _padding(kernel: int, stride: int) -> tuple[int, int]:
    padding = (kernel - stride + 1) // 2
    return padding, 2 * padding - (kernel - stride)


def _sizes(answer: Callable, kernel: int, stride: int) -> list[int] | str:
    """Return the sizes that inputs of 5 and 9 get with the paddings of an answer."""
    found = answer(kernel, stride)
    found = found.values() if isinstance(found, dict) else found
    try:
        padding, extra = (float(number) for number in found)
    except (TypeError, ValueError):
        return _NOT_TWO
    if padding != int(padding) or extra != int(extra):
        return _NOT_TWO
    layer = nn.ConvTranspose2d(1, 1, kernel, stride, int(padding), output_padding=int(extra))
    return [layer(torch.zeros(1, 1, n, n)).shape[-1] for n in (5, 9)]


padding_for = Exercise(
    name="padding_for",
    reference=_padding,
    measure=_sizes,
    cases=(
        Case("kernel 2, stride 2: sizes 5 and 9", (2, 2)),
        Case("kernel 4, stride 2", (4, 2)),
        Case("kernel 3, stride 2", (3, 2)),
        Case("kernel 5, stride 2", (5, 2)),
        Case("kernel 6, stride 3", (6, 3)),
        Case("kernel 7, stride 4", (7, 4)),
        Case("kernel 16, stride 8", (16, 8)),
    ),
    mistakes=(
        Mistake(lambda k, s: None, "Return two whole numbers: `return padding, output_padding`."),
        Mistake(
            lambda k, s: (0, 0),
            "Without padding the output has kernel_size - stride pixels too many.",
        ),
        Mistake(
            lambda k, s: (k // 2, 0),
            "Half of the kernel keeps the size of a usual convolution. Here n * stride is wanted.",
        ),
        Mistake(
            lambda k, s: ((k - s) // 2, 0),
            "Right where kernel_size - stride is even. Otherwise one pixel has to be cut or added.",
        ),
        Mistake(
            lambda k, s: ((k - s + 1) // 2, 0),
            "Where kernel_size - stride is odd, one pixel too many is cut: add it again.",
        ),
        Mistake(
            lambda k, s: ((k - 1) // 2, k % 2),
            "That is right for stride 2 alone. Use the stride.",
        ),
        Mistake(
            lambda k, s: (k - s, 0),
            "Padding is removed at both sides, so it counts twice.",
        ),
        Mistake(
            lambda k, s: (k - s, k - s),
            "Output padding must be smaller than the stride, so begin with the smallest padding.",
        ),
    ),
    hint="2 * padding - output_padding must equal kernel_size - stride.",
)


def _first(value: Any) -> int:
    return value[0] if isinstance(value, tuple) else value


def _layers(net: nn.Module) -> Iterator[tuple[int, int, int]]:
    """Yield kernel size, stride and dilation of each layer that has them."""
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):
            settings = layer.kernel_size, layer.stride, getattr(layer, "dilation", 1)
            yield tuple(map(_first, settings))


def _field(net: nn.Module) -> int:
    return _field_of(_layers(net))


def _field_of(layers: Any) -> int:
    field = jump = 1
    for kernel, stride, dilation in layers:
        field += (kernel - 1) * dilation * jump
        jump *= stride
    return field


def _stride_first(net: nn.Module) -> int:
    field = jump = 1
    for kernel, stride, dilation in _layers(net):
        jump *= stride
        field += (kernel - 1) * dilation * jump
    return field


def _last_stride(net: nn.Module) -> int:
    field = jump = 1
    for kernel, stride, dilation in _layers(net):
        field += (kernel - 1) * dilation * jump
        jump = stride
    return field


def _whole_kernel(net: nn.Module) -> int:
    field = jump = 1
    for kernel, stride, dilation in _layers(net):
        field += (kernel * dilation - 1) * jump
        jump *= stride
    return field


def _convolutions_alone(net: nn.Module) -> int:
    return _field(nn.Sequential(*(m for m in net.modules() if isinstance(m, nn.Conv2d))))


def _outer_alone(net: nn.Module) -> int:
    layers = [m for m in net if not isinstance(m, nn.Sequential)]
    return _field(nn.Sequential(*layers))


def _mixes_forms(net: nn.Module) -> int:
    raise TypeError


def _double(channels: int) -> nn.Sequential:
    convolutions = [nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2)]
    return nn.Sequential(convolutions[0], nn.BatchNorm2d(channels), nn.ReLU(), convolutions[1])


sequential_field = Exercise(
    name="sequential_field",
    reference=_field,
    cases=(
        Case(
            "Conv2d 3, ReLU, Conv2d 5",
            (nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Conv2d(2, 2, 5)),),
        ),
        Case(
            "Conv2d 3, MaxPool2d 2, Conv2d 3",
            (nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2), nn.Conv2d(2, 2, 3)),),
        ),
        Case(
            "two Conv2d 3 with stride 2, AvgPool2d 2, Conv2d 5",
            (
                nn.Sequential(
                    nn.Conv2d(1, 2, 3, stride=2),
                    nn.Conv2d(2, 2, 3, stride=2),
                    nn.AvgPool2d(2),
                    nn.Conv2d(2, 2, 5),
                ),
            ),
        ),
        Case(
            "Conv2d 3 with dilation 2, MaxPool2d 3 with stride 2, Conv2d 3 with dilation 4",
            (
                nn.Sequential(
                    nn.Conv2d(1, 2, 3, dilation=2),
                    nn.MaxPool2d(3, stride=2),
                    nn.Conv2d(2, 2, 3, dilation=4),
                ),
            ),
        ),
        Case(
            "nested: twice a block of two Conv2d 3, then MaxPool2d 2; then a block",
            (
                nn.Sequential(
                    nn.Sequential(_double(1), nn.MaxPool2d(2)),
                    nn.Sequential(_double(1), nn.MaxPool2d(2)),
                    _double(1),
                ),
            ),
        ),
        Case("Conv2d 1 alone", (nn.Sequential(nn.Conv2d(1, 2, 1)),)),
    ),
    mistakes=(
        Mistake(
            lambda net: _field_of((k, s, 1) for k, s, _ in _layers(net)),
            "Dilation is missing: a kernel spans (kernel_size - 1) * dilation + 1 positions.",
        ),
        Mistake(
            lambda net: _field_of((k, 1, d) for k, _, d in _layers(net)),
            "After a stride, one step in the feature map is several pixels of the image: the jump.",
        ),
        Mistake(
            _stride_first,
            "A layer's stride counts for the layers after it: first the field, then the jump.",
        ),
        Mistake(_last_stride, "Jumps multiply: two strides of 2 make a jump of 4."),
        Mistake(_whole_kernel, "A kernel of 3 with dilation 2 spans 5 positions, not 6."),
        Mistake(_convolutions_alone, "Pooling layers have a kernel and a stride too."),
        Mistake(_outer_alone, "Layers of an inner nn.Sequential are missing: use net.modules()."),
        Mistake(
            lambda net: _field(net) - 1,
            "The receptive field of a single pixel is that pixel: the field begins at 1.",
        ),
        Mistake(
            _mixes_forms,
            "The kernel_size of a Conv2d is a tuple such as (3, 3), that of MaxPool2d(2) is 2.",
        ),
    ),
    hint="Two numbers, field and jump, both 1. For each layer: the field grows, then the jump.",
)

_BILINEAR = (0.25, 0.75, 0.75, 0.25)


def _layer(
    channels: int,
    weights: tuple[float, ...] = _BILINEAR,
    padding: int = 1,
    bias: bool = False,
    mix: bool = False,
) -> nn.Module:
    side = len(weights)
    layer = nn.ConvTranspose2d(channels, channels, side, stride=2, padding=padding, bias=bias)
    kernel = torch.outer(torch.tensor(weights), torch.tensor(weights))
    pairs = torch.ones(channels, channels) if mix else torch.eye(channels)
    layer.weight.data = pairs[:, :, None, None] * kernel
    return layer


def _upsampled(answer: Callable, channels: int) -> Any:
    """Return what the layer of an answer computes, without the border; or what else it is."""
    if isinstance(answer, nn.Module):
        return "a layer, not a function"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # so that a layer with random weights is known again
        layer = answer(channels)
    if not isinstance(layer, nn.Module):
        return layer if layer is None else "no layer"
    x = torch.rand(2, channels, 5, 6, generator=torch.Generator().manual_seed(1))
    for parameter in layer.parameters():
        x = x.to(parameter.dtype)
    with torch.no_grad():
        output = layer(x)
    if not any(isinstance(part, nn.ConvTranspose2d) for part in layer.modules()):
        return "a layer without nn.ConvTranspose2d"
    if not isinstance(output, Tensor) or output.shape != (2, channels, 10, 12):
        return f"output of shape {tuple(output.shape)} for an input of {tuple(x.shape)}"
    return output[..., 1:-1, 1:-1].float()


def _interpolation(channels: int) -> nn.Module:
    return nn.Upsample(scale_factor=2, mode="bilinear")


bilinear_layer = Exercise(
    name="bilinear_layer",
    reference=_layer,
    measure=_upsampled,
    cases=(Case("one channel", (1,)), Case("three channels", (3,))),
    mistakes=(
        Mistake(_interpolation, "That has nothing to train: use an nn.ConvTranspose2d."),
        Mistake(lambda channels: torch.ones(4, 4), "Return the layer itself."),
        Mistake(_layer(1), "Pass the function itself: check.bilinear_layer(bilinear_layer)."),
        Mistake(
            lambda channels: nn.ConvTranspose2d(channels, channels, 4, stride=2, padding=1),
            "Its weights are still random: copy the bilinear ones into layer.weight.",
        ),
        Mistake(
            lambda channels: _layer(channels, bias=True),
            "The weights are right. The bias is random: bias=False, or set it to 0.",
        ),
        Mistake(
            lambda channels: _layer(channels, mix=True),
            "Each output channel adds up all input channels. Only weight[c, c] is not 0.",
        ),
        Mistake(
            lambda channels: _layer(channels, padding=0),
            "The size is not doubled: which padding does this kernel need? See exercise 1.",
        ),
        Mistake(
            lambda channels: _layer(channels, (1.0, 1.0), padding=0),
            "That repeats pixels: nearest upsampling. Bilinear needs a larger kernel.",
        ),
        Mistake(
            lambda channels: _layer(channels, tuple(w / 2 for w in _BILINEAR)),
            "The output is too dark: the weights that one output pixel meets must add up to 1.",
        ),
        Mistake(
            lambda channels: _layer(channels, (0.5,) * 4),
            "With equal weights the output is a mean. The nearer pixel needs the larger weight.",
        ),
    ),
    hint="Output pixels lie at 1/4 and 3/4 between two input pixels: those are the weights.",
)
