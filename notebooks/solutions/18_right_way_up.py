import torch


def right_way_up(x):
    """Return the batch (N, C, H, W) with each image negated whose mean is below 0."""
    negative = x.mean((1, 2, 3), keepdim=True) < 0  # (N, 1, 1, 1): decided by the program
    return torch.where(negative, -x, x)
