"""Folders of images and masks, paired by file name.

Either `root/train/images`, `root/train/masks` and the same for `val` and `test`, or one
`root/images` and `root/masks` that is split here, by seed. `a.jpg` belongs to `a.png`, and
`cats/a.jpg`, in a folder inside, to `cats/a.png`. Other layouts are recognised, and named:

- `imgs` or `JPEGImages` for `images`; `labels`, `annotations` or `SegmentationClass` for `masks`;
- `valid` for `val`; `root/images/train` and `root/masks/train`;
- `root/train` and `root/trainannot`, as CamVid has them.
"""

import re
import shlex
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from segkit.data import read, splits
from segkit.data.cache import arrays, digests, in_threads, once
from segkit.data.dataset import IGNORE, Pair, SegmentationDataset
from segkit.data.intensity import Rule, fit, sample
from segkit.errors import ArgumentError, DataError, NoDataError, one_of
from segkit.image_ops import opened
from segkit.issues import Issue, attempt, issue, raise_errors

SPLITS = ("train", "val", "test")
SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".jfif", ".npy"}
LOSSY = ("JPEG", "MPO")  # formats
_IMAGES = ("images", "imgs", "jpegimages")  # in upper or lower case
_MASKS = ("masks", "labels", "annotations", "segmentationclass")
_SPLIT_OF = {"train": "train", "val": "val", "valid": "val", "test": "test"}
_MOST_CLASSES = 32  # more than these must be named: so many ids are rather grey values
_NEAR = 16  # grey values that JPEG moves black and white

GroupBy = str | Callable[[str], str] | None


@dataclass
class Example:
    """An image and its mask, and what reading them has shown."""

    name: str
    split: str
    image: Path
    mask: Path | None  # None where it is missing
    size: tuple[int, int] | None = None  # (H, W) of the image
    channels: int = 1  # of the image
    labels: frozenset[str] = frozenset()  # of a LabelMe file
    values: list[int] = field(default_factory=list)  # in the mask, in order
    interior_values: list[int] = field(default_factory=list)  # those not only found along edges
    lossy: bool = False  # whether the mask is a JPEG, and has changed values
    binary: bool = False  # whether most pixels of the mask are nearly 0 or 255
    sample: np.ndarray | None = None  # of its numbers, see `segkit.data.intensity`
    details: Any = None  # what the data doctor measures

    @property
    def files(self) -> list[Path]:
        """Return the files that exist."""
        return [self.image, self.mask] if self.mask else [self.image]


