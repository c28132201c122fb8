import numpy as np
import pytest

from segkit.data import DataError
from segkit.data.trimap import from_trimap, trimap_classes

TRIMAP = np.array([[1, 2, 3], [3, 2, 1]], np.uint8)


@pytest.mark.parametrize(
    ("border", "expected"),
    [
        ("ignore", [[1, 0, 255], [255, 0, 1]]),
        ("pet", [[1, 0, 1], [1, 0, 1]]),
        ("background", [[1, 0, 0], [0, 0, 1]]),
        ("class", [[1, 0, 2], [2, 0, 1]]),
    ],
)
def test_every_rule(border, expected):
    mask = from_trimap(TRIMAP, border)
    assert mask.tolist() == expected and mask.dtype == np.uint8
    assert len(trimap_classes(border)) == len(set(mask[mask != 255].tolist()))


def test_another_rule_or_value_is_refused():
    with pytest.raises(ValueError, match="there are: ignore"):
        from_trimap(TRIMAP, "edge")
    with pytest.raises(DataError, match=r"also \[0, 4\]"):
        from_trimap(np.array([[0, 4, 1]], np.uint8), "pet")
