"""Annotations of other programs, drawn as masks: each format has a module that reads it.

A format's `find` returns the images with what is wrong, and its `open_example` one image with its
shapes in the order in which they are drawn: later ones lie on top, what is ignored below all.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from segkit import image_ops
from segkit.data import coco, colour_masks, folder, labelme, labelstudio, read
from segkit.data.cache import arrays, digests
from segkit.data.dataset import IGNORE, Pair, SegmentationDataset
from segkit.data.folder import Example
from segkit.data.shapes import IGNORED, STRICT, Rules, Shape, draw
from segkit.errors import one_of
from segkit.issues import Issue, IssueError, issue, raise_errors

_FORMATS: dict[str, tuple[Callable, Callable]] = {
    "labelme": (labelme.find, labelme.open_example),
    "coco": (coco.find, coco.open_example),
    "labelstudio": (labelstudio.find, labelstudio.open_example),
}
_TABLES = (colour_masks.find, colour_masks.open_example)
_FORMATS |= dict.fromkeys(("voc", "camvid", "cityscapes"), _TABLES)
_SPECIAL = {"background": 0, "_background_": 0, IGNORED: IGNORE}  # labels that LabelMe names so


def open_annotated(
    root: str | Path,
    split: str,
    size: int | tuple[int, int],
    *,
    form: str,
    images: str | Path | None = None,
    channels: int | None = None,
    class_names: Sequence[str] | None = None,
    others: str | None = None,
    line_width: float = 0,
    skip: bool = False,
    cache: bool = True,
    **choice,
) -> SegmentationDataset:
    """Open one split ("train", "val", "test") of annotations, resized to `size`.

    What no shape covers is background.

    Args:
        root: the file or folder that the format's module reads.
        form: "labelme", "coco", "labelstudio", "voc", "camvid" or "cityscapes".
        images: the folder of the images, where they are not beside the annotations.
        class_names: the labels, background first; None takes all labels of all splits in
            alphabetical order behind "background".
        others: what all other labels become, "background" or "ignore"; None refuses them.
        line_width: of lines and points, in pixels; 0 refuses them.
        skip: whether shapes that cannot be drawn are left out, instead of refused.
        size, channels, cache, choice: see `segkit.data.folder.open_folder`.

    Raises:
        NoDataError: there are no annotations.
        DataError: something does not fit; the message lists every issue found.
    """
    size, names = read.as_size(size), folder.checked_names(class_names)
    rules = Rules(line_width, set() if skip else None)
    examples, issues = find(form, root, images, rules)
    raise_errors(issues, root)
    ids, names = label_ids(examples, names, others)
    channels = channels or max(example.channels for example in examples)
    chosen, groups = folder.choose(folder.by_split(examples), split, **choice)

    def read_pair(i: int) -> Pair:
        image, shapes = read_annotated(form, chosen[i], rules, channels)
        mask = draw(shapes, ids, *image.shape[:2])
        return image_ops.resize(image, size), read.resize_mask(mask, size)

    content = digests(file for example in chosen for file in example.files)
    name = [*content.values(), form, [example.name for example in chosen], size, channels, ids]
    name += [line_width, skip]
    shape = size if channels == 1 else (*size, 3)
    return SegmentationDataset(
        *arrays(name, read_pair, len(chosen), shape, cache),
        names,
        [example.name for example in chosen],
        groups,
        info={"source": form, "root": str(root), "split": split},
    )


def find(
    form: str, source: str | Path, images: str | Path | None = None, rules: Rules = STRICT
) -> tuple[list[Example], list[Issue]]:
    """Return an example for each image annotated in a format, and the issues of the rest."""
    found, _ = _FORMATS[one_of("format", form, _FORMATS)]
    return found(Path(source), Path(images) if images else None, rules)


def label_ids(
    examples: Sequence[Example], names: Sequence[str], others: str | None = None
) -> tuple[dict[str, int], tuple[str, ...]]:
    """Return the id of each label, and the class names: `names`, or the labels by alphabet.

    others: what labels that are not among `names` become; None refuses them.
    """
    labels = sorted({label for example in examples for label in example.labels} - _SPECIAL.keys())
    if not names and not labels:
        raise IssueError(issue("no-labels", examples[0].mask.parent if examples else "."))
    names = tuple(names or ("background", *labels))
    rest = {None: {}, "background": dict.fromkeys(labels, 0), "ignore": dict.fromkeys(labels, 255)}
    if others not in rest:
        one_of("choice for other labels", others, ("background", "ignore"))
    ids = {**rest[others], **_SPECIAL, **{name: i for i, name in enumerate(names)}}
    issues = []
    for example in examples:
        for label in example.labels - _SPECIAL.keys():
            if not ids.get(label) and not (others and label not in names):
                code = "annotation-background" if label in ids else "annotation-label"
                detail = f"{label!r}, the classes are {folder.listed(names)}"
                issues.append(issue(code, example.mask, detail))
    raise_errors(issues, "these annotations")
    return ids, names


def read_annotated(
    form: str, example: Example, rules: Rules = STRICT, channels: int | None = None
) -> tuple[np.ndarray, list[Shape]]:
    """Return the image of an example, at full size and upright, and its shapes."""
    _, open_example = _FORMATS[form]
    return open_example(example, rules, channels)
