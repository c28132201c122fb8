def pet_share(mask):
    """Return which share of a mask (H, W) is pet, class 1."""
    return (mask == 1).mean()  # the mean of true and false is the share of true
