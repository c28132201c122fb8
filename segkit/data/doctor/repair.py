"""Corrected copies of what can be corrected without guessing."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from segkit.data import read
from segkit.data.dataset import DataError
from segkit.data.doctor.report import Example, Report
from segkit.data.doctor.rules import usual_colours
from segkit.files import atomic_folder
from segkit.image_ops import PALETTE

LEFT_OUT = {  # nobody but the owner knows what is right here
    "unreadable", "bit-depth", "colour-space", "frames", "transparent", "same-stem",
    "missing-mask", "missing-image", "size-mismatch", "trimap", "unknown-ids", "class-names",
}  # fmt: skip
MOST_COLOURS = 32
NEARLY = 16  # grey values off 0 or 255, in a JPEG's mask


class Unclear(Exception):
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
    smeared edges of binary masks are cut at a half. Pairs without a fault are copied as they are.
    What cannot be corrected without guessing is left out, and listed. Near-duplicates, leaks and
    rare classes stay: they are no fault of a file.
    out: a new or empty folder that is neither the source nor inside it. It appears when all is
    written, or not at all.
    Raises FileExistsError for another `out`, and DataError for a layout that is not images and
    masks, or where nothing would be left.
    """
    if report.layout != "folder":
        raise DataError(
            f"{report.folder} is {report.layout} data, of which no corrected copy can be written: "
            "only folders of images and masks can be corrected"
        )
    with atomic_folder(out, report.folder) as part:
        return _Repair(report, part).run()


