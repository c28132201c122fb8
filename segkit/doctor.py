"""The data doctor: what is wrong with a folder of images and masks, before a network learns it.

`check` reads the files as the loader does, and looks at what only shows in all of them together.
`fix` writes a corrected copy of what can be corrected without guessing.
"""

import io
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

from segkit import image_ops
from segkit.data import annotations, folder, labelme, read
from segkit.data.cache import in_threads
from segkit.data.dataset import IGNORE, Pair, digest
from segkit.data.folder import Example, GroupBy, listed
from segkit.data.intensity import PERCENTILES, Rule, describe, fit, sample
from segkit.data.pets import FOLDER, from_trimap, trimap_classes
from segkit.data.read import Table
from segkit.data.shapes import draw
from segkit.errors import DataError
from segkit.files import atomic_folder, text_table, write_text
from segkit.issues import Issue, attempt, grouped, issue
from segkit.page import picture, render

__all__ = ["Fix", "Report", "check", "fix"]

_SHOWN = 6  # thumbnails and details of an issue
_MOST_COLOURS = 32  # of masks whose colours can be numbered

_Colour = tuple[int, ...]
_Fixed = tuple[np.ndarray | None, str]  # a mask, None if it stays as it is, and what was done


@dataclass
class _Details:
    """What the doctor measures of an example."""

    group: str = ""  # by group_by
    mode: str = ""  # how the image's file stores a pixel
    digest: str = ""  # of the image's pixels
    phash: np.ndarray | None = None  # perceptual hash, bool (256,)
    thumbnail: np.ndarray | None = None  # normalised, float (1024,)
    counts: np.ndarray | None = None  # pixels of each mask value, int (256,)
    skipped_steps: float = np.nan  # see `_steps`
    strip_pixels: int = 0
    palette: dict[int, _Colour] = field(default_factory=dict)  # the colours of a mask's values


