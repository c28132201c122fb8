def choose_dilations(pixels):
    """Return the dilations of the fewest blocks that see `pixels` in a row, without a hole."""
    field, dilations = 1, []
    while field < pixels:
        # as wide as what is seen in a row already, or as much as is still missing
        dilations.append(min(field, (pixels - field) // 4))
        field += 4 * dilations[-1]
    return dilations
