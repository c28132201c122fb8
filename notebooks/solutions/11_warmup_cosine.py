import math


def warmup_cosine(step, warmup, steps):
    """Return the factor of the learning rate at a step, counted from 0."""
    if step < warmup:
        return (step + 1) / warmup
    t = (step - warmup) / (steps - warmup)
    return (1 + math.cos(math.pi * t)) / 2