@dataclass
class Report:
    """What `check` found in `folder`: the issues, the worst first, and statistics of the data.

    statistics: "folders" if they are not the usual ones, "pairs" per split, "sizes" and "modes"
    with their number of images, "values" (how the masks are read: "ids", "0/255" or "trimap", None
    if unclear) and "classes", each with its "id", "name", "share" of all pixels and "images".
    """

    folder: Path
    layout: str  # "folder", "oxford-pet" or "labelme"
    examples: list[Example] = field(repr=False)
    read: Callable[[Example, list[Issue]], tuple] = field(repr=False)
    statistics: dict[str, Any]
    issues: list[Issue] = field(default_factory=list)  # their files are relative to the folder
    table: Table | None = None  # the id of each value, if `check` was given a map

    @property
    def ok(self) -> bool:
        """Whether there is no error."""
        return all(one.severity != "error" for one in self.issues)

    @property
    def verdict(self) -> str:
        """One line: how many issues of each severity."""
        number = Counter(one.severity for one in self.issues)  # the worst come first
        counts = [f"{n} {severity}{'s' * (n > 1)}" for severity, n in number.items()]
        pairs = sum(self.statistics["pairs"].values())
        return f"{pairs} pairs: {', '.join(counts) or 'nothing to complain about'}"

    @cached_property
    def palette(self) -> dict[int, _Colour]:
        """The colour that most masks with a palette give to each id."""
        votes: dict[int, Counter] = {}
        for e in self.examples:
            for value, colour in e.details.palette.items():
                votes.setdefault(value, Counter())[colour] += 1
        return {value: counter.most_common(1)[0][0] for value, counter in votes.items()}

    @cached_property
    def colour_ids(self) -> dict[_Colour, int]:
        """The id of each colour of coloured masks: by the usual palette or, without one, counted.

        Black is the background; empty where there is none, or more than a few colours in all.
        """
        if self.palette or any(set(e.values) - {0} for e in self.examples):
            return {colour: value for value, colour in self.palette.items()}
        colours = {(0, 0, 0)} if any(e.values for e in self.examples) else set()
        for one in self.issues:
            for file in one.files if one.code == "mask-colours" else ():
                colours |= set(_colours(self.folder / file))
        clear = len(colours) <= _MOST_COLOURS and (0, 0, 0) in colours
        return {colour: i for i, colour in enumerate(sorted(colours))} if clear else {}

    def relative(self, file: str | Path) -> str:
        """Return a file's path below the folder, with forward slashes."""
        return Path(file).relative_to(self.folder).as_posix()

    def to_dict(self) -> dict[str, Any]:
        """Return the report as values that JSON can hold."""
        names = ("code", "severity", "what", "remedy", "files", "details", "fixable")
        issues = [{name: getattr(one, name) for name in names} for one in self.issues]
        about = {"folder": str(self.folder), "layout": self.layout, "ok": self.ok}
        return about | {"issues": issues, "statistics": self.statistics}

    def print(self, files: int = 3) -> None:
        """Print the report; at most `files` files of each issue are named."""
        print(f"{self.folder} ({self.layout}): {self.verdict}\n")
        for one in self.issues:
            fix = " (--fix corrects a copy, where that is clear)" if one.fixable else ""
            print(f"{one.severity} {one.code}: {one.what}\n  What to do: {one.remedy}{fix}")
            print(*(f"  - {place}" for place in one.places(files)), "", sep="\n")
        print(text_table(("data", ""), self._statistics(), left=2))

    def write_html(self, path: str | Path) -> None:
        """Write the report as one page that needs no other file, with thumbnails."""
        of = {self.relative(file): e for e in self.examples for file in e.files}
        sections = []
        for one in self.issues:
            examples = {id(of[file]): of[file] for file in one.files[:_SHOWN] if file in of}
            sections.append((one, one.places(_SHOWN), [*map(self._thumbnail, examples.values())]))
        samples = self.examples[:: max(1, len(self.examples) // _SHOWN)][:_SHOWN]
        values = {"report": self, "sections": sections, "statistics": self._statistics()}
        values |= {"samples": [*map(self._thumbnail, samples)], "title": f"Data: {self.verdict}"}
        write_text(path, render("doctor.html", **values))

    def _statistics(self) -> list[tuple[str, str]]:
        lines = [("folders", found)] if (found := self.statistics.get("folders")) else []
        for name in ("pairs", "sizes", "modes"):
            most = Counter(self.statistics[name]).most_common()
            lines.append((name, listed([f"{what} {number}".strip() for what, number in most], 6)))
        lines.append(("mask values", self.statistics["values"] or "unclear"))
        for c in self.statistics["classes"]:
            share = f"{100 * c['share']:.2f} % of all pixels, in {c['images']} images"
            lines.append((f"class {c['id']}, {c['name']}", share))
        for k, c in enumerate(self.statistics["intensity"]):
            text = (
                "{lowest:g} ({share_lowest:.1%} of pixels) to {highest:g} ({share_highest:.1%}); "
            )
            text += "0.1 % below {percentile_0_1:g}, 0.1 % above {percentile_99_9:g}"
            lines.append((f"channel {k}", text.format_map(c)))
        return lines

    def _thumbnail(self, example: Example) -> dict | None:
        """Return the example's name, and a picture of the image and the mask over it."""
        from segkit import plot  # matplotlib is slow to import, and only a page needs it

        image, mask = self.read(example, [])
        image = attempt([], _rgb, example.image) if image is None else image_ops.rgb(image)
        if image is None:
            return None
        panels = [image]
        if mask is not None:
            mask = read.resize_mask(mask, image.shape[:2])
            mask[mask == IGNORE] = IGNORE if set(np.unique(mask)) - {0, IGNORE} else 1
            panels.append(image_ops.overlay(image, mask))
        strip, content = plot.strip(panels, 150), io.BytesIO()
        strip.save(content, "JPEG", quality=85)
        name = f"{example.split}/{example.name}".strip("/")
        alt = f"{name}: image, and its mask over it"
        return {"name": name, "picture": picture(content.getvalue(), "jpeg", alt, strip.width)}


def check(
    root: str | Path,
    *,
    class_names: Sequence[str] | None = None,
    values: str | Mapping[int | str, str] = "auto",
    group_by: GroupBy = None,
    image_suffix: str = "",
    mask_suffix: str = "",
    intensity: Rule | None = None,
) -> Report:
    """Look at every file in a folder and report what is wrong. Nothing is changed.

    Args:
        root: images and masks (see `segkit.data.folder`), Oxford-IIIT Pet, or LabelMe files.
        class_names, values, group_by, image_suffix, mask_suffix, intensity: as for
            `segkit.data.folder.open_folder`.

    Raises:
        NoDataError: there is none of these layouts.
    """
    table, names = folder.value_table(values, class_names)
    deep = intensity is not None
    source = _source(Path(root), names, (image_suffix, mask_suffix), table, deep)
    layout, folders, root, examples, issues, names, reader = source

    def look(example: Example) -> list[Issue]:
        found: list[Issue] = []
        image, mask = reader(example, found)
        example.details = _measure(example, image, mask, found, deep)
        if table:
            example.details.palette = {}  # it has the colours of values, not of ids
        return found

    looks, n = in_threads(look, examples), len(examples)
    for found in tqdm(looks, "checking", n, leave=False, disable=None, delay=2):
        issues += found
    for e, group in zip(examples, folder.groups_of(examples, group_by), strict=True):
        e.details.group = group
    encoding = "trimap" if layout == "oxford-pet" else "ids"
    if layout == "folder":
        encoding = "ids" if table else values
        encoding, classes, found = folder.infer_label_encoding(examples, len(names), encoding)
        issues += found
        names = names or (folder.default_names(classes) if encoding else ())
    statistics = {"folders": folders} if folders else {}
    statistics |= {
        "pairs": dict(Counter(e.split for e in examples if e.mask)),
        "sizes": dict(Counter(f"{e.size[1]}×{e.size[0]}" for e in examples if e.details.digest)),
        "modes": dict(Counter(e.details.mode for e in examples if e.details.mode)),
        "values": encoding,
        "classes": _classes(examples, encoding, names),
        "intensity": describe([e.sample for e in examples if e.sample is not None]),
    }
    if deep:
        issues += _deep(examples, intensity)
    report = Report(root, layout, examples, reader, statistics, table=table)
    for find in (_palettes, _strips, _balance, _duplicates, _groups, _modes, _others):
        issues += find(report)
    for one in grouped(issues):
        clear = encoding == "0/255" or one.code not in ("interpolated", "lossy-mask")
        fixable = layout == "folder" and one.code in _FIXABLE and clear
        files = tuple(map(report.relative, one.files))
        report.issues.append(replace(one, files=files, fixable=fixable))
    return report


def _source(
    root: Path, names: tuple[str, ...], suffixes: tuple[str, str], table: Table | None, deep: bool
) -> tuple:
    """Return layout, folders in it, root, examples, issues, class names, and a reader of examples.

    The reader returns image and mask as the loader has them, None where refused, and why it notes.
    """
    for place in (root, root / FOLDER):
        if (place / "annotations" / "trimaps").is_dir():
            return "oxford-pet", "", place, *_find_pets(place), trimap_classes("class"), _read_pet
    if not labelme.is_labelme(root):
        examples, issues, folders = folder.find_pairs(root, *suffixes)
        reader = partial(_read_files, table=table, deep=deep)
        return "folder", folders, root, examples, issues, names, reader
    examples, issues = annotations.find("labelme", root)
    ids = None
    if examples or not issues:  # else what is wrong with the files is all there is to report
        ids, names = attempt(issues, annotations.label_ids, examples, names) or (None, names)

    def read_annotated(example: Example, issues: list[Issue]) -> tuple:
        found = ids and attempt(issues, annotations.read_annotated, "labelme", example)
        if not found:
            return None, None
        mask = draw(found[1], ids, *found[0].shape[:2])
        folder.describe_mask(example, mask)
        return found[0], mask

    return "labelme", "", root, examples, issues, names, read_annotated


def _read_files(example: Example, issues: list[Issue], table: Table | None, deep: bool) -> tuple:
    mask, found = folder.inspect(example, table, deep)
    issues += found
    if not example.size:
        return None, mask
    if not deep:
        return attempt(issues, read.image, example.image), mask
    stored = read.stored(example.image)
    low, high = np.percentile(example.sample, PERCENTILES, axis=0)
    ends = np.stack([low, np.where(high > low, high, low + 1)], axis=1)
    shown = attempt(issues, image_ops.rescale, stored, ends, example.image)
    return None if shown is None else image_ops.rgb(shown), mask


def _deep(examples: Sequence[Example], intensity: Rule) -> list[Issue]:
    """Return the issues of images with any numbers: types that differ, a rule that fits none."""
    modes = {e.image: e.details.mode for e in examples if e.sample is not None}
    if not modes:
        return []
    usual = Counter(modes.values()).most_common(1)[0][0]
    if others := [issue("mixed-types", file, m) for file, m in modes.items() if m != usual]:
        return others
    samples = [e.sample for e in examples if e.sample is not None]
    try:
        fit(intensity, samples, samples[0].shape[1])
    except DataError as error:
        return [issue("intensity", next(iter(modes)).parent, str(error))]
    return []


def _read_pet(example: Example, issues: list[Issue]) -> tuple:
    image = attempt(issues, _rgb, example.image)  # as torchvision reads it
    mask = attempt(issues, read.mask, example.mask)
    example.size = None if image is None else image.shape[:2]
    if image is not None and mask is not None and mask.shape != example.size:
        issues.append(issue("size-mismatch", example.mask))
    try:
        mask = None if mask is None else from_trimap(mask, "class")
    except DataError as error:
        issues.append(issue("unknown-ids", example.mask, str(error)))
        return image, None
    if mask is not None:
        folder.describe_mask(example, mask)
    return image, mask


def _find_pets(root: Path) -> tuple[list[Example], list[Issue]]:
    """Return the examples of the official lists, and the files that are missing."""
    from torchvision.datasets import OxfordIIITPet

    examples, issues = [], []
    for split in ("trainval", "test"):
        try:
            official = OxfordIIITPet(root.parent, split, "segmentation")
        except (OSError, RuntimeError, ValueError) as error:
            what = f"{root} is not a complete Oxford-IIIT Pet ({error})"
            raise DataError(f"{what}: get its files again") from error
        for image, mask in zip(official._images, official._segs, strict=True):
            if not image.is_file():
                issues.append(issue("missing-image", mask))
            elif not mask.is_file():
                issues.append(issue("missing-mask", image))
            else:
                examples.append(Example(image.stem, split, image, mask))
    return examples, issues


def _measure(
    example: Example,
    image: np.ndarray | None,
    mask: np.ndarray | None,
    issues: list[Issue],
    deep: bool,
) -> _Details:
    """Return the details of an example; what is unusual about its files goes to `issues`."""
    import imagehash

    details = _Details()
    if image is not None:
        details.digest = digest(image)
        if example.sample is None:
            example.sample = sample(np.atleast_3d(image))
        grey = Image.fromarray(image).convert("L")
        details.phash = imagehash.phash(grey, 16).hash.ravel()
        small = np.asarray(grey.resize((32, 32), Image.Resampling.BOX), dtype=np.float32).ravel()
        small = small - small.mean()
        norm = np.linalg.norm(small)
        details.thumbnail = small / norm if norm > 1 else small * 0
    if mask is not None:
        details.counts = np.bincount(mask.ravel(), minlength=256)
        details.skipped_steps, details.strip_pixels = _steps(mask)
    for file, content in ((example.image, image), (example.mask, mask)):
        if content is None or file.suffix == ".json":
            details.mode = details.mode or ("in JSON" if content is not None else "")
            continue
        if deep and file == example.image:
            details.mode = f"{example.sample.dtype} × {example.channels}"
            continue
        with image_ops.opened(file) as stored:
            named = Image.registered_extensions().get(file.suffix.lower())
            if stored.format != named and not {stored.format, named} <= set(folder.LOSSY):
                issues.append(issue("wrong-suffix", file, f"is {stored.format}, {stored.mode}"))
            if file == example.image:
                details.mode = stored.mode
            elif stored.mode == "P":
                colours = dict(enumerate(zip(*[iter(stored.getpalette())] * 3, strict=False)))
                details.palette = {v: colours[v] for v in example.values if v in colours}
    return details


def _steps(mask: np.ndarray) -> tuple[float, int]:
    """Return the share of steps between ids that skip one, and pixels near lower and higher ids.

    The share is NaN where no id is larger than 1 or no two ids meet.
    """
    ids = np.where(mask == IGNORE, 0, mask)
    if ids.max() < 2:
        return np.nan, 0
    known = np.where(mask == IGNORE, np.nan, mask)  # a step to a NaN is one, and is none
    steps = np.abs(np.concatenate([np.diff(known, axis=axis).ravel() for axis in (0, 1)]))
    steps = steps[steps > 0]
    share = float((steps > 1).mean()) if steps.size else np.nan
    return share, int(folder.between(mask, ids, 5).sum())


def _classes(examples: list[Example], encoding: str | None, names: Sequence[str]) -> list[dict]:
    """Return for each class its id, name, share of the pixels that are not ignored, and images."""
    counts = [e.details.counts for e in examples if e.details.counts is not None]
    counts = np.array(counts or [[0] * 256])
    if encoding == "0/255":
        counts = np.stack([counts[:, :128].sum(axis=1), counts[:, 128:].sum(axis=1)], axis=1)
    else:
        counts = counts[:, : max(len(names), 1)]
    share = counts.sum(axis=0) / max(counts.sum(), 1)
    return [
        {"id": i, "name": name, "share": float(share[i]), "images": int((counts[:, i] > 0).sum())}
        for i, name in enumerate(names)
    ]


def _palettes(report: Report) -> list[Issue]:
    """Find masks whose palette gives an id another colour than most do, or shows 0 as bright."""
    bright = [
        issue("bright-background", e.mask, f"id 0 is shown as {e.details.palette[0]}")
        for e in report.examples
        if min(e.details.palette.get(0, (0, 0, 0))) > 127
    ]
    return bright + [
        issue("palette-differs", e.mask, f"id {listed(different)}")
        for e in report.examples
        if (different := [v for v, c in e.details.palette.items() if report.palette[v] != c])
    ]


def _strips(report: Report) -> list[Issue]:
    """Find masks where hardly an edge skips an id, as interpolation has it, and others do."""
    known = {*range(len(report.statistics["classes"])), IGNORE}
    clean = [e for e in report.examples if e.values and not e.lossy and set(e.values) <= known]
    shares = [e.details.skipped_steps for e in clean if not np.isnan(e.details.skipped_steps)]
    usual = np.median(shares) if shares else 0
    if report.layout != "folder" or report.statistics["values"] != "ids" or usual <= 0.1:
        return []
    text = "{:.0%} of the steps at its edges leave out an id, usual are {:.0%}"
    return [
        issue("thin-strips", e.mask, text.format(e.details.skipped_steps, usual))
        for e in clean
        if e.details.skipped_steps < 0.05 and e.details.strip_pixels >= 16
    ]


def _balance(report: Report) -> list[Issue]:
    """Find classes that are rare, absent or not in every split, and masks without foreground."""
    readable = [e for e in report.examples if e.values]
    white = report.statistics["values"] == "0/255"
    if not report.statistics["values"]:
        return []
    empty = [e.mask for e in readable if set(e.values) <= ({0} if white else {0, IGNORE})]
    if readable and len(empty) == len([e for e in report.examples if e.mask]):
        return [issue("no-foreground", report.folder)]
    issues = [issue("empty-mask", file) for file in empty]
    if len(report.statistics["classes"]) == 2 and report.statistics["classes"][1]["share"] > 0.75:
        share = f"{report.statistics['classes'][1]['share']:.0%} of all pixels"
        issues.append(issue("no-background", report.folder, share))
    clean = [e for e in readable if not e.lossy and 255 in e.values]
    issues += [issue("black-white", e.mask) for e in clean if white]
    for c in report.statistics["classes"][1:] if len(empty) < len(readable) else []:
        text = f"{c['name']}: {100 * c['share']:.2g} % of the pixels, in {c['images']} images"
        if c["images"] == 0:
            issues.append(issue("absent-class", report.folder, c["name"]))
        elif c["share"] < 0.001 or c["images"] < min(3, len(readable)):
            issues.append(issue("rare-class", report.folder, text))
        else:
            have = [e for e in readable if (e.values[-1] > 127 if white else c["id"] in e.values)]
            without = {e.split for e in readable} - {e.split for e in have}
            issues += [issue("class-not-in-split", report.folder / p, c["name"]) for p in without]
    return issues


def _duplicates(report: Report) -> list[Issue]:
    """Find images that are the same, or nearly so in several splits; in a group they may be."""
    seen = [e for e in report.examples if e.details.phash is not None]
    if len(seen) < 2:
        return []
    hashes = np.array([e.details.phash for e in seen], dtype=np.float32)
    thumbnails = np.array([e.details.thumbnail for e in seen])
    _, content = np.unique([e.details.digest for e in seen], return_inverse=True)
    part = np.array([e.split for e in seen])
    groups = np.array([e.details.group or f"/{i}" for i, e in enumerate(seen)])
    ones = hashes.sum(axis=1)
    issues: dict[tuple[str, Path], Issue] = {}
    for i, e in enumerate(seen):  # row by row: for many images the whole table would not fit
        near = ones[i] + ones - 2 * hashes @ hashes[i] <= 40  # bits of 256 that differ
        near &= thumbnails @ thumbnails[i] >= 0.9  # correlation
        same, elsewhere = content == content[i], part != part[i]
        unsplit = e.split in ("", "trainval")
        counts = (same | near & (elsewhere | unsplit)) & (elsewhere | (groups != groups[i]))
        for j in np.flatnonzero(counts):
            code = ("leak-" if elsewhere[j] else "") + (
                "duplicate" if same[j] else "near-duplicate"
            )
            other = f"as {seen[j].split}/{seen[j].name}".replace("as /", "as ")
            issues.setdefault((code, e.image), issue(code, e.image, other))
    return list(issues.values())


def _groups(report: Report) -> list[Issue]:
    """Find groups that are in several splits; without groups, names that look like some."""
    homes: dict[str, set[str]] = {}
    for e in report.examples:
        homes.setdefault(e.details.group, set()).add(e.split)
    if homes.keys() - {""}:
        return [
            issue("leak-group", e.image, f"group {e.details.group}")
            for e in report.examples
            if e.details.group and len(homes[e.details.group]) > 1
        ]
    stems, found = folder.shared_stems(e.name for e in report.examples), []
    parts = {e.name: e.split for e in report.examples}
    for stem, members in stems.items() if report.layout != "oxford-pet" else ():
        places = {parts[name] for name in members}
        if len(members) > 1 and (len(places) > 1 or "" in places):
            found.append(issue("shared-stems", report.folder, f"{stem}: {len(members)} images"))
    return found


def _modes(report: Report) -> list[Issue]:
    """Find images stored in unusual ways, and grey ones among coloured ones."""
    modes = {e.image: e.details.mode for e in report.examples if e.details.mode}
    grey = [file for file, mode in modes.items() if mode in ("1", "L", "LA")]
    usual = ("L", "RGB", "in JSON")
    unusual = [file for file, mode in modes.items() if mode not in usual and "×" not in mode]
    issues = [issue("mode", file, modes[file]) for file in unusual]
    if 0 < len(grey) < len(modes):
        issues += [issue("mixed-channels", file) for file in grey]
    return issues


def _others(report: Report) -> list[Issue]:
    """Find files among images and masks that are not looked at."""
    places = {file.parent for e in report.examples for file in e.files if file.parent.is_dir()}
    found = []
    for place in sorted(places) if report.layout == "folder" else ():
        kinds = Counter(
            file.suffix.lower() or file.name
            for file in place.iterdir()
            if file.suffix.lower() not in folder.SUFFIXES and not file.name.startswith(".")
        )
        if kinds:
            found.append(
                issue("other-files", place, ", ".join(f"{n} {k}" for k, n in kinds.items()))
            )
    return found


class _CannotFix(Exception):
    """Why a pair cannot be corrected without guessing."""


@dataclass(frozen=True)
class Fix:
    """What `fix` did with one file: `written` is where, in `out`, or None if it was left out."""

    file: str
    written: str | None
    what: str


def fix(report: Report, out: str | Path) -> list[Fix]:
    """Write a corrected copy of the data of `report` to `out`; the originals stay as they are.

    If `check` was given a map of values, masks hold ids, and classes.txt the class names. What
    cannot be corrected without guessing is left out, and listed. Near-duplicates, leaks and
    rare classes stay: they are no issue of a single file. `out` appears when all is written.

    Raises:
        DataError: the layout is not images and masks, or nothing would be left.
    """
    if report.layout != "folder":
        raise DataError(f"{report.folder}: only folders of images and masks can be corrected")
    codes: dict[str, list[str]] = {}
    for one in report.issues:
        for file in one.files:
            codes.setdefault(file, []).append(one.code)
    errors = {one.code for one in report.issues if one.severity == "error"} - _FIXABLE - _STAY
    left_out = {file: sorted(errors.intersection(found)) for file, found in codes.items()}
    left_out = {f: c for f, c in left_out.items() if c and (report.folder / f).is_file()}
    why = {file: f"{file}: {', '.join(found)}" for file, found in left_out.items()}
    done: list[Fix] = []
    with atomic_folder(out, report.folder) as place:
        for example in (e for e in report.examples if e.mask):
            names = [report.relative(file) for file in example.files]
            try:
                for name in names:
                    if name in why:
                        raise _CannotFix(why[name])
                done += _write_pair(report, example, [codes.get(name, []) for name in names], place)
            except (_CannotFix, DataError) as error:
                done += [Fix(name, None, str(error)) for name in names]
        if not any(fix.written for fix in done):
            raise DataError(f"{report.folder}: holds no pair that could be written")
        if report.table:
            names = [one["name"] for one in report.statistics["classes"]]
            write_text(place / "classes.txt", "\n".join(names) + "\n")
    alone = sorted(why.keys() - {fix.file for fix in done})
    return done + [Fix(file, None, why[file]) for file in alone]


def _write_pair(report: Report, example: Example, codes: list[list[str]], out: Path) -> list[Fix]:
    """Write one pair, each file as it is if nothing about it changes; codes: of image and mask."""
    image, mask, changes = None, None, ["made grey or RGB", ""]
    code = next((code for code in _MASK_FIXES if code in codes[1]), None)
    if report.table:
        mask, changes[1] = read.mask(example.mask, table=report.table), "values became ids"
    elif code:
        mask, changes[1] = _MASK_FIXES[code](report, example)
    if "exif" in codes[0] + codes[1]:
        image, mask = _upright(example, mask)
        changes = ["turned upright", changes[1] or "turned as its image"]
    elif "mode" in codes[0]:
        image = read.image(example.image)
    fixes = []
    for k, (file, content) in enumerate(((example.image, image), (example.mask, mask))):
        name = f"{example.name}{file.suffix}"
        target = out / example.split / ("images", "masks")[k] / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if content is not None:
            new, target = Image.fromarray(content), target.with_suffix(".png")
            if k == 1:
                palette = dict(enumerate(image_ops.PALETTE.tolist())) | report.palette
                new.putpalette([part for value in range(256) for part in palette[value]])
            new.save(target)
        else:
            changes[k] = "copied"
            if "wrong-suffix" in codes[k]:
                with image_ops.opened(file) as stored:
                    target = target.with_suffix(f".{stored.format.lower()}")
                changes[k] = "renamed"
            shutil.copy2(file, target)
        fixes.append(Fix(report.relative(file), target.relative_to(out).as_posix(), changes[k]))
    return fixes


def _colours_to_ids(report: Report, example: Example) -> _Fixed:
    if unknown := set(_colours(example.mask)) - report.colour_ids.keys():
        colour = read.hexadecimal(min(unknown))
        raise _CannotFix(f"which ids its colours are is not known, {colour} for one: use --values")
    ids = {read.hexadecimal(colour): i for colour, i in report.colour_ids.items()}
    mask = read.mask(example.mask, table=report.colour_ids)
    return mask, f"colours became ids: {listed([f'{k} {i}' for k, i in ids.items()], 99)}"


def _to_eight_bits(report: Report, example: Example) -> _Fixed:
    with image_ops.opened(example.mask) as stored:
        ids = np.array(stored)
    if ids.dtype.kind not in "iu" or stored.mode[0] != "I" or ids.max() > 255:
        raise _CannotFix("its values are not whole numbers from 0 to 255")
    return ids.astype(np.uint8), "the same ids in 8 bits"


def _to_usual_palette(report: Report, example: Example) -> _Fixed:
    palette = example.details.palette
    ids = {colour: value for value, colour in reversed(report.palette.items())}
    if unknown := [colour for colour in palette.values() if colour not in ids]:
        raise _CannotFix(f"its palette has {unknown[0]}, which is no id in the usual one")
    table = {value: ids[colour] for value, colour in palette.items()}
    return read.mask(example.mask, table=table), "ids made those of the usual palette"


def _cut_edges(report: Report, example: Example) -> _Fixed:
    if report.statistics["values"] != "0/255" or not example.binary:
        raise _CannotFix("its values lie between several ids, or mostly between 0 and 255")
    return (read.mask(example.mask) >= 128).astype(np.uint8), "edges cut at a half"


def _white_to_one(report: Report, example: Example) -> _Fixed:
    if not set(example.values) <= {0, 255}:
        return None, ""
    return read.mask(example.mask) // 255, "255 became 1"


_MASK_FIXES: dict[str, Callable[[Report, Example], _Fixed]] = {
    "mask-colours": _colours_to_ids,
    "mask-depth": _to_eight_bits,
    "palette-differs": _to_usual_palette,
    "interpolated": _cut_edges,
    "lossy-mask": _cut_edges,
    "black-white": _white_to_one,
    "mixed-values": _white_to_one,
}
_FIXABLE = {"exif", "mode", "wrong-suffix", *_MASK_FIXES}
_STAY = {"id-gap", "leak-duplicate", "leak-group"}  # errors that are not of single files


def _upright(example: Example, mask: np.ndarray | None) -> Pair:
    """Return an image turned upright, and its mask turned too if it lies on the stored pixels.

    Only for quarter turns does the mask's size show on which it lies.
    """
    with image_ops.opened(example.image) as picture:
        stored, turn = picture.size[::-1], image_ops.exif_orientation(picture)
    mask = read.mask(example.mask) if mask is None else mask
    image = image_ops.read_image(example.image)[0]
    shown = image.shape[:2]
    if stored == shown or mask.shape not in (stored, shown):
        raise _CannotFix("it cannot be decided whether its mask lies on the stored or shown image")
    if mask.shape == shown:
        return image, mask
    picture = Image.fromarray(mask)
    picture.getexif()[image_ops.ORIENTATION] = turn
    return image, np.array(ImageOps.exif_transpose(picture))


def _rgb(file: Path) -> np.ndarray:
    with image_ops.opened(file) as picture:
        return np.array(picture.convert("RGB"))


def _colours(file: Path) -> list[_Colour]:
    with image_ops.opened(file) as stored:
        return sorted(colour for _, colour in stored.convert("RGB").getcolors(2**24))
