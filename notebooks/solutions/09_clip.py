import torch


def clip(gradients, max_norm):
    """Return the gradients, a list of tensors, scaled to a global norm of at most max_norm."""
    norm = torch.sqrt(sum((g**2).sum() for g in gradients))
    factor = min(1.0, max_norm / norm)
    return [g * factor for g in gradients]
