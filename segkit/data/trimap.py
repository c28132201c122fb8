"""Trimaps: masks that know where the annotator was not sure."""

import numpy as np

from segkit.data.dataset import IGNORE, DataError

PET, BACKGROUND, BORDER = 1, 2, 3
"""The values in a trimap of Oxford-IIIT Pet."""

# rule: what (pet, background, border) become, and the names of the classes
RULES = {
    "ignore": ((1, 0, IGNORE), ("background", "pet")),
    "pet": ((1, 0, 1), ("background", "pet")),
    "background": ((1, 0, 0), ("background", "pet")),
    "class": ((1, 0, 2), ("background", "pet", "border")),
}


def from_trimap(trimap: np.ndarray, border: str) -> np.ndarray:
    """Turn a trimap (1 pet, 2 background, 3 border) into class ids, uint8 of the same shape.

    The pet becomes 1 and the background 0. border: "ignore" makes it 255, which losses and
    metrics leave out; "pet" and "background" count it there; "class" makes it class 2.
    Raises ValueError for another rule, and DataError for a value that is not of a trimap.
    """
    (pet, background, edge), _ = _rule(border)
    strange = sorted(set(np.unique(trimap).tolist()) - {PET, BACKGROUND, BORDER})
    if strange:
        raise DataError(
            f"a trimap holds 1 (pet), 2 (background) and 3 (border), this one also {strange}: "
            "was it resized with interpolation, or is it no trimap?"
        )
    table = np.zeros(4, np.uint8)
    table[[PET, BACKGROUND, BORDER]] = pet, background, edge
    return table[trimap]


def trimap_classes(border: str) -> tuple[str, ...]:
    """Return the names of the classes that `from_trimap` makes under this border rule."""
    return _rule(border)[1]


def _rule(border: str) -> tuple:
    if border not in RULES:
        raise ValueError(f"no border rule {border!r}; there are: {', '.join(RULES)}")
    return RULES[border]
