import numpy as np


def box(mask, class_id):
    """Return (top, bottom, left, right) of the pixels of `class_id` in a mask (H, W)."""
    rows, columns = np.nonzero(mask == class_id)
    return rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
