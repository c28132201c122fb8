"""Splits into train, validation and test, and a check that nothing leaks.

Every split returns one sorted array of indices per fraction. Same arguments, same split.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from segkit.data.dataset import DataError, check_seed
from segkit.errors import ArgumentError

Parts = tuple[np.ndarray, ...]


def sorted_split(n: int, fractions: Sequence[float] = (0.7, 0.15, 0.15)) -> Parts:
    """Split 0..n-1 as it stands, without shuffling.

    Right only when the order means nothing. Of file names sorted by breed, patient or date the
    last part holds what the first has never shown.
    """
    return _cut(np.arange(n), fractions)


def random_split(n: int, fractions: Sequence[float] = (0.7, 0.15, 0.15), seed: int = 0) -> Parts:
    """Shuffle 0..n-1 and split: right when the items are independent of each other."""
    return _cut(np.random.default_rng(check_seed(seed)).permutation(n), fractions)


def stratified_split(
    labels: Sequence, fractions: Sequence[float] = (0.7, 0.15, 0.15), seed: int = 0
) -> Parts:
    """Split so that every part holds the labels (one per item) in the same proportions.

    A label's share of a part comes within an item or two; rare labels go to a part by chance.
    """
    return _cut(_even_order(labels, seed), fractions)


def grouped_split(
    groups: Sequence, fractions: Sequence[float] = (0.7, 0.15, 0.15), seed: int = 0
) -> Parts:
    """Split so that no group (one per item: patient, animal, slide) is in two parts.

    Groups are dealt in random order, each to the part that lacks most items, so the sizes only
    come near to `fractions`. Every part gets a group as long as there are enough.
    """
    groups = np.asarray(groups)
    names, sizes = np.unique(groups, return_counts=True)
    lacking = _checked(fractions) * len(groups)
    part_of, empty = {}, set(range(len(fractions)))
    for dealt, g in enumerate(np.random.default_rng(check_seed(seed)).permutation(len(names))):
        needed = empty if len(names) - dealt <= len(empty) else range(len(fractions))
        part = max(needed, key=lambda p: lacking[p])
        part_of[names[g]] = part
        lacking[part] -= sizes[g]
        empty.discard(part)
    part = np.array([part_of[group] for group in groups], dtype=int)
    return _none_empty([np.flatnonzero(part == p) for p in range(len(fractions))], len(groups))


def sample(n: int, count: int, seed: int = 0, labels: Sequence | None = None) -> np.ndarray:
    """Choose `count` of 0..n-1 at random, in proportion to `labels` if given; sorted."""
    if not 0 < count <= n:
        raise DataError(f"count={count}, but there are {n} items: choose 1 to {n}")
    return np.sort(_even_order([0] * n if labels is None else labels, seed)[:count])


@dataclass(frozen=True)
class Leakage:
    """What two parts of a split share: item indices, group names, pairs of identical images."""

    items: list[int]
    groups: list
    duplicates: list[tuple[int, int]]

    @property
    def clean(self) -> bool:
        """Whether nothing is shared."""
        return not (self.items or self.groups or self.duplicates)

    def __str__(self) -> str:
        if self.clean:
            return "no leak found"
        found = [
            _line("items in several parts", self.items),
            _line("groups in several parts", self.groups),
            _line("identical images", [f"{i} = {j}" for i, j in self.duplicates]),
        ]
        return "leak: " + "; ".join(line for line in found if line)


def leakage(
    parts: Sequence[np.ndarray], groups: Sequence | None = None, images: Sequence | None = None
) -> Leakage:
    """Report what the parts of a split share.

    Args:
        parts: index arrays.
        groups: of the whole data set, to be indexed by `parts`.
        images: of the whole data set. They are compared byte by byte (through a hash);
            near-duplicates are not found.
    """
    same = {} if images is None else _in_several(parts, lambda i: _digest(images[i]))
    return Leakage(
        items=list(_in_several(parts, int)),
        groups=[] if groups is None else list(_in_several(parts, lambda i: groups[i])),
        duplicates=[
            (first, other)
            for first, *others in same.values()
            for other in others
            if other != first
        ],
    )


def _in_several(parts: Sequence[np.ndarray], key: Callable) -> dict:
    """Return the keys found in several parts, each with one item of every part it is in."""
    found: dict = {}
    for p, part in enumerate(parts):
        for i in part:
            found.setdefault(key(i), {}).setdefault(p, int(i))
    return {k: list(where.values()) for k, where in found.items() if len(where) > 1}


def _digest(image: np.ndarray) -> bytes:
    image = np.ascontiguousarray(image)
    return hashlib.blake2b(repr(image.shape).encode() + image.tobytes()).digest()


def _line(what: str, found: list) -> str:
    more = ", …" if len(found) > 5 else ""
    return f"{len(found)} {what}: {', '.join(map(str, found[:5]))}{more}" if found else ""


def _even_order(labels: Sequence, seed: int) -> np.ndarray:
    """Return an order in which every stretch holds the labels in their overall proportions.

    The items of a label, shuffled, are laid evenly along a line from 0 to 1, with a random start;
    the order is the one along the line.
    """
    labels = np.asarray(labels)
    rng = np.random.default_rng(check_seed(seed))
    place = np.empty(len(labels))
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        place[members] = (np.arange(len(members)) + rng.random()) / len(members)
    return np.argsort(place, kind="stable")


def _cut(order: np.ndarray, fractions: Sequence[float]) -> Parts:
    n, inner = len(order), np.arange(1, len(fractions))
    ends = np.round(np.cumsum(_checked(fractions))[:-1] * n).astype(int)
    if n > len(inner):  # rounding must leave no part empty
        ends = np.maximum.accumulate(np.maximum(ends, inner) - inner) + inner
        ends = np.minimum(ends, n - inner[::-1])
    return _none_empty([np.sort(part) for part in np.split(order, ends)], n)


def _checked(fractions: Sequence[float]) -> np.ndarray:
    fractions = np.asarray(fractions, dtype=float)
    if (fractions <= 0).any() or not np.isclose(fractions.sum(), 1):
        raise ArgumentError(f"fractions {fractions.tolist()} must be positive and add up to 1")
    return fractions


def _none_empty(parts: list[np.ndarray], n: int) -> Parts:
    if any(len(part) == 0 for part in parts):
        sizes = ", ".join(str(len(part)) for part in parts)
        raise DataError(
            f"{n} items cut into parts of {sizes}: none may be empty; "
            "bring more items or groups, or choose other fractions"
        )
    return tuple(parts)