def open_folder(
    root: str | Path,
    split: str,
    size: int | tuple[int, int],
    *,
    channels: int | None = None,
    intensity: Rule | None = None,
    class_names: Sequence[str] | None = None,
    values: str | Mapping[int | str, str] = "auto",
    image_suffix: str = "",
    mask_suffix: str = "",
    cache: bool = True,
    **choice,
) -> SegmentationDataset:
    """Open one split ("train", "val" or "test") of a folder.

    Args:
        size: to which everything is resized, the side of a square in pixels, or `(H, W)`.
        channels: 1 or 3; None takes 1 if all images are stored grey, else 3. With an intensity,
            that of the files, or 1 or 3.
        intensity: which numbers are black and white in files of more than 8 bits or 3 channels:
            "percentile" or "dtype" of the training images, or (low, high); see
            `segkit.data.intensity.fit`. None: 8 bits.
        class_names: one per id, the background first; None counts the ids, or takes those in
            `values`.
        values: what the masks hold: "ids" (255 is ignored), "0/255" (255 is the foreground),
            "auto", decided over all masks of all splits (see `infer_label_encoding`), or a map of
            all values or colours to class names (see `value_table`).
        image_suffix: of the names of images, "_rgb" if `a_rgb.jpg` belongs to `a.png`; files
            without it are left out.
        mask_suffix: of the names of masks, in the same way.
        cache: whether to keep the resized images on disk.
        choice: seed, fractions, group_by and count, see `choose`.
    """
    size, (table, names) = read.as_size(size), value_table(values, class_names)
    deep = intensity is not None
    suffixes = image_suffix, mask_suffix
    examples, issues, layout = find_pairs(Path(root), *suffixes)
    content = digests(file for example in examples for file in example.files)

    def scan() -> list[Example]:
        looks = in_threads(lambda example: inspect(example, table, deep), examples)
        found = [one for _, more in looks for one in more]
        raise_errors(issues + found, root)
        return examples

    # What was found in these very files is kept, so that opening them again decodes nothing.
    keep = cache and all(one.severity != "error" for one in issues)
    name = [str(Path(root).absolute()), suffixes, table, deep, *content.items()]
    examples = once(name, scan) if keep else scan()
    encoding = "ids" if table else values
    encoding, classes, issues = infer_label_encoding(examples, len(names), encoding)
    raise_errors(issues, root)
    if encoding == "0/255":
        table = {0: 0, 255: 1}
    channels = channels or max(example.channels for example in examples)
    parts = by_split(examples)
    chosen, groups = choose(parts, split, **choice)
    if deep:
        whole = choice | {"count": None}  # for val and test, too
        train = choose(parts, "train", **whole)[0] if parts.keys() & {"", "train"} else []
        intensity = fit(intensity, [example.sample for example in train], channels)

    def read_pair(i: int) -> Pair:
        image = read.image(chosen[i].image, channels, size, intensity)
        return image, read.mask(chosen[i].mask, size, table)

    files = [content[file] for example in chosen for file in example.files]
    shape = size if channels == 1 else (*size, channels)
    return SegmentationDataset(
        *arrays(
            [*files, size, channels, table, intensity],
            read_pair,
            len(chosen),
            shape,
            cache,
            np.uint16 if deep else np.uint8,
        ),
        names or default_names(classes),
        [example.name for example in chosen],
        groups,
        info={"source": "folder", "root": str(root), "split": split}
        | {"values": encoding if isinstance(values, str) else dict(values)}
        | ({"folders": layout} if layout else {})
        | ({"intensity": intensity} if deep else {}),
    )


def find(root: Path, image_suffix: str = "", mask_suffix: str = "") -> dict[str, list[Example]]:
    """Return the pairs of each split in `root`, or all under "" where there are no splits."""
    examples, issues, _ = find_pairs(root, image_suffix, mask_suffix)
    raise_errors(issues, root)
    return by_split(examples)


def find_pairs(
    root: Path, image_suffix: str = "", mask_suffix: str = ""
) -> tuple[list[Example], list[Issue], str]:
    """Return an example for each image in `root`, the issues of pairing, and which folders it has.

    The last is "" for the usual ones, images/ and masks/. No file is read.

    Args:
        image_suffix, mask_suffix: see `open_folder`.

    Raises:
        NoDataError: there is no folder of images.
        DataError: several folders could be meant.
    """
    for name, suffix in (("image_suffix", image_suffix), ("mask_suffix", mask_suffix)):
        if not isinstance(suffix, str) or Path(f"a{suffix}").suffix.lower() in SUFFIXES:
            wanted = "give the end of the names before the dot, as _mask for a_mask.png"
            raise ArgumentError(f"{name}={suffix!r}: {wanted}")
    if not (places := _places(root)):
        wanted = "neither images/ and masks/ nor train/images, train/masks, val/images, …"
        raise NoDataError(f"{root.absolute()} holds {wanted}; {_content(root)}")
    examples: list[Example] = []
    issues: list[Issue] = []
    layout = []
    for split, *folders in places:
        found = [pictures(place, nested=True) for place in folders]
        images, masks = map(_without, found, (image_suffix, mask_suffix))
        pairs, advice = _best_suffixes(*found) if images.keys() != masks.keys() else (0, "")
        if pairs > len(images.keys() & masks.keys()):
            hint = f"{pairs} images pair if you {advice}"
            issues.append(issue("name-suffix", folders[1], hint))
        else:
            issues += _unpaired(folders[0], images, masks, "missing-mask")
            issues += _unpaired(folders[1], masks, images, "missing-image")
        for k, (named, suffix) in enumerate(((images, image_suffix), (masks, mask_suffix))):
            if 0 < len(named) < len(found[k]):
                without = f"{len(found[k]) - len(named)} pictures without {suffix}"
                issues.append(issue("other-files", folders[k], without))
        inside = {name.split("/")[0] for name in images if "/" in name}
        ready = not split and bool(inside & _SPLIT_OF.keys())
        loose = any("/" not in name for name in images) or inside - _SPLIT_OF.keys()
        if ready and (loose or {"val", "valid"} <= inside):
            held = f"{listed(sorted(inside))} and perhaps images"
            raise DataError(f"{folders[0]} holds {held}: keep train, val and test alone in it")
        for name, files in images.items():
            part, short = name.split("/", 1) if ready else (split, name)
            mask = masks.get(name, [None])[0]
            examples.append(Example(short, _SPLIT_OF.get(part, part), files[0], mask))
        names = [place.relative_to(root).as_posix() for place in folders]
        if inside or names != [f"{split}/{sub}".lstrip("/") for sub in ("images", "masks")]:
            within = f" with {listed(sorted(inside), 4)} inside" if inside else ""
            layout.append(f"{'/ and '.join(names)}/{within}{f' for {split}' if split else ''}")
    return examples, issues, "; ".join(layout)


