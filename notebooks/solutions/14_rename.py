import re


def rename(checkpoint):
    """Return a foreign checkpoint's tensors under the names of our encoder, the head left out."""
    ours = {}
    for name, tensor in checkpoint.items():
        if not name.startswith("module.backbone."):
            continue
        name = name.removeprefix("module.backbone.")
        name = name.replace("stem.conv.", "conv1.").replace("stem.norm.", "bn1.")
        name = re.sub(r"^stages\.(\d+)", lambda found: f"layer{int(found[1]) + 1}", name)
        name = name.replace("norm1", "bn1").replace("norm2", "bn2")
        ours[name.replace("shortcut", "downsample")] = tensor
    return ours
