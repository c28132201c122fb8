"""The parts that several networks are made of."""

from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv3x3(
    in_channels: int,
    out_channels: int,
    dilation: int = 1,
    same: bool = True,
    norm: bool = True,
    bias: bool | None = None,
    relu: bool = True,
) -> nn.Sequential:
    """Return 3×3 convolution, batch normalisation, ReLU.

    Args:
        dilation: distance of the kernel's taps, in pixels.
        same: pad with zeros so that height and width stay; without, both lose `2 · dilation`.
        bias: of the convolution. `None` leaves it out where batch normalisation, which subtracts
            every constant, comes next.
    """
    options = {"padding": dilation if same else 0, "dilation": dilation}
    options["bias"] = not norm if bias is None else bias
    layers = [nn.Conv2d(in_channels, out_channels, kernel_size=3, **options)]
    if norm:
        layers.append(nn.BatchNorm2d(out_channels))
    if relu:
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


def double_conv(in_channels: int, out_channels: int, **options: bool | None) -> nn.Sequential:
    """Return two `conv3x3` in a row, the U-Net's block; `options` as there."""
    return nn.Sequential(
        *conv3x3(in_channels, out_channels, **options),
        *conv3x3(out_channels, out_channels, **options),
    )


def upsample(mode: str, in_channels: int, out_channels: int) -> nn.Module:
    """Return a module that doubles height and width and goes from `in_` to `out_channels`.

    Args:
        mode: "transposed": a 2×2 transposed convolution with stride 2. "nearest": every pixel
            four times, then a 3×3 convolution. "bilinear": a 1×1 convolution, then bilinear
            interpolation; the two commute, so the usual order (interpolate first) gives the same
            feature map at four times the cost.
    """
    if mode == "transposed":
        return nn.ConvTranspose2d(in_channels, out_channels, kernel_size=2, stride=2)
    grow = nn.Upsample(scale_factor=2, mode=mode)
    if mode == "nearest":
        return nn.Sequential(grow, nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1))
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, kernel_size=1), grow)


def crop(x: Tensor, like: Tensor) -> Tensor:
    """Return `x` without the surplus rows and columns at its end, at the size of `like`.

    Downsampling rounds up here, so an odd feature map comes back one pixel too large. Cutting
    that pixel off keeps all others on the grid they came from; resizing would shift them.
    """
    # Negative padding, not a slice: torch.export ties a slice to odd or to even sizes.
    return F.pad(x, (0, like.shape[-1] - x.shape[-1], 0, like.shape[-2] - x.shape[-2]))


class Up(nn.Module):
    """One level of a decoder: upsample, join with the skip connection, convolve.

    Args:
        upsample: doubles height and width.
        block: the convolutions after the skip connection has joined.
        join: "concat": the channels of the skip, then those of `x`. "sum". "none": the skip
            gives its size alone.
        valid: take the middle of the skip, for convolutions that do not pad: the U-Net paper's
            grey arrows.
    """

    def __init__(
        self, upsample: nn.Module, block: nn.Module, join: str = "concat", valid: bool = False
    ) -> None:
        super().__init__()
        self.upsample, self.block, self.join, self.valid = upsample, block, join, valid

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Return the feature map at the size of `skip`, which is twice that of `x` or one less."""
        x = self.upsample(x)
        if self.valid:
            top, left = (skip.shape[-2] - x.shape[-2]) // 2, (skip.shape[-1] - x.shape[-1]) // 2
            skip = skip[..., top : top + x.shape[-2], left : left + x.shape[-1]]
        x = crop(x, like=skip)
        if self.join == "concat":
            x = torch.cat([skip, x], dim=1)
        elif self.join == "sum":
            x = x + skip
        return self.block(x)


class WithEncoder(nn.Module):
    """A network whose `encoder` may be pretrained: frozen, or trained at a rate of its own."""

    frozen = False

    def freeze_encoder(self, frozen: bool = True) -> None:
        """Freeze the encoder, through `train()` too, or with False let it be trained again.

        Frozen, its batch normalisation stays in evaluation mode: the running means and variances
        would drift otherwise.
        """
        self.frozen = frozen
        self.encoder.requires_grad_(not frozen).train(self.training and not frozen)

    def train(self, mode: bool = True) -> Self:
        """Set training or evaluation mode; a frozen encoder stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def parameter_groups(self, lr: float, encoder_lr: float) -> list[dict[str, Any]]:
        """Return an optimizer's parameter groups: the encoder's last, all the rest first.

        Args:
            lr: learning rate of all the rest, the decoder.
            encoder_lr: learning rate of the encoder.
        """
        rest = [p for name, p in self.named_parameters() if not name.startswith("encoder.")]
        return [
            {"name": "decoder", "params": rest, "lr": lr},
            {"name": "encoder", "params": list(self.encoder.parameters()), "lr": encoder_lr},
        ]


def share_channels(weight: Tensor, channels: int) -> Tensor:
    """Return a first layer's weights for another number of channels, (out, channels, k, k).

    Each channel gets an equal share of the sum over the colours: an image whose channels are all
    equal gives the features that the grey image gave.

    Args:
        weight: of the layer for colour, (out, 3, k, k).
        channels: of the new layer, 1 or more.
    """
    return weight.sum(dim=1, keepdim=True).repeat(1, channels, 1, 1) / channels
