"""LabelMe annotations: one JSON file per image, with polygons and their labels.

The JSON files lie in `root/train`, `root/val`, `root/test`, or all in `root`, which is then split
here, by seed. The image is the one inside the JSON (`imageData`), the file it names, or the one of
the same name beside it. Format: https://github.com/wkentaro/labelme
"""

import base64
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from segkit import image_ops
from segkit.data import folder, read
from segkit.data.cache import arrays, digests, in_threads
from segkit.data.dataset import IGNORE, Pair, SegmentationDataset
from segkit.data.folder import Example
from segkit.errors import NoDataError
from segkit.issues import Issue, IssueError, attempt, issue, raise_errors

_SPECIAL = {"background": 0, "_background_": 0, "__ignore__": IGNORE}  # labels LabelMe names so
_POINTS = {"polygon": 3, "rectangle": 2, "circle": 2, "oriented_rectangle": 4, "mask": 2}


def open_labelme(
    root: str | Path,
    split: str,
    size: int | tuple[int, int],
    *,
    channels: int | None = None,
    class_names: Sequence[str] | None = None,
    cache: bool = True,
    **choice,
) -> SegmentationDataset:
    """Open one split ("train", "val", "test") of LabelMe annotations, resized to `size`.

    What no shape covers is background, shapes labelled `__ignore__` are 255. Images are turned
    upright as LabelMe shows them.

    Args:
        class_names: the labels, background first; None takes all labels of all splits in
            alphabetical order behind "background".
        size, channels, cache, choice: see `segkit.data.folder.open_folder`.

    Raises:
        NoDataError: there are no LabelMe files.
        DataError: something does not fit; the message lists every issue found.
    """
    size, names = read.as_size(size), folder.checked_names(class_names)
    examples, issues = find_annotations(Path(root))
    raise_errors(issues, root)
    ids, names = label_ids(examples, names)
    channels = channels or max(example.channels for example in examples)
    chosen, groups = folder.choose(folder.by_split(examples), split, **choice)

    def read_pair(i: int) -> Pair:
        image, mask = read_annotated(chosen[i], ids, channels)
        return image_ops.resize(image, size), read.resize_mask(mask, size)

    content = digests(file for example in chosen for file in example.files)
    name = [*content.values(), size, channels, ids]
    shape = size if channels == 1 else (*size, 3)
    return SegmentationDataset(
        *arrays(name, read_pair, len(chosen), shape, cache),
        names,
        [example.name for example in chosen],
        groups,
        info={"source": "labelme", "root": str(root), "split": split},
    )


def find_annotations(root: Path) -> tuple[list[Example], list[Issue]]:
    """Return an example for each JSON file in `root` that can be used, and the issues of the rest.

    The mask of an example is the JSON file, and so is its image where the file holds it.
    """
    split_dirs = {split: root / split for split in folder.SPLITS if json_files(root / split)}
    split_dirs = split_dirs or ({"": root} if json_files(root) else {})
    if not split_dirs:
        wanted = "*.json are looked for in it, or in train, val and test inside it"
        raise NoDataError(f"{root.absolute()} holds no LabelMe files: {wanted}")
    examples: list[Example] = []
    issues: list[Issue] = []
    for split, place in split_dirs.items():
        files, pictures = json_files(place), folder.pictures(place)

        def example(file: Path, split: str = split, pictures: dict = pictures) -> Example | None:
            return attempt(issues, _example, file, split, pictures.get(file.stem, []))

        examples += filter(None, in_threads(example, files))
        stems = {file.stem for file in files}
        bare = [same[0] for stem, same in pictures.items() if stem not in stems]
        issues.extend(issue("missing-mask", file, "no .json") for file in bare)
    return examples, issues


def json_files(place: Path) -> list[Path]:
    """Return the JSON files in a folder, in order; hidden ones are none."""
    return sorted(place.glob("[!.]*.json"))


def label_ids(
    examples: Sequence[Example], names: Sequence[str]
) -> tuple[dict[str, int], tuple[str, ...]]:
    """Return the id of each label, and the class names: `names`, or the labels by alphabet."""
    labels = sorted({label for example in examples for label in example.labels} - _SPECIAL.keys())
    if not names and not labels:
        raise IssueError(issue("no-labels", examples[0].mask.parent if examples else "."))
    names = tuple(names or ("background", *labels))
    ids = {**_SPECIAL, **{name: i for i, name in enumerate(names)}}
    issues = []
    for example in examples:
        for label in example.labels - _SPECIAL.keys():
            if not ids.get(label):
                code = "labelme-background" if label in ids else "labelme-label"
                detail = f"{label!r}, the classes are {folder.listed(names)}"
                issues.append(issue(code, example.mask, detail))
    raise_errors(issues, "these LabelMe files")
    return ids, names


def read_annotated(example: Example, ids: dict[str, int], channels: int | None = None) -> Pair:
    """Return image and mask of an example at full size."""
    content = _parse(example.mask)
    data = _decoded(content["imageData"]) if example.image == example.mask else None
    image, _ = image_ops.read_image(example.image, channels, data)
    height, width = image.shape[:2]
    drawn = content.get("imageWidth"), content.get("imageHeight")
    if None not in drawn and drawn != (width, height):
        sizes = f"{drawn[0]}×{drawn[1]} pixels, this one has {width}×{height}"
        raise IssueError(issue("labelme-size", example.mask, sizes))
    return image, rasterise(content["shapes"], ids, height, width, example.mask)


