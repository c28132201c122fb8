"""U-Net, with the choices that its descendants differ in as options."""

from collections.abc import Sequence

from torch import Tensor, nn

from segkit.errors import ArgumentError, one_of
from segkit.models.blocks import Up, double_conv, upsample


class UNet(nn.Module):
    """An encoder, a decoder, and a skip connection at each level between them.

    Takes `(N, in_channels, H, W)`, returns logits `(N, classes, H, W)`. Any size works:
    downsampling rounds up (no row of the image is dropped) and the decoder crops the surplus
    pixel, if any, so that every pixel stays where it was.

    Args:
        width: channels of the first level; each level below has twice as many.
        depth: levels below the first.
        down: "maxpool" (2×2) or "strided" (a 3×3 convolution with stride 2, channels kept).
        up: "transposed", "nearest" + 3×3 or "bilinear" + 1×1 convolution; each halves the
            channels.
        norm: batch normalisation after each 3×3 convolution.
        bias: of the 3×3 convolutions; `None` means only without `norm`.
        padding: "same" keeps the size of the image. "valid" is the paper's: convolutions do not
            pad, skip connections are cropped to the middle and the output is smaller (572 → 388,
            see `valid_size`).
        skips: `False` removes all skip connections; a sequence of `depth` bools, the first level
            (full resolution) first, removes some. A removed skip takes its parameters with it.

    Sources and their settings, with parameters for 3 channels and 1 class:
    - milesial, Pytorch-UNet: the defaults (31,037,633).
    - abi2024, UNet-Segmentation: `bias=True` (31,043,521), there with max-pool + nearest
      (34,525,121), strided + transposed (34,177,921), strided + nearest (37,659,521).
    - the NYCU lab's UNet: `bias=True, up="bilinear"` (28,954,561).
    - Ronneberger, Fischer, Brox 2015, https://arxiv.org/abs/1505.04597: `norm=False,
      padding="valid"`, for 1 channel and 2 classes (31,030,658).
    """

    def __init__(
        self,
        in_channels: int = 3,
        classes: int = 1,
        width: int = 64,
        depth: int = 4,
        down: str = "maxpool",
        up: str = "transposed",
        norm: bool = True,
        bias: bool | None = None,
        padding: str = "same",
        skips: bool | Sequence[bool] = True,
    ) -> None:
        super().__init__()
        one_of("downsampling", down, ("maxpool", "strided"))
        one_of("upsampling", up, ("transposed", "nearest", "bilinear"))
        self.valid = one_of("padding", padding, ("same", "valid")) == "valid"
        skips = (skips,) * depth if isinstance(skips, bool) else tuple(skips)
        if len(skips) != depth:
            raise ArgumentError(f"skips has {len(skips)} entries; depth={depth} needs as many")

        block = {"same": not self.valid, "norm": norm, "bias": bias}
        wide = [width * 2**level for level in range(depth + 1)]
        inputs = [in_channels, *wide]
        levels = range(depth)
        self.encoder = nn.ModuleList(double_conv(inputs[i], wide[i], **block) for i in levels)
        self.down = nn.ModuleList(_down(down, wide[i]) for i in levels)
        self.bottleneck = double_conv(inputs[depth], wide[depth], **block)
        ups = [upsample(up, wide[i + 1], wide[i]) for i in reversed(levels)]
        joins = ["concat" if used else "none" for used in reversed(skips)]
        blocks = [double_conv(wide[i] * (1 + skips[i]), wide[i], **block) for i in reversed(levels)]
        self.decoder = nn.ModuleList(
            Up(*parts, self.valid) for parts in zip(ups, blocks, joins, strict=True)
        )
        self.out = nn.Conv2d(width, classes, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits `(N, classes, H, W)` for images `(N, in_channels, H, W)`."""
        if self.valid:
            valid_size(min(x.shape[-2:]), depth=len(self.down))
        skips = []
        for block, down in zip(self.encoder, self.down, strict=True):
            x = block(x)
            skips.append(x)
            x = down(x)
        x = self.bottleneck(x)
        for up, skip in zip(self.decoder, reversed(skips), strict=True):
            x = up(x, skip)
        return self.out(x)


def valid_size(size: int, depth: int = 4) -> int:
    """Return the side of a U-Net's output, in pixels, when its convolutions do not pad.

    Two 3×3 convolutions take 4 pixels at each level. 572 gives 388, in a U-Net of depth 4.

    Args:
        size: side of the image, in pixels.
        depth: levels below the first.

    Raises:
        ArgumentError: nothing would be left of the image.
    """
    side = size
    for _ in range(depth):
        side = -(-(side - 4) // 2)
    for _ in range(depth + 1):
        side = 2 * (side - 4)
    if side <= 0:
        raise ArgumentError(
            f'a side of {size} pixels is too small for depth={depth}, padding="valid"'
        )
    return side // 2


def _down(mode: str, channels: int) -> nn.Module:
    if mode == "maxpool":
        return nn.MaxPool2d(2, ceil_mode=True)  # rounds up, so no row is dropped
    return nn.Conv2d(channels, channels, kernel_size=3, stride=2, padding=1)
