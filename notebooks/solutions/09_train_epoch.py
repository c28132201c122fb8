def train_epoch(model, loader, criterion, optimizer, accumulate):
    """Train once over the loader; return the mean loss of an image."""
    model.train()
    total_loss, total_images = 0.0, 0
    for i, (images, masks) in enumerate(loader, start=1):
        loss = criterion(model(images), masks)
        (loss / accumulate).backward()
        if i % accumulate == 0:
            optimizer.step()
            optimizer.zero_grad()
        total_loss += loss.detach() * len(images)
        total_images += len(images)
    return (total_loss / total_images).item()
