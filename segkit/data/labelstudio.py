"""Label Studio's annotations: the JSON export, with polygons, rectangles, ellipses and brushes.

Coordinates are in percent of the image. An image is looked for by the last part of its address in
the task, as it is and without the eight digits that an upload puts in front, where `images` says,
else beside the file or in `images/` beside it. Format: https://labelstud.io/guide/export; the
brush's run-length code: https://github.com/thi-ng/umbrella/tree/develop/packages/rle-pack
"""

import re
from collections import Counter
from pathlib import Path
from urllib.parse import unquote

import numpy as np

from segkit import image_ops
from segkit.data import read
from segkit.data.folder import Example
from segkit.data.shapes import STRICT, Rules, Shape, polygon
from segkit.issues import Issue, IssueError, attempt, issue

_KINDS = ("polygonlabels", "rectanglelabels", "ellipselabels", "brushlabels")
_UPLOAD = re.compile(r"[0-9a-f]{8}-")


def find(
    source: Path, images: Path | None = None, rules: Rules = STRICT
) -> tuple[list[Example], list[Issue]]:
    """Return an example for each task that was annotated once, and the issues of the rest.

    Cancelled annotations and predictions do not count.

    Args:
        source: the JSON file.
        images: the folder with the images.
    """
    tasks = read.json_file(source)
    if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
        raise IssueError(issue("annotation-file", source, "no list of tasks, as Label Studio's"))
    places = [images] if images else [source.parent, source.parent / "images"]
    issues: list[Issue] = []
    found = [attempt(issues, _example, source, task, places) for task in tasks]
    examples = [example for example in found if example]
    counted = Counter(example.name for example in examples)
    for name in [name for name, count in counted.items() if count > 1]:
        issues.append(issue("annotation-file", source, f"{name} is the image of two tasks"))
    return examples, issues


def open_example(
    example: Example, rules: Rules = STRICT, channels: int | None = None
) -> tuple[np.ndarray, list[Shape]]:
    """Return an image and its shapes in the order of the annotation.

    Raises:
        IssueError: a shape cannot be drawn.
    """
    image, _ = image_ops.read_image(example.image, channels)
    height, width = image.shape[:2]
    shapes = []
    for kind, label, value in example.details:
        try:
            shape = Shape(label, *_pixels(kind, value, height, width))
            if not shape.inside.any():
                raise ValueError("it lies outside the image, or has no area")
            shapes.append(shape)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            what = f"{kind} {label!r} of {example.image.name}: {error}"
            rules.refuse(example.mask, what)
    return image, shapes


def _example(file: Path, task: dict, places: list[Path]) -> Example:
    about = f"task {task.get('id')}"
    annotations = task.get("annotations")
    data = task.get("data")
    if not isinstance(annotations, list) or not isinstance(data, dict):
        raise IssueError(issue("annotation-file", file, f"{about} has no annotations or no data"))
    kept = [one for one in annotations if isinstance(one, dict) and not one.get("was_cancelled")]
    if len(kept) != 1 or not isinstance(kept[0].get("result"), list):
        what = f"{about} has {len(kept)} annotations: export it with exactly one"
        raise IssueError(issue("annotation-file", file, what))
    regions = [r for r in kept[0]["result"] if isinstance(r, dict)]
    addresses = [str(v) for v in data.values() if isinstance(v, str)]
    names = [re.split(r"[/\\?=]", unquote(address))[-1] for address in addresses]
    names += [_UPLOAD.sub("", name, count=1) for name in names if _UPLOAD.match(name)]
    inside = [place / name for place in places for name in names if name.strip(".")]
    image = next((path for path in inside if path.is_file() and path != file), None)
    if image is None:
        raise IssueError(issue("annotation-image", file, f"{about}: {', '.join(names)}"))
    size, channels = read.image_header(image)
    drawn = []
    for region in regions:
        kind, value = region.get("type"), region.get("value")
        if not isinstance(kind, str) or not kind.endswith("labels"):
            continue  # about the whole image, as choices are
        labels = value.get(kind) if isinstance(value, dict) else None
        if not isinstance(labels, list) or len(labels) != 1 or not isinstance(labels[0], str):
            raise IssueError(issue("annotation-file", file, f"{about}: {kind} without one label"))
        stated = region.get("original_height"), region.get("original_width")
        if stated != size:
            sizes = f"{stated[1]}×{stated[0]} pixels, {image} has {size[1]}×{size[0]}"
            raise IssueError(issue("annotation-size", file, sizes))
        drawn.append((kind, labels[0], value))
    used = frozenset(label for _, label, _ in drawn)
    return Example(image.stem, "", image, file, size, channels, used, details=drawn)


def _pixels(kind: str, value: dict, height: int, width: int) -> tuple[int, int, np.ndarray]:
    """Return left and top of a region's box in the image, and which of its pixels are covered."""
    if kind == "brushlabels":
        return 0, 0, _brush(value["rle"], height, width)
    percent = np.array((width, height)) / 100
    if kind == "polygonlabels":
        points = np.array(value["points"], dtype=float) * percent
    elif kind in ("rectanglelabels", "ellipselabels"):
        corner = np.array((value["x"], value["y"]), dtype=float) * percent
        if kind == "rectanglelabels":
            corners = np.array([(0, 0), (1, 0), (1, 1), (0, 1)])
            points = corners * np.array((value["width"], value["height"]), dtype=float)
        else:
            turns = np.linspace(0, 2 * np.pi, 180, endpoint=False)
            points = np.stack([np.cos(turns), np.sin(turns)], axis=1)
            points = points * np.array((value["radiusX"], value["radiusY"]), dtype=float)
        angle = np.deg2rad(float(value.get("rotation", 0)))  # clockwise, about the corner or centre
        turn = np.array([(np.cos(angle), np.sin(angle)), (-np.sin(angle), np.cos(angle))])
        points = corner + points * percent @ turn
    else:
        raise ValueError(f"it covers no area: use {', '.join(_KINDS)}")
    if points.ndim != 2 or points.shape[1] != 2 or len(points) < 3:
        raise ValueError("a polygon needs x and y of three points or more")
    if not (np.abs(points) < 1e6).all():
        raise ValueError("impossible coordinates")
    return polygon(points, height, width)


def _brush(code: list[int], height: int, width: int) -> np.ndarray:
    """Return the pixels, bool (height, width), whose opacity is above one half.

    The code is a number of values (32 bits), the bits of a value less 1 (5), four lengths less 1
    (4 each), and blocks: whether one value is repeated (1), which length the count has (2), the
    count less 1, and the value or values. Four values are a pixel: red, green, blue, opacity.
    """
    bits, place = "".join(f"{byte:08b}" for byte in bytes(code)), 0

    def number(size: int) -> int:
        nonlocal place
        place += size
        if place > len(bits):
            raise ValueError("its run-length code ends too early")
        return int(bits[place - size : place], 2)

    total = number(32)
    if total != 4 * height * width:
        raise ValueError(f"its run-length code is not of an image of {width}×{height} pixels")
    size, lengths = number(5) + 1, [number(4) + 1 for _ in range(4)]
    values, done = np.zeros(total, np.uint8), 0
    while done < total:
        repeated = number(1)
        count = number(lengths[number(2)]) + 1
        block = number(size) if repeated else [number(size) for _ in range(count)]
        values[done : done + count] = block
        done += count
    return values.reshape(height, width, 4)[..., 3] > 127