def _places(root: Path) -> list[tuple[str, Path, Path]]:
    """Return split ("" for none), folder of images and folder of masks of all places in `root`."""
    found = []
    for name, split in {"": "", **_SPLIT_OF}.items():
        place, annot = root / name, root / f"{name}annot"
        if images := _subfolder(place, _IMAGES):
            found.append((split, images, _subfolder(place, _MASKS) or place / "masks"))
        elif name and place.is_dir() and annot.is_dir():
            found.append((split, place, annot))
    for (split, place, _), (other, more, _) in pairwise(found):
        if split in ("", other):
            raise _ambiguous(root, [place, more])
    return found


def _subfolder(place: Path, names: Sequence[str]) -> Path | None:
    """Return the one folder in `place` that has one of these names; if several, and pictures."""
    inside = sorted(place.iterdir()) if place.is_dir() else []
    found = [sub for sub in inside if sub.name.lower() in names and sub.is_dir()]
    full = [sub for sub in found if pictures(sub, nested=True)] if len(found) > 1 else found
    if len(full) > 1:
        raise _ambiguous(place, full)
    return (full or found or [None])[0]


def _ambiguous(root: Path, places: Sequence[Path]) -> DataError:
    both = " and ".join(f"{place.relative_to(root).as_posix()}/" for place in places)
    return DataError(f"{root} holds {both}: move out what is not meant")


def _without(files: dict[str, list[Path]], suffix: str) -> dict[str, list[Path]]:
    """Return files by their names without `suffix`, less those that lack it."""
    return {n.removesuffix(suffix): same for n, same in files.items() if n.endswith(suffix)}


def _best_suffixes(images: dict[str, list], masks: dict[str, list]) -> tuple[int, str]:
    """Return how many names pair with the suffixes that pair most, and how to choose these."""

    def endings(names: Iterable[str]) -> list[str]:
        found = Counter(
            name[match.start() :]
            for name in names
            for match in re.finditer(r"[_ .-](?=[^/]*[^\W\d_][^/]*$)", name)
        )
        return ["", *(ending for ending, _ in found.most_common(5))]

    tried = [
        (len(_without(images, a).keys() & _without(masks, b).keys()), -len(a + b), a, b)
        for a in endings(images)
        for b in endings(masks)
    ]
    pairs, _, image, mask = max(tried)
    options = [("--image-suffix", image), ("--mask-suffix", mask)]
    add = " ".join(f"{option} {shlex.quote(suffix)}" for option, suffix in options if suffix)
    return pairs, f"add {add}" if add else "leave out the suffix"


def _unpaired(
    place: Path, files: dict[str, list[Path]], others: dict[str, list[Path]], code: str
) -> list[Issue]:
    """Return the issues of the files in a folder, images or masks, that have no partner or two."""
    issues = [] if files else [issue("no-pictures", place, _content(place))]
    alike = {name.casefold(): same[0] for name, same in others.items()}
    for name, same in files.items():
        issues += [issue("same-stem", file) for file in same if len(same) > 1]
        if others and name not in others:
            near = alike.get(name.casefold())
            hint = f"{near.parent.name}/{near.name} differs in case: rename one" if near else ""
            issues.append(issue(code, same[0], hint))
    return issues


