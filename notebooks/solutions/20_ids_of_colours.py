import numpy as np


def ids_of_colours(mask, colours):
    """Return uint8 (H, W) ids for a uint8 (H, W, 3) mask and a list of (r, g, b)."""
    ids = np.full(mask.shape[:2], 255, np.uint8)
    for i, colour in enumerate(colours):
        ids[(mask == colour).all(axis=-1)] = i
    if (ids == 255).any():
        raise ValueError(f"{(ids == 255).sum()} pixels have a colour that is no class")
    return ids