def rasterise(
    shapes: Sequence[dict], ids: dict[str, int], height: int, width: int, file: Path
) -> np.ndarray:
    """Return the mask that shapes draw, uint8 class ids (height, width); later ones lie on top.

    Args:
        shapes: as LabelMe writes them.
        ids: the class id of each label; what no shape covers is 0.
        file: where the shapes come from, for messages.

    Raises:
        IssueError: a shape lies outside the image, has no area or cannot be decoded.
    """
    mask = np.zeros((height, width), dtype=np.uint8)
    for shape in shapes:
        try:
            left, top, inside = _pixels(shape, height, width)
            problem = "" if inside.size else " lies outside the image, or has no area"
        except (IssueError, image_ops.ImageError) as error:
            problem = f": {error}"
        if problem:
            what = f"a {shape['shape_type']} {shape['label']!r}{problem}"
            raise IssueError(issue("labelme-shape", file, what))
        mask[top:, left:][: inside.shape[0], : inside.shape[1]][inside] = ids[shape["label"]]
    return mask


def _pixels(shape: dict, height: int, width: int) -> tuple[int, int, np.ndarray]:
    """Return left and top of a shape's box in the image, and which of its pixels are covered, bool.

    A pixel is covered if its centre is inside; the first one reaches from 0 to 1. Where an outline
    crosses itself, the even-odd rule holds.
    """
    points = np.array(shape["points"], dtype=float)
    if shape["shape_type"] == "mask":
        with image_ops.opened("its PNG", _decoded(shape.get("mask"))) as picture:
            inside = np.array(picture.convert("L")) > 0
        left, top = points[0].astype(int)
        inside = inside[max(-top, 0) : max(height - top, 0), max(-left, 0) : max(width - left, 0)]
        return max(left, 0), max(top, 0), inside
    (x0, y0), (x1, y1) = points[:2]
    if shape["shape_type"] == "rectangle":
        points = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])
    elif shape["shape_type"] == "circle":  # its centre and a point on it
        turns = np.linspace(0, 2 * np.pi, 180, endpoint=False)
        radius = math.hypot(x1 - x0, y1 - y0)
        points = np.stack([x0 + radius * np.cos(turns), y0 + radius * np.sin(turns)], axis=1)
    from matplotlib.path import Path as Outline  # slow to import

    left, top = np.clip(np.floor(points.min(axis=0)), 0, (width, height)).astype(int)
    right, bottom = np.clip(np.ceil(points.max(axis=0)), 0, (width, height)).astype(int)
    y, x = np.mgrid[top:bottom, left:right] + 0.5
    inside = Outline([*points, points[0]]).contains_points(np.stack([x.ravel(), y.ravel()], 1))
    return left, top, inside.reshape(bottom - top, right - left)


def _example(file: Path, split: str, beside: list[Path]) -> Example:
    content = _parse(file)
    image, data = file, None
    if content.get("imageData"):
        data = _decoded(content["imageData"])
    else:
        named = file.parent / content["imagePath"].replace("\\", "/")
        image = next((picture for picture in (named, *beside) if os.path.isfile(picture)), None)
        if image is None:
            raise IssueError(issue("labelme-image", file, content["imagePath"]))
    size, channels = read.image_header(image, turn=True, data=data)
    labels = frozenset(shape["label"] for shape in content["shapes"])
    return Example(file.stem, split, image, file, size, channels, labels)


def _parse(file: Path) -> dict:
    """Return the content of a JSON file, every field we use checked."""
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise IssueError(issue("labelme-file", file, f"no readable JSON: {error}")) from error
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        raise IssueError(issue("labelme-file", file, 'no "shapes"'))
    kinds = {"imageData": str, "imageHeight": int, "imageWidth": int, "imagePath": str}
    for field, kind in kinds.items():  # files from before 2018 hold no size
        optional = field != "imagePath" or content.get("imageData")
        if not isinstance(content.get(field), kind | type(None) if optional else kind):
            raise IssueError(issue("labelme-file", file, f"{field} is {content.get(field)!r}"))
    for shape in content["shapes"]:
        if problem := _shape_problem(shape):
            raise IssueError(issue("labelme-shape", file, problem))
    return content


def _shape_problem(shape: object) -> str:
    """Return what is wrong with a shape, "" if nothing is; a missing type is a polygon."""
    label = shape.get("label") if isinstance(shape, dict) else None
    if not isinstance(label, str) or not label:
        return "a shape has no label"
    kind = shape.setdefault("shape_type", "polygon")
    if kind not in list(_POINTS):  # a list, since kind may be anything
        return f"a shape {label!r} is a {kind}, which covers no area: use {', '.join(_POINTS)}"
    try:
        points = np.array(shape.get("points"))
    except ValueError:  # rows of different lengths
        points = np.empty(0)
    n = len(points) if points.dtype.kind in "iuf" and points.shape[1:] == (2,) else 0
    if n < _POINTS[kind] or (kind != "polygon" and n > _POINTS[kind]):
        return f"a {kind} {label!r} has not the {_POINTS[kind]} points it needs"
    if not (np.abs(points.astype(float)) < 1e6).all():
        return f"a {kind} {label!r} has impossible coordinates"
    return ""


def _decoded(data: object) -> bytes:
    try:
        return base64.b64decode(data, validate=False)
    except (TypeError, ValueError) as error:
        raise IssueError(issue("unreadable", "an embedded picture", str(error))) from error