def by_split(examples: Iterable[Example]) -> dict[str, list[Example]]:
    """Return the examples of each split."""
    parts: dict[str, list[Example]] = {}
    for example in examples:
        parts.setdefault(example.split, []).append(example)
    return parts


def pictures(place: Path, nested: bool = False) -> dict[str, list[Path]]:
    """Return the picture files in a folder by stem, in order; hidden ones (`._a.jpg`) are none.

    nested: whether those in folders inside are found too, by "folder/stem".
    """
    found: dict[str, list[Path]] = {}
    for file in sorted(place.glob("**/*" if nested else "*")):
        path = file.relative_to(place)
        hidden = any(part.startswith(".") for part in path.parts)
        if file.suffix.lower() in SUFFIXES and file.is_file() and not hidden:
            # A Mac writes names in another Unicode form (NFD) than most others do (NFC).
            name = unicodedata.normalize("NFC", path.with_suffix("").as_posix())
            found.setdefault(name, []).append(file)
    return found


def inspect(
    example: Example, table: read.Table | None = None, deep: bool = False
) -> tuple[np.ndarray | None, list[Issue]]:
    """Fill an example's fields; return its mask, None if it cannot be read, and the issues.

    table: see `segkit.data.read.mask`. deep: whether images may hold any numbers and channels.
    """
    issues: list[Issue] = []
    if deep:
        stored = attempt(issues, read.stored, example.image)
        header = None if stored is None else (stored.shape[:2], stored.shape[2])
        example.sample = None if stored is None else sample(stored)
    else:
        header = attempt(issues, read.image_header, example.image)
    if header:
        example.size, example.channels = header
    mask = attempt(issues, read.mask, example.mask, None, table) if example.mask else None
    if mask is not None:
        describe_mask(example, mask)
        with opened(example.mask) as picture:
            example.lossy = picture.format in LOSSY and len(example.values) > 2 and not table
        if header and mask.shape != example.size:
            sizes = "{1}×{0}, image {3}×{2}".format(*mask.shape, *example.size)
            issues.append(issue("size-mismatch", example.mask, sizes))
    return mask, issues


def describe_mask(example: Example, mask: np.ndarray) -> None:
    """Write into `example` which values its mask holds, and where."""
    counts = np.bincount(mask.ravel(), minlength=256)
    example.values = example.interior_values = np.flatnonzero(counts).tolist()
    if len(example.values) > 2:  # interpolation may have smeared an edge across 7 pixels
        near = np.bincount(mask[between(mask, mask, 7)], minlength=256)
        example.interior_values = [v for v in example.values if near[v] < 0.8 * counts[v]]
    dark, light = counts[: _NEAR + 1].sum(), counts[255 - _NEAR :].sum()
    example.binary = bool(dark + light >= mask.size / 2)


def between(low: np.ndarray, high: np.ndarray, width: int) -> np.ndarray:
    """Return which pixels have a lower one of `low` and a higher one of `high` within `width`."""
    import cv2

    window = np.ones((width, width), np.uint8)
    return (cv2.erode(low, window) < low) & (low < cv2.dilate(high, window))


def infer_label_encoding(
    examples: Sequence[Example], named: int = 0, values: str = "auto"
) -> tuple[str | None, int, list[Issue]]:
    """Return what the values of all masks mean, the number of classes, and the issues.

    If they hold only 0 and 255, 255 is the foreground, "0/255"; else they are "ids" and 255 is
    ignored; None where they fit neither. One mask without a foreground shows nothing.

    Args:
        named: how many classes the user has named, 0 if unknown.
        values: "auto", or the encoding.
    """
    one_of("encoding (values)", values, ("auto", "ids", "0/255"))
    lossy = [e for e in examples if e.lossy]
    clean = [e for e in examples if e.values and not e.lossy]
    issues = [issue("lossy-mask", e.mask) for e in lossy]
    white = any(e.values[-1] >= 255 - _NEAR for e in lossy) and all(e.binary for e in lossy)
    if white and not clean and values != "ids" and named in (0, 2):
        return "0/255", 2, issues
    for field_name in ("values", "interior_values"):  # perhaps smeared edges are the only problem
        held = {e.mask: set(getattr(e, field_name)) for e in clean}
        encoding, classes, code, files = _encoding(held, named, values)
        if not code:
            break
    if code:
        wrong = [e for e in clean if e.mask in files]
        found = [issue(code, e.mask, f"holds {listed(e.values)}") for e in wrong]
        return None, named, issues + found
    for e in clean:
        if surplus := sorted(set(e.values) - _allowed(encoding, classes)):
            issues.append(issue("interpolated", e.mask, f"also {listed(surplus)}"))
    return encoding, classes, issues


