"""Data sets written anew: a folder split into train, val and test, annotations as masks."""

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from segkit import image_ops
from segkit.data import annotations, folder, splits
from segkit.data.cache import digests, in_threads
from segkit.data.folder import Example, listed
from segkit.data.shapes import STRICT, Rules, draw, draw_instances
from segkit.errors import ArgumentError, DataError
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
) -> Split:
    """Split a folder with images/ and masks/ into train, val and test; nothing is written.

    Args:
        group_by: a regular expression on the names; what it finds is not split apart.
        stratify_by: a regular expression whose finds every split has in the same proportions, or
            "classes": the classes in the mask.

    Raises:
        DataError: the folder is split already, or two splits would hold the same image.
    """
    root = Path(root)
    if group_by and stratify_by:
        raise ArgumentError("group_by and stratify_by exclude each other: choose one")
    parts = folder.find(root)
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
                (target / sub).mkdir(parents=True, exist_ok=True)
                shutil.copy2(file, target / sub)


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
