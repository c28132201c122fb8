from torch import nn


def _first(value):  # of a convolution's (3, 3); a pooling has the number itself
    return value[0] if isinstance(value, tuple) else value


def sequential_field(net):
    """Return the side of the receptive field of a stack of layers, in pixels."""
    field = jump = 1
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):
            dilation = _first(getattr(layer, "dilation", 1))  # AvgPool2d has none
            field += (_first(layer.kernel_size) - 1) * dilation * jump
            jump *= _first(layer.stride)
    return field
