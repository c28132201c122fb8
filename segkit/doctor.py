"""The data doctor: what is wrong with a folder of images and masks, before a network learns it.

`check` finds the files and reads them as the loader does, and looks at what only shows in all of
them together. `fix` writes a corrected copy of what can be corrected without guessing.
"""

import hashlib
import io
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

from segkit.data import annotations, folder, read, splits
from segkit.data.cache import in_threads
from segkit.data.dataset import IGNORE, DataError, Pair
from segkit.data.folder import Example, GroupBy, between, listed
from segkit.data.issues import SEVERITIES, Issue, IssueError, grouped, issue
from segkit.data.pets import FOLDER as PETS
from segkit.data.pets import from_trimap, trimap_classes
from segkit.files import atomic_folder, text_table, write_text
from segkit.image_ops import PALETTE
from segkit.page import picture, render

__all__ = ["Fix", "Report", "check", "fix"]

FRINGE = 5  # pixels across which interpolation may have smeared an edge
NEAR, ALIKE = 40, 0.9  # bits of 256 that may differ, and correlation of the thumbnails
SKIPPED = 0.1  # share of the steps between ids that leaves one out, where ids meet freely
STRIPS = 16  # pixels between two ids, below which an edge shows nothing
RARE, FEW = 0.001, 3  # share of the pixels, images
UNSPLIT = ("", "trainval")  # parts that are yet to be split
HASH, THUMBNAIL = 16, 32  # bits and pixels a side
SHOWN = 6  # thumbnails and details of an issue, on the page
MOST_COLOURS = 32
FIXABLE = {"black-white", "mode", "wrong-suffix", "exif", "mask-colours", "palette-differs"}
FIXABLE_BINARY = {"interpolated", "lossy-mask", "mixed-values"}
LEFT_OUT = {  # only the owner knows what is right here
    "unreadable", "too-large", "bit-depth", "mask-depth", "colour-space", "frames", "transparent",
    "same-stem", "missing-mask", "missing-image", "size-mismatch", "trimap", "ids-from-one",
    "unknown-ids", "class-names",
}  # fmt: skip


@dataclass
class _Details:
    """What the doctor measures of an example.

    mode: how the image's file stores a pixel. digest: of the image's pixels. phash: perceptual
    hash, bool (256,). thumbnail: the image in small, normalised, float (1024,). counts: pixels of
    each mask value, int (256,). skipped_steps, strip_pixels: see `_steps`. colours: of the mask's
    values, if it has a palette.
    """

    mode: str = ""
    digest: bytes = b""
    phash: np.ndarray | None = None
    thumbnail: np.ndarray | None = None
    counts: np.ndarray | None = None
    skipped_steps: float = np.nan
    strip_pixels: int = 0
    colours: dict[int, tuple[int, ...]] = field(default_factory=dict)


