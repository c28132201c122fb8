"""COCO's annotations: one JSON file for many images, with polygons or run-length codes.

Format: https://cocodataset.org/#format-data. Roboflow, CVAT and Label Studio write it too. The
images lie where `images` says, else beside the file or in `images/` beside it or one folder up.
"""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from segkit import image_ops
from segkit.data import read
from segkit.data.folder import SPLITS, Example
from segkit.data.shapes import IGNORED, STRICT, Rules, Shape, polygon, union
from segkit.issues import Issue, IssueError, attempt, issue

_LARGEST = 1e6  # no coordinate is beyond


def find(
    source: Path, images: Path | None = None, rules: Rules = STRICT
) -> tuple[list[Example], list[Issue]]:
    """Return an example for each image that the files list, and the issues of the rest.

    Args:
        source: the JSON file, or a folder with one, or with train, valid or val, and test, each
            with one.
        images: the folder that the file names start from.
    """
    examples: list[Example] = []
    issues: list[Issue] = []
    for split, file in _files(source).items():
        attempt(issues, _read, file, split, images, examples, issues)
    return examples, issues


def open_example(
    example: Example, rules: Rules = STRICT, channels: int | None = None
) -> tuple[np.ndarray, list[Shape]]:
    """Return an image and its shapes in the order of the file; crowds are ignored.

    Raises:
        IssueError: a shape cannot be drawn.
    """
    image, _ = image_ops.read_image(example.image, channels)
    found = []
    for number, label, outline in example.details:
        try:
            found.append(_shape(label, outline, *example.size))
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            what = f"annotation {number}, {label!r}, of {example.image.name}: {error}"
            rules.refuse(example.mask, what)
    return image, found


def _files(source: Path) -> dict[str, Path]:
    """Return the JSON file of each split, of "" where there is one for all."""
    if source.is_file():
        return {"": source}
    names = {split: (split,) for split in SPLITS} | {"val": ("val", "valid", "validation")}
    folders = {"": ("", "annotations")} | names
    found = {}
    for split, places in folders.items():
        files = [file for place in places for file in sorted((source / place).glob("[!.]*.json"))]
        if len(files) > 1:
            listed = ", ".join(file.name for file in files[:4])
            raise IssueError(issue("annotation-file", files[0].parent, f"it holds {listed}"))
        if files:
            found[split] = files[0]
    return {"": found[""]} if "" in found else found


def _read(
    file: Path, split: str, images: Path | None, examples: list[Example], issues: list[Issue]
) -> None:
    content = _parse(file)
    labels = {c["id"]: c["name"] for c in content["categories"]}
    counted = Counter(record["id"] for record in content["images"])
    if twice := [i for i, n in counted.items() if n > 1]:
        raise IssueError(issue("annotation-file", file, f"image id {twice[0]} stands twice"))
    drawn: dict[Any, list] = {number: [] for number in counted}
    for one in content["annotations"]:
        number, label = one["image_id"], labels.get(one["category_id"])
        if number not in drawn or label is None:
            about = f"annotation {one.get('id')}: image {number}, category {one['category_id']}"
            what = f"{about}, and there is no such image or category"
            issues.append(issue("annotation-file", file, what))
            continue
        label = IGNORED if one.get("iscrowd") else label
        drawn[number].append((one.get("id"), label, one.get("segmentation")))
    bases = [images] if images else [file.parent, file.parent / "images", file.parent.parent]
    bases += [] if images else [file.parent.parent / "images"]
    for record in content["images"]:
        example = attempt(issues, _example, file, split, bases, record, drawn[record["id"]])
        examples += [example] if example else []


def _example(file: Path, split: str, bases: list[Path], record: dict, drawn: list) -> Example:
    name = record["file_name"].replace("\\", "/")
    inside = [
        base / name for base in bases if (base / name).resolve().is_relative_to(base.resolve())
    ]
    image = next((place for place in inside if place.is_file()), None)
    if image is None:
        raise IssueError(issue("annotation-image", file, name))
    size, channels = read.image_header(image)
    if size != (record["height"], record["width"]):
        sizes = f"{record['width']}×{record['height']} pixels, {image} has {size[1]}×{size[0]}"
        raise IssueError(issue("annotation-size", file, sizes))
    stem = "_".join(Path(name).with_suffix("").parts)
    labels = frozenset(label for _, label, _ in drawn)
    return Example(stem, split, image, file, size, channels, labels, details=drawn)


def _parse(file: Path) -> dict:
    """Return the content of a file, with every field that we use checked."""
    content = read.json_file(file)
    fields = {
        "images": {"id": int | str, "file_name": str, "height": int, "width": int},
        "categories": {"id": int | str, "name": str},
        "annotations": {"image_id": int | str, "category_id": int | str},
    }
    for part, needed in fields.items():
        rows = content.get(part) if isinstance(content, dict) else None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise IssueError(issue("annotation-file", file, f'no list "{part}", as COCO has'))
        for row in rows:
            for field, kind in needed.items():
                if not isinstance(row.get(field), kind):
                    what = f'"{part}" holds one whose {field} is {row.get(field)!r}'
                    raise IssueError(issue("annotation-file", file, what))
    return content


def _shape(label: str, outline: Any, height: int, width: int) -> Shape:
    if isinstance(outline, dict):
        return Shape(label, 0, 0, _run_lengths(outline, height, width))
    if not isinstance(outline, list) or not outline:
        raise ValueError("it has no outline, perhaps only a box")
    parts = []
    for ring in outline:
        points = np.array(ring, dtype=float)
        if points.ndim != 1 or len(points) < 6 or len(points) % 2:
            raise ValueError("a polygon needs x and y of three points or more")
        if not (np.abs(points) < _LARGEST).all():
            raise ValueError("impossible coordinates")
        parts.append(polygon(points.reshape(-1, 2), height, width))
    shape = union(label, parts)
    if not shape.inside.any():
        raise ValueError("it lies outside the image, or has no area")
    return shape


def _run_lengths(code: dict, height: int, width: int) -> np.ndarray:
    """Return the pixels, bool (height, width), of a run-length code, plain or compressed.

    The runs go down the columns, of 0 and 1 in turn. pycocotools does not check that they fill the
    image, and then returns what happens to lie in memory.
    """
    counts = code["counts"]
    runs = np.array(_decompressed(counts) if isinstance(counts, str) else counts, dtype=np.int64)
    sizes = tuple(code.get("size", (height, width)))
    pixels = height * width
    fills = len(runs) and 0 <= min(runs) <= max(runs) <= pixels == runs.sum()
    if sizes != (height, width) or not fills:
        raise ValueError(f"its run-length code does not fill the image, {width}×{height} pixels")
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T


def _decompressed(text: str) -> list[int]:
    """Return the run lengths that COCO's text holds.

    A number is written in groups of 5 bits, the lowest first, bit 6 saying that more follow; from
    the third number on it is the difference to the one before the last.
    """
    runs: list[int] = []
    value = shift = 0
    for letter in text.encode("ascii"):
        bits = letter - 48
        if not 0 <= bits < 64:
            raise ValueError(f"its run-length code holds {chr(letter)!r}")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return runs
