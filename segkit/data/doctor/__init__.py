"""The data doctor: what is wrong with a folder of images and masks, before a network learns it.

`check` reads every file as the loader would, and looks at what only shows in all of them together.
`fix` writes a corrected copy of what can be corrected without guessing.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from segkit.data.cache import in_threads
from segkit.data.doctor import rules
from segkit.data.doctor.look import examine
from segkit.data.doctor.repair import Fix, fix
from segkit.data.doctor.report import SEVERITIES, Example, Finding, Report
from segkit.data.doctor.sources import Fault, source
from segkit.data.folder import GroupBy, checked_names, default_names

__all__ = ["Example", "Finding", "Fix", "Report", "check", "fix"]

# code: severity, what it is, what to do. What is not here comes from a reader, is an error, and
# the reader's message says both.
KINDS = {
    "missing-mask": (
        "error",
        "images without a mask of the same name",
        "add the mask (all 0 if nothing is there), or move the image out",
    ),
    "missing-image": (
        "error",
        "masks without an image of the same name",
        "bring back the image, or rename or remove the mask",
    ),
    "same-stem": (
        "error",
        "several files with one stem, so it is unclear which belongs to which",
        "rename or remove all but one",
    ),
    "size-mismatch": (
        "error",
        "masks of another size than their image, so they do not lie on it pixel by pixel",
        "export them again at full size",
    ),
    "mixed-values": (
        "error",
        "some masks hold 0 and 255, others ids, so 255 would pass for 'ignored'",
        'save all masks alike; values="ids" if 255 really marks what is to be ignored',
    ),
    "interpolated": (
        "error",
        "masks with values in between along their edges: they were resized, rotated or drawn with "
        "smoothing, which invents classes",
        "go back to the originals and use nearest",
    ),
    "lossy-mask": (
        "error",
        "masks stored as JPEG, which changes values near edges",
        "export them again, as PNG",
    ),
    "trimap": (
        "error",
        "the masks hold 1, 2 and 3, as the trimaps of Oxford-IIIT Pet do, and no 0",
        "turn them into ids with segkit.data.pets.from_trimap, which names the border's rule",
    ),
    "id-gap": (
        "error",
        "masks with ids beyond a gap: an id below them is in no mask",
        "give class_names, one per id, if the class is only absent; else correct these masks or "
        "count the ids from 0 without a gap",
    ),
    "unknown-ids": (
        "error",
        "masks with values that belong to no class",
        "correct these masks, or name the classes (class_names, one per id)",
    ),
    "class-names": (
        "error",
        "the masks hold 0 and 255 only, but more or fewer than two classes are named",
        'name two classes, or say values="ids" if 255 is to be ignored',
    ),
    "no-foreground": (
        "error",
        "no mask holds anything but background",
        "look whether these are the right masks",
    ),
    "leak-duplicate": (
        "error",
        "the same image in several splits, so the score is too good",
        "keep one",
    ),
    "leak-group": (
        "error",
        "groups with images in several splits, so the score is too good",
        "move all images of a group into one split",
    ),
    "leak-near-duplicate": (
        "warning",
        "images in several splits that look alike, so the score may be too good",
        "look at them, and keep one or move both into one split",
    ),
    "duplicate": (
        "warning",
        "the same image several times: it counts twice, and may be split apart",
        "keep one, or give both to one group (group_by)",
    ),
    "near-duplicate": (
        "warning",
        "images that look alike and may be split apart",
        "look at them, and keep one or give both to one group (group_by)",
    ),
    "thin-strips": (
        "warning",
        "masks where an id lies only in thin strips between two others, as interpolation leaves it",
        "look at the edges; if they were resized, go back to the originals and use nearest",
    ),
    "palette-differs": (
        "warning",
        "masks whose palette gives an id another colour than most masks do",
        "look whether the ids mean the same everywhere, and save all masks with one palette",
    ),
    "rare-class": (
        "warning",
        "classes with hardly anything to learn from",
        "bring more examples of them, or merge them with another class",
    ),
    "class-not-in-split": (
        "warning",
        "splits without a class that others have",
        "split again, stratified by class",
    ),
    "absent-class": (
        "note",
        "named classes that are in no mask",
        "leave their names out, unless more data are to come",
    ),
    "empty-mask": (
        "note",
        "masks with background only",
        "look whether there is really nothing, or whether somebody forgot to draw",
    ),
    "black-white": (
        "note",
        "masks with 0 and 255, read as background and foreground",
        "nothing for segkit; other programs expect the ids 0 and 1",
    ),
    "mode": (
        "note",
        "images that are not plainly grey or RGB; an alpha channel that is opaque is left out, a "
        "palette is looked up",
        "nothing for segkit; other programs may stumble",
    ),
    "mixed-channels": (
        "note",
        "grey images among coloured ones, which are read as grey RGB",
        "nothing, if the network is to see colour; else read all with channels=1",
    ),
    "wrong-suffix": (
        "note",
        "files that are of another format than their name says",
        "nothing for segkit, which looks inside; rename them for programs that do not",
    ),
}
FIXABLE = {"black-white", "mode", "wrong-suffix", "exif", "mask-colours", "palette-differs"}
FIXABLE_BINARY = {"interpolated", "lossy-mask", "mixed-values"}


def check(
    folder: str | Path,
    *,
    class_names: Sequence[str] | None = None,
    values: str = "auto",
    group_by: GroupBy = None,
) -> Report:
    """Look at every file in `folder` and report what is wrong.

    folder: images and masks (see `segkit.data.folder`), Oxford-IIIT Pet, or LabelMe files.
    class_names, values, group_by: as for `segkit.data.folder.open_folder`.
    Raises FileNotFoundError where there is none of these layouts.
    """
    names = checked_names(class_names)
    found = source(Path(folder), names)
    found.find()
    examples = found.examples
    look = in_threads(lambda example: examine(found, example), examples)
    for _ in tqdm(look, "checking", len(examples), leave=False, disable=None, delay=2):
        pass
    if found.layout == "folder":
        faults, rule, classes = rules.mask_values(examples, len(names), values)
        names = names or (default_names(classes) if rule else ())
        faults += rules.palettes(examples)
    else:
        faults, rule, names = [], "ids", found.class_names
    classes = rules.classes_of(examples, rule, names)
    faults += rules.balance(examples, rule, classes, found.root) if rule else []
    faults += rules.twins(examples, group_by) + rules.leaking_groups(examples, group_by)
    faults += _modes(examples)
    report = Report(found.root, found.layout, examples=examples, load=found.read)
    report.facts = {
        "pairs": dict(Counter(e.split for e in examples if e.image and e.mask)),
        "sizes": dict(Counter(f"{e.size[1]}×{e.size[0]}" for e in examples if e.size)),
        "modes": dict(Counter(mode for e in examples for mode in e.modes)),
        "values": "trimap" if found.layout == "oxford-pet" else rule,
        "classes": classes,
    }
    report.findings = _findings(report, found.faults + faults)
    return report


def _modes(examples: list[Example]) -> list[Fault]:
    """Find images stored in unusual ways, and grey ones among coloured ones."""
    modes = {e.image: e.modes[0] for e in examples if e.modes}
    grey = [file for file, mode in modes.items() if mode in ("1", "L", "LA")]
    unusual = [file for file, mode in modes.items() if mode not in ("L", "RGB", "in JSON")]
    faults = [Fault("mode", file, modes[file]) for file in unusual]
    if 0 < len(grey) < len(modes):
        faults += [Fault("mixed-channels", file) for file in grey]
    return faults


def _findings(report: Report, faults: list[Fault]) -> list[Finding]:
    """Gather faults by code, the worst first."""
    by_code: dict[str, list[Fault]] = {}
    for fault in sorted(faults, key=lambda fault: str(fault.file)):
        by_code.setdefault(fault.code, []).append(fault)
    findings = [_finding(report, code, its) for code, its in by_code.items()]
    return sorted(findings, key=lambda f: (SEVERITIES.index(f.severity), -len(f.files)))


def _finding(report: Report, code: str, faults: list[Fault]) -> Finding:
    what, _, cure = faults[0].text.rpartition(": ")
    severity, what, cure = KINDS.get(code, ("error", what or cure, cure if what else ""))
    binary = report.facts["values"] == "0/255" or code == "mixed-values"
    fixable = code in FIXABLE or (code in FIXABLE_BINARY and binary)
    return Finding(
        code,
        severity,
        what,
        cure,
        tuple(report.relative(fault.file) for fault in faults),
        tuple("" if fault.detail == what else fault.detail for fault in faults),
        fixable and report.layout == "folder",
    )
