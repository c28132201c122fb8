def fixed_loss(logits, mask):
    """Return soft Dice loss; mask (N, H, W) as read, uint8."""
    prob = logits[:, 0].sigmoid()
    t = (mask > 127).long()  # class ids again: 255 becomes 1, and so does a light grey
    return 1 - (2 * (prob * t).sum() + 1) / (prob.sum() + t.sum() + 1)
