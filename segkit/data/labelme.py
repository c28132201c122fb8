"""LabelMe's annotations: one JSON file per image, with polygons and their labels.

The files lie in `source/train`, `source/val`, `source/test`, or all in `source`. The image is the
one inside the JSON (`imageData`), the file it names, or the one of the same name beside it, turned
upright as LabelMe shows it. Format: https://github.com/wkentaro/labelme
"""

import base64
import math
import os
from pathlib import Path

import numpy as np

from segkit import image_ops
from segkit.data import folder, read
from segkit.data.cache import in_threads
from segkit.data.folder import Example
from segkit.data.shapes import STRICT, Rules, Shape, polygon
from segkit.errors import NoDataError
from segkit.issues import Issue, IssueError, attempt, issue

_POINTS = {"polygon": 3, "rectangle": 2, "circle": 2, "oriented_rectangle": 4, "mask": 2}
_LINES = {"line": 2, "linestrip": 2, "point": 1}  # with a width they cover pixels


def find(
    source: Path, images: Path | None = None, rules: Rules = STRICT
) -> tuple[list[Example], list[Issue]]:
    """Return an example for each JSON file in `source` that can be used, and the others' issues.

    The mask of an example is the JSON file, and so is its image where the file holds it.

    Args:
        images: another folder to look for the images in.
    """
    split_dirs = {split: source / split for split in folder.SPLITS if _json_files(source / split)}
    split_dirs = split_dirs or ({"": source} if _json_files(source) else {})
    if not split_dirs:
        wanted = "*.json are looked for in it, or in train, val and test inside it"
        raise NoDataError(f"{source.absolute()} holds no LabelMe files: {wanted}")
    examples: list[Example] = []
    issues: list[Issue] = []
    for split, place in split_dirs.items():
        files, pictures = _json_files(place), folder.pictures(images or place)

        def example(file: Path, split: str = split, pictures: dict = pictures) -> Example | None:
            return attempt(issues, _example, file, split, pictures.get(file.stem, []), rules)

        examples += filter(None, in_threads(example, files))
        stems = {file.stem for file in files}
        bare = [same[0] for stem, same in pictures.items() if stem not in stems]
        issues.extend(issue("missing-mask", file, "no .json") for file in bare)
    return examples, issues


def _json_files(place: Path) -> list[Path]:
    """Return the JSON files in a folder, in order; hidden ones are none."""
    return sorted(place.glob("[!.]*.json"))


def is_labelme(root: Path) -> bool:
    """Return whether a folder, or those of its splits, hold JSON files and no images/ beside."""
    places = (root, *(root / split for split in folder.SPLITS))
    return any(_json_files(place) and not (place / "images").is_dir() for place in places)


def open_example(
    example: Example, rules: Rules = STRICT, channels: int | None = None
) -> tuple[np.ndarray, list[Shape]]:
    """Return an image, upright, and its shapes in the order of the file.

    Raises:
        IssueError: the file was drawn on another image, or a shape cannot be drawn.
    """
    content = _parse(example.mask, rules)
    data = _decoded(content["imageData"], example.mask) if example.image == example.mask else None
    image, _ = image_ops.read_image(example.image, channels, data)
    height, width = image.shape[:2]
    drawn = content.get("imageWidth"), content.get("imageHeight")
    if None not in drawn and drawn != (width, height):
        sizes = f"{drawn[0]}×{drawn[1]} pixels, this one has {width}×{height}"
        raise IssueError(issue("annotation-size", example.mask, sizes))
    return image, as_shapes(content["shapes"], height, width, example.mask, rules)


def as_shapes(
    found: list[dict], height: int, width: int, file: Path, rules: Rules = STRICT
) -> list[Shape]:
    """Return shapes as LabelMe writes them as `Shape`; `file` is named in messages.

    Raises:
        IssueError: a shape lies outside the image, has no area or cannot be decoded.
    """
    made = []
    for shape in found:
        try:
            one = Shape(shape["label"], *_pixels(shape, height, width, rules.line_width))
            points = np.array(shape["points"], dtype=float)
            within = ((points >= 0) & (points <= (width, height))).all(axis=1).any()
            problem = " has no area" if within else " lies outside the image"
            problem = "" if one.inside.any() else problem
        except (IssueError, image_ops.ImageError) as error:
            problem = f": {error}"
        if problem:
            rules.refuse(file, f"a {shape['shape_type']} {shape['label']!r}{problem}")
        else:
            made.append(one)
    return made


