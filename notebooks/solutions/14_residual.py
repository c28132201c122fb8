import torch


def residual(x, layers, shortcut=None):
    """Return ReLU(layers of x + shortcut of x), with a ReLU between the layers."""
    y = x
    for layer in layers[:-1]:
        y = torch.relu(layer(y))
    y = layers[-1](y)  # no ReLU here: what is added may be negative
    return torch.relu(y + (x if shortcut is None else shortcut(x)))
