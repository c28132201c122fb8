from pathlib import Path


def pair_by_name(images, masks):
    """Return {image: mask} of file names such as "scan_01.jpg" and "scan_01_mask.png"."""
    mask_of = {Path(mask).stem.removesuffix("_mask"): mask for mask in masks}
    return {image: mask_of[Path(image).stem] for image in images if Path(image).stem in mask_of}
