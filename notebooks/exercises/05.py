"""Exercises of lesson 05: down and up."""

from segkit.check import Case, Exercise, Mistake

_Layers = list[tuple[int, int, int]]


def _size(n: int, kernel: int, stride: int, padding: int = 0, output_padding: int = 0) -> int:
    return (n - 1) * stride + kernel - 2 * padding + output_padding


transposed_size = Exercise(
    name="transposed_size",
    reference=_size,
    cases=(
        Case("kernel 2, stride 2", (5, 2, 2)),
        Case("kernel 4, stride 2, padding 1", (8, 4, 2, 1)),
        Case("kernel 3, stride 2, padding 1, output padding 1", (8, 3, 2, 1, 1)),
        Case("kernel 7, stride 3", (4, 7, 3)),
    ),
    mistakes=(
        Mistake(
            lambda n, k, s, p=0, o=0: n * s + k - 2 * p + o,
            "The first kernel begins at 0, so the last of n begins at (n - 1) * stride.",
        ),
        Mistake(
            lambda n, k, s, p=0, o=0: n * s,
            "That holds only for some kernels and paddings. Where does the last kernel end?",
        ),
        Mistake(
            lambda n, k, s, p=0, o=0: (n + 2 * p - k) // s + 1,
            "That is the size after a strided convolution. This layer upsamples.",
        ),
        Mistake(
            lambda n, k, s, p=0, o=0: (n - 1) * s + k + 2 * p + o,
            "Padding is cut off here: it makes the output smaller.",
        ),
        Mistake(
            lambda n, k, s, p=0, o=0: (n - 1) * s + k - p + o,
            "Padding is cut off at both sides.",
        ),
        Mistake(
            lambda n, k, s, p=0, o=0: (n - 1) * s + k - 2 * p,
            "The output padding is missing: it adds that many rows at the end.",
        ),
    ),
    hint="Where does the last kernel begin, and how wide is it?",
)


def _field(layers: _Layers) -> int:
    field = jump = 1
    for kernel, stride, dilation in layers:
        field += (kernel - 1) * dilation * jump
        jump *= stride
    return field


def _stride_first(layers: _Layers) -> int:
    field = jump = 1
    for kernel, stride, dilation in layers:
        jump *= stride
        field += (kernel - 1) * dilation * jump
    return field


def _jump_is_last_stride(layers: _Layers) -> int:
    field = jump = 1
    for kernel, stride, dilation in layers:
        field += (kernel - 1) * dilation * jump
        jump = stride
    return field


def _whole_kernel(layers: _Layers) -> int:
    field = jump = 1
    for kernel, stride, dilation in layers:
        field += (kernel * dilation - 1) * jump
        jump *= stride
    return field


stack_field = Exercise(
    name="stack_field",
    reference=_field,
    cases=(
        Case("two convolutions", ([(3, 1, 1), (3, 1, 1)],)),
        Case("with a pooling", ([(3, 1, 1), (2, 2, 1), (3, 1, 1)],)),
        Case("two strides", ([(3, 2, 1), (3, 2, 1), (5, 1, 1)],)),
        Case("dilations", ([(3, 1, 1), (3, 1, 2), (2, 2, 1), (3, 1, 4)],)),
        Case("no layer at all", ([],)),
    ),
    mistakes=(
        Mistake(
            lambda layers: _field([(k, s, 1) for k, s, _ in layers]),
            "Dilation is missing: the extent of a kernel is (kernel - 1) * dilation + 1.",
        ),
        Mistake(
            lambda layers: _field([(k, 1, d) for k, _, d in layers]),
            "After a stride, one step in the feature map is several pixels of the image: the jump.",
        ),
        Mistake(
            _stride_first,
            "A layer's stride counts for the layers after it: first the field, then the jump.",
        ),
        Mistake(_jump_is_last_stride, "Jumps multiply: two strides of 2 make a jump of 4."),
        Mistake(_whole_kernel, "A kernel of 3 with dilation 2 spans 5 pixels, not 6."),
        Mistake(
            lambda layers: _field(layers) - 1,
            "Without any layer the receptive field is the pixel itself: it begins at 1.",
        ),
    ),
    hint="Two numbers, field and jump, both 1. For each layer: the field grows, then the jump.",
)
