"""Exercises of lesson 02: data sets and splits."""

from collections.abc import Callable, Sequence

import numpy as np

from segkit.check import Case, Exercise, Mistake

_BREEDS = ["owl" if i in range(1, 24, 3) else "cat" if i % 2 else "dog" for i in range(64)]
_SHARE = 0.25


def _stratification(split: Callable) -> str:
    """Return whether validation holds a quarter of each label, give or take one image."""
    labels, counts = np.unique(_BREEDS, return_counts=True)
    wrong = swapped = False
    for seed in range(8):
        val = np.array(_BREEDS)[np.asarray(split(seed)[1], dtype=int)]
        found = np.array([np.sum(val == label) for label in labels])
        wrong |= bool((abs(found - _SHARE * counts) > 1).any())
        swapped |= bool((abs(found - (1 - _SHARE) * counts) <= 1).all())
    if swapped:
        return "three quarters of each"
    return "not the same share of each" if wrong else "a quarter of each"


def _partition(split: Callable) -> str:
    """Return whether each index is in exactly one part."""
    for seed in range(8):
        train, val = (np.asarray(part, dtype=int).tolist() for part in split(seed))
        if set(train) & set(val):
            return "some are in training and validation"
        if len(set(train + val)) < len(train + val):
            return "some are twice in one part"
        if sorted(train + val) != list(range(len(_BREEDS))):
            return "some are in neither part"
    return "each once"


def _randomness(split: Callable) -> str:
    """Return how the validation set depends on the seed."""
    first, again, other = (np.sort(np.asarray(split(seed)[1])) for seed in (1, 1, 2))
    if not np.array_equal(first, again):
        return "another set in every call"
    same = np.array_equal(first, other)
    return "the same set for every seed" if same else "a set for each seed"


_QUESTIONS = {
    "in which part is each image?": _partition,
    "how much of each breed is in validation?": _stratification,
    "called with seed 1, 1 and 2: which validation sets?": _randomness,
}


def _measure(stratified: Callable, question: str) -> str | None:
    if stratified(list(_BREEDS), _SHARE, 0) is None:
        return None
    return _QUESTIONS[question](lambda seed: stratified(list(_BREEDS), _SHARE, seed))


def _per_breed(labels: Sequence, share: float, seed: int | None, shuffle: bool = True) -> tuple:
    labels, rng = np.asarray(labels), np.random.default_rng(seed)
    train, val = [], []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        members = rng.permutation(members) if shuffle else members
        end = round(share * len(members))
        val.extend(members[:end].tolist())
        train.extend(members[end:].tolist())
    return train, val


def _all_at_once(labels: Sequence, share: float, seed: int) -> tuple:
    order = np.random.default_rng(seed).permutation(len(labels))
    end = round(share * len(order))
    return order[end:], order[:end]


def _positions_in_breed(labels: Sequence, share: float, seed: int) -> tuple:
    labels, rng = np.asarray(labels), np.random.default_rng(seed)
    train, val = [], []
    for label in np.unique(labels):
        order = rng.permutation(np.sum(labels == label))
        end = round(share * len(order))
        val.extend(order[:end])
        train.extend(order[end:])
    return train, val


def _with_repeats(labels: Sequence, share: float, seed: int) -> tuple:
    rng, val = np.random.default_rng(seed), []
    for label in np.unique(labels):
        members = np.flatnonzero(np.asarray(labels) == label)
        val.extend(rng.choice(members, round(share * len(members))).tolist())
    return [i for i in range(len(labels)) if i not in val], val


stratified = Exercise(
    name="stratified",
    measure=_measure,
    reference=_per_breed,
    cases=(
        Case("every image once", ("in which part is each image?",)),
        Case("a quarter of each breed", ("how much of each breed is in validation?",)),
        Case("the seed decides", ("called with seed 1, 1 and 2: which validation sets?",)),
    ),
    mistakes=(
        Mistake(
            _all_at_once,
            "One shuffle over all images leaves the breeds to chance: split each breed by itself.",
        ),
        Mistake(
            lambda labels, share, seed: (
                list(range(len(labels))),
                _per_breed(labels, share, seed)[1],
            ),
            "Images in validation must not be in training as well: remove them there.",
        ),
        Mistake(
            _with_repeats,
            "The same image is drawn more than once: rng.choice needs replace=False.",
        ),
        Mistake(
            lambda labels, share, seed: ([], []),
            "Images are in neither part. If you compare `labels == breed`, make it an array.",
        ),
        Mistake(
            _positions_in_breed,
            "These are indices within a breed; np.flatnonzero(labels == breed) has those in the "
            "whole list.",
        ),
        Mistake(
            lambda labels, share, seed: _per_breed(labels, share, seed)[::-1],
            "Validation gets `share` of each breed, and comes second: return train, val.",
        ),
        Mistake(
            lambda labels, share, seed: _per_breed(labels, share, seed, shuffle=False),
            "The first of each breed are always chosen: shuffle them, with the seed.",
        ),
        Mistake(
            lambda labels, share, seed: _per_breed(labels, share, None),
            "Every call draws anew: make the generator from the seed, default_rng(seed).",
        ),
    ),
    hint="Loop over np.unique(labels), shuffle the indices of each, and split them at `share`.",
)


def four_splits() -> tuple[list[str], list[tuple[list[int], list[int]]]]:
    """Return the patient of each of 24 X-rays, and four splits; exactly one leaks a patient."""
    numbers = [3, 1, 4, 1, 5, 2, 6, 5, 3, 7, 8, 7, 2, 3, 8, 4, 6, 2, 6, 1, 8, 4, 5, 7]
    patients = [f"patient {number}" for number in numbers]
    held = [{1, 5}, {2}, {4, 6}, {3, 7, 8}]
    splits = []
    for number, names in enumerate(held):
        val = [i for i, patient in enumerate(numbers) if patient in names]
        if number == 2:
            val[-1] = 23  # one image of patient 4 for one of patient 7
            val.sort()
        splits.append(([i for i in range(24) if i not in val], val))
    return patients, splits


leaking_split = Exercise(
    name="leaking_split",
    reference=2,
    mistakes=(
        Mistake(0, "Split 0 holds out patients 1 and 5, all their images: no leakage."),
        Mistake(1, "Split 1 holds out a single patient. That is little, but no leakage."),
        Mistake(3, "Split 3 holds out three of eight patients. That is much, but no leakage."),
    ),
    hint="The answer is the number of one split: 0, 1, 2 or 3.",
)
