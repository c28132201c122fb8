def dice_loss_by_hand(logits, target):
    """Return soft Dice loss with a smooth of 1, pooled over the batch."""
    prob = logits[:, 0].sigmoid()  # (N, H, W), as the target
    return 1 - (2 * (prob * target).sum() + 1) / (prob.sum() + target.sum() + 1)