@dataclass
class Report:
    """What `check` found in `folder`: the issues, the worst first, and facts about the data.

    layout: "folder", "oxford-pet" or "labelme". issues: their files are relative to the folder.
    facts: "pairs" per split, "sizes" and "modes" with their number of images, "values" (how the
    masks are read: "ids", "0/255" or "trimap", None if unclear) and "classes", each with its
    "id", "name", "share" of all pixels and "images".
    """

    folder: Path
    layout: str
    issues: list[Issue] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    examples: list[Example] = field(default_factory=list, repr=False)
    read: Callable[[Example], Pair] = field(default=None, repr=False)

    def of(self, severity: str) -> list[Issue]:
        """Return the issues of one severity: "error", "warning" or "note"."""
        return [one for one in self.issues if one.severity == severity]

    @property
    def ok(self) -> bool:
        """Whether there is no error."""
        return not self.of("error")

    @property
    def verdict(self) -> str:
        """One line: how many issues of each severity."""
        number = {severity: len(self.of(severity)) for severity in SEVERITIES}
        counts = [f"{n} {severity}{'s' * (n > 1)}" for severity, n in number.items() if n]
        pairs = sum(self.facts["pairs"].values())
        return f"{pairs} pairs: {', '.join(counts) or 'nothing to complain about'}"

    def relative(self, file: str | Path) -> str:
        """Return a file's path below the folder, with forward slashes."""
        return Path(file).relative_to(self.folder).as_posix()

    def to_dict(self) -> dict[str, Any]:
        """Return the report as values that JSON can hold."""
        names = ("code", "severity", "what", "remedy", "files", "details", "fixable")
        return {
            "folder": str(self.folder),
            "layout": self.layout,
            "ok": self.ok,
            "issues": [{name: getattr(one, name) for name in names} for one in self.issues],
            "facts": self.facts,
        }

    def print(self, files: int = 3) -> None:
        """Print the report; at most `files` files of each issue are named."""
        print(f"{self.folder} ({self.layout}): {self.verdict}\n")
        for one in self.issues:
            fix = " (--fix corrects a copy, where that is clear)" if one.fixable else ""
            print(f"{one.severity} {one.code}: {one.what}\n  What to do: {one.remedy}{fix}")
            print(*(f"  - {place}" for place in one.places(files)), "", sep="\n")
        print(text_table(("data", ""), self._facts(), left=2))

    def write_html(self, path: str | Path) -> None:
        """Write the report as one page that needs no other file, with thumbnails."""
        of = {self.relative(file): e for e in self.examples for file in e.files}
        thumbnails = {
            one.code: [
                _thumbnail(self, example)
                for example in {id(of[f]): of[f] for f in one.files[:SHOWN] if f in of}.values()
            ]
            for one in self.issues
        }
        samples = self.examples[:: max(1, len(self.examples) // SHOWN)][:SHOWN]
        page = render(
            "doctor.html",
            title=f"Data: {self.verdict}",
            report=self,
            facts=self._facts(),
            thumbnails=thumbnails,
            samples=[_thumbnail(self, example) for example in samples],
            shown=SHOWN,
        )
        write_text(path, page)

    def _facts(self) -> list[tuple[str, str]]:
        lines = []
        for name in ("pairs", "sizes", "modes"):
            most = sorted(self.facts[name].items(), key=lambda entry: -entry[1])
            lines.append((name, listed([f"{what} {number}".strip() for what, number in most], 6)))
        lines.append(("mask values", self.facts["values"] or "unclear"))
        for c in self.facts["classes"]:
            share = f"{100 * c['share']:.2f} % of all pixels, in {c['images']} images"
            lines.append((f"class {c['id']}, {c['name']}", share))
        return lines


def check(
    root: str | Path,
    *,
    class_names: Sequence[str] | None = None,
    values: str = "auto",
    group_by: GroupBy = None,
) -> Report:
    """Look at every file in a folder and report what is wrong. Nothing is changed.

    Args:
        root: images and masks (see `segkit.data.folder`), Oxford-IIIT Pet, or LabelMe files.
        class_names, values, group_by: as for `segkit.data.folder.open_folder`.

    Raises:
        NoDataError: there is none of these layouts.
    """
    names, root = folder.checked_names(class_names), Path(root)
    layout, root, examples, issues, names, reader = _layout(root, names)

    def look(example: Example) -> list[Issue]:
        if layout == "folder":
            return folder.inspect(example, _measure_files)
        image, mask, found = reader(example)
        if mask is not None:
            folder.describe_mask(example, mask)
        return found + _measure(example, image, mask)

    progress = tqdm(in_threads(look, examples), "checking", len(examples), leave=False,
                    disable=None, delay=2)  # fmt: skip
    for found in progress:
        issues += found
    encoding = "ids"
    if layout == "folder":
        encoding, classes, found = folder.infer_label_encoding(examples, len(names), values)
        issues += found + _palettes(examples)
        if encoding == "0/255":
            issues += [issue("black-white", e.mask) for e in examples if 255 in e.values
                       and not (e.lossy and len(e.values) > 2)]  # fmt: skip
        elif encoding == "ids":
            issues += _strips([e for e in examples if e.values and not e.lossy], classes)
        names = names or (folder.default_names(classes) if encoding else ())
    classes = _classes(examples, encoding, names)
    if encoding:
        issues += _balance(examples, encoding, classes, root)
    issues += _duplicates(examples, group_by) + _leaking_groups(examples, group_by)
    issues += _modes(examples)
    report = Report(root, layout, examples=examples, read=reader)
    report.facts = {
        "pairs": dict(Counter(e.split for e in examples if e.image and e.mask)),
        "sizes": dict(Counter(f"{e.size[1]}×{e.size[0]}" for e in examples if e.details.digest)),
        "modes": dict(Counter(e.details.mode for e in examples if e.details.mode)),
        "values": "trimap" if layout == "oxford-pet" else encoding,
        "classes": classes,
    }
    for one in grouped(issues):
        binary = encoding == "0/255" or one.code == "mixed-values"
        fixable = one.code in FIXABLE or (one.code in FIXABLE_BINARY and binary)
        files = tuple(report.relative(file) for file in one.files)
        report.issues.append(replace(one, files=files, fixable=fixable and layout == "folder"))
    return report


# ------------------------------------------------------------------ the three layouts


def _layout(root: Path, names: tuple[str, ...]) -> tuple:
    """Return layout, folder, examples, issues, class names, and what reads an example's files."""
    for place in (root, root / PETS):
        if (place / "annotations" / "trimaps").is_dir():
            examples, issues = _find_pets(place)
            return "oxford-pet", place, examples, issues, trimap_classes("class"), _read_pet
    for place in (root, *(root / split for split in folder.SPLITS)):
        if annotations.json_files(place) and not (place / "images").is_dir():
            return "labelme", root, *_find_labelme(root, names)
    return "folder", root, *folder.find_pairs(root), names, _read_files


def _read(*readers: Callable[[], np.ndarray | None]) -> tuple:
    """Return what the readers of image and mask return, None where they refuse, and the issues."""
    found, issues = [], []
    for reader in readers:
        try:
            found.append(reader())
        except IssueError as error:
            found.append(None)
            issues += error.issues
    return *found, issues


def _read_files(example: Example) -> tuple:
    return _read(
        lambda: example.image and read.image(example.image),
        lambda: example.mask and read.mask(example.mask),
    )


def _read_pet(example: Example) -> tuple:
    def rgb() -> np.ndarray:  # as torchvision reads it
        with read.opened(example.image) as picture:
            return np.array(picture.convert("RGB"))

    def ids() -> np.ndarray:
        try:
            return from_trimap(read.mask(example.mask), "class")
        except IssueError:
            raise
        except DataError as error:
            raise IssueError(issue("unknown-ids", example.mask, str(error))) from error

    image, mask, issues = _read(rgb, ids)
    if image is not None and mask is not None and image.shape[:2] != mask.shape:
        issues.append(issue("size-mismatch", example.mask))
    example.size = image.shape[:2] if image is not None else None
    return image, mask, issues


def _find_pets(root: Path) -> tuple[list[Example], list[Issue]]:
    """Return the examples of the official lists, and the files that are missing."""
    from torchvision.datasets import OxfordIIITPet

    examples, issues = [], []
    for split in ("trainval", "test"):
        official = OxfordIIITPet(root.parent, split, "segmentation")
        for image, mask in zip(official._images, official._segs, strict=True):
            if image.is_file() and mask.is_file():
                examples.append(Example(image.stem, split, image, mask))
            elif image.is_file():
                issues.append(issue("missing-mask", image))
            else:
                issues.append(issue("missing-image", mask))
    return examples, issues


def _find_labelme(root: Path, names: tuple[str, ...]) -> tuple:
    records, issues = annotations.find_records(root)
    ids = None
    try:
        if records or not issues:  # else what is wrong with the files is all there is to report
            ids, names = annotations.label_ids(records, names)
    except IssueError as error:
        issues += error.issues

    def reader(record: annotations.Record) -> tuple:
        if ids is None:
            return None, None, []
        pair, found = _read(lambda: annotations.read_record(record, ids))
        return *(pair or (None, None)), found

    return records, issues, names, reader


# ------------------------------------------------------------------ one example


def _measure_files(example: Example, mask: np.ndarray | None) -> list[Issue]:
    """Measure an image and a mask that are files of their own."""
    if example.size is None:
        return _measure(example, None, mask)
    image, issues = _read(lambda: read.image(example.image))
    return issues + _measure(example, image, mask)


def _measure(example: Example, image: np.ndarray | None, mask: np.ndarray | None) -> list[Issue]:
    """Fill in the details of an example; return issues of how its files are stored."""
    import imagehash

    found, issues = _Details(), []
    if image is not None:
        found.digest = hashlib.blake2b(repr(image.shape).encode() + image.tobytes()).digest()
        grey = Image.fromarray(image).convert("L")
        found.phash = imagehash.phash(grey, HASH).hash.ravel()
        small = grey.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
        small = np.asarray(small, dtype=np.float32).ravel()
        small = small - small.mean()
        norm = np.linalg.norm(small)
        found.thumbnail = small / norm if norm > 1 else small * 0
    if mask is not None:
        found.counts = np.bincount(mask.ravel(), minlength=256)
        found.skipped_steps, found.strip_pixels = _steps(mask)
    for file, content in ((example.image, image), (example.mask, mask)):
        if content is None or file.suffix == ".json":
            continue
        with read.opened(file) as stored:
            named = Image.registered_extensions().get(file.suffix.lower())
            if stored.format != named and not {stored.format, named} <= set(folder.LOSSY):
                issues.append(issue("wrong-suffix", file, f"is {stored.format}, {stored.mode}"))
            if file == example.image:
                found.mode = stored.mode
            elif stored.mode == "P":
                colours = dict(enumerate(zip(*[iter(stored.getpalette())] * 3, strict=False)))
                found.colours = {v: colours[v] for v in example.values if v in colours}
    if image is not None and example.image.suffix == ".json":
        found.mode = "in JSON"
    example.details = found
    return issues


def _steps(mask: np.ndarray) -> tuple[float, int]:
    """Return which share of the steps from id to id skips one in between, and the strip pixels.

    Those are close to both a lower and a higher id. The share is NaN where no id is larger than 1
    or no two ids meet.
    """
    ids = np.where(mask == IGNORE, 0, mask)
    if ids.max() < 2:
        return np.nan, 0
    steps = []
    for one, other in ((mask[1:], mask[:-1]), (mask[:, 1:], mask[:, :-1])):
        meet = (one != IGNORE) & (other != IGNORE) & (one != other)
        steps.append(np.abs(one[meet].astype(int) - other[meet]))
    steps = np.concatenate(steps)
    share = float((steps > 1).mean()) if steps.size else np.nan
    return share, int(between(mask, ids, FRINGE).sum())


# ------------------------------------------------------------------ all examples


def _strips(examples: list[Example], classes: int) -> list[Issue]:
    """Find masks where hardly an edge skips an id, as interpolation has it, and others do."""
    allowed = {*range(classes), IGNORE}
    clean = [e for e in examples if set(e.values) <= allowed]
    shares = np.array([e.details.skipped_steps for e in clean])
    usual = np.median(shares[~np.isnan(shares)]) if (~np.isnan(shares)).any() else 0
    text = "{:.0%} of the steps at its edges leave out an id, usual are {:.0%}"
    return [
        issue("thin-strips", e.mask, text.format(e.details.skipped_steps, usual))
        for e in clean
        if usual > SKIPPED
        and e.details.skipped_steps < SKIPPED / 2
        and e.details.strip_pixels >= STRIPS
    ]


def _palettes(examples: list[Example]) -> list[Issue]:
    """Find masks whose palette gives an id another colour than most masks do."""
    usual = _majority_palette(examples)
    return [
        issue("palette-differs", e.mask, f"id {listed(different)}")
        for e in examples
        if (different := [v for v, colour in e.details.colours.items() if usual[v] != colour])
    ]


def _majority_palette(examples: list[Example]) -> dict[int, tuple[int, ...]]:
    """Return the colour that most masks with a palette give to each id."""
    votes: dict[int, Counter] = {}
    for e in examples:
        for value, colour in e.details.colours.items():
            votes.setdefault(value, Counter())[colour] += 1
    return {value: counter.most_common(1)[0][0] for value, counter in votes.items()}


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


def _balance(examples: list[Example], encoding: str, classes: list, root: Path) -> list[Issue]:
    """Find classes that are rare, absent or not in every split, and masks without foreground."""
    readable = [e for e in examples if e.values]
    nothing = {0} if encoding == "0/255" else {0, IGNORE}
    empty = [e.mask for e in readable if set(e.values) <= nothing]
    if readable and len(empty) == len([e for e in examples if e.mask]):
        return [issue("no-foreground", root)]
    issues = [issue("empty-mask", file) for file in empty]
    for c in classes[1:] if readable else []:
        value = 255 if encoding == "0/255" else c["id"]
        text = f"{c['name']}: {100 * c['share']:.2g} % of the pixels, in {c['images']} images"
        if c["images"] == 0:
            issues.append(issue("absent-class", root, c["name"]))
        elif c["share"] < RARE or c["images"] < min(FEW, len(readable)):
            issues.append(issue("rare-class", root, text))
        else:
            without = {e.split for e in readable} - {e.split for e in readable if value in e.values}
            issues += [issue("class-not-in-split", root / part, c["name"]) for part in without]
    return issues


def _duplicates(examples: list[Example], group_by: GroupBy) -> list[Issue]:
    """Find images that are the same or nearly so, in several splits or in none yet.

    Identical ones are found within a split too. Within a group they are no issue.
    """
    seen = [e for e in examples if e.details.phash is not None]
    if len(seen) < 2:
        return []
    hashes = np.array([e.details.phash for e in seen], dtype=np.float32)
    thumbnails = np.array([e.details.thumbnail for e in seen])
    _, content = np.unique([e.details.digest.hex() for e in seen], return_inverse=True)
    part = np.array([e.split for e in seen])
    groups = np.array(folder.groups_of(seen, group_by) if group_by else range(len(seen)))
    ones = hashes.sum(axis=1)
    issues: dict[tuple[str, Path], Issue] = {}
    for i, e in enumerate(seen):  # row by row: for many images the whole table would not fit
        near = ones[i] + ones - 2 * hashes @ hashes[i] <= NEAR
        near &= thumbnails @ thumbnails[i] >= ALIKE
        same, apart = content == content[i], part != part[i]
        counts = (same | near & (apart | (e.split in UNSPLIT))) & (apart | (groups != groups[i]))
        for j in np.flatnonzero(counts):
            code = ("leak-" if apart[j] else "") + ("duplicate" if same[j] else "near-duplicate")
            other = f"as {seen[j].split}/{seen[j].name}".replace("as /", "as ")
            issues.setdefault((code, e.image), issue(code, e.image, other))
    return list(issues.values())


def _leaking_groups(examples: list[Example], group_by: GroupBy) -> list[Issue]:
    """Find groups that are in several splits."""
    groups = np.array(folder.groups_of(examples, group_by))
    parts = [
        np.flatnonzero([e.split == split for e in examples])
        for split in dict.fromkeys(e.split for e in examples)
    ]
    leaking = splits.leakage(parts, groups).groups if group_by else []
    return [
        issue("leak-group", e.image or e.mask, f"group {group}")
        for e, group in zip(examples, groups, strict=True)
        if group in leaking
    ]


def _modes(examples: list[Example]) -> list[Issue]:
    """Find images stored in unusual ways, and grey ones among coloured ones."""
    modes = {e.image: e.details.mode for e in examples if e.details.mode}
    grey = [file for file, mode in modes.items() if mode in ("1", "L", "LA")]
    unusual = [file for file, mode in modes.items() if mode not in ("L", "RGB", "in JSON")]
    issues = [issue("mode", file, modes[file]) for file in unusual]
    if 0 < len(grey) < len(modes):
        issues += [issue("mixed-channels", file) for file in grey]
    return issues


def _thumbnail(report: Report, example: Example, side: int = 150) -> dict | None:
    """Return a name and a picture of the image and its mask over it, as far as they can be read."""
    from segkit import plot  # matplotlib is slow to import, and a check without a page needs none

    image, mask, _ = report.read(example)
    try:
        if image is None:
            with read.opened(example.image) as stored:
                image = np.array(stored.convert("RGB"))
    except DataError:
        return None
    small = Image.fromarray(plot.rgb(image))
    small.thumbnail((side, side))
    panels = [small]
    if mask is not None:
        ids = np.array(read.resize_mask(Image.fromarray(mask), small.size[::-1]))
        if not set(np.unique(ids)) - {0, IGNORE}:
            ids[ids == IGNORE] = 1
        panels.append(Image.fromarray(plot.overlay(np.array(small), ids)))
    strip = Image.new("RGB", (len(panels) * (small.width + 6) - 6, small.height), "white")
    for k, panel in enumerate(panels):
        strip.paste(panel, (k * (small.width + 6), 0))
    content = io.BytesIO()
    strip.save(content, "JPEG", quality=85)
    name = f"{example.split}/{example.name}".strip("/")
    alt = f"{name}: image, and its mask over it"
    return {"name": name, "picture": picture(content.getvalue(), "jpeg", alt, strip.width)}


# ------------------------------------------------------------------ corrected copies


class CannotFix(Exception):
    """Why a pair cannot be corrected without guessing."""


@dataclass(frozen=True)
class Fix:
    """What `fix` did with one file: `written` is where, in `out`, or None if it was left out."""

    file: str
    written: str | None
    what: str


def fix(report: Report, out: str | Path) -> list[Fix]:
    """Write a corrected copy of the data of `report` to `out`; the originals stay as they are.

    Images are turned upright and become plain grey or RGB, 0/255 and colours become ids, and
    smeared edges of binary masks are cut at a half. Pairs without an issue are copied as they are.
    What cannot be corrected without guessing is left out, and listed. Near-duplicates, leaks and
    rare classes stay: they are no issue of a single file.

    Args:
        report: from `check`.
        out: a new or empty folder that is neither the source nor inside it. It appears when all
            is written, or not at all.

    Raises:
        FileError: `out` is another folder, or cannot be written.
        DataError: the layout is not images and masks, or nothing would be left.
    """
    if report.layout != "folder":
        raise DataError(
            f"{report.folder} is {report.layout} data, of which no corrected copy can be written: "
            "only folders of images and masks can be corrected"
        )
    with atomic_folder(out, report.folder) as part:
        return _Fixer(report, part).run()


class _Fixer:
    """Writes the pairs of a report to one folder; file names are as in the issues."""

    def __init__(self, report: Report, out: Path) -> None:
        self.report, self.out = report, out
        self.codes: dict[str, set[str]] = {}
        for one in report.issues:
            for file in one.files:
                self.codes.setdefault(file, set()).add(one.code)
        self.usual = _majority_palette(report.examples)
        self.ids = self.ids_of_colours()

    def run(self) -> list[Fix]:
        """Write all pairs; return what was done with each file that is an image or a mask."""
        done = [fix for e in self.report.examples if e.image and e.mask for fix in self.pair(e)]
        if not any(fix.written for fix in done):
            raise DataError(f"{self.report.folder}: holds no pair that could be written")
        alone = {f for f, codes in self.codes.items() if codes & LEFT_OUT} - {f.file for f in done}
        return done + [Fix(file, None, self.why(file)) for file in sorted(alone)]

    def why(self, name: str) -> str:
        return f"{name}: {', '.join(sorted(self.codes[name] & LEFT_OUT))}"

    def pair(self, example: Example) -> list[Fix]:
        """Write one pair, each file as it is if nothing about it changes."""
        names = [self.report.relative(file) for file in example.files]
        image_codes, mask_codes = (self.codes.get(name, set()) for name in names)
        image, image_change = None, "made grey or RGB"
        try:
            for name, codes in zip(names, (image_codes, mask_codes), strict=True):
                if codes & LEFT_OUT:
                    raise CannotFix(self.why(name))
            mask, mask_change = self.mask(example, mask_codes)
            if "exif" in image_codes | mask_codes:
                image, mask = _upright(example, mask)
                image_change, mask_change = "turned upright", mask_change or "turned as its image"
            elif "mode" in image_codes:
                image = read.image(example.image)
        except (CannotFix, DataError) as error:
            return [Fix(name, None, str(error)) for name in names]
        if image is not None:
            image = Image.fromarray(image)
        if mask is not None:
            mask = Image.fromarray(mask)
            colours = PALETTE.ravel().tolist()
            for value, colour in self.usual.items():
                colours[3 * value : 3 * value + 3] = colour
            mask.putpalette(colours)
        fixes = []
        for sub, file, name, new, change in zip(
            ("images", "masks"),
            example.files,
            names,
            (image, mask),
            (image_change, mask_change),
            strict=True,
        ):
            target = self.out / example.split / sub / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            if new is not None:
                target = target.with_suffix(".png")
                new.save(target)
            else:
                change = "copied"
                if "wrong-suffix" in self.codes.get(name, set()):
                    with read.opened(file) as stored:
                        target, change = target.with_suffix(f".{stored.format.lower()}"), "renamed"
                shutil.copy2(file, target)
            fixes.append(Fix(name, target.relative_to(self.out).as_posix(), change))
        return fixes

    def mask(self, example: Example, codes: set[str]) -> tuple[np.ndarray | None, str]:
        """Return the mask as ids and what was done to it, or None if it stays as it is."""
        if "mask-colours" in codes:
            rgb = _rgb(example.mask)
            mask = np.zeros(rgb.shape[:2], np.uint8)
            for colour in _colours(rgb):
                if colour not in self.ids:
                    raise CannotFix(f"which ids its colours are is not known, {colour} for one")
                mask[(rgb == colour).all(axis=-1)] = self.ids[colour]
            return mask, f"colours became ids: {self.ids}"
        if "palette-differs" in codes:
            table = np.arange(256, dtype=np.uint8)
            ids = {colour: value for value, colour in reversed(self.usual.items())}
            for value, colour in example.details.colours.items():
                if colour not in ids:
                    raise CannotFix(f"its palette has {colour}, which is no id in the usual one")
                table[value] = ids[colour]
            return table[read.mask(example.mask)], "ids made those of the usual palette"
        if codes & {"interpolated", "lossy-mask"}:
            if self.report.facts["values"] != "0/255" or not example.binary:
                raise CannotFix("its values lie between several ids, or mostly between 0 and 255")
            return (read.mask(example.mask) >= 128).astype(np.uint8), "edges cut at a half"
        if codes & {"black-white", "mixed-values"} and set(example.values) <= {0, 255}:
            return (read.mask(example.mask) == 255).astype(np.uint8), "255 became 1"
        return None, ""

    def ids_of_colours(self) -> dict[tuple[int, ...], int]:
        """Return the id of each colour: by the palette that most masks have, or counted.

        They are counted, black first, only where all masks that hold anything but 0 are coloured,
        with few colours in all.
        """
        if self.usual or any(set(e.values) - {0} for e in self.report.examples):
            return {colour: value for value, colour in self.usual.items()}
        colours: set[tuple[int, ...]] = set()
        for e in self.report.examples:
            if e.mask and "mask-colours" in self.codes.get(self.report.relative(e.mask), set()):
                colours |= set(_colours(_rgb(e.mask)))
            if len(colours) > MOST_COLOURS:
                return {}
        return {colour: i for i, colour in enumerate(sorted(colours))}


def _upright(example: Example, mask: np.ndarray | None) -> Pair:
    """Return an image turned upright, and its mask turned too if it lies on the stored pixels.

    Only for quarter turns does the mask's size show on which it lies.
    """
    with read.opened(example.image) as picture:
        stored, turn = picture.size[::-1], picture.getexif().get(read.ORIENTATION, 1)
    if mask is None:
        mask = read.mask(example.mask)
    image = read.image(example.image, exif="apply")
    shown = image.shape[:2]
    if stored == shown or mask.shape not in (stored, shown):
        raise CannotFix(
            "it cannot be decided whether its mask lies on the image as stored or shown"
        )
    if mask.shape == shown:
        return image, mask
    picture = Image.fromarray(mask)
    picture.getexif()[read.ORIENTATION] = turn
    return image, np.array(ImageOps.exif_transpose(picture))


def _rgb(file: Path) -> np.ndarray:
    with read.opened(file) as picture:
        return np.array(picture.convert("RGB"))


def _colours(rgb: np.ndarray) -> list[tuple[int, ...]]:
    codes = np.unique(rgb.astype(int) @ (65536, 256, 1))
    return [(int(c) >> 16, int(c) >> 8 & 255, int(c) & 255) for c in codes]
