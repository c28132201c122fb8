def underflow_share(gradients, scale):
    """Return the share, 0 to 1; gradients is a float32 tensor of any shape."""
    nonzero = gradients[gradients != 0]
    stored = (nonzero * scale).half()
    return (stored == 0).float().mean()