def _pixels(shape: dict, height: int, width: int, line_width: float) -> tuple[int, int, np.ndarray]:
    """Return left and top of a shape's box in the image, and which of its pixels are covered."""
    points = np.array(shape["points"], dtype=float)
    if shape["shape_type"] == "mask":
        with image_ops.opened("its PNG", _decoded(shape.get("mask"), "its PNG")) as picture:
            inside = np.array(picture.convert("L")) > 0
        left, top = points[0].astype(int)
        inside = inside[max(-top, 0) : max(height - top, 0), max(-left, 0) : max(width - left, 0)]
        return max(left, 0), max(top, 0), inside
    if shape["shape_type"] in _LINES:
        return 0, 0, _line(points, height, width, line_width)
    (x0, y0), (x1, y1) = points[:2]
    if shape["shape_type"] == "rectangle" and len(points) == 2:
        points = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])
    elif shape["shape_type"] == "circle":  # its centre and a point on it
        turns = np.linspace(0, 2 * np.pi, 180, endpoint=False)
        radius = math.hypot(x1 - x0, y1 - y0)
        points = np.stack([x0 + radius * np.cos(turns), y0 + radius * np.sin(turns)], axis=1)
    return polygon(points, height, width)


def _line(points: np.ndarray, height: int, width: int, line_width: float) -> np.ndarray:
    """Return the pixels, bool (height, width), whose centres are within half a width of a line."""
    covered = np.zeros((height, width), bool)
    for start, end in zip(points, np.concatenate([points[1:], points[-1:]]), strict=True):
        low = np.floor(np.minimum(start, end) - line_width / 2 - 0.5)
        high = np.ceil(np.maximum(start, end) + line_width / 2 + 0.5)
        left, top = np.clip(low, 0, (width, height)).astype(int)
        right, bottom = np.clip(high, 0, (width, height)).astype(int)
        centres = np.stack(np.mgrid[top:bottom, left:right][::-1], axis=-1) + 0.5 - start
        along = end - start
        share = np.clip(centres @ along / max(along @ along, 1e-12), 0, 1)
        away = np.linalg.norm(centres - share[..., None] * along, axis=-1)
        covered[top:bottom, left:right] |= away <= line_width / 2
    return covered


def _example(file: Path, split: str, beside: list[Path], rules: Rules) -> Example:
    content = _parse(file, rules)
    image, data = file, None
    if content.get("imageData"):
        data = _decoded(content["imageData"], file)
    else:
        named = file.parent / content["imagePath"].replace("\\", "/")
        image = next((picture for picture in (named, *beside) if os.path.isfile(picture)), None)
        if image is None:
            raise IssueError(issue("annotation-image", file, content["imagePath"]))
    size, channels = read.image_header(image, turn=True, data=data)
    labels = frozenset(shape["label"] for shape in content["shapes"])
    return Example(file.stem, split, image, file, size, channels, labels)


def _parse(file: Path, rules: Rules) -> dict:
    """Return the content of a JSON file, every field we use checked."""
    content = read.json_file(file)
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        raise IssueError(issue("annotation-file", file, 'no "shapes"'))
    kinds = {"imageData": str, "imageHeight": int, "imageWidth": int, "imagePath": str}
    for field, kind in kinds.items():  # files from before 2018 hold no size
        optional = field != "imagePath" or content.get("imageData")
        if not isinstance(content.get(field), kind | type(None) if optional else kind):
            raise IssueError(issue("annotation-file", file, f"{field} is {content.get(field)!r}"))
    regions = []
    for shape in content["shapes"]:
        if problem := _shape_problem(shape, rules.line_width):
            rules.refuse(file, problem)
        else:
            regions.append(shape)
    return content | {"shapes": regions}


def _shape_problem(shape: object, line_width: float) -> str:
    """Return what is wrong with a shape, "" if nothing is; a missing type is a polygon."""
    label = shape.get("label") if isinstance(shape, dict) else None
    if not isinstance(label, str) or not label:
        return "a shape has no label"
    kind = shape.setdefault("shape_type", "polygon")
    if kind in list(_LINES) and not line_width:  # a list, since kind may be anything
        return f"a shape {label!r} is a {kind}, which has no area without a line width"
    needed = _POINTS | _LINES
    if kind not in list(needed):
        return f"a shape {label!r} is a {kind}, which covers no area: use {', '.join(_POINTS)}"
    try:
        points = np.array(shape.get("points"))
    except ValueError:  # rows of different lengths
        points = np.empty(0)
    n = len(points) if points.dtype.kind in "iuf" and points.shape[1:] == (2,) else 0
    if kind == "rectangle" and n == 4:  # its corners, as X-AnyLabeling writes them
        n = 2
    if n < needed[kind] or (kind not in ("polygon", "linestrip") and n > needed[kind]):
        return f"a {kind} {label!r} has not the {needed[kind]} points it needs"
    if not (np.abs(points.astype(float)) < 1e6).all():
        return f"a {kind} {label!r} has impossible coordinates"
    return ""


def _decoded(data: object, source: Path | str) -> bytes:
    try:
        return base64.b64decode(data, validate=False)
    except (TypeError, ValueError) as error:
        raise IssueError(issue("unreadable", source, f"its embedded picture: {error}")) from error
