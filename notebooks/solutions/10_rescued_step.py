import torch


def rescued_step(model, images, masks, optimizer, scaler, max_norm):
    """Take a step of Dice loss in fp16, the gradient clipped to max_norm."""
    with torch.autocast("cpu", torch.float16):
        logits = model(images)[:, 0]
    probs, target = logits.float().sigmoid(), masks.float()  # 1. sums in float32
    intersection = (probs * target).sum()
    loss = 1 - 2 * intersection / (probs.sum() + target.sum())
    scaler.scale(loss).backward()  # 2. no gradient becomes 0
    scaler.unscale_(optimizer)  # 3. clip the true gradients
    torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()
