def dead_weights(model, image):
    """Return the names of the weights that the answer to the image does not depend on."""
    model(image).sum().backward()
    return [name for name, weight in model.named_parameters() if weight.grad is None]
