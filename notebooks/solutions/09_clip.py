import torch


def clip(gradients, limit):
    """Return the gradients, a list of tensors, scaled so that their joint length is <= limit."""
    length = torch.sqrt(sum((g**2).sum() for g in gradients))
    factor = min(1.0, limit / length)
    return [g * factor for g in gradients]
