from torch import nn


def two_levels(width=16):
    """Return a DumbNet with two levels: (N, 3, H, W) to logits (N, 3, H, W)."""

    def block(before, after, stride):
        conv = nn.Conv2d(before, after, kernel_size=3, stride=stride, padding=1)
        return [conv, nn.BatchNorm2d(after), nn.ReLU()]

    def grow():
        return nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)

    return nn.Sequential(
        *block(3, width, stride=2),
        *block(width, 2 * width, stride=2),
        grow(),
        *block(2 * width, width, stride=1),
        grow(),
        *block(width, width, stride=1),
        nn.Conv2d(width, 3, kernel_size=1),
    )
