def iou_and_dice(tp, fp, fn):
    """Return (IoU, Dice) of three counts; (NaN, NaN) for what is in neither mask."""
    union = tp + fp + fn
    if union == 0:  # 0 / 0: no object, and none predicted
        return float("nan"), float("nan")
    return tp / union, 2 * tp / (2 * tp + fp + fn)
