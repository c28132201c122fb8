"""LabelMe annotations: one JSON file per image, with polygons and their labels.

The JSON files lie in `root/train`, `root/val`, `root/test`, or all in `root`, which is then split
here, by seed. The image is the one inside the JSON (`imageData`) or else the file it names.
Format: https://github.com/wkentaro/labelme
"""

import base64
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

import numpy as np
from PIL import Image

from segkit.data import read
from segkit.data.cache import arrays, digests, in_threads, key
from segkit.data.dataset import IGNORE, DataError, Pair, SegmentationDataset
from segkit.data.folder import SPLITS, Choice, checked_names, choose, pictures, some

BACKGROUND = ("background", "_background_")
LEFT_OUT = "__ignore__"  # LabelMe's own name for what is not to be judged
FAR = 1e6  # pixels; a coordinate beyond is a mistake
POINTS = {"polygon": 3, "rectangle": 2, "circle": 2, "mask": 2}  # that have an area, with points


@dataclass(frozen=True)
class Record:
    """What is in one JSON file, checked; `image` is None where the JSON holds the image itself."""

    name: str
    file: Path
    image: Path | None
    labels: frozenset[str]
    channels: int


def open_labelme(
    root: str | Path,
    split: str,
    size: int | tuple[int, int],
    *,
    channels: int | None = None,
    class_names: Sequence[str] | None = None,
    cache: bool = True,
    **choice: Unpack[Choice],
) -> SegmentationDataset:
    """Return one split ("train", "val", "test") of LabelMe annotations, resized to `size`.

    class_names: the labels, background first; None takes all labels of all splits in alphabetical
    order behind "background". What no shape covers is background, shapes labelled `__ignore__` are
    255. Images are turned upright as LabelMe shows them. The other options are those of
    `segkit.data.folder.open_folder`.
    Raises DataError, with a list of what was found, for anything that does not fit.
    """
    size, names = read.as_size(size), checked_names(class_names)
    parts = find(Path(root))
    records = [record for part in parts.values() for record in part]
    ids = label_ids(records, names)
    names = names or tuple(name for name in ids if name not in (BACKGROUND[1], LEFT_OUT))
    channels = channels or max(record.channels for record in records)
    chosen, groups = choose(parts, split, **choice)

    def read_pair(i: int) -> Pair:
        image, mask = map(Image.fromarray, read_record(chosen[i], ids, channels))
        return np.array(read.resize_image(image, size)), np.array(read.resize_mask(mask, size))

    content = digests(file for r in chosen for file in (r.file, r.image) if file)
    name = key(content.values(), size=size, channels=channels, ids=ids)
    shape = size if channels == 1 else (*size, 3)
    return SegmentationDataset(
        *arrays(name, read_pair, len(chosen), shape, cache),
        names,
        [record.name for record in chosen],
        groups,
        info={"source": "labelme", "root": str(root), "split": split},
    )


def find(root: Path) -> dict[str, list[Record]]:
    """Return the records of each split in `root`, or all under "" where there are no splits."""
    parts, faults = {}, []
    for split, place in places(root).items():
        found = list(in_threads(look, json_files(place)))
        faults += [fault for fault in found if isinstance(fault, str)]
        parts[split] = [record for record in found if isinstance(record, Record)]
        bare = unannotated(place)
        if bare:
            faults.append(
                f"{place}: {len(bare)} images have no .json of the same name ({some(bare)}): "
                "annotate them (LabelMe also saves an image without a shape) or move them out"
            )
    read.refuse(faults, root)
    return parts


def places(root: Path) -> dict[str, Path]:
    """Return the folder of each split, or `root` under "" where there are no splits.

    Raises FileNotFoundError without a LabelMe file.
    """
    found = {split: root / split for split in SPLITS if json_files(root / split)}
    if not found and json_files(root):
        found = {"": root}
    if not found:
        raise FileNotFoundError(
            f"{root.absolute()} holds no LabelMe files: *.json are looked for in it, or in train, "
            "val and test inside it"
        )
    return found


