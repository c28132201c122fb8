"""FusionNet: a U-Net of residual blocks whose skip connections are sums."""

from torch import Tensor, nn

from segkit.models.blocks import Up, conv3x3


class FusionNet(nn.Module):
    """Four levels of residual blocks, summed skip connections, transposed convolutions up.

    Takes `(N, in_channels, H, W)` of any size, returns logits `(N, classes, H, W)`; odd sizes
    are treated as in `UNet`. A skip is summed, as in the paper; where implementations average
    instead, the batch normalisation that follows undoes the factor of two. 78,531,137 parameters
    for 1 channel, 1 class and width 64.

    Args:
        width: channels of the first level, doubled at each of the four below.

    Source: Quan, Hildebrand, Jeong 2016, https://arxiv.org/abs/1612.05360.
    """

    def __init__(self, in_channels: int = 1, classes: int = 1, width: int = 64) -> None:
        super().__init__()
        wide = [width * 2**level for level in range(5)]
        inputs = [in_channels, *wide]
        self.encoder = nn.ModuleList(_Block(inputs[i], wide[i]) for i in range(4))
        self.down = nn.ModuleList(nn.MaxPool2d(2, ceil_mode=True) for _ in range(4))
        self.bridge = _Block(wide[3], wide[4])
        ups = [_upsample(wide[i + 1], wide[i]) for i in (3, 2, 1, 0)]
        blocks = [_Block(wide[i], wide[i]) for i in (3, 2, 1, 0)]
        self.decoder = nn.ModuleList(Up(*parts, "sum") for parts in zip(ups, blocks, strict=True))
        self.out = nn.Conv2d(width, classes, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits `(N, classes, H, W)` for images `(N, in_channels, H, W)`."""
        skips = []
        for block, down in zip(self.encoder, self.down, strict=True):
            x = block(x)
            skips.append(x)
            x = down(x)
        x = self.bridge(x)
        for up, skip in zip(self.decoder, reversed(skips), strict=True):
            x = up(x, skip)
        return self.out(x)


class _Block(nn.Module):
    """Convolution, a residual of three convolutions, convolution; all 3×3."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.first = conv3x3(in_channels, channels, bias=True)
        self.residual = nn.Sequential(
            conv3x3(channels, channels, bias=True),
            conv3x3(channels, channels, bias=True),
            conv3x3(channels, channels, bias=True, relu=False),
        )
        self.last = conv3x3(channels, channels, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.last(x + self.residual(x))


def _upsample(in_channels: int, channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose2d(in_channels, channels, 3, stride=2, padding=1, output_padding=1),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
    )
