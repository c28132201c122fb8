def poly(step, steps, lr, power):
    """Return the learning rate of a step, counted from 0, out of `steps`."""
    return lr * (1 - step / steps) ** power
