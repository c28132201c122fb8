import torch


def evaluate_loop(model, loader, criterion):
    """Return the mean loss of an image, and the IoU of all pixels."""
    model.eval()
    total_loss, total_images = 0.0, 0
    intersection, union = 0, 0
    with torch.inference_mode():
        for images, masks in loader:
            logits = model(images)
            total_loss += criterion(logits, masks) * len(images)
            total_images += len(images)
            pred, target = logits[:, 0] > 0, masks == 1
            intersection += (pred & target).sum()
            union += (pred | target).sum()
    return (total_loss / total_images).item(), (intersection / union).item()