def json_files(place: Path) -> list[Path]:
    """Return the JSON files in a folder, in order; hidden ones are none."""
    return sorted(place.glob("[!.]*.json"))


def unannotated(place: Path) -> list[Path]:
    """Return the pictures in a folder that have no JSON file of the same name."""
    stems = {file.stem for file in json_files(place)}
    return [twins[0] for stem, twins in pictures(place).items() if stem not in stems]


def paint(shapes: Sequence[dict], ids: dict[str, int], height: int, width: int) -> np.ndarray:
    """Return the mask, uint8 `(height, width)`, of LabelMe shapes; later ones lie on top."""
    mask = np.zeros((height, width), dtype=np.uint8)
    for shape in shapes:
        left, top, inside = (
            _stamp(shape)
            if shape["shape_type"] == "mask"
            else _filled(np.array(_outline(shape)), height, width)
        )
        place = mask[top : top + inside.shape[0], left : left + inside.shape[1]]
        if min(left, top) < 0 or place.size == 0 or place.shape != inside.shape:
            raise DataError(
                f"a {shape['shape_type']} {shape['label']!r} lies outside the image: delete it or "
                "draw it again"
            )
        place[inside] = ids[shape["label"]]
    return mask


def rasterise(points: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return which pixels of a `(height, width)` image have their centre inside a polygon, bool.

    points: `(n, 2)`, x and y in LabelMe's coordinates, where the first pixel reaches from 0 to 1
    and its centre is at 0.5. Where a polygon crosses itself, the even-odd rule holds.
    """
    crossed = np.zeros((height, width + 1), dtype=bool)
    for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, axis=0), strict=True):
        top, bottom = (math.ceil(min(max(y, 0), height) - 0.5) for y in sorted((y0, y1)))
        rows = np.arange(top, bottom)  # those whose centre line the edge crosses
        if len(rows):
            x = x0 + (x1 - x0) * ((rows + 0.5 - y0) / (y1 - y0))
            crossed[rows, np.clip(np.ceil(x - 0.5), 0, width).astype(int)] ^= True
    return np.logical_xor.accumulate(crossed, axis=1)[:, :width]


def _filled(points: np.ndarray, height: int, width: int) -> tuple[int, int, np.ndarray]:
    """Return a polygon's pixels within its bounding box, and the box's left and top."""
    size = np.array([width, height])
    left, top = np.clip(np.floor(points.min(axis=0)), 0, size).astype(int)
    right, bottom = np.clip(np.ceil(points.max(axis=0)), 0, size).astype(int)
    return left, top, rasterise(points - (left, top), bottom - top, right - left)


def _stamp(shape: dict) -> tuple[int, int, np.ndarray]:
    """Return the pixels of a shape of type "mask", a PNG, and its left and top."""
    with read.opened("its PNG", _decoded(shape.get("mask"))) as picture:
        inside = np.array(picture.convert("L")) > 0
    left, top = (int(x) for x in shape["points"][0])
    return left, top, inside


def _outline(shape: dict) -> Sequence:
    """Return the corners of a shape; a circle, given by its centre and a point on it, has 180."""
    if shape["shape_type"] == "polygon":
        return shape["points"]
    (x0, y0), (x1, y1) = shape["points"]
    if shape["shape_type"] == "rectangle":
        return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
    radius, turns = math.hypot(x1 - x0, y1 - y0), np.linspace(0, 2 * np.pi, 180, endpoint=False)
    return np.stack([x0 + radius * np.cos(turns), y0 + radius * np.sin(turns)], axis=1)


def label_ids(records: Sequence[Record], names: Sequence[str]) -> dict[str, int]:
    """Return the id of each label, in the order of `names` or else of the alphabet."""
    special = {**dict.fromkeys(BACKGROUND, 0), LEFT_OUT: IGNORE}
    labels = sorted({label for record in records for label in record.labels} - special.keys())
    if not names:
        names = ("background", *labels)
    ids = {**special, **{name: i for i, name in enumerate(names)}}
    unknown = [label for label in labels if label not in ids]
    if unknown or len(names) < 2:
        where = [record.file for record in records if record.labels & set(unknown)]
        raise DataError(
            f"labels {', '.join(map(repr, unknown[:8]))} ({some(where)}) are not among the classes "
            f"{', '.join(map(repr, names))}: correct the label, or add it to class_names"
            if unknown
            else "there is no label in these files, so nothing to learn: draw shapes first"
        )
    return ids


def read_record(record: Record, ids: dict[str, int], channels: int | None = None) -> Pair:
    """Return image and mask of a record at full size. Raises DataError if they do not fit."""
    content = _parse(record.file)
    data = None if record.image else _decoded(content["imageData"])
    image = read.image(record.image or record.file, channels, exif="apply", data=data)
    height, width = image.shape[:2]
    if (content["imageHeight"], content["imageWidth"]) != (height, width):
        raise DataError(
            f"{record.file}: was drawn on an image of {content['imageWidth']}×"
            f"{content['imageHeight']} pixels, this one has {width}×{height}: the shapes would not "
            "fit; bring back the image that was annotated"
        )
    try:
        return image, paint(content["shapes"], ids, height, width)
    except DataError as error:
        raise DataError(f"{record.file}: {error}") from error


def look(file: Path) -> Record | str:
    """Return what one JSON file holds, or what is wrong with it."""
    try:
        content = _parse(file)
        image, data = None, None
        if content["imageData"]:
            data = _decoded(content["imageData"])
        else:
            image = file.parent / content["imagePath"].replace("\\", "/")
            if not image.is_file():
                raise DataError(
                    f"names the image {content['imagePath']}, which is not there, and holds no "
                    "copy of it: put the image back, or correct imagePath"
                )
        _, channels = read.image_header(image or file, "apply", data)
    except (DataError, OSError) as error:  # OSError: a path no file system takes
        return str(error) if str(file) in str(error) else f"{file}: {error}"
    labels = frozenset(shape["label"] for shape in content["shapes"])
    return Record(file.stem, file, image, labels, channels)


def _parse(file: Path) -> dict:
    """Return the content of a JSON file, every field we use checked."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{file}: is not readable JSON ({error}): save it again") from error
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        raise DataError(f'{file}: is no LabelMe file (no "shapes"): move it out of this folder')
    content.setdefault("imageData", None)
    kinds = {"imageData": (str, type(None)), "imageHeight": int, "imageWidth": int}
    if not content["imageData"]:
        kinds["imagePath"] = str
    for field, kind in kinds.items():
        if not isinstance(content.get(field), kind):
            raise DataError(
                f"{file}: {field} is {content.get(field)!r}: open and save it in LabelMe"
            )
    for shape in content["shapes"]:
        fault = _shape_fault(shape)
        if fault:
            raise DataError(f"{file}: {fault}")
    return content


