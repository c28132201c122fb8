import torch


def mean_iou(pred, target, num_classes):
    """Return the mIoU of all pixels whose target is not 255; NaN if there are none."""
    valid = target != 255
    pred, target = pred[valid], target[valid]
    scores = []
    for k in range(num_classes):
        intersection = ((pred == k) & (target == k)).sum()
        union = ((pred == k) | (target == k)).sum()
        scores.append(intersection / union)  # 0 / 0 is NaN
    return torch.stack(scores).nanmean()
