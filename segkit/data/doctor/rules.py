"""What only shows when all examples are looked at together: values, classes, twins, leaks."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from segkit.data import splits
from segkit.data.dataset import IGNORE, DataError
from segkit.data.doctor.look import THIN
from segkit.data.doctor.report import Example
from segkit.data.doctor.sources import Fault
from segkit.data.folder import MANY, GroupBy, groups_of, value_rule

NEAR, ALIKE = 40, 0.9  # bits of 256 that may differ, and correlation of the images in small
JUMPS = 0.1  # share of the steps between ids that leaves one out, where ids meet at will
STRIPS = 16  # pixels between two ids, below which an edge says nothing
UNCUT = ("", "trainval")  # parts that are yet to be cut into splits
RARE = 0.001  # share of the pixels
FEW = 3  # images
TRIMAP = {1, 2, 3}


def mask_values(
    examples: list[Example], named: int, values: str
) -> tuple[list[Fault], str | None, int]:
    """Judge the masks' values; return the faults, the rule ("ids", "0/255", None) and the classes.

    Lossy masks and those with smeared edges are told apart first, so that they do not hide what
    the others hold.
    """
    clean = [e for e in examples if e.counts is not None and not (e.lossy and len(e.values) > 2)]
    faults = [Fault("lossy-mask", e.mask) for e in examples if e.lossy and len(e.values) > 2]
    try:
        rule, classes = value_rule({e.mask: e.values for e in clean}, named, values)
    except DataError:
        try:
            rule, classes = value_rule({e.mask: solid(e) for e in clean}, named, values)
        except DataError as error:
            return faults + _unruly(error, clean, named), None, named
    allowed = {0, 255} if rule == "0/255" else {*range(classes), IGNORE}
    for e in clean:
        surplus = sorted(set(e.values) - allowed)
        if surplus:
            faults.append(Fault("interpolated", e.mask, f"also {_listed(surplus)}"))
    if rule == "0/255":
        faults += [Fault("black-white", e.mask) for e in clean if e.counts[255]]
    else:
        faults += _strips([e for e in clean if not set(e.values) - allowed])
    return faults, rule, classes


def solid(example: Example) -> list[int]:
    """Return the values of a mask that are not only found between a lower and a higher one."""
    return [v for v in example.values if example.thin[v] < THIN * example.counts[v]]


def _unruly(error: DataError, clean: list[Example], named: int) -> list[Fault]:
    """Return the faults of masks for which there is no rule."""
    of = {e.mask: e.values for e in clean}
    seen = set().union(*of.values())
    code = error.code
    if code == "strange-values":
        strange = set().union(*(of[file] for file in error.files)) - {IGNORE}
        if seen - {IGNORE} <= TRIMAP:
            code = "trimap"
        else:
            code = "unknown-ids" if named or max(strange) >= MANY else "id-gap"
    return [Fault(code, file, f"holds {_listed(of[file])}") for file in error.files]


def _strips(clean: list[Example]) -> list[Fault]:
    """Find masks where hardly an edge leaves out an id, as interpolation has it, and others do."""
    shares = np.array([e.jumps for e in clean])
    usual = np.median(shares[~np.isnan(shares)]) if (~np.isnan(shares)).any() else 0
    if usual <= JUMPS:
        return []
    told = "{:.0%} of the steps at its edges leave out an id, usual are {:.0%}"
    return [
        Fault("thin-strips", e.mask, told.format(e.jumps, usual))
        for e in clean
        if e.jumps < JUMPS / 2 and e.strips >= STRIPS
    ]


def palettes(examples: list[Example]) -> list[Fault]:
    """Find masks whose palette gives an id another colour than most masks do."""
    usual = usual_colours(examples)
    return [
        Fault("palette-differs", e.mask, f"id {_listed(different)}")
        for e in examples
        if (different := [v for v, colour in e.colours.items() if usual[v] != colour])
    ]


def usual_colours(examples: list[Example]) -> dict[int, tuple[int, ...]]:
    """Return the colour that most masks with a palette give to each id."""
    votes: dict[int, Counter] = {}
    for e in examples:
        for value, colour in e.colours.items():
            votes.setdefault(value, Counter())[colour] += 1
    return {value: counter.most_common(1)[0][0] for value, counter in votes.items()}


def classes_of(examples: list[Example], rule: str | None, names: Sequence[str]) -> list[dict]:
    """Return for each class its id, name, share of the pixels that are not ignored, and images."""
    counts = np.array([e.counts for e in examples if e.counts is not None] or [[0] * 256])
    if rule == "0/255":
        counts = np.stack([counts[:, :128].sum(axis=1), counts[:, 128:].sum(axis=1)], axis=1)
    else:
        counts = counts[:, : max(len(names), 1)]
    share = counts.sum(axis=0) / max(counts.sum(), 1)
    return [
        {"id": i, "name": name, "share": float(share[i]), "images": int((counts[:, i] > 0).sum())}
        for i, name in enumerate(names)
    ]


def balance(
    examples: list[Example], rule: str | None, classes: list[dict], root: Path
) -> list[Fault]:
    """Judge classes that are rare, absent or not in every split, and masks without foreground."""
    faults = []
    readable = [e for e in examples if e.counts is not None]
    empty = [e.mask for e in readable if not set(e.values) - {0, IGNORE if rule != "0/255" else 0}]
    if readable and len(empty) == len(readable):
        return [Fault("no-foreground", root)]
    faults += [Fault("empty-mask", file) for file in empty]
    for c in classes[1:]:
        told = f"{c['name']}: {100 * c['share']:.2g} % of the pixels, in {c['images']} images"
        if c["images"] == 0:
            faults.append(Fault("absent-class", root, c["name"]))
        elif c["share"] < RARE or c["images"] < min(FEW, len(readable)):
            faults.append(Fault("rare-class", root, told))
        else:
            value = 255 if rule == "0/255" else c["id"]
            without = {e.split for e in readable} - {e.split for e in readable if e.counts[value]}
            faults += [Fault("class-not-in-split", root / part, c["name"]) for part in without]
    return faults


def twins(examples: list[Example], group_by: GroupBy) -> list[Fault]:
    """Find images that are the same or nearly so, and are in several splits or may come there.

    Identical ones are found within a split too. What is in one group is not told apart.
    """
    seen = [e for e in examples if e.hash is not None]
    if len(seen) < 2:
        return []
    hashes = np.array([e.hash for e in seen], dtype=np.float32)
    looks = np.array([e.look for e in seen])
    _, content = np.unique([e.digest.hex() for e in seen], return_inverse=True)
    part = np.array([e.split for e in seen])
    groups = np.array(groups_of(seen, group_by) if group_by else [str(i) for i in range(len(seen))])
    ones = hashes.sum(axis=1)
    faults: dict[tuple[str, Path], Fault] = {}
    for i, e in enumerate(seen):  # row by row: for many images the whole table would not fit
        near = ones[i] + ones - 2 * hashes @ hashes[i] <= NEAR
        near &= looks @ looks[i] >= ALIKE
        same, apart = content == content[i], part != part[i]
        counts = (same | near & (apart | (e.split in UNCUT))) & (apart | (groups != groups[i]))
        for j in np.flatnonzero(counts):
            code = ("leak-" if apart[j] else "") + ("duplicate" if same[j] else "near-duplicate")
            faults.setdefault((code, e.image), Fault(code, e.image, f"as {_place(seen[j])}"))
    return list(faults.values())


def leaking_groups(examples: list[Example], group_by: GroupBy) -> list[Fault]:
    """Find groups that are in several splits."""
    groups = np.array(groups_of(examples, group_by))
    parts = [
        np.flatnonzero([e.split == split for e in examples])
        for split in dict.fromkeys(e.split for e in examples)
    ]
    found = splits.leakage(parts, groups).groups if group_by else []
    return [
        Fault("leak-group", e.image or e.mask, f"group {group}")
        for group in found
        for e, its in zip(examples, groups, strict=True)
        if its == group
    ]


def _place(example: Example) -> str:
    return f"{example.split}/{example.name}".strip("/")


def _listed(values: Sequence[int], show: int = 8) -> str:
    return ", ".join(map(str, values[:show])) + (", …" if len(values) > show else "")
