"""Photographs inside scikit-image's wheel, and LabelMe annotations of five of them.

Nothing is downloaded. The annotations are our own: `data/photos/NAME.json` of the course.
"""

import json
from collections.abc import Sequence

import numpy as np

from segkit import paths
from segkit.data.labelme import as_shapes
from segkit.data.shapes import draw
from segkit.errors import ArgumentError, one_of

_NAMES = {  # each with its origin and licence, as the docstring of skimage.data.NAME states them
    "chelsea": "a cat's face; by Stefan van der Walt, CC0",
    "coffee": "a cup on a saucer, with a spoon; by Rachel Michetti, CC0",
    "astronaut": "Eileen Collins in a space suit; by NASA, public domain",
    "rocket": "a Falcon 9 on its launch pad; by SpaceX, public domain",
    "coins": "24 Greek coins, grey; Brooklyn Museum, no known copyright restrictions",
    "cell": "a cell in saline, grey, quantitative phase; by Paul Müller and others, CC0",
    "retina": "the back of an eye; by Mikael Häggström, CC0",
    "immunohistochemistry": "stained colonic glands; by CMMI, no known copyright restrictions",
    "horse": "the black silhouette of a horse on white; by Andreas Preuss, CC0",
}


def load(name: str) -> np.ndarray:
    """Return the photograph `name`: uint8 (H, W, 3), or (H, W) where it is grey.

    Raises:
        ArgumentError: there is no such photograph.
    """
    import skimage.data  # slow to import

    image = getattr(skimage.data, one_of("photograph", name, _NAMES))()
    return image.astype(np.uint8) * 255 if image.dtype == bool else image


def annotated(
    name: str, labels: Sequence[str] | None = None
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Return a photograph, its mask, uint8 class ids (H, W), and the names of the ids.

    Args:
        name: one that has an annotation.
        labels: the classes in the order of their ids, 1, 2, ...; all other labels become
            background, id 0. None takes all labels, in alphabetical order.

    Raises:
        ArgumentError: there is no such photograph or label, or the photograph has no annotation.
    """
    folder = paths.root() / "data" / "photos"
    file = folder / f"{one_of('photograph', name, _NAMES)}.json"
    if not file.is_file():
        names = ", ".join(sorted(file.stem for file in folder.glob("*.json")))
        raise ArgumentError(f"the photograph {name!r} has no annotation; these have one: {names}")
    shapes = json.loads(file.read_text("utf-8"))["shapes"]
    found = sorted({shape["label"] for shape in shapes})
    names = tuple(one_of("label", label, found) for label in (found if labels is None else labels))
    if len(set(names)) < len(names):
        raise ArgumentError(f"labels {names}: name each once")
    ids = dict.fromkeys(found, 0) | {label: i for i, label in enumerate(names, 1)}
    image = load(name)
    size = image.shape[:2]
    return image, draw(as_shapes(shapes, *size, file), ids, *size), ("background", *names)
