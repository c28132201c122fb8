"""Folders of images and masks, paired by file name.

Either `root/train/images`, `root/train/masks` and the same for `val` and `test`, or one
`root/images` and `root/masks` that is split here, by seed. `a.jpg` belongs to `a.png`.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict, TypeVar, Unpack

import numpy as np

from segkit.data import read, splits
from segkit.data.cache import arrays, digests, in_threads, key, remember
from segkit.data.dataset import IGNORE, DataError, Pair, SegmentationDataset

SPLITS = ("train", "val", "test")
SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif"}
MANY = 32  # more classes than this are believed only when they are named

GroupBy = str | Callable[[str], str] | None
Named = TypeVar("Named")


class Choice(TypedDict, total=False):
    """Which items of a folder make up a split: options of `open_folder` and `open_labelme`.

    seed, fractions (default 0.7, 0.15, 0.15): of the split, where the folder brings none.
    group_by: what belongs together and is not split apart, a function of the file's stem or a
    regular expression, whose first group or whole match it is.
    count: a seeded choice of so many of the split (default: all).
    """

    seed: int
    fractions: tuple[float, float, float]
    group_by: GroupBy
    count: int | None


@dataclass(frozen=True)
class Item:
    """One example: its name and the two files it is read from."""

    name: str
    image: Path
    mask: Path


def open_folder(
    root: str | Path,
    split: str,
    size: int | tuple[int, int],
    *,
    channels: int | None = None,
    class_names: Sequence[str] | None = None,
    values: str = "auto",
    cache: bool = True,
    **choice: Unpack[Choice],
) -> SegmentationDataset:
    """Return one split ("train", "val", "test") of a folder, everything resized to `size`.

    channels: 1 or 3; None takes 1 if all images are stored grey, else 3. class_names: one per
    id, the background first; None counts the ids. values: what the masks hold, "ids" (255 is
    ignored), "0/255" (255 is the foreground), or "auto", decided over all masks of all splits
    together (see `value_rule`). cache: keep the resized images on disk. choice: seed, fractions,
    group_by and count, see `Choice`.
    Raises DataError, with a list of what was found, for anything that does not fit.
    """
    size = read.as_size(size)
    names = checked_names(class_names)
    parts = find(Path(root))
    items = [item for part in parts.values() for item in part]
    content = digests(file for item in items for file in (item.image, item.mask))
    facts = survey(items, content, cache)
    held = {str(item.mask): values for item, (_, values) in zip(items, facts, strict=True)}
    rule, classes = value_rule(held, len(names), values)
    channels = channels or max(found for found, _ in facts)
    chosen, groups = choose(parts, split, **choice)
    ids = np.arange(256, dtype=np.uint8)
    if rule == "0/255":
        ids[255] = 1

    def read_pair(i: int) -> Pair:
        image = read.image(chosen[i].image, channels, size)
        return image, ids[read.mask(chosen[i].mask, size)]

    files = [content[file] for item in chosen for file in (item.image, item.mask)]
    name = key(files, size=size, channels=channels, values=rule)
    shape = size if channels == 1 else (*size, 3)
    return SegmentationDataset(
        *arrays(name, read_pair, len(chosen), shape, cache),
        names or default_names(classes),
        [item.name for item in chosen],
        groups,
        info={"source": "folder", "root": str(root), "split": split, "values": rule},
    )


def find(root: Path) -> dict[str, list[Item]]:
    """Return the pairs of each split in `root`, or all under "" where there are no splits.

    Raises DataError with everything that has no partner, and FileNotFoundError without a layout.
    """
    parts, faults = {}, []
    for split, place in places(root).items():
        parts[split] = _pair(match(place), faults)
    read.refuse(faults, root)
    return parts


def places(root: Path) -> dict[str, Path]:
    """Return the folder of each split, or `root` under "" where there are no splits.

    Raises FileNotFoundError without a layout.
    """
    found = {split: root / split for split in SPLITS if (root / split / "images").is_dir()}
    if not found and (root / "images").is_dir():
        found = {"": root}
    if not found:
        raise FileNotFoundError(
            f"{root.absolute()} holds neither images/ and masks/ nor train/images, train/masks, "
            f"val/images, …; {_content(root)}"
        )
    return found


def survey(items: Sequence[Item], content: dict[Path, str], keep: bool) -> list:
    """Return for each item the channels of its image and the values of its mask, at full size.

    Every file is looked at, the result is cached under the files' content.
    Raises one DataError that lists the first files that cannot be used.
    """

    def look() -> dict:
        found = list(in_threads(_look, items))
        read.refuse([fault for fault in found if isinstance(fault, str)], "images and masks")
        return {"found": found}

    if not keep:
        return look()["found"]
    files = [content[file] for item in items for file in (item.image, item.mask)]
    return remember(key(files, what="survey"), look)["found"]


def value_rule(held: dict[str, list[int]], named: int, values: str = "auto") -> tuple[str, int]:
    """Decide what the masks' values mean; return "ids" or "0/255", and the number of classes.

    held: the values in each mask file. named: how many classes the user named, 0 if unknown.
    "auto" looks at all files together, since one mask without a foreground says nothing: only 0
    and 255 means that 255 is the foreground; else the values are ids and 255 is ignored.
    Raises DataError for values that are neither, such as interpolation leaves behind.
    """
    if values not in ("auto", "ids", "0/255"):
        raise ValueError(f'values={values!r}: choose "auto", "ids" or "0/255"')
    seen = {value for file in held.values() for value in file}
    black_white = [file for file, its in held.items() if 255 in its and set(its) <= {0, 255}]
    classes = named or next(k for k in range(257) if k not in seen)  # 0, 1, … without a gap
    classes = min(max(classes, 2), MANY if not named else 255)
    rule = values
    if rule == "auto":
        strange = seen - {*range(classes), IGNORE}
        mostly = len(black_white) > len(held) / 2 and strange
        rule = "0/255" if 255 in seen and (seen <= {0, 255} or mostly) else "ids"
        _check_one_rule(held, black_white, rule)
    if rule == "0/255" and named not in (0, 2):
        raise DataError(
            f'the masks hold 0 and 255 only, but {named} classes are named: say values="ids" if '
            "255 is to be ignored, or name two classes",
            "class-names",
            list(held),
        )
    allowed = {0, 255} if rule == "0/255" else {*range(classes), IGNORE}
    wrong = {file: sorted(set(its) - allowed) for file, its in held.items() if set(its) - allowed}
    if wrong:
        message = _strange_values(wrong, len(held), rule, classes)
        raise DataError(message, "strange-values", list(wrong))
    return rule, 2 if rule == "0/255" else classes


def choose(
    parts: dict[str, list[Named]],
    split: str,
    seed: int = 0,
    fractions: Sequence[float] = (0.7, 0.15, 0.15),
    group_by: GroupBy = None,
    count: int | None = None,
) -> tuple[list[Named], list[str]]:
    """Return the items (they have a `name`) of one split and the group of each ("" for none).

    parts: the items of each split, or all under "", which are then split by seed: whole groups
    where there are groups, else at random. The options are those of `Choice`.
    """
    if split not in SPLITS:
        raise ValueError(f"split={split!r}: choose one of {', '.join(SPLITS)}")
    if "" not in parts and split not in parts:
        raise DataError(f"there is no split {split!r} in this folder, only {', '.join(parts)}")
    items = parts.get(split) or parts[""]
    groups = np.array(groups_of(items, group_by))
    if "" in parts:
        cut = splits.grouped_split(groups, fractions, seed) if group_by else None
        cut = cut or splits.random_split(len(items), fractions, seed)
        chosen = cut[SPLITS.index(split)]
    else:
        chosen = np.arange(len(items))
    if count is not None:
        chosen = chosen[splits.sample(len(chosen), count, seed, groups[chosen])]
    return [items[i] for i in chosen], groups[chosen].tolist()


def checked_names(class_names: Sequence[str] | None) -> tuple[str, ...]:
    """Return the class names as a tuple, empty for None; refuse fewer than two and repeats."""
    if class_names is None:
        return ()
    names = (class_names,) if isinstance(class_names, str) else tuple(class_names)
    if not 2 <= len(set(names)) == len(names) <= 255:
        raise ValueError(
            f"class_names={class_names!r}: give a list of two or more different names, one per "
            'id, the background first, e.g. ["background", "bone"]'
        )
    return names


def default_names(classes: int) -> tuple[str, ...]:
    """Return names for classes that have none."""
    rest = ["foreground"] if classes == 2 else [f"class {i}" for i in range(1, classes)]
    return ("background", *rest)


def some(paths: Sequence[Path | str], show: int = 3) -> str:
    """Return the first few names, for a message."""
    names = [Path(path).name for path in paths]
    return ", ".join(names[:show]) + (", …" if len(names) > show else "")


def pictures(place: Path) -> dict[str, list[Path]]:
    """Return the picture files in a folder by stem, in order; hidden ones (`._a.jpg`) are none."""
    found: dict[str, list[Path]] = {}
    for file in sorted(place.iterdir()) if place.is_dir() else []:
        hidden = file.name.startswith(".")
        if file.suffix.lower() in SUFFIXES and file.is_file() and not hidden:
            found.setdefault(file.stem, []).append(file)
    return found


@dataclass(frozen=True)
class Match:
    """The images and masks of one folder, each by stem, and how they belong together."""

    place: Path
    images: dict[str, list[Path]]
    masks: dict[str, list[Path]]

    @property
    def items(self) -> list[Item]:
        """The pairs, by name; of twins, the first."""
        stems = [stem for stem in self.images if stem in self.masks]
        return [Item(stem, self.images[stem][0], self.masks[stem][0]) for stem in stems]

    @property
    def alone(self) -> list[Path]:
        """The images without a mask."""
        return [files[0] for stem, files in self.images.items() if stem not in self.masks]

    @property
    def surplus(self) -> list[Path]:
        """The masks without an image."""
        return [files[0] for stem, files in self.masks.items() if stem not in self.images]

    def twins(self, files: dict[str, list[Path]]) -> list[Path]:
        """Return those of `files` (images or masks) that share their stem with another."""
        return [file for same in files.values() if len(same) > 1 for file in same]


def match(place: Path) -> Match:
    """Match the files of `place/images` and `place/masks` by their stems."""
    return Match(place, pictures(place / "images"), pictures(place / "masks"))


def _pair(found: Match, faults: list[str]) -> list[Item]:
    """Return the pairs found; what has no partner, or several, is added to `faults`."""
    place, images, masks = found.place, found.images, found.masks
    for folder, files in (("images", images), ("masks", masks)):
        if not files:
            faults.append(f"{place / folder}: holds no pictures ({', '.join(sorted(SUFFIXES))})")
        if found.twins(files):
            faults.append(
                f"{place / folder}: several files with one stem ({some(found.twins(files), 4)}), "
                "so it is unclear which belongs to which: rename or remove all but one"
            )
    if images and masks:
        if found.alone:
            faults.append(
                f"{place}: {len(found.alone)} of {len(images)} images have no mask of the same "
                f"name ({some(found.alone)}): add it (all 0 if nothing is there) or move the "
                "image out"
            )
        if found.surplus:
            faults.append(
                f"{place}: {len(found.surplus)} of {len(masks)} masks have no image of the same "
                f"name ({some(found.surplus)}): rename or remove them"
            )
    return found.items


def _look(item: Item) -> tuple[int, list[int]] | str:
    """Return channels and mask values of one pair, or what is wrong with it."""
    try:
        size, channels = read.image_header(item.image)
        mask = read.mask(item.mask)
    except DataError as error:
        return str(error)
    if mask.shape != size:
        return (
            f"{item.mask}: is {mask.shape[1]}×{mask.shape[0]} pixels, its image {size[1]}×"
            f"{size[0]}: a mask must lie on its image pixel by pixel; export it again at full size"
        )
    return channels, read.values(mask)


def _check_one_rule(held: dict[str, list[int]], black_white: list[str], rule: str) -> None:
    """Refuse a mixture of 0/1 and 0/255 masks, which would pass for "255 is ignored"."""
    with_ids = [file for file, its in held.items() if set(its) - {0, 255}]
    together = any(255 in held[file] for file in with_ids)
    if rule == "ids" and black_white and with_ids and not together:
        raise DataError(
            f"{len(black_white)} masks hold 0 and 255 ({some(black_white)}), others ids "
            f'({some(with_ids)}), and none both: save all alike, or say values="ids" if 255 '
            "really marks what is to be ignored",
            "mixed-values",
            min(black_white, with_ids, key=len),
        )


def _strange_values(wrong: dict[str, list[int]], n: int, rule: str, classes: int) -> str:
    allowed = "0 and 255" if rule == "0/255" else f"the ids 0 to {classes - 1}, 255 for ignored"
    lines = [
        f"- {file}: {', '.join(map(str, its[:8]))}{', …' if len(its) > 8 else ''}"
        for file, its in list(wrong.items())[:5]
    ]
    if len(wrong) > 5:
        lines.append(f"- and {len(wrong) - 5} more")
    if any(Path(file).suffix.lower() in (".jpg", ".jpeg") for file in wrong):
        lines.append("JPEG changes values near edges: export the masks again, as PNG.")
    return "\n".join(
        [
            f"{len(wrong)} of {n} masks hold values other than {allowed}:",
            *lines,
            "If they were resized or rotated with interpolation, it mixed neighbouring ids into "
            "classes that never were: go back to the originals and use nearest.",
            "If they are ids, count them from 0 without a gap, or give class_names, one per id.",
        ]
    )


def groups_of(items: Sequence, group_by: GroupBy) -> list[str]:
    """Return the group of each item, by its `name`; "" for all without `group_by`."""
    if group_by is None:
        return [""] * len(items)
    if callable(group_by):
        return [str(group_by(item.name)) for item in items]
    try:
        pattern = re.compile(group_by)
    except re.error as error:
        raise ValueError(f"group_by={group_by!r} is no regular expression: {error}") from error
    matches = [pattern.search(item.name) for item in items]
    found = [match and match[1 if pattern.groups else 0] for match in matches]
    missed = [item.name for item, group in zip(items, found, strict=True) if group is None]
    if missed:
        raise DataError(
            f"group_by={group_by!r} is found in {len(items) - len(missed)} of {len(items)} names, "
            f"not in {some(missed)}"
        )
    return found


def _content(root: Path) -> str:
    if not root.is_dir():
        return "there is no such folder"
    names = sorted(file.name for file in root.iterdir() if not file.name.startswith("."))
    return f"it holds {some(names, 6)}" if names else "it is empty"