def _encoding(
    held: dict[Path, set[int]], named: int, values: str
) -> tuple[str, int, str, list[Path]]:
    """Return encoding and number of classes, the code of an issue, and the masks that have it."""
    seen = set().union(*held.values())
    gap = next(k for k in range(257) if k not in seen)
    encoding, classes = values, named or min(max(gap, 2), _MOST_CLASSES)
    if values == "auto":
        black_white = [file for file, found in held.items() if 255 in found and found <= {0, 255}]
        with_ids = [file for file, found in held.items() if found - {0, 255}]
        mostly = len(black_white) > len(held) / 2 and seen - _allowed("ids", classes)
        encoding = "0/255" if 255 in seen and (not with_ids or mostly) else "ids"
        together = any(255 in held[file] for file in with_ids)
        if encoding == "ids" and black_white and with_ids and not together:
            return encoding, classes, "mixed-values", min(black_white, with_ids, key=len)
    if encoding == "0/255":
        if named not in (0, 2):
            return encoding, classes, "class-names", list(held)
        classes = 2
    wrong = [file for file, found in held.items() if found - _allowed(encoding, classes)]
    if not wrong:
        return encoding, classes, "", []
    ids = seen - {IGNORE}
    if 3 in ids and ids <= {1, 2, 3}:
        code = "trimap"
    elif not named and ids == {*range(1, len(ids) + 1)}:
        code = "ids-from-one"
    else:
        code = "unknown-ids" if named or max(ids) >= _MOST_CLASSES else "id-gap"
    return encoding, classes, code, wrong


def _allowed(encoding: str, classes: int) -> set[int]:
    return {0, 255} if encoding == "0/255" else {*range(classes), IGNORE}


def choose(
    parts: dict[str, list],
    split: str,
    seed: int = 0,
    fractions: Sequence[float] = (0.7, 0.15, 0.15),
    group_by: GroupBy = None,
    count: int | None = None,
) -> tuple[list, list[str]]:
    """Return the items of one split and the group of each ("" for none).

    Args:
        parts: the items (they have a `name`) of each split, or all under "", which are then split
            by `seed`: whole groups where there are groups, else at random.
        fractions: of train, val and test.
        group_by: what is not split apart: a function of a file's stem, or a regular expression,
            whose first group or whole match it is.
        count: a choice, by `seed`, of so many of the split; None takes all.
    """
    one_of("split", split, SPLITS)
    if "" not in parts and split not in parts:
        raise DataError(f"there is no split {split!r} in this folder, only {', '.join(parts)}")
    items = parts.get(split) or parts[""]
    groups = np.array(groups_of(items, group_by))
    chosen = np.arange(len(items))
    if "" in parts and group_by:
        chosen = splits.grouped_split(groups, fractions, seed)[SPLITS.index(split)]
    elif "" in parts:
        chosen = splits.random_split(len(items), fractions, seed)[SPLITS.index(split)]
    if count is not None:
        chosen = chosen[splits.sample(len(chosen), count, seed, groups[chosen])]
    return [items[i] for i in chosen], groups[chosen].tolist()


def groups_of(items: Sequence, group_by: GroupBy) -> list[str]:
    """Return the group of each item, by its `name`; "" for all without `group_by`."""
    if group_by is None:
        return [""] * len(items)
    if callable(group_by):
        return [str(group_by(item.name)) for item in items]
    try:
        pattern = re.compile(group_by)
    except (re.error, TypeError) as error:
        raise ArgumentError(f"group_by={group_by!r} is no regular expression: {error}") from error
    matches = [pattern.search(item.name) for item in items]
    found = [match and match[min(pattern.groups, 1)] for match in matches]
    missed = [item.name for item, group in zip(items, found, strict=True) if group is None]
    if missed:
        share = f"{len(items) - len(missed)} of {len(items)} names, not in {listed(missed, 3)}"
        raise DataError(f"group_by={group_by!r} is found in {share}")
    return found


