"""Data sets written anew: a folder split, annotations as masks, masks as annotations."""

import base64
import io
import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from skimage import measure
from tqdm import tqdm

from segkit import image_ops
from segkit.data import annotations, folder, read, splits
from segkit.data.cache import digests, in_threads
from segkit.data.folder import Example, listed
from segkit.data.shapes import IGNORED, STRICT, Rules, draw, draw_instances
from segkit.errors import ArgumentError, DataError, one_of
from segkit.files import atomic_folder, csv_text, write_text
from segkit.issues import attempt, raise_errors


@dataclass(frozen=True)
class Split:
    """The pairs of each split of a folder, and how it was split."""

    root: Path
    parts: dict[str, list[Example]]
    rule: str
    seed: int
    groups: dict[str, str] = field(default_factory=dict)  # by name, where known

    def counts(self) -> dict[str, int]:
        """Return how many pairs each split has."""
        return {split: len(items) for split, items in self.parts.items()}

    def rows(self) -> list[dict[str, str]]:
        """Return a row per pair; files are relative to the folder."""
        return [
            {
                "split": part,
                "name": item.name,
                "image": item.image.relative_to(self.root).as_posix(),
                "mask": item.mask.relative_to(self.root).as_posix(),
                "group": self.groups.get(item.name, ""),
            }
            for part, items in self.parts.items()
            for item in items
        ]


def split(
    root: str | Path,
    fractions: Sequence[float] = (0.7, 0.15, 0.15),
    seed: int = 0,
    group_by: str | None = None,
    stratify_by: str | None = None,
    image_suffix: str = "",
    mask_suffix: str = "",
) -> Split:
    """Split a folder with images/ and masks/ into train, val and test; nothing is written.

    Args:
        group_by: a regular expression on the names; what it finds is not split apart.
        stratify_by: a regular expression whose finds every split has in the same proportions, or
            "classes": the classes in the mask.
        image_suffix, mask_suffix: see `segkit.data.folder.open_folder`; copies are without them.

    Raises:
        DataError: the folder is split already, or two splits would hold the same image.
    """
    root = Path(root)
    if group_by and stratify_by:
        raise ArgumentError("group_by and stratify_by exclude each other: choose one")
    parts = folder.find(root, image_suffix, mask_suffix)
    if "" not in parts:
        raise DataError(f"{root} is split already, into {', '.join(parts)}")
    items, rule, groups = parts[""], "random", None
    if group_by:
        rule, groups = f"grouped by {group_by}", folder.groups_of(items, group_by)
        indices = splits.grouped_split(groups, fractions, seed)
    elif stratify_by:
        rule = f"stratified by {stratify_by}"
        if stratify_by == "classes":
            found = in_threads(folder.inspect, items)
            raise_errors([one for _, issues in found for one in issues], root)
            labels = [str(item.values) for item in items]
        else:
            labels = folder.groups_of(items, stratify_by)
        indices = splits.stratified_split(labels, fractions, seed)
    else:
        indices = splits.random_split(len(items), fractions, seed)
    content = digests(item.image for item in items)
    images = [np.frombuffer(content[item.image].encode(), np.uint8) for item in items]
    duplicates = splits.leakage(indices, images=images).duplicates
    if duplicates:
        pairs = listed([f"{items[i].name} = {items[j].name}" for i, j in duplicates], 5)
        what = f"{len(duplicates)} images would be in two splits under two names ({pairs})"
        raise DataError(f"{root}: {what}: remove one of each")
    chosen = {part: [items[i] for i in k] for part, k in zip(folder.SPLITS, indices, strict=True)}
    names = [item.name for item in items]
    return Split(root, chosen, rule, seed, dict(zip(names, groups, strict=True)) if groups else {})


def write_folders(found: Split, out: str | Path) -> None:
    """Copy the pairs to `out`/SPLIT/images and masks; `out` appears when all is written."""
    with atomic_folder(out, found.root) as place:
        pairs = [(place / part, item) for part, items in found.parts.items() for item in items]
        for target, item in tqdm(pairs, "copying", leave=False, disable=None, delay=2):
            for sub, file in zip(("images", "masks"), item.files, strict=True):
                copy = target / sub / f"{item.name}{file.suffix}"
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(file, copy)


def write_list(found: Split, path: str | Path) -> None:
    """Write which pair is in which split to a `.csv` or `.json` file."""
    path, rows = Path(path), found.rows()
    if path.suffix.lower() == ".csv":
        write_text(path, csv_text(list(rows[0]), rows))
    elif path.suffix.lower() == ".json":
        about = {"root": str(found.root), "rule": found.rule, "seed": found.seed}
        about |= {"counts": found.counts(), "items": rows}
        write_text(path, json.dumps(about, indent=1) + "\n")
    else:
        raise ArgumentError(f"{path}: a list is a .csv or a .json file")


