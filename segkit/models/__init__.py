"""The networks, each behind one call: `build("unet", in_channels=3, classes=1, width=16)`."""

from inspect import signature
from typing import Any

import torch
from torch import nn

from segkit.errors import ArgumentError, one_of
from segkit.models.dumbnet import DumbNet
from segkit.models.fusionnet import FusionNet
from segkit.models.pdr_unet import PDRUNet
from segkit.models.pretrained import PretrainedUNet
from segkit.models.resnet34_unet import ResNet34UNet
from segkit.models.unet import UNet

_NETWORKS: dict[str, type[nn.Module]] = {
    "dumbnet": DumbNet,
    "unet": UNet,
    "resnet34_unet": ResNet34UNet,
    "pdr_unet": PDRUNet,
    "fusionnet": FusionNet,
    "pretrained_unet": PretrainedUNet,
}


def names() -> list[str]:
    """Return the names that `build` knows."""
    return list(_NETWORKS)


def options(name: str) -> dict[str, Any]:
    """Return the options of the network called `name` and their defaults."""
    network = _NETWORKS[one_of("network", name, _NETWORKS)]
    parameters = signature(network).parameters.values()
    return {p.name: p.default for p in parameters if p.name not in ("in_channels", "classes")}


def build(
    name: str, in_channels: int = 3, classes: int = 1, *, seed: int | None = 0, **chosen: Any
) -> nn.Module:
    """Return the network called `name`: images `(N, in_channels, H, W)` to logits of `classes`.

    Args:
        name: one of `names()`.
        in_channels: of the images.
        classes: 1 is binary (sigmoid), more are exclusive (softmax).
        seed: of the initial weights; the global random state is left as it was. With `None` the
            weights are drawn from the global random state.
        chosen: the network's own options; `options(name)` lists them.

    Raises:
        ArgumentError: there is no such network, or it has no such option.
    """
    known = options(name)
    unknown = [option for option in chosen if option not in known]
    if unknown:
        listed = ", ".join(f"{key}={value!r}" for key, value in known.items())
        raise ArgumentError(f"{name} has no option {', '.join(unknown)}; there are: {listed}")
    for option, value in chosen.items():
        if type(known[option]) is int and isinstance(value, int) and value < 1:
            raise ArgumentError(f"{option}={value}: give at least 1")
    network = _NETWORKS[name]
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:  # the CPU alone: torch.manual_seed would reseed every GPU as well
            torch.random.default_generator.manual_seed(seed)
        return network(in_channels=in_channels, classes=classes, **chosen)
