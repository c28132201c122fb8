"""LabelMe's files, as LabelMe writes them."""

import base64
import io
import json

import numpy as np
from PIL import Image

H, W = 20, 24
SQUARE = [[4, 2], [10, 2], [10, 12], [4, 12]]
GREY = np.full((H, W, 3), 50, np.uint8)


def shape(label="bone", points=SQUARE, kind="polygon", **more):
    return {"label": label, "points": points, "shape_type": kind, "flags": {}, **more}


def encoded(array, form="PNG", **save):
    out = io.BytesIO()
    Image.fromarray(array).save(out, form, **save)
    return out.getvalue()


def png(array):
    return base64.b64encode(encoded(array)).decode()


def annotate(place, name="a", shapes=(), image=GREY, file=None, embed=False, **changes):
    """Write an image to `file` (default: NAME.png) or into its JSON."""
    place.mkdir(parents=True, exist_ok=True)
    file = file or f"{name}.png"
    if not embed:
        Image.fromarray(image).save(place / file)
    content = {
        "version": "5.5.0",
        "shapes": list(shapes),
        "imagePath": file,
        "imageData": png(image) if embed else None,
        "imageHeight": image.shape[0],
        "imageWidth": image.shape[1],
        **changes,
    }
    (place / f"{name}.json").write_text(json.dumps(content))
