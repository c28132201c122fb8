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

from segkit import image_ops
from segkit.data import annotations, folder, read
from segkit.data.cache import in_threads
from segkit.data.dataset import IGNORE, DataError, Pair
from segkit.data.folder import Example, GroupBy, listed
from segkit.data.issues import KINDS, SEVERITIES, Issue, IssueError, grouped, issue
from segkit.data.pets import FOLDER, from_trimap, trimap_classes
from segkit.files import atomic_folder, text_table, write_text
from segkit.page import picture, render

_NEAR, _ALIKE = 40, 0.9  # bits of 256 that may differ, and correlation of the thumbnails
_SKIPPED = 0.1  # share of the steps between ids that skips one, where ids meet freely
_FRINGE, _STRIPS = 5, 16  # pixels across a smeared edge; pixels, below which it shows nothing
_RARE, _FEW = 0.001, 3  # share of the pixels, images
_UNSPLIT = ("", "trainval")  # parts that are yet to be split
_HASH, _THUMBNAIL = 16, 32  # bits and pixels a side
_SIDE, _SHOWN = 150, 6  # pixels of a thumbnail; thumbnails and details of an issue
_MOST_COLOURS = 32  # of masks whose colours can be numbered


@dataclass
class _Details:
    """What the doctor measures of an example."""

    mode: str = ""  # how the image's file stores a pixel
    digest: bytes = b""  # of the image's pixels
    phash: np.ndarray | None = None  # perceptual hash, bool (256,)
    thumbnail: np.ndarray | None = None  # normalised, float (1024,)
    counts: np.ndarray | None = None  # pixels of each mask value, int (256,)
    skipped_steps: float = np.nan  # see `_steps`
    strip_pixels: int = 0
    colours: dict[int, tuple[int, ...]] = field(default_factory=dict)  # of a mask's values


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
    read: Callable[[Example, list[Issue]], tuple] = field(default=None, repr=False)

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
        sections = []
        for one in self.issues:
            examples = {id(of[file]): of[file] for file in one.files[:_SHOWN] if file in of}
            sections.append((one, one.places(_SHOWN), [*map(self._thumbnail, examples.values())]))
        samples = self.examples[:: max(1, len(self.examples) // _SHOWN)][:_SHOWN]
        page = render(
            "doctor.html",
            title=f"Data: {self.verdict}",
            report=self,
            sections=sections,
            facts=self._facts(),
            samples=[*map(self._thumbnail, samples)],
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

    def _thumbnail(self, example: Example) -> dict | None:
        """Return the example's name, and a picture of the image and the mask over it."""
        from segkit import plot  # matplotlib is slow to import, and only a page needs it

        image, mask = self.read(example, [])
        try:
            image = image_ops.rgb(_rgb(example.image) if image is None else image)
        except DataError:
            return None
        panels = [image]
        if mask is not None:
            mask = np.array(read.resize_mask(Image.fromarray(mask), image.shape[:2]))
            if not set(np.unique(mask)) - {0, IGNORE}:
                mask[mask == IGNORE] = 1
            panels.append(image_ops.overlay(image, mask))
        strip, content = plot.strip(panels, _SIDE), io.BytesIO()
        strip.save(content, "JPEG", quality=85)
        name = f"{example.split}/{example.name}".strip("/")
        alt = f"{name}: image, and its mask over it"
        return {"name": name, "picture": picture(content.getvalue(), "jpeg", alt, strip.width)}


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
    names = folder.checked_names(class_names)
    layout, root, examples, issues, names, reader = _source(Path(root), names)

    def look(example: Example) -> list[Issue]:
        if layout == "folder":
            mask, found = folder.inspect(example)
            image = _attempt(found, read.image, example.image) if example.size else None
        else:
            found = []
            image, mask = reader(example, found)
            if mask is not None:
                folder.describe_mask(example, mask)
        example.details = _measure(example, image, mask, found)
        return found

    looks, n = in_threads(look, examples), len(examples)
    for found in tqdm(looks, "checking", n, leave=False, disable=None, delay=2):
        issues += found
    encoding = "ids"
    if layout == "folder":
        encoding, classes, found = folder.infer_label_encoding(examples, len(names), values)
        issues += found + _palettes(examples)
        names = names or (folder.default_names(classes) if encoding else ())
        clean = [e for e in examples if e.values and not (e.lossy and len(e.values) > 2)]
        if encoding == "0/255":
            issues += [issue("black-white", e.mask) for e in clean if 255 in e.values]
        elif encoding == "ids":
            issues += _strips([e for e in clean if set(e.values) <= {*range(classes), IGNORE}])
    classes = _classes(examples, encoding, names)
    issues += _balance(examples, encoding, classes, root) if encoding else []
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
        how = KINDS[one.code].get("fix")
        binary = how == "binary" and (encoding == "0/255" or one.code == "mixed-values")
        fixable = layout == "folder" and (how == "correct" or binary)
        files = tuple(report.relative(file) for file in one.files)
        report.issues.append(replace(one, files=files, fixable=fixable))
    return report


# ------------------------------------------------------------------ the three layouts


def _source(root: Path, names: tuple[str, ...]) -> tuple:
    """Return layout, folder, examples, issues, class names, and what reads an example.

    That returns image and mask at full size as the loader has them, None where they are refused,
    and adds the reasons to a list.
    """
    for place in (root, root / FOLDER):
        if (place / "annotations" / "trimaps").is_dir():
            return "oxford-pet", place, *_find_pets(place), trimap_classes("class"), _read_pet
    for place in (root, *(root / split for split in folder.SPLITS)):
        if annotations.json_files(place) and not (place / "images").is_dir():
            break
    else:
        return "folder", root, *folder.find_pairs(root), names, _read_files
    examples, issues = annotations.find_annotations(root)
    ids = None
    if examples or not issues:  # else what is wrong with the files is all there is to report
        ids, names = _attempt(issues, annotations.label_ids, examples, names) or (None, names)

    def read_annotated(example: Example, issues: list[Issue]) -> tuple:
        return (ids and _attempt(issues, annotations.read_annotated, example, ids)) or (None, None)

    return "labelme", root, examples, issues, names, read_annotated


def _attempt(issues: list[Issue], reader: Callable, *args: Any) -> Any:
    """Return `reader(*args)`; where it refuses, add the reasons to `issues` and return None."""
    try:
        return reader(*args)
    except IssueError as error:
        issues += error.issues


def _read_files(example: Example, issues: list[Issue]) -> tuple:
    mask = example.mask and _attempt(issues, read.mask, example.mask)
    return _attempt(issues, read.image, example.image), mask


def _read_pet(example: Example, issues: list[Issue]) -> tuple:
    image = _attempt(issues, _rgb, example.image)  # as torchvision reads it
    mask = _attempt(issues, read.mask, example.mask)
    example.size = None if image is None else image.shape[:2]
    if image is not None and mask is not None and mask.shape != example.size:
        issues.append(issue("size-mismatch", example.mask))
    try:
        return image, None if mask is None else from_trimap(mask, "class")
    except DataError as error:
        issues.append(issue("unknown-ids", example.mask, str(error)))
        return image, None


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


# ------------------------------------------------------------------ one example


def _measure(
    example: Example, image: np.ndarray | None, mask: np.ndarray | None, issues: list[Issue]
) -> _Details:
    """Return the details of an example; what is unusual about its files goes to `issues`."""
    import imagehash

    details = _Details()
    if image is not None:
        details.digest = hashlib.blake2b(repr(image.shape).encode() + image.tobytes()).digest()
        grey = Image.fromarray(image).convert("L")
        details.phash = imagehash.phash(grey, _HASH).hash.ravel()
        small = grey.resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BOX)
        small = np.asarray(small, dtype=np.float32).ravel()
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
        with read.opened(file) as stored:
            named = Image.registered_extensions().get(file.suffix.lower())
            if stored.format != named and not {stored.format, named} <= set(folder.LOSSY):
                issues.append(issue("wrong-suffix", file, f"is {stored.format}, {stored.mode}"))
            if file == example.image:
                details.mode = stored.mode
            elif stored.mode == "P":
                colours = dict(enumerate(zip(*[iter(stored.getpalette())] * 3, strict=False)))
                details.colours = {v: colours[v] for v in example.values if v in colours}
    return details


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
    return share, int(folder.between(mask, ids, _FRINGE).sum())


# ------------------------------------------------------------------ all examples


def _strips(clean: list[Example]) -> list[Issue]:
    """Find masks where hardly an edge skips an id, as interpolation has it, and others do."""
    shares = np.array([e.details.skipped_steps for e in clean])
    usual = np.median(shares[~np.isnan(shares)]) if (~np.isnan(shares)).any() else 0
    if usual <= _SKIPPED:
        return []
    text = "{:.0%} of the steps at its edges leave out an id, usual are {:.0%}"
    return [
        issue("thin-strips", e.mask, text.format(e.details.skipped_steps, usual))
        for e in clean
        if e.details.skipped_steps < _SKIPPED / 2 and e.details.strip_pixels >= _STRIPS
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
    for c in classes[1:] if len(empty) < len(readable) else []:
        text = f"{c['name']}: {100 * c['share']:.2g} % of the pixels, in {c['images']} images"
        if c["images"] == 0:
            issues.append(issue("absent-class", root, c["name"]))
        elif c["share"] < _RARE or c["images"] < min(_FEW, len(readable)):
            issues.append(issue("rare-class", root, text))
        else:
            white = encoding == "0/255"
            have = {
                e.split for e in readable if (e.values[-1] > 127 if white else c["id"] in e.values)
            }
            without = {e.split for e in readable} - have
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
        near = ones[i] + ones - 2 * hashes @ hashes[i] <= _NEAR
        near &= thumbnails @ thumbnails[i] >= _ALIKE
        same, apart = content == content[i], part != part[i]
        counts = (same | near & (apart | (e.split in _UNSPLIT))) & (apart | (groups != groups[i]))
        for j in np.flatnonzero(counts):
            code = ("leak-" if apart[j] else "") + ("duplicate" if same[j] else "near-duplicate")
            other = f"as {seen[j].split}/{seen[j].name}".replace("as /", "as ")
            issues.setdefault((code, e.image), issue(code, e.image, other))
    return list(issues.values())


def _leaking_groups(examples: list[Example], group_by: GroupBy) -> list[Issue]:
    """Find groups that are in several splits."""
    split_of: dict[str, set[str]] = {}
    groups = folder.groups_of(examples, group_by) if group_by else []
    for e, group in zip(examples, groups, strict=bool(group_by)):
        split_of.setdefault(group, set()).add(e.split)
    return [
        issue("leak-group", e.image, f"group {group}")
        for e, group in zip(examples, groups, strict=bool(group_by))
        if len(split_of[group]) > 1
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


# ------------------------------------------------------------------ corrected copies


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
        self.left_out: dict[str, list[str]] = {}
        for one in report.issues:
            for file in one.files:
                self.codes.setdefault(file, set()).add(one.code)
                if KINDS[one.code].get("fix") == "leave out":
                    self.left_out.setdefault(file, []).append(one.code)
        self.usual = _majority_palette(report.examples)
        self.ids = self.ids_of_colours()

    def run(self) -> list[Fix]:
        """Write all pairs; return what was done with each file that is an image or a mask."""
        done = [fix for e in self.report.examples if e.image and e.mask for fix in self.pair(e)]
        if not any(fix.written for fix in done):
            raise DataError(f"{self.report.folder}: holds no pair that could be written")
        alone = sorted(self.left_out.keys() - {fix.file for fix in done})
        return done + [Fix(file, None, self.why(file)) for file in alone]

    def why(self, name: str) -> str:
        return f"{name}: {', '.join(sorted(self.left_out[name]))}"

    def pair(self, example: Example) -> list[Fix]:
        """Write one pair, each file as it is if nothing about it changes."""
        names = [self.report.relative(file) for file in example.files]
        codes = [self.codes.get(name, set()) for name in names]
        image, changes = None, ["made grey or RGB", ""]
        try:
            for name in names:
                if name in self.left_out:
                    raise _CannotFix(self.why(name))
            mask, changes[1] = self.mask(example, codes[1])
            if "exif" in codes[0] | codes[1]:
                image, mask = _upright(example, mask)
                changes = ["turned upright", changes[1] or "turned as its image"]
            elif "mode" in codes[0]:
                image = read.image(example.image)
        except (_CannotFix, DataError) as error:
            return [Fix(name, None, str(error)) for name in names]
        fixes = []
        for k, (sub, file, content) in enumerate(
            (("images", example.image, image), ("masks", example.mask, mask))
        ):
            target = self.out / example.split / sub / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            if content is not None:
                new, target = Image.fromarray(content), target.with_suffix(".png")
                if sub == "masks":
                    new.putpalette(self.palette())
                new.save(target)
            else:
                changes[k] = "copied"
                if "wrong-suffix" in codes[k]:
                    with read.opened(file) as stored:
                        target = target.with_suffix(f".{stored.format.lower()}")
                    changes[k] = "renamed"
                shutil.copy2(file, target)
            fixes.append(Fix(names[k], target.relative_to(self.out).as_posix(), changes[k]))
        return fixes

    def palette(self) -> list[int]:
        """Return the colours that the other masks have, if they have any."""
        colours = image_ops.PALETTE.ravel().tolist()
        for value, colour in self.usual.items():
            colours[3 * value : 3 * value + 3] = colour
        return colours

    def mask(self, example: Example, codes: set[str]) -> tuple[np.ndarray | None, str]:
        """Return the mask as ids and what was done to it, or None if it stays as it is."""
        if "mask-colours" in codes:
            rgb = _rgb(example.mask)
            mask = np.zeros(rgb.shape[:2], np.uint8)
            for colour in _colours(rgb):
                if colour not in self.ids:
                    raise _CannotFix(f"which ids its colours are is not known, {colour} for one")
                mask[(rgb == colour).all(axis=-1)] = self.ids[colour]
            return mask, f"colours became ids: {self.ids}"
        if "mask-depth" in codes:
            with read.opened(example.mask) as stored:
                ids = np.array(stored)
            if ids.dtype.kind not in "iu" or stored.mode[0] != "I" or ids.max() > 255:
                raise _CannotFix("its values are not whole numbers from 0 to 255")
            return ids.astype(np.uint8), "the same ids in 8 bits"
        if "palette-differs" in codes:
            table = np.arange(256, dtype=np.uint8)
            ids = {colour: value for value, colour in reversed(self.usual.items())}
            for value, colour in example.details.colours.items():
                if colour not in ids:
                    raise _CannotFix(f"its palette has {colour}, which is no id in the usual one")
                table[value] = ids[colour]
            return table[read.mask(example.mask)], "ids made those of the usual palette"
        if codes & {"interpolated", "lossy-mask"}:
            if self.report.facts["values"] != "0/255" or not example.binary:
                raise _CannotFix("its values lie between several ids, or mostly between 0 and 255")
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
        colours = {(0, 0, 0)} if any(e.values for e in self.report.examples) else set()
        for e in self.report.examples:
            if e.mask and "mask-colours" in self.codes.get(self.report.relative(e.mask), set()):
                colours |= set(_colours(_rgb(e.mask)))
            if len(colours) > _MOST_COLOURS:
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
        raise _CannotFix(
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
