"""The parts that several networks are made of."""

from collections.abc import Sequence

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

    same: pad with zeros so that the map keeps its size; without, it loses `2 · dilation` pixels.
    bias: of the convolution. `None` leaves it out where batch normalisation, which subtracts
    every constant, comes next.
    """
    padding = dilation if same else 0
    bias = not norm if bias is None else bias
    layers: list[nn.Module] = [
        nn.Conv2d(in_channels, out_channels, 3, padding=padding, dilation=dilation, bias=bias)
    ]
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


class MaxPool(nn.MaxPool2d):
    """Max-pooling with stride 2 that rounds up: `(H + 1) // 2`, so no row is dropped.

    kernel: 2, or 3 with one pixel of padding. In an exported program it pools with stride 1 and
    keeps every second pixel, the same map: torch's shape rule for stride 2 asks, before 2.15,
    whether the size is odd, and so would tie the program to odd or to even sizes.
    """

    def __init__(self, kernel: int = 2) -> None:
        super().__init__(kernel, stride=2, padding=kernel - 2, ceil_mode=kernel == 2)

    def forward(self, x: Tensor) -> Tensor:
        """Return `(N, C, (H + 1) // 2, (W + 1) // 2)` for `(N, C, H, W)`."""
        if not torch.compiler.is_exporting():
            return super().forward(x)
        if self.kernel_size == 2:
            x = F.pad(x, (0, 1, 0, 1), value=-torch.inf)
        return F.max_pool2d(x, self.kernel_size, 1, self.padding)[..., ::2, ::2]


def upsample(mode: str, in_channels: int, out_channels: int) -> nn.Module:
    """Return a module that doubles height and width and goes from `in_` to `out_channels`.

    "transposed": a 2×2 transposed convolution with stride 2. "nearest": every pixel four times,
    then a 3×3 convolution. "bilinear": a 1×1 convolution, then bilinear interpolation; the two
    commute, so the usual order (interpolate first) gives the same map at four times the cost.
    """
    if mode == "transposed":
        return nn.ConvTranspose2d(in_channels, out_channels, kernel_size=2, stride=2)
    if mode == "nearest":
        grow = nn.Upsample(scale_factor=2, mode="nearest")
        return nn.Sequential(grow, nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1))
    grow = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, kernel_size=1), grow)


def crop(x: Tensor, like: Tensor) -> Tensor:
    """Return `x` without the surplus rows and columns at its end, at the size of `like`.

    Every down step here rounds up, so an odd map comes back one pixel too large. Cutting that
    pixel off keeps all others on the grid they came from; resizing would shift them.
    """
    height, width = like.shape[-2:]
    if torch.compiler.is_exporting():
        # A slice would tie the exported program to odd or to even sizes; picking rows does not.
        rows, columns = (torch.arange(n, device=x.device) for n in (height, width))
        return x.index_select(-2, rows).index_select(-1, columns)
    return x[..., :height, :width]


def centre_crop(x: Tensor, like: Tensor) -> Tensor:
    """Return the middle of `x` at the size of `like`: the U-Net paper's grey arrows."""
    height, width = like.shape[-2:]
    top = (x.shape[-2] - height) // 2
    left = (x.shape[-1] - width) // 2
    return x[..., top : top + height, left : left + width]


def one_of(name: str, value: str, choices: Sequence[str]) -> str:
    """Return `value` if it is among `choices`; raise ValueError that lists them if not."""
    if value not in choices:
        raise ValueError(f"{name}={value!r} does not exist; there are: {', '.join(choices)}")
    return value