def convert(
    form: str,
    source: str | Path,
    out: str | Path,
    *,
    images: str | Path | None = None,
    class_names: Sequence[str] | None = None,
    others: str | None = None,
    rules: Rules = STRICT,
    instances: bool = False,
) -> tuple[tuple[str, ...], dict[str, int]]:
    """Write annotations as `out`[/SPLIT]/images and masks, and the class names to classes.txt.

    Images that are upright are copied as they are, others become PNG. Masks are PNG with a
    palette. `out` appears when all is written.

    Args:
        form: see `segkit.data.annotations.open_annotated`.
        images, class_names, others: see there.
        rules: for shapes that are no region.
        instances: whether to write instances/NAME.png too, 16 bits, with a number per object.

    Returns:
        The class names in the order of their ids, and how many images each split has.

    Raises:
        DataError: files cannot be used; the message lists them.
    """
    examples, issues = annotations.find(form, source, images, rules)
    raise_errors(issues, source)
    ids, names = annotations.label_ids(examples, folder.checked_names(class_names), others)
    counts = Counter(example.split for example in examples)

    def write(example: Example) -> None:
        image, shapes = annotations.read_annotated(form, example, rules)
        target, suffix = place / example.split, example.image.suffix.lower()
        (target / "images").mkdir(parents=True, exist_ok=True)
        mask = draw(shapes, ids, *image.shape[:2])
        image_ops.write_mask(target / "masks" / f"{example.name}.png", mask)
        if instances:
            (target / "instances").mkdir(exist_ok=True)
            labels = draw_instances(shapes, ids, *image.shape[:2])
            Image.fromarray(labels).save(target / "instances" / f"{example.name}.png")
        if suffix in folder.SUFFIXES and image_ops.read_image(example.image)[1] == 1:
            shutil.copy2(example.image, target / "images" / f"{example.name}{suffix}")
        else:
            Image.fromarray(image).save(target / "images" / f"{example.name}.png")

    with atomic_folder(out, source) as place:
        written = in_threads(lambda example: attempt(issues, write, example), examples)
        for _ in tqdm(written, "converting", len(examples), leave=False, disable=None, delay=2):
            pass
        raise_errors(issues, source)
        write_text(place / "classes.txt", "\n".join(names) + "\n")
    return names, dict(counts)


def export(
    form: str,
    root: str | Path,
    out: str | Path,
    *,
    class_names: Sequence[str] | None = None,
    values: str | Mapping[int | str, str] = "auto",
    image_suffix: str = "",
    mask_suffix: str = "",
) -> tuple[tuple[str, ...], dict[str, int]]:
    """Write the masks of a folder as annotations, with copies of the images, in `out`[/SPLIT].

    Each 4-connected component of a class becomes an object; background becomes none. A polygon
    runs halfway between pixel centres, (0, 0) being the image's corner. An object with holes is a
    run-length code in COCO, a shape of the type "mask" in LabelMe and a polygon with interior
    rings in GeoJSON. What is ignored (255) has the label "__ignore__", and is a crowd in COCO.

    Args:
        form: "coco" (annotations.json, images/), "labelme" (NAME.json beside the image) or
            "geojson" (NAME.geojson, images/), with labels as QuPath reads them.
        root: the folder with images/ and masks/; see `segkit.data.folder.open_folder`.
        class_names: one per id, the background first; None numbers the classes.
        values: what the masks hold; see `segkit.data.folder.open_folder`.
        image_suffix, mask_suffix: see `segkit.data.folder.open_folder`; copies are without them.

    Returns:
        The class names in the order of their ids, and how many images each split has.

    Raises:
        DataError: files cannot be used; the message lists them.
    """
    one_of("format", form, ("coco", "labelme", "geojson"))
    table, names = folder.value_table(values, class_names)
    examples, issues, _ = folder.find_pairs(Path(root), image_suffix, mask_suffix)
    looks = in_threads(lambda example: folder.inspect(example, table), examples)
    issues += [one for _, found in looks for one in found]
    raise_errors(issues, root)
    encoding = "ids" if table else values
    encoding, classes, issues = folder.infer_label_encoding(examples, len(names), encoding)
    raise_errors(issues, root)
    if encoding == "0/255":
        table = {0: 0, 255: 1}
    names = names or folder.default_names(classes)
    ignored = encoding == "ids" and any(255 in example.values for example in examples)
    labels = dict(enumerate(names)) | ({255: IGNORED} if ignored else {})
    parts = folder.by_split(examples)
    with atomic_folder(out, root) as place:
        for split, items in parts.items():
            target = place / split
            pictures = target if form == "labelme" else target / "images"
            listed, drawn = [], []
            for number, item in enumerate(items, start=1):
                if form == "labelme":  # whose files lie side by side
                    item.name = item.name.replace("/", "_")
                copy = pictures / f"{item.name}{item.image.suffix}"
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(item.image, copy)
                mask = read.mask(item.mask, table=table)
                height, width = mask.shape
                found = _objects(mask)
                if form == "coco":
                    size = {"height": height, "width": width}
                    name = copy.relative_to(pictures).as_posix()
                    listed.append({"id": number, "file_name": name, **size})
                    for one in found:
                        about = {"id": len(drawn) + 1, "image_id": number}
                        drawn.append(about | _coco_object(*one, height, width))
                elif form == "labelme":
                    content = {"version": "5.0.0", "flags": {}, "imagePath": copy.name}
                    content |= {"imageData": None, "imageHeight": height, "imageWidth": width}
                    content["shapes"] = [_labelme_shape(labels[i], *one) for i, *one in found]
                    write_text(target / f"{item.name}.json", json.dumps(content) + "\n")
                else:
                    features = [_feature(labels[i], rings) for i, _, _, rings in found]
                    content = {"type": "FeatureCollection", "features": features}
                    write_text(target / f"{item.name}.geojson", json.dumps(content) + "\n")
            if form == "coco":
                categories = [{"id": i, "name": name} for i, name in labels.items() if i]
                content = {"images": listed, "categories": categories, "annotations": drawn}
                write_text(target / "annotations.json", json.dumps(content) + "\n")
    return names, {split: len(items) for split, items in parts.items()}


