def random_crop(image, mask, size, rng):
    """Return the same random window of size × size pixels of image and mask."""
    height, width = mask.shape
    top = rng.integers(0, height - size + 1)  # the upper limit is left out
    left = rng.integers(0, width - size + 1)
    window = slice(top, top + size), slice(left, left + size)
    return image[window], mask[window]
