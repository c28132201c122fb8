"""DumbNet: the smallest network with an encoder and a decoder."""

import torch.nn.functional as F
from torch import Tensor, nn


class DumbNet(nn.Module):
    """A strided convolution, bilinear upsampling, a 3×3 and a 1×1 convolution.

    Takes `(N, in_channels, H, W)` of any size, returns logits `(N, classes, H, W)`. The upsampling
    goes to the size of the input instead of to twice its own: for an even size that is the same,
    and for an odd one, where the strided convolution rounds up, nothing needs to be cropped.
    `align_corners=True` is the original's; it keeps the corner pixels in place and shrinks the
    grid in between a little (lesson 04). 2,883 parameters for 3 channels, 3 classes and width 16.

    Source: greysweater42, "UNet", https://greysweater42.github.io.
    """

    def __init__(self, in_channels: int = 3, classes: int = 3, width: int = 16) -> None:
        super().__init__()
        self.down = nn.Sequential(
            nn.Conv2d(in_channels, width, kernel_size=3, stride=2, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        )
        self.up = nn.Sequential(
            nn.Conv2d(width, width, kernel_size=3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        )
        self.out = nn.Conv2d(width, classes, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits `(N, classes, H, W)` for images `(N, in_channels, H, W)`."""
        down = self.down(x)
        wide = F.interpolate(down, size=x.shape[-2:], mode="bilinear", align_corners=True)
        up = self.up(wide)
        return self.out(up)