_Object = tuple[int, tuple[int, int, int, int], np.ndarray, list[np.ndarray]]


def _objects(mask: np.ndarray) -> list[_Object]:
    """Return id, box (top, left, bottom, right), pixels in it and closed rings of each object.

    A ring is (n, 2), x and y; the first is the outer one.
    """
    components = measure.label(mask, background=0, connectivity=1)
    found = []
    for region in measure.regionprops(components):
        top, left, *_ = region.bbox
        contours = measure.find_contours(np.pad(region.image, 1).astype(float), 0.5)
        rings = [_corners(contour[:, ::-1]) - 0.5 + (left, top) for contour in contours]
        rings.sort(key=lambda ring: ring[:, 0].min())
        found.append((int(mask[tuple(region.coords[0])]), region.bbox, region.image, rings))
    return found


def _corners(ring: np.ndarray) -> np.ndarray:
    """Return a closed ring (n, 2) without the points that lie on a straight line of others."""
    steps = np.diff(ring, axis=0)
    before = np.roll(steps, 1, axis=0)
    kept = ring[:-1][before[:, 0] * steps[:, 1] != before[:, 1] * steps[:, 0]]
    return np.concatenate([kept, kept[:1]])


def _coco_object(
    number: int, box: tuple, inside: np.ndarray, rings: list, height: int, width: int
) -> dict:
    top, left, bottom, right = box
    if number == 255 or len(rings) > 1:
        whole = np.zeros((height, width), bool)
        whole[top:bottom, left:right] = inside
        pixels = np.concatenate([[False], whole.T.ravel()])  # the first run is of zeros
        starts = np.flatnonzero(np.diff(pixels))
        counts = np.diff(starts, prepend=0, append=height * width).tolist()
        outline = {"size": [height, width], "counts": counts}
    else:
        outline = [rings[0][:-1].ravel().tolist()]
    return {
        "category_id": number,
        "segmentation": outline,
        "area": int(inside.sum()),
        "bbox": [left, top, right - left, bottom - top],
        "iscrowd": int(number == 255),
    }


def _labelme_shape(label: str, box: tuple, inside: np.ndarray, rings: list) -> dict:
    shape = {"label": label, "group_id": None, "flags": {}}
    if len(rings) == 1:
        return shape | {"shape_type": "polygon", "points": rings[0][:-1].tolist()}
    top, left, bottom, right = box
    png = io.BytesIO()
    Image.fromarray(inside).save(png, "PNG")
    code = base64.b64encode(png.getvalue()).decode()
    corners = [[left, top], [right - 1, bottom - 1]]
    return shape | {"shape_type": "mask", "points": corners, "mask": code}


def _feature(label: str, rings: list) -> dict:
    outline = {"type": "Polygon", "coordinates": [ring.tolist() for ring in rings]}
    about = {"objectType": "annotation", "classification": {"name": label}}
    return {"type": "Feature", "geometry": outline, "properties": about}
