import numpy as np


def aligned(transform, mask):
    """Return whether `transform` moves an image as it moves its mask."""
    painted = np.stack([mask * 255] * 3, axis=-1).astype(np.uint8)
    for _ in range(20):  # the transform may be random
        image, moved = transform(painted, mask)
        channel = image[..., 0].astype(float)
        marked = channel > (channel.min() + channel.max()) / 2
        intersection = (marked & (moved == 1)).sum()
        union = (marked | (moved == 1)).sum()
        if intersection / union < 0.9:
            return False
    return True


# Transform 3 rotates the image by 6 degrees in one direction, and the mask in the other.
