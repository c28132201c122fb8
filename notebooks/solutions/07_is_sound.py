import torch


def is_sound(metric):
    """Return whether a metric of two masks gives the scores that are known."""
    target = torch.zeros(32, 32, dtype=torch.bool)
    target[10:14, 10:14] = True  # a small object in a large image
    pixel = torch.zeros_like(target)
    pixel[11, 11] = True  # right, and the rest of the object is missed
    return (
        abs(metric(target, target) - 1) < 1e-6
        and metric(torch.ones_like(target), target) < 0.5
        and metric(torch.zeros_like(target), target) == 0
        and metric(pixel, target) < 0.5
    )
