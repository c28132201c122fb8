"""A U-Net whose encoder is ResNet-34, from scratch or with torchvision's ImageNet weights."""

from os import PathLike
from pathlib import Path

import torch
from torch import Tensor, nn

from segkit.errors import ArgumentError, one_of
from segkit.models.blocks import Up, WithEncoder, conv3x3, double_conv, share_channels, upsample


class ResNet34UNet(WithEncoder):
    """ResNet-34 as the encoder, a U-Net's decoder: five steps down, five steps up.

    Takes `(N, in_channels, H, W)` of any size, returns logits `(N, classes, H, W)`. Downsampling
    rounds up, so the decoder crops a surplus pixel, as in `UNet`.

    Args:
        pretrained: `True` loads torchvision's ImageNet weights (downloaded once, checksummed), a
            path loads such a file; only with `width=64` and `block="resnet"`. Give such a network
            images normalised with ImageNet's mean (0.485, 0.456, 0.406) and standard deviation
            (0.229, 0.224, 0.225). With other than 3 channels, each channel of the first layer gets
            an equal share of the summed colour weights: the same picture in every channel gives
            the features of grey.
        block: "resnet", as published. "nycu", the lab report's: a 1×1 projection on every shortcut,
            a ReLU before the sum and none after it, biases in all convolutions but the first;
            932,544 parameters more and no pretrained weights.
        width: channels of the first level.

    Sources: He et al. 2015, https://arxiv.org/abs/1512.03385 (encoder); an NYCU deep-learning
    lab's ResNet34_UNet (decoder: bilinear with 1×1 convolution; `block="nycu"`).
    """

    def __init__(
        self,
        in_channels: int = 3,
        classes: int = 1,
        pretrained: bool | str | PathLike = False,
        block: str = "resnet",
        width: int = 64,
    ) -> None:
        super().__init__()
        w = width
        self.encoder = _Encoder(in_channels, block, w)
        bias = block == "nycu"
        self.bottleneck = double_conv(8 * w, 8 * w, bias=bias)
        ups = ((8 * w, 4 * w), (4 * w, 2 * w), (2 * w, w), (w, w // 2), (w, w // 2))
        ups = [upsample("bilinear", before, after) for before, after in ups]
        blocks = ((8 * w, 4 * w), (4 * w, 2 * w), (2 * w, w), (w + w // 2, w))
        blocks = [double_conv(before, after, bias=bias) for before, after in blocks]
        self.decoder = nn.ModuleList(map(Up, ups[:4], blocks))
        self.decoder.append(Up(ups[4], nn.Identity(), join="none"))  # full size has no skip
        self.out = nn.Conv2d(w // 2, classes, kernel_size=1)
        if pretrained is not False:
            if width != 64 or block != "resnet":
                raise ArgumentError(
                    "ImageNet weights exist for ResNet-34 itself: pretrained needs "
                    'width=64 and block="resnet"'
                )
            self.encoder.load_imagenet(pretrained)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits `(N, classes, H, W)` for images `(N, in_channels, H, W)`."""
        *skips, y = x, *self.encoder(x)
        y = self.bottleneck(y)
        for up, skip in zip(self.decoder, reversed(skips), strict=True):
            y = up(y, skip)
        return self.out(y)


class _Encoder(nn.Module):
    """ResNet-34 without its classifier, named as torchvision names it, so that its weights fit.

    21,284,672 parameters, 216 tensors for 3 channels and width 64.
    """

    def __init__(self, in_channels: int, block: str, width: int) -> None:
        super().__init__()
        kinds = {"resnet": ResidualBlock, "nycu": NycuBlock}
        kind = kinds[one_of("block", block, kinds)]
        w = width
        self.conv1 = nn.Conv2d(in_channels, w, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(w)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = _layer(kind, w, w, 3, 1)
        self.layer2 = _layer(kind, w, 2 * w, 4, 2)
        self.layer3 = _layer(kind, 2 * w, 4 * w, 6, 2)
        self.layer4 = _layer(kind, 4 * w, 8 * w, 3, 2)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return feature maps at 1/2, 1/4, 1/8, 1/16 and 1/32 of the height and width of `x`."""
        half = self.relu(self.bn1(self.conv1(x)))
        quarter = self.layer1(self.maxpool(half))
        eighth = self.layer2(quarter)
        sixteenth = self.layer3(eighth)
        return half, quarter, eighth, sixteenth, self.layer4(sixteenth)

    def load_imagenet(self, pretrained: bool | str | PathLike) -> None:
        """Load torchvision's ResNet-34 weights, all but the classifier (`fc`)."""
        if pretrained is True:
            state = _imagenet_weights()
        else:
            try:
                state = torch.load(pretrained, map_location="cpu", weights_only=True)
            except Exception as error:  # unpickling raises whatever it meets
                what = f"pretrained={str(pretrained)!r} is no file of weights"
                raise ArgumentError(f"{what}: {error}") from error
        state = {name: t for name, t in state.items() if not name.startswith("fc.")}
        channels = self.conv1.in_channels
        if channels != 3 and "conv1.weight" in state:
            state["conv1.weight"] = share_channels(state["conv1.weight"], channels)
        try:
            self.load_state_dict(state)
        except RuntimeError as error:
            message = f"pretrained={str(pretrained)!r} is not ResNet-34's: {error}"
            raise ArgumentError(message) from error


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions plus the input, or a 1×1 projection of it where the shape changes."""

    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, channels, kernel_size=1, stride=stride, bias=False),
                nn.BatchNorm2d(channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        """Return `(N, channels, H / stride, W / stride)`, rounded up."""
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu(y + shortcut)


class NycuBlock(nn.Module):
    """The lab report's residual block, as it was written.

    What the convolutions add has passed a ReLU, so it is never below 0; the shortcut is a
    projection even where the shape stays.
    """

    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.double_conv = nn.Sequential(
            nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            *conv3x3(channels, channels, bias=True),
        )
        self.skip_connect = nn.Sequential(
            nn.Conv2d(in_channels, channels, kernel_size=1, stride=stride),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return `(N, channels, H / stride, W / stride)`, rounded up."""
        return self.double_conv(x) + self.skip_connect(x)


def _layer(
    block: type[nn.Module], in_channels: int, channels: int, blocks: int, stride: int
) -> nn.Sequential:
    first = block(in_channels, channels, stride)
    return nn.Sequential(first, *(block(channels, channels) for _ in range(blocks - 1)))


def _imagenet_weights() -> dict[str, Tensor]:
    """Return torchvision's ResNet-34 weights: from its cache, else downloaded and checksummed."""
    from torchvision.models import ResNet34_Weights

    weights = ResNet34_Weights.IMAGENET1K_V1
    try:
        return weights.get_state_dict(progress=True, check_hash=True)
    except (OSError, RuntimeError) as error:  # urllib's errors; a wrong checksum
        raise ArgumentError(
            f"could not download ResNet-34's ImageNet weights ({error}). Download {weights.url} "
            f"elsewhere and put the file into {Path(torch.hub.get_dir()) / 'checkpoints'}, or pass "
            "pretrained=PATH of that file; pretrained=False trains from scratch"
        ) from error
