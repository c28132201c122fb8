"""Splits into train, validation and test, and a check that nothing leaks.

Every split returns one sorted array of indices per fraction, an empty one for a fraction of 0.
Same arguments, same split.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from segkit.data.dataset import check_seed, digest
from segkit.errors import ArgumentError, DataError

_Parts = tuple[np.ndarray, ...]


def sorted_split(n: int, fractions: Sequence[float] = (0.7, 0.15, 0.15)) -> _Parts:
    """Split 0..n-1 as it stands: right only when the order means nothing.

    Of names sorted by breed, patient or date the last part holds what the first has never shown.
    """
    return _cut(np.arange(n), fractions)


def random_split(n: int, fractions: Sequence[float] = (0.7, 0.15, 0.15), seed: int = 0) -> _Parts:
    """Shuffle 0..n-1 and split: right when the items are independent of each other."""
    return _cut(np.random.default_rng(check_seed(seed)).permutation(n), fractions)


def stratified_split(
    labels: Sequence, fractions: Sequence[float] = (0.7, 0.15, 0.15), seed: int = 0
) -> _Parts:
    """Split so that every part holds the labels (one per item) in the same proportions.

    A label's share of a part comes within an item or two; rare labels go to a part by chance.
    """
    return _cut(_even_order(labels, seed), fractions)


def grouped_split(
    groups: Sequence, fractions: Sequence[float] = (0.7, 0.15, 0.15), seed: int = 0
) -> _Parts:
    """Split so that no group (one per item: patient, animal, slide) is in two parts.

    Groups are dealt in random order, each to the part that lacks most items, so the sizes only
    come near to `fractions`. Every part gets a group as long as there are enough.
    """
    names, group_of = np.unique(np.asarray(groups), return_inverse=True)
    shares = _checked(fractions)
    lacking, wanted = shares * len(group_of), np.flatnonzero(shares).tolist()
    sizes, part_of = np.bincount(group_of), np.zeros(len(names), int)
    empty = set(wanted)
    for dealt, g in enumerate(np.random.default_rng(check_seed(seed)).permutation(len(names))):
        needed = empty if len(names) - dealt <= len(empty) else wanted
        part_of[g] = max(needed, key=lambda p: lacking[p])
        lacking[part_of[g]] -= sizes[g]
        empty.discard(part_of[g])
    parts = [np.flatnonzero(part_of[group_of] == p) for p in range(len(shares))]
    return _none_empty(parts, shares)


def sample(n: int, count: int, seed: int = 0, labels: Sequence | None = None) -> np.ndarray:
    """Choose `count` of 0..n-1 at random, in proportion to `labels` if given; sorted.

    A count beyond `n` means all, with a warning.
    """
    if count < 1:
        raise DataError(f"count={count}: choose 1 to {n} of the {n} items")
    if count > n:
        warnings.warn(f"count={count}, but there are {n} items: all {n} are used", stacklevel=2)
    return np.sort(_even_order([0] * n if labels is None else labels, seed)[:count])


class _Leakage(NamedTuple):
    """What two parts of a split share: item indices, group names, pairs of identical images."""

    items: list[int]
    groups: list
    duplicates: list[tuple[int, int]]

    @property
    def clean(self) -> bool:
        """Whether nothing is shared."""
        return not any(self)

    def __str__(self) -> str:
        duplicates = [f"{i} = {j}" for i, j in self.duplicates]
        kinds = ("items in several parts", "groups in several parts", "identical images")
        lines = []
        for kind, found in zip(kinds, (self.items, self.groups, duplicates), strict=True):
            if found:
                more = ", …" if len(found) > 5 else ""
                lines.append(f"{len(found)} {kind}: {', '.join(map(str, found[:5]))}{more}")
        return "leak: " + "; ".join(lines) if lines else "no leak found"


def leakage(
    parts: Sequence[np.ndarray], groups: Sequence | None = None, images: Sequence | None = None
) -> _Leakage:
    """Report what the parts of a split, arrays of indices, share.

    `groups` and `images` are those of the whole data set. Images are compared byte by byte;
    near-duplicates are not found.
    """

    same = {} if images is None else _in_several(parts, lambda i: digest(images[i]))
    pairs = [(first, other) for first, *others in same.values() for other in others]
    return _Leakage(
        items=list(_in_several(parts, int)),
        groups=[] if groups is None else list(_in_several(parts, lambda i: groups[i])),
        duplicates=[(first, other) for first, other in pairs if other != first],
    )


def _in_several(parts: Sequence[np.ndarray], key: Callable) -> dict:
    """Return the keys found in several parts, each with one item of every part it is in."""
    found: dict = {}
    for p, part in enumerate(parts):
        for i in part:
            found.setdefault(key(i), {}).setdefault(p, int(i))
    return {k: list(parts.values()) for k, parts in found.items() if len(parts) > 1}


def _even_order(labels: Sequence, seed: int) -> np.ndarray:
    """Return an order in which every stretch holds the labels in their overall proportions.

    The items of a label, shuffled, are laid evenly along a line from 0 to 1, with a random start.
    """
    labels = np.asarray(labels)
    rng = np.random.default_rng(check_seed(seed))
    place = np.empty(len(labels))
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        place[members] = (np.arange(len(members)) + rng.random()) / len(members)
    return np.argsort(place, kind="stable")


def _cut(order: np.ndarray, fractions: Sequence[float]) -> _Parts:
    shares = _checked(fractions)
    wanted = np.flatnonzero(shares)
    n, inner = len(order), np.arange(1, len(wanted))
    ends = np.round(np.cumsum(shares[wanted])[:-1] * n).astype(int)
    if n > len(inner):  # rounding must leave no part empty
        ends = np.maximum.accumulate(np.maximum(ends, inner) - inner) + inner
        ends = np.minimum(ends, n - inner[::-1])
    parts = [order[:0]] * len(shares)
    for part, chosen in zip(wanted, np.split(order, ends), strict=True):
        parts[part] = np.sort(chosen)
    return _none_empty(parts, shares)


def _checked(fractions: Sequence[float]) -> np.ndarray:
    try:
        shares = np.asarray(fractions, dtype=float)
    except (TypeError, ValueError):
        shares = np.zeros(1)
    if shares.ndim != 1 or not (shares >= 0).all() or not np.isclose(shares.sum(), 1):
        raise ArgumentError(f"fractions {fractions} must not be negative, and add up to 1")
    return shares


def _none_empty(parts: list[np.ndarray], shares: np.ndarray) -> _Parts:
    sizes = [len(part) for part in parts]
    if not all(size for size, share in zip(sizes, shares, strict=True) if share):
        raise DataError(
            f"{sum(sizes)} items cut into parts of {str(sizes)[1:-1]}: none may be empty; "
            "bring more items or groups, or choose other fractions"
        )
    return tuple(parts)
