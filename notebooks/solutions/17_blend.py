import numpy as np


def blend(left, right, overlap):
    """Return both tiles as one array (H, W1 + W2 - overlap)."""
    weight = 1 - np.arange(1, overlap + 1) / (overlap + 1)
    shared = weight * left[:, -overlap:] + (1 - weight) * right[:, :overlap]
    return np.concatenate([left[:, :-overlap], shared, right[:, overlap:]], axis=1)
