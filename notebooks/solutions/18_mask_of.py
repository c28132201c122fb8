import numpy as np


def mask_of(network, image, metadata):
    """Return the mask, uint8 (H, W), 1 where the probability is above the threshold."""
    pixels = (image / 255 - np.array(metadata["mean"])) / np.array(metadata["std"])
    batch = pixels.transpose(2, 0, 1)[None].astype(np.float32)
    logits = network(batch)[0, 0]
    probability = 1 / (1 + np.exp(-logits))
    return (probability > metadata["threshold"]).astype(np.uint8)
