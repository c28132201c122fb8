import torch


def decode(x, skip, grow, block):
    """Return block(skip and grown x together), at the height and width of skip (N, C, H, W)."""
    height, width = skip.shape[-2:]
    x = grow(x)[..., :height, :width]  # the surplus row and column are the last ones
    return block(torch.cat([skip, x], dim=1))
