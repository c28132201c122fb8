"""Outlines of objects, and the masks that they draw.

A pixel is covered if its centre is inside an outline; the first one reaches from 0 to 1. Where an
outline crosses itself, the even-odd rule holds.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from segkit.issues import IssueError, issue

IGNORED = "__ignore__"  # the label of what becomes 255


class Rules(NamedTuple):
    """What becomes of annotations that are no region."""

    line_width: float = 0  # of lines and points, in pixels; 0 refuses them
    skipped: set[str] | None = None  # shapes that cannot be drawn are left out, and named here

    def refuse(self, file: Path, what: str) -> None:
        """Note a shape that cannot be drawn, or raise IssueError."""
        if self.skipped is None:
            raise IssueError(issue("annotation-shape", file, what))
        self.skipped.add(f"{file.name}: {what}")


STRICT = Rules()


class Shape(NamedTuple):
    """The pixels of one object: `inside`, bool (h, w), begins at column `left` and row `top`."""

    label: str
    left: int
    top: int
    inside: np.ndarray


def polygon(points: np.ndarray, height: int, width: int) -> tuple[int, int, np.ndarray]:
    """Return left and top of a polygon's box in the image, and which of its pixels are covered."""
    from matplotlib.path import Path as Outline  # slow to import

    left, top = np.clip(np.floor(points.min(axis=0)), 0, (width, height)).astype(int)
    right, bottom = np.clip(np.ceil(points.max(axis=0)), 0, (width, height)).astype(int)
    y, x = np.mgrid[top:bottom, left:right] + 0.5
    inside = Outline([*points, points[0]]).contains_points(np.stack([x.ravel(), y.ravel()], 1))
    return int(left), int(top), inside.reshape(bottom - top, right - left)


def union(label: str, parts: Iterable[tuple[int, int, np.ndarray]]) -> Shape:
    """Return one shape of several parts, each with the left and top of its pixels."""
    parts = list(parts)
    left, top = (min(part[k] for part in parts) for k in (0, 1))
    right = max(x + inside.shape[1] for x, _, inside in parts)
    bottom = max(y + inside.shape[0] for _, y, inside in parts)
    whole = np.zeros((bottom - top, right - left), bool)
    for x, y, inside in parts:
        whole[y - top :, x - left :][: inside.shape[0], : inside.shape[1]] |= inside
    return Shape(label, left, top, whole)


def draw(shapes: Iterable[Shape], ids: Mapping[str, int], height: int, width: int) -> np.ndarray:
    """Return the mask that shapes draw, uint8 class ids (height, width); later ones lie on top.

    What is ignored lies below all else. A label without an id in `ids` draws nothing.
    """
    mask = np.zeros((height, width), np.uint8)
    for shape in sorted(shapes, key=lambda one: ids.get(one.label) != 255):
        if shape.label in ids:
            _inside(mask, shape)[shape.inside] = ids[shape.label]
    return mask


def draw_instances(
    shapes: Iterable[Shape], ids: Mapping[str, int], height: int, width: int
) -> np.ndarray:
    """Return the label image of the objects, uint16 (height, width): 1, 2, ... in their order.

    0 is what belongs to no object: background, and what is ignored.
    """
    labels = np.zeros((height, width), np.uint16)
    objects = [shape for shape in shapes if ids.get(shape.label, 0) not in (0, 255)]
    for number, shape in enumerate(objects, start=1):
        _inside(labels, shape)[shape.inside] = number
    return labels


def _inside(image: np.ndarray, shape: Shape) -> np.ndarray:
    """Return the part of an image, a view, that a shape's box covers."""
    height, width = shape.inside.shape
    return image[shape.top : shape.top + height, shape.left : shape.left + width]
