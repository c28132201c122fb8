import numpy as np


def resize_nearest(mask, size):
    """Return a mask (H, W) resized to `size`, (height, width)."""
    rows = (np.arange(size[0]) + 0.5) * mask.shape[0] / size[0]  # centres, in old rows
    columns = (np.arange(size[1]) + 0.5) * mask.shape[1] / size[1]
    return mask[rows.astype(int)][:, columns.astype(int)]
