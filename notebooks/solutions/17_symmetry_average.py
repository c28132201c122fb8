import torch


def symmetry_average(model, images):
    """Return the mean logits (N, K, H, W) over the eight symmetries."""
    total = 0
    for mirrored in (False, True):
        source = images.flip(-1) if mirrored else images
        for turn in range(4):
            rotated = torch.rot90(source, turn, dims=(-2, -1))
            logits = torch.rot90(model(rotated), -turn, dims=(-2, -1))
            total = total + (logits.flip(-1) if mirrored else logits)
    return total / 8