def shared_stems(names: Iterable[str]) -> dict[str, list[str]]:
    """Return names by what stands before their number: perhaps slices of one patient.

    Empty unless all names are like patient00_slice001, and most share that part with others.
    """
    found: dict[str, list[str]] = {}
    for name in names:
        match = re.fullmatch(r"(.+)[_ .-][A-Za-z]*\d+", name)
        found.setdefault(match[1] if match else "", []).append(name)
    alone = sum(len(members) == 1 for members in found.values())
    return {} if "" in found or len(found) < 2 or 2 * alone > len(found) else found


def checked_names(class_names: Sequence[str] | None) -> tuple[str, ...]:
    """Return the class names as a tuple, empty for None; refuse fewer than two and repeats."""
    if class_names is None:
        return ()
    names = tuple(class_names) if isinstance(class_names, (list, tuple)) else (class_names,)
    texts = all(isinstance(name, str) and name for name in names)  # YAML reads no as False
    if not texts or not 2 <= len(set(names)) == len(names) <= 255:
        wanted = "give a list of two or more different names, one per id, the background first"
        raise ArgumentError(f"class_names={class_names!r}: {wanted}")
    return names


def value_table(
    values: str | Mapping[int | str, str], class_names: Sequence[str] | None = None
) -> tuple[read.Table | None, tuple[str, ...]]:
    """Return the id of each value in a map of values to class names, and the class names.

    The table is None where `values` is no map.

    Args:
        values: class names, or "ignore", by grey values or palette indices, 0 to 255, or all by
            colours, "#rrggbb". What a mask holds beyond them is refused.
        class_names: one per id; None takes those in `values` in order, but "background" first.
    """
    if isinstance(values, str):
        return None, checked_names(class_names)
    wanted = 'name a class, or ignore, for values of 0 to 255, or for colours as "#ff0000"'
    labels: dict[int | read.Colour, str] = {}
    for key, label in values.items() if isinstance(values, Mapping) else ():
        value, text = None, str(key)
        if re.fullmatch("#[0-9a-fA-F]{6}", text):
            value = tuple(bytes.fromhex(text[1:]))
        elif re.fullmatch("[0-9]{1,3}", text) and int(text) < 256:
            value = int(text)
        if value is None or value in labels or not isinstance(label, str) or not label:
            raise ArgumentError(f"values: {key!r} as {label!r} cannot be: {wanted}, each once")
        labels[value] = label
    if len({type(value) for value in labels}) != 1:
        raise ArgumentError(f"values: {values!r} is no map of values or of colours: {wanted}")
    found = sorted(dict.fromkeys(labels.values()), key=lambda label: label != "background")
    names = checked_names(class_names or [label for label in found if label != "ignore"])
    ids = {name: i for i, name in enumerate(names)} | {"ignore": IGNORE}
    return {value: ids[one_of("class", label, ids)] for value, label in labels.items()}, names


def default_names(classes: int) -> tuple[str, ...]:
    """Return names for classes that have none."""
    rest = ["foreground"] if classes == 2 else [f"class {i}" for i in range(1, classes)]
    return ("background", *rest)


def listed(values: Sequence, show: int = 8) -> str:
    """Return the first few values, for a message."""
    return ", ".join(map(str, values[:show])) + (", …" if len(values) > show else "")


def _content(root: Path) -> str:
    if not root.is_dir():
        beside = root.parent.iterdir() if root.parent.is_dir() else ()
        folders = sorted(f"{place.name}/" for place in beside if place.is_dir())
        others = f", but {listed(folders)}" if folders and root.name in ("images", "masks") else ""
        return f"there is no such folder{others}"
    names = sorted(file.name for file in root.iterdir() if not file.name.startswith("."))
    return f"it holds {listed(names, 6)}" if names else "it is empty"
