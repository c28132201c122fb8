"""Data sets written anew: a folder cut into splits, LabelMe's shapes turned into masks."""

import csv
import io
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from segkit.data import labelme, read, splits
from segkit.data.cache import digests, in_threads
from segkit.data.dataset import DataError
from segkit.data.folder import SPLITS, SUFFIXES, Item, checked_names, find, groups_of, survey
from segkit.files import atomic_folder, write_text
from segkit.image_ops import ORIENTATION, write_mask

Watch = Callable[[str], object] | None


@dataclass(frozen=True)
class Cut:
    """How a folder is cut: the pairs of each split, and the rule. groups: by name, where known."""

    root: Path
    parts: dict[str, list[Item]]
    rule: str
    seed: int
    groups: dict[str, str]

    def counts(self) -> dict[str, int]:
        """Return how many pairs each split has."""
        return {split: len(items) for split, items in self.parts.items()}

    def rows(self) -> list[dict[str, str]]:
        """Return a row per pair; files are relative to the folder."""
        return [
            {
                "split": split,
                "name": item.name,
                "image": item.image.relative_to(self.root).as_posix(),
                "mask": item.mask.relative_to(self.root).as_posix(),
                "group": self.groups.get(item.name, ""),
            }
            for split, items in self.parts.items()
            for item in items
        ]


def cut(
    root: str | Path,
    fractions: Sequence[float] = (0.7, 0.15, 0.15),
    seed: int = 0,
    group_by: str | None = None,
    stratify_by: str | None = None,
) -> Cut:
    """Cut `root`, with images/ and masks/, into train, val and test; nothing is written.

    group_by: a regular expression on the names; what it finds is not split apart. stratify_by: one
    whose finds every split has in the same proportions, or "classes": the classes in the mask.
    Raises DataError for a folder that is split already, and if the same image (to the byte) would
    be in two splits.
    """
    root = Path(root)
    if group_by and stratify_by:
        raise ValueError("group_by and stratify_by exclude each other: keep groups whole, or mix")
    parts = find(root)
    if "" not in parts:
        raise DataError(f"{root} is split already, into {', '.join(parts)}")
    items = parts[""]
    content = digests(file for item in items for file in (item.image, item.mask))
    groups, rule = None, "random"
    if group_by:
        groups, rule = groups_of(items, group_by), f"grouped by {group_by}"
        indices = splits.grouped_split(groups, fractions, seed)
    elif stratify_by:
        rule = f"stratified by {stratify_by}"
        indices = splits.stratified_split(_labels(items, content, stratify_by), fractions, seed)
    else:
        indices = splits.random_split(len(items), fractions, seed)
    images = [np.frombuffer(content[item.image].encode(), np.uint8) for item in items]
    found = splits.leakage(indices, groups, images)
    if not found.clean:
        pairs = [f"{items[i].name} = {items[j].name}" for i, j in found.duplicates]
        raise DataError(
            f"{root}: {len(pairs)} images would be in two splits under two names "
            f"({', '.join(pairs[:5])}{', …' if len(pairs) > 5 else ''}): remove one of each"
        )
    chosen = dict(zip(SPLITS, ([items[i] for i in part] for part in indices), strict=True))
    named = zip(items, groups or [], strict=bool(groups))
    return Cut(root, chosen, rule, seed, {item.name: group for item, group in named})


def _labels(items: list[Item], content: dict[Path, str], stratify_by: str) -> list[str]:
    if stratify_by != "classes":
        return groups_of(items, stratify_by)
    return [",".join(map(str, values)) for _, values in survey(items, content, keep=True)]


def write_folders(found: Cut, out: str | Path, watch: Watch = None) -> None:
    """Copy the pairs to `out`/SPLIT/images and masks; `out` appears when all is written.

    watch: is told each name. Raises FileExistsError unless `out` is new or empty, and elsewhere.
    """
    with atomic_folder(out, found.root) as place:
        for split, items in found.parts.items():
            for folder in ("images", "masks"):
                (place / split / folder).mkdir(parents=True)
            for item in items:
                shutil.copy2(item.image, place / split / "images")
                shutil.copy2(item.mask, place / split / "masks")
                if watch:
                    watch(item.name)


def write_list(found: Cut, path: str | Path) -> None:
    """Write which pair is in which split to a `.csv` or `.json` file."""
    path, rows = Path(path), found.rows()
    if path.suffix.lower() == ".json":
        about = {"root": str(found.root), "rule": found.rule, "seed": found.seed}
        text = json.dumps(about | {"counts": found.counts(), "items": rows}, indent=1) + "\n"
    elif path.suffix.lower() == ".csv":
        table = io.StringIO()
        writer = csv.DictWriter(table, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        text = table.getvalue()
    else:
        raise ValueError(f"{path}: a list is a .csv or a .json file")
    write_text(path, text)


def from_labelme(
    root: str | Path,
    out: str | Path,
    class_names: Sequence[str] | None = None,
    watch: Watch = None,
) -> tuple[tuple[str, ...], dict[str, int]]:
    """Write LabelMe annotations as `out`[/SPLIT]/images and masks; return class names and counts.

    class_names: see `open_labelme`; they are also written, one a line and in the order of the ids,
    to classes.txt. Images that are upright are copied as they are, others become PNG. Masks are
    PNG whose pixels are the ids, shown in colours. watch: is told each name.
    Raises DataError, with a list, for files that cannot be used, before `out` appears.
    """
    parts = labelme.find(Path(root))
    records = [record for part in parts.values() for record in part]
    ids = labelme.label_ids(records, checked_names(class_names))
    special = (labelme.BACKGROUND[1], labelme.LEFT_OUT)
    names = tuple(class_names or (name for name in ids if name not in special))
    with atomic_folder(out, root) as place:
        for split, part in parts.items():
            for folder in ("images", "masks"):
                (place / split / folder).mkdir(parents=True)

            def write(record: labelme.Record, folder: Path = place / split) -> str | None:
                try:
                    _write_record(record, ids, folder)
                except DataError as error:
                    return str(error)
                if watch:
                    watch(record.name)
                return None

            read.refuse([fault for fault in in_threads(write, part) if fault], root)
        write_text(place / "classes.txt", "\n".join(names) + "\n")
    return names, {split: len(part) for split, part in parts.items()}


def _write_record(record: labelme.Record, ids: dict[str, int], folder: Path) -> None:
    image, mask = labelme.read_record(record, ids)
    write_mask(folder / "masks" / f"{record.name}.png", mask)
    if record.image and record.image.suffix.lower() in SUFFIXES and _upright(record.image):
        shutil.copy2(record.image, folder / "images" / f"{record.name}{record.image.suffix}")
    else:
        Image.fromarray(image).save(folder / "images" / f"{record.name}.png")


def _upright(file: Path) -> bool:
    with read.opened(file) as picture:
        return picture.getexif().get(ORIENTATION, 1) in (0, 1)