class _Repair:
    """Writes the pairs of a report to one folder; file names are as in the findings."""

    def __init__(self, report: Report, out: Path) -> None:
        self.report, self.out = report, out
        self.faults: dict[str, set[str]] = {}
        for finding in report.findings:
            for file in finding.files:
                self.faults.setdefault(file, set()).add(finding.code)
        self.binary = report.facts["values"] == "0/255"
        self.usual = usual_colours(report.examples)
        self.ids = self.ids_of_colours()

    def run(self) -> list[Fix]:
        """Write all pairs; return what was done with each file that is an image or a mask."""
        pairs = [e for e in self.report.examples if e.image and e.mask]
        done = [fix for example in pairs for fix in self.pair(example)]
        if not any(fix.written for fix in done):
            raise DataError(f"{self.report.folder}: holds no pair that could be written")
        told = {fix.file for fix in done}
        alone = [f for f in self.faults if self.codes(f) & LEFT_OUT and f not in told]
        return done + [Fix(file, None, self.why(file)) for file in sorted(alone)]

    def pair(self, example: Example) -> list[Fix]:
        """Write one pair, each file as it is if nothing about it changes."""
        names = [self.report.relative(file) for file in example.files]
        try:
            for name in names:
                if self.codes(name) & LEFT_OUT:
                    raise Unclear(self.why(name))
            mask, done = self.mask(example, names[1])
            image, change = None, "made grey or RGB"
            if "exif" in self.codes(names[0]) | self.codes(names[1]):
                image, mask = _upright(example, mask)
                change, done = "turned upright", done or "turned as its image"
            elif "mode" in self.codes(names[0]):
                image = read.image(example.image)
        except (Unclear, DataError) as unclear:
            return [Fix(name, None, str(unclear)) for name in names]
        save = {"images": lambda target: Image.fromarray(image).save(target)}
        save["masks"] = lambda target: self.write_mask(target, mask)
        fixes = []
        for folder, file, name, new, told in zip(
            save, example.files, names, (image, mask), (change, done), strict=True
        ):
            place = self.out / example.split / folder
            place.mkdir(parents=True, exist_ok=True)
            target = place / (file.name if new is None else f"{example.name}.png")
            if new is None:
                target, told = self.copy(file, target, name)
            else:
                save[folder](target)
            fixes.append(Fix(name, target.relative_to(self.out).as_posix(), told))
        return fixes

    def write_mask(self, target: Path, mask: np.ndarray) -> None:
        """Write ids as PNG, in the colours that the other masks have, if they have any."""
        colours = PALETTE.ravel().tolist()
        for value, colour in self.usual.items():
            colours[3 * value : 3 * value + 3] = colour
        picture = Image.fromarray(mask)
        picture.putpalette(colours)
        picture.save(target)

    def copy(self, file: Path, target: Path, name: str) -> tuple[Path, str]:
        """Copy a file as it is, under the suffix that fits."""
        told = "copied"
        if "wrong-suffix" in self.codes(name):
            with read.opened(file) as picture:
                target = target.with_suffix(f".{picture.format.lower()}")
            told = "renamed"
        shutil.copy2(file, target)
        return target, told

    def mask(self, example: Example, name: str) -> tuple[np.ndarray | None, str]:
        """Return the mask as ids and what was done to it, or None if it stays as it is."""
        codes = self.codes(name)
        if "mask-colours" in codes:
            return self.from_colours(example.mask), f"colours became ids: {self.ids}"
        if "palette-differs" in codes:
            return self.repainted(example), "ids made those of the usual palette"
        if codes & {"interpolated", "lossy-mask"}:
            return self.cut(read.mask(example.mask)), "edges cut at a half"
        if codes & {"black-white", "mixed-values"} and set(example.values) <= {0, 255}:
            return (read.mask(example.mask) == 255).astype(np.uint8), "255 became 1"
        return None, ""

    def cut(self, mask: np.ndarray) -> np.ndarray:
        """Return a smeared binary mask with sharp edges."""
        clear = ((mask <= NEARLY) | (mask >= 255 - NEARLY)).mean()
        if not self.binary or clear < 0.5:
            raise Unclear("its values lie between several ids, or mostly between 0 and 255")
        return (mask >= 128).astype(np.uint8)

    def from_colours(self, file: Path) -> np.ndarray:
        """Return a colour mask as ids."""
        rgb = _rgb(file)
        mask = np.zeros(rgb.shape[:2], np.uint8)
        for colour in _colours(rgb):
            if colour not in self.ids:
                raise Unclear(f"which ids its colours are is not known, {colour} for one")
            mask[(rgb == colour).all(axis=-1)] = self.ids[colour]
        return mask

    def ids_of_colours(self) -> dict[tuple[int, ...], int]:
        """Return the id of each colour: by the palette that most masks have, or counted.

        They are counted, black first, only where all masks are coloured, with few colours in all.
        """
        coloured = [
            e.mask
            for e in self.report.examples
            if e.mask and "mask-colours" in self.codes(self.report.relative(e.mask))
        ]
        if self.usual or any(e.values for e in self.report.examples):
            return {colour: value for value, colour in self.usual.items()}
        seen: set[tuple[int, ...]] = set()
        for file in coloured:
            seen |= set(_colours(_rgb(file)))
            if len(seen) > MOST_COLOURS:
                return {}
        return {colour: i for i, colour in enumerate(sorted(seen))}

    def repainted(self, example: Example) -> np.ndarray:
        """Return a mask with the ids that the usual palette gives to its colours."""
        table = np.arange(256, dtype=np.uint8)
        for value, colour in example.colours.items():
            if colour not in self.usual.values():
                raise Unclear(f"its palette has {colour}, which is no id in the usual one")
            table[value] = next(v for v, usual in self.usual.items() if usual == colour)
        return table[read.mask(example.mask)]

    def codes(self, name: str) -> set[str]:
        """Return what was found about a file."""
        return self.faults.get(name, set())

    def why(self, name: str) -> str:
        """Return why a file is left out."""
        return f"{name}: {', '.join(sorted(self.codes(name) & LEFT_OUT))}"


def _upright(example: Example, mask: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
    """Return an image turned upright, and its mask turned too if it lies on the stored pixels.

    Only for quarter turns does the mask's size tell on which it lies.
    """
    with read.opened(example.image) as picture:
        stored, turn = picture.size[::-1], picture.getexif().get(read.ORIENTATION, 1)
    if mask is None:
        mask = read.mask(example.mask)
    image = read.image(example.image, exif="apply")
    shown = image.shape[:2]
    if stored == shown or mask.shape not in (stored, shown):
        raise Unclear("whether its mask lies on the image as stored or as shown cannot be told")
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