def _shape_fault(shape: object) -> str:
    """Return what is wrong with a shape, "" if nothing is; a missing type is a polygon."""
    label = shape.get("label") if isinstance(shape, dict) else None
    if not isinstance(label, str) or not label:
        return "a shape has no label: open it in LabelMe and give it one"
    kind = shape.setdefault("shape_type", "polygon")
    if kind not in list(POINTS):  # a list, since kind may be anything
        return (
            f"a shape {label!r} is a {kind}, which covers no area here: draw it as one of "
            f"{', '.join(POINTS)}"
        )
    try:
        points = np.array(shape.get("points"))
    except ValueError:  # rows of different lengths
        points = np.empty(0)
    points = points.astype(float) if points.dtype.kind in "iuf" else np.empty(0)
    fits = points.ndim == 2 and points.shape[1] == 2 and len(points) >= POINTS[kind]
    if not fits or (kind != "polygon" and len(points) != POINTS[kind]):
        return f"a {kind} {label!r} has not the {POINTS[kind]} points it needs: redraw it"
    if not (np.abs(points) < FAR).all():
        return f"a {kind} {label!r} has impossible coordinates: redraw it"
    return ""


def _decoded(data: object) -> bytes:
    try:
        return base64.b64decode(data, validate=False)
    except (TypeError, ValueError) as error:
        raise DataError(f"an embedded picture is damaged ({error}): save it again") from error
