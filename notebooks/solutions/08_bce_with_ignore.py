from torch.nn import functional as F


def bce_with_ignore(logits, target):
    """Return BCE for logits (N, 1, H, W) and target (N, H, W) of 0, 1, 255."""
    valid = target != 255
    each = F.binary_cross_entropy_with_logits(logits[:, 0], (target == 1).float(), reduction="none")
    return (each * valid).sum() / valid.sum().clamp(min=1)
