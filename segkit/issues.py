"""What can be wrong with data, and the one place where its sentence is made."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segkit.errors import DataError
from segkit.image_ops import REASONS, ImageError

_SEVERITIES = ("error", "warning", "note")  # the first would make a model or a score wrong

# code: severity, what is wrong, what to do
_KINDS = {code: ("error", *reason) for code, reason in REASONS.items()} | {
    "exif": ("error", "is stored turned, so viewers show it another way round than its pixels are",
        "save PIL.ImageOps.exif_transpose(image) and check that the mask fits"),
    "mask-colours": ("error", "is a colour picture, not class ids",
        "name the class of each colour, as --values '#000000=background,#ff0000=disc', or save "
        "8-bit PNG with ids"),
    "mask-depth": ("error", "a mask holds class ids 0..255 in 8 bits, this one does not",
        "give each value its id, as ids = np.searchsorted([0, 65535], mask) does for these two, "
        'and save Image.fromarray(ids.astype("uint8")) as 8-bit PNG'),
    "annotation-file": ("error", "is no file of annotations that can be used",
        "export or save it again, or move it out of this folder"),
    "annotation-image": ("error", "names an image that is not there, and holds no copy of it",
        "put the image back, correct its name, or name the folder of the images"),
    "annotation-size": ("error", "was drawn on an image of another size", "bring that image back"),
    "annotation-shape": ("error", "holds a shape that cannot be drawn",
        "redraw it, leave such shapes out (--skip), or give lines a width (--line-width)"),
    "annotation-label": ("error", "holds a label that is not among the classes",
        "correct the label, add it to class_names, or say what others become"),
    "annotation-background": ("error", "holds shapes of the first class, which is the background",
        "put the background first: background, then the labels"),
    "no-labels": ("error", "there is no label in these files", "draw shapes first"),
    "no-pictures": ("error", "holds no pictures (.bmp, .gif, .jpg, .png, .tif, .webp)",
        "put pictures there; save other files as PNG"),
    "other-files": ("note", "files that are not looked at, as they are no pictures by their names",
        "save them as PNG if they belong to the data"),
    "name-suffix": ("error", "the names of images and masks differ at their end",
        "add the option that is named, or rename the files"),
    "missing-mask": ("error", "an image without a mask of the same name",
        "add the mask (all 0 if nothing is there), or move the image out"),
    "missing-image": ("error", "a mask without an image of the same name",
        "bring back the image, or rename or remove the mask"),
    "same-stem": ("error", "several files with one stem, so it is unclear which belongs to which",
        "rename or remove all but one"),
    "size-mismatch": ("error", "a mask of another size than its image", "export it at full size"),
    "mixed-values": ("error", "some masks hold 0 and 255, others ids with no 255",
        'save all masks alike; values="ids" if 255 really marks what is to be ignored'),
    "interpolated": ("error", "a mask with values in between along its edges, from interpolation",
        "go back to the original and use nearest"),
    "lossy-mask": ("error", "a mask stored as JPEG, which changes its values", "export it as PNG"),
    "trimap": ("error", "the masks hold 1, 2 and 3 and no 0, as trimaps of Oxford-IIIT Pet do",
        "turn them into ids with segkit.data.pets.from_trimap; subtract 1 if they are ids from 1"),
    "ids-from-one": ("error", "no mask holds 0, so the ids seem to be counted from 1",
        "subtract 1 if 1 is the background, or name the class of each value, as --values "
        "1=background,2=disc; if nothing is background, give class_names"),
    "id-gap": ("error", "a mask with ids beyond a gap: an id below them is in no mask",
        "correct the mask, or give class_names, one per id, if the class is only absent"),
    "unknown-ids": ("error", "a mask with values that belong to no class",
        "if interpolation mixed ids, use nearest; else correct the mask, name the classes, or name "
        "the class of each value, as --values 0=background,128=disc"),
    "unknown-value": ("error", "a mask with a value that the table of classes lacks",
        "correct the mask, or give the value a class or ignore"),
    "class-names": ("error", "the masks hold 0 and 255 only, but not two classes are named",
        'name two classes, or say values="ids" if 255 is to be ignored'),
    "no-foreground": ("error", "no mask holds anything but background",
        "check whether these are the right masks"),
    "thin-strips": ("warning", "a mask with an id only in thin strips between two others",
        "if it was resized, go back to the original and use nearest"),
    "palette-differs": ("warning", "a mask whose palette gives an id another colour than most do",
        "check whether the ids mean the same everywhere, and save all masks with one palette"),
    "bright-background": ("warning", "a palette that shows the background, id 0, as bright",
        "look at the mask: if its objects are dark, swap the ids"),
    "no-background": ("warning", "foreground nearly everywhere",
        "check that foreground and background are not swapped: 0, or black, is the background"),
    "rare-class": ("warning", "classes with hardly an example", "bring more, or merge classes"),
    "class-not-in-split": ("warning", "splits without a class that others have",
        "split again, stratified by class"),
    "absent-class": ("note", "named classes that are in no mask", "leave their names out"),
    "empty-mask": ("note", "masks with background only",
        "check whether there is really nothing, or whether somebody forgot to draw"),
    "black-white": ("note", "masks with 0 and 255, read as background and foreground",
        "nothing for segkit; other programs expect the ids 0 and 1"),
    "leak-duplicate": ("error", "the same image in several splits, so the score is too good",
        "keep one"),
    "leak-group": ("error", "groups with images in several splits, so the score is too good",
        "move all images of a group into one split"),
    "leak-near-duplicate": ("warning",
        "images in several splits that look alike, so the score may be too good",
        "keep one, or move both into one split"),
    "duplicate": ("warning",
        "the same image several times: it counts twice, and may be split apart",
        "keep one, or give both to one group (group_by)"),
    "near-duplicate": ("warning", "images that look alike and may be split apart",
        "keep one, or give both to one group (group_by)"),
    "shared-stems": ("note",
        "images with one name before a number, as slices of one patient have, may be split apart",
        "if they belong together, split whole groups: --group-by '^.+(?=[_ .-])'"),
    "mode": ("note", "images that are not plainly grey or RGB, but can be read",
        "nothing for segkit; other programs may stumble"),
    "mixed-channels": ("note", "grey images among coloured ones, which are read as grey RGB",
        "nothing, if the network is to use colour; else read all with channels=1"),
    "mixed-types": ("error", "images of another type, or with other channels, than most",
        "bring all to one type and number of channels, or leave them out"),
    "intensity": ("error", "the images do not fit the intensity that was asked for",
        "choose percentile, or give the numbers that are black and white"),
    "wrong-suffix": ("note", "files that are of another format than their name says",
        "nothing for segkit, which looks inside; rename them for programs that do not"),
}  # fmt: skip


@dataclass(frozen=True)
class Issue:
    """One kind of issue, the files that have it, and what was seen in each ("" for nothing)."""

    code: str  # a key of `_KINDS`
    files: tuple[str | Path, ...]
    details: tuple[str, ...]
    fixable: bool = False  # whether `segkit.doctor.fix` can correct some of the files

    severity = property(lambda self: _KINDS[self.code][0])
    what = property(lambda self: _KINDS[self.code][1])
    remedy = property(lambda self: _KINDS[self.code][2])

    def places(self, show: int) -> list[str]:
        """Return the first files with their details, and how many more there are."""
        found = zip(self.files[:show], self.details, strict=False)
        lines = [f"{file} ({detail})" if detail else str(file) for file, detail in found]
        more = len(self.files) - show
        return lines + ([f"and {more} more"] if more > 0 else [])

    def __str__(self) -> str:
        if len(self.files) == 1:
            detail = f" ({self.details[0]})" if self.details[0] else ""
            return f"{self.files[0]}: {self.what}{detail}: {self.remedy}"
        head = f"{len(self.files)} files: {self.what}: {self.remedy}"
        return "\n  ".join([head, *self.places(5)])


def issue(code: str, file: str | Path, detail: str = "") -> Issue:
    """Return the issue of one file."""
    return Issue(code, (file,), (detail,))


def grouped(issues: Iterable[Issue]) -> list[Issue]:
    """Return one issue for each code, with all its files in order; the worst come first."""
    found: dict[str, list[tuple[str | Path, str]]] = {}
    single = [(f, d, i.code) for i in issues for f, d in zip(i.files, i.details, strict=True)]
    for file, detail, code in sorted(single, key=lambda entry: str(entry[0])):
        found.setdefault(code, []).append((file, detail))
    merged = [Issue(code, *zip(*pairs, strict=True)) for code, pairs in found.items()]
    return sorted(merged, key=lambda one: (_SEVERITIES.index(one.severity), -len(one.files)))


class IssueError(DataError):
    """Data that cannot be used; `issues` says why."""

    def __init__(self, *issues: Issue, folder: str | Path = "") -> None:
        super().__init__(joined([str(one) for one in issues], folder))
        self.issues = issues


def raise_errors(issues: Iterable[Issue], folder: str | Path) -> None:
    """Raise one IssueError that lists all issues that are errors, if there are any."""
    errors = [one for one in grouped(issues) if one.severity == "error"]
    if errors:
        raise IssueError(*errors, folder=folder)


def attempt(issues: list[Issue], reader: Callable, *args: Any) -> Any:
    """Return `reader(*args)`; where it refuses, add the reasons to `issues` and return None."""
    try:
        return reader(*args)
    except ImageError as error:
        issues.append(issue(error.code, error.path, error.detail))
    except IssueError as error:
        issues += error.issues


def joined(messages: Sequence[str], folder: str | Path) -> str:
    """Return a message, or a list of the first few."""
    if len(messages) == 1:
        return messages[0]
    more = [f"and {len(messages) - 8} more"] if len(messages) > 8 else []
    return "\n- ".join([f"{len(messages)} faults in {folder}:", *messages[:8], *more])
