"""PDR-UNet: a U-Net at full resolution; dilation widens its receptive field instead."""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from segkit.errors import one_of
from segkit.models.blocks import conv3x3

DILATIONS = (1, 2, 4, 8, 16, 32, 32, 32, 16, 8, 4, 2, 1)
"""Dilation of each of the 13 blocks; with two 3×3 convolutions each, the receptive field is 633."""


class PDRUNet(nn.Module):
    """Pure Dilated Residual U-Net: 13 blocks at full resolution, joined by sums.

    Takes `(N, in_channels, H, W)` of any size, returns logits `(N, classes, H, W)`.

    Args:
        filters: channels of every feature map.
        shortcut: where a block's residual path leaves: after its "first-conv" (the paper's
            figure 2) or at its "input" (the repository).
        dropout: share of the values dropped after blocks 6 and 7 (the paper keeps 0.7).
        norm: batch normalisation.
        checkpointing: keep only the blocks' inputs for the backward pass and compute the rest
            again (`torch.utils.checkpoint`): the same gradients for less memory and a third more
            time. Batch normalisation then sees each batch twice, so its running averages move
            faster. Under `torch.compile`, which itself chooses what to keep, it does nothing.

    361,482 parameters for 1 channel, 2 classes and no `norm`, as the paper has it; 363,521 for
    1 channel and 1 class with `norm`, as in the repository, which carries 29,040 more in a block
    that its forward pass never calls.

    Sources: Shen et al. 2021, "Automatic segmentation of the femur and tibia bones from X-ray
    images based on pure dilated residual U-Net", https://doi.org/10.3934/ipi.2020057;
    ajaystar8, https://github.com/ajaystar8/PDRUNet-PyTorch.
    """

    def __init__(
        self,
        in_channels: int = 1,
        classes: int = 1,
        filters: int = 40,
        shortcut: str = "first-conv",
        dropout: float = 0.3,
        norm: bool = True,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        one_of("shortcut", shortcut, ("first-conv", "input"))
        options = {"norm": norm, "checkpointing": checkpointing}
        first = DilatedBlock(in_channels, filters, DILATIONS[0], None, **options)
        rest = (DilatedBlock(filters, filters, d, shortcut, **options) for d in DILATIONS[1:])
        self.blocks = nn.ModuleList([first, *rest])
        self.dropout = nn.ModuleList([nn.Dropout(dropout), nn.Dropout(dropout)])
        self.out = nn.Conv2d(filters, classes, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits; long skips go from block 1 to 13, … 5 to 9, short ones span two blocks."""
        b1, b2, b3, b4, b5, b6, b7, b8, b9, b10, b11, b12, b13 = self.blocks
        drop6, drop7 = self.dropout
        x1 = b1(x)
        x2 = b2(x1)
        x3 = b3(x2 + x1)
        x4 = b4(x3)
        x5 = b5(x4 + x3)
        x6 = drop6(b6(x5))
        x7 = drop7(b7(x6))
        x8 = b8(x7)
        x9 = b9(x8 + x5) + x8
        x10 = b10(x9 + x4)
        x11 = b11(x10 + x3) + x10
        x12 = b12(x11 + x2)
        x13 = b13(x12 + x1)
        return self.out(x13)


class DilatedBlock(nn.Module):
    """Two dilated 3×3 convolutions and a shortcut that is added before the last ReLU.

    shortcut: "first-conv", "input", or `None` for the paper's standard block, without one.
    """

    def __init__(
        self,
        in_channels: int,
        filters: int,
        dilation: int,
        shortcut: str | None,
        norm: bool = True,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.shortcut, self.checkpointing = shortcut, checkpointing
        self.first = conv3x3(in_channels, filters, dilation, norm=norm, bias=True)
        self.second = conv3x3(filters, filters, dilation, norm=norm, bias=True, relu=False)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return `(N, filters, H, W)` for `(N, in_channels, H, W)`."""
        if self.checkpointing and self.training and not torch.compiler.is_compiling():
            return checkpoint(self._run, x, use_reentrant=False)
        return self._run(x)

    def _run(self, x: Tensor) -> Tensor:
        first = self.first(x)
        second = self.second(first)
        if self.shortcut == "first-conv":
            second = second + first
        elif self.shortcut == "input":
            second = second + x
        return self.relu(second)
