"""Exercises of lesson 02: datasets and splits."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from segkit.check import Case, Exercise, Mistake

# ---------------------------------------------------------------- batches


def _numbers(answer: Any) -> Any:
    """Return the numbers of an answer; what is no number stays."""
    try:
        return {name: float(value) for name, value in answer.items()}
    except (AttributeError, TypeError, ValueError):
        return answer


def _batches_hint(answer: Any) -> str:
    right = {"batches": 7, "images in the last batch": 4, "batches with drop_last": 6}
    try:
        numbers = {name: None if answer[name] is None else float(answer[name]) for name in right}
    except (KeyError, TypeError, ValueError):
        return "Fill in the dictionary: three numbers, under the three names it has."
    if None in numbers.values():
        return "One of the three numbers is still None."
    off = [name for name, value in numbers.items() if value != right[name]]
    return f"Not right: {', '.join(off)}. How often do 16 images go into 100, and what is left?"


def _three(batches: int, last: int, full: int) -> dict[str, int]:
    return {
        "batches": batches, "images in the last batch": last, "batches with drop_last": full,
    }  # fmt: skip


batches = Exercise(
    name="batches",
    reference=_three(7, 4, 6),
    measure=_numbers,
    mistakes=(
        Mistake(
            _three(6, 4, 6),
            "By default no image is left out: the four that remain are a batch of their own.",
        ),
        Mistake(
            _three(7, 16, 6),
            "The last batch is not filled up: it holds the images that remain.",
        ),
        Mistake(_three(7, 4, 7), "drop_last=True leaves out a batch that is not full."),
    ),
    hint=_batches_hint,
)

# ---------------------------------------------------------------- shared groups


def _names(answer: Any) -> Any:
    """Return the groups of an answer in any collection, sorted, each once."""
    if answer is None or isinstance(answer, bool | int | float | np.number | np.bool_):
        return answer
    if isinstance(answer, str):
        answer = [name.strip() for name in answer.split(",")] if answer.strip() else []
    if isinstance(answer, Tensor | np.ndarray):
        answer = answer.tolist()
    return sorted({str(name) for name in answer})


def _shared(groups: Sequence, parts: Iterable) -> set:
    count = Counter(group for part in parts for group in {groups[i] for i in part})
    return {group for group, number in count.items() if number > 1}


def _found(shared_groups: Callable, groups: Sequence, parts: Sequence) -> Any:
    return _names(shared_groups(groups, parts))


def _indices_shared(groups: Sequence, parts: Sequence) -> set:
    return set.intersection(*({int(i) for i in part} for part in parts))


def _in_all(groups: Sequence, parts: Sequence) -> set:
    return set.intersection(*({groups[i] for i in part} for part in parts))


def _neighbours_only(groups: Sequence, parts: Sequence) -> set:
    sets = [{groups[i] for i in part} for part in parts]
    return set().union(*(a & b for a, b in pairwise(sets)))


_PATIENTS = ["ann", "bo", "ann", "cy", "bo", "dee", "cy", "dee", "eve"]

shared_groups = Exercise(
    name="shared_groups",
    reference=_shared,
    measure=_found,
    cases=(
        Case("one patient on both sides", (_PATIENTS, [[0, 1, 4, 3, 8], [2, 5, 6, 7]][::-1])),
        Case("no patient on both sides", (_PATIENTS, [[0, 1, 2, 4], [3, 5, 6, 7, 8]])),
        Case("three parts, two of them share", (_PATIENTS, [[0, 8], [2, 3, 1], [5, 7, 6, 4]])),
        Case("the first part and the third", (_PATIENTS, [[0, 1, 4], [3, 6, 8], [2, 5, 7]])),
        Case("parts are arrays", (_PATIENTS, [np.array([0, 3, 1, 5]), np.array([2, 4, 6, 7, 8])])),
    ),
    mistakes=(
        Mistake(
            _indices_shared,
            "These are images in several parts. Compare the groups of the images instead.",
        ),
        Mistake(
            lambda groups, parts: _shared(groups, parts[:2]),
            "There may be more than two parts, such as training, validation and test.",
        ),
        Mistake(_neighbours_only, "Compare every part with every other one, also 0 with 2."),
        Mistake(_in_all, "A group leaks already if it is in two parts; it need not be in all."),
        Mistake(
            lambda groups, parts: {g for g, n in Counter(groups).items() if n > 1},
            "A group may have several images in one part. It leaks if it is in two parts.",
        ),
        Mistake(
            lambda groups, parts: bool(_shared(groups, parts)),
            "That says whether there is a leak. Return the groups that leak.",
        ),
        Mistake(
            lambda groups, parts: len(_shared(groups, parts)),
            "That says how many groups leak. Return the groups themselves.",
        ),
        Mistake(
            lambda groups, parts: {i for i in range(9) if groups[i] in _shared(groups, parts)},
            "These are the images of the groups that leak. Return the groups themselves.",
        ),
        Mistake(
            lambda groups, parts: groups[parts[0]],
            "`groups` is a list, which takes one index at a time: groups[i] for i in part.",
        ),
    ),
    hint="Make a set of the groups of each part, {groups[i] for i in part}. Which groups are in "
    "two of these sets?",
)


def four_splits() -> tuple[list[str], list[tuple[list[int], list[int]]]]:
    """Return the patient of each of 24 X-rays, and four splits; exactly one leaks a patient."""
    numbers = [3, 1, 4, 1, 5, 2, 6, 5, 3, 7, 8, 7, 2, 3, 8, 4, 6, 2, 6, 1, 8, 4, 5, 7]
    patients = [f"patient {number}" for number in numbers]
    splits = []
    for number, names in enumerate([{1, 5}, {2}, {4, 6}, {3, 7, 8}]):
        val = [i for i, patient in enumerate(numbers) if patient in names]
        if number == 2:
            val[-1] = 23  # one image of patient 7 for one of patient 4
            val.sort()
        splits.append(([i for i in range(24) if i not in val], val))
    return patients, splits


# ---------------------------------------------------------------- a stratified split

_BREEDS = ["owl" if i in range(1, 24, 3) else "cat" if i % 2 else "dog" for i in range(64)]
_SITES = [("a", "b", "c", "c", "c")[i * i % 5] for i in range(60)]


def _indices(part: Any) -> list[int]:
    """Return the indices of a part: in any collection, or one boolean per image."""
    array = np.asarray(sorted(part) if isinstance(part, set | frozenset) else part)
    if array.dtype == bool:
        array = np.flatnonzero(array)
    if array.size and (array != array.astype(int)).any():
        raise ValueError("indices are whole numbers")
    return array.astype(int).tolist()


def _each_image(split: Callable, labels: list[str], share: float) -> str:
    """Return whether each index is in exactly one part."""
    for seed in range(8):
        train, val = split(seed)
        if set(train) & set(val):
            return "some are in training and validation"
        if len({*train, *val}) < len(train + val):
            return "some are twice in one part"
        if sorted(train + val) != list(range(len(labels))):
            return "some are in neither part"
    return "each once"


def _each_label(split: Callable, labels: list[str], share: float) -> str:
    """Return whether validation holds `share` of each label, give or take one image."""
    names, counts = np.unique(labels, return_counts=True)
    wrong = swapped = False
    for seed in range(8):
        val = np.array(labels)[split(seed)[1]]
        found = np.array([np.sum(val == name) for name in names])
        wrong |= bool((abs(found - share * counts) > 1).any())
        swapped |= bool((abs(found - (1 - share) * counts) <= 1).all())
    if swapped:
        return "1 - share of each"
    return "not the same fraction of each" if wrong else "`share` of each"


def _each_seed(split: Callable, labels: list[str], share: float) -> str:
    """Return how the validation set depends on the seed."""
    first, again, other = (sorted(split(seed)[1]) for seed in (1, 1, 2))
    if first != again:
        return "another set in every call"
    return "the same set for every seed" if first == other else "a set for each seed"


_QUESTIONS = {
    "in which part is each image?": _each_image,
    "how much of each label is in validation?": _each_label,
    "called with seed 1, 1 and 2: which validation sets?": _each_seed,
}


def _answer(stratified: Callable, question: str, labels: list[str], share: float) -> Any:
    if stratified([*labels], share, 0) is None:
        return None

    def split(seed: int) -> list[list[int]]:
        parts = [_indices(part) for part in stratified([*labels], share, seed)]
        if len(parts) != 2:
            raise ValueError(f"{len(parts)} parts: return two, training and validation")
        return parts

    return _QUESTIONS[question](split, labels, share)


def _per_label(
    labels: Sequence, share: float, seed: int | None, shuffle: bool = True
) -> tuple[list, list]:
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


def _positions_in_label(labels: Sequence, share: float, seed: int) -> tuple:
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
    measure=_answer,
    reference=_per_label,
    cases=tuple(
        Case(label, (question, labels, share))
        for labels, share in ((_BREEDS, 0.25), (_SITES, 0.4))
        for label, question in zip(
            (
                f"every image once, share={share}",
                f"share={share} of each label",
                f"the seed decides, share={share}",
            ),
            _QUESTIONS,
            strict=True,
        )
    ),
    mistakes=(
        Mistake(
            _all_at_once,
            "One shuffle over all images leaves the labels to chance: split each label by itself.",
        ),
        Mistake(
            lambda labels, share, seed: (
                list(range(len(labels))),
                _per_label(labels, share, seed)[1],
            ),
            "Images in validation must not be in training as well: remove them there.",
        ),
        Mistake(
            _with_repeats,
            "The same image is drawn more than once: rng.choice needs replace=False.",
        ),
        Mistake(
            lambda labels, share, seed: ([], []),
            "Images are in neither part. If you compare `labels == label`, make it an array.",
        ),
        Mistake(
            _positions_in_label,
            "These are indices within a label; np.flatnonzero(labels == label) has those in the "
            "whole list.",
        ),
        Mistake(
            lambda labels, share, seed: _per_label(labels, share, seed)[::-1],
            "Validation gets `share` of each label, and comes second: return train, val.",
        ),
        Mistake(
            lambda labels, share, seed: _per_label(labels, share, seed, shuffle=False),
            "The first of each label are always chosen: shuffle them, with the seed.",
        ),
        Mistake(
            lambda labels, share, seed: _per_label(labels, share, None),
            "Every call draws anew: make the generator from the seed, default_rng(seed).",
        ),
        Mistake(
            lambda labels, share, seed: _per_label(labels, 0.25, seed),
            "You use a fixed fraction of 0.25. Use `share`, which may be another.",
        ),
        Mistake(
            lambda labels, share, seed: [
                np.asarray(labels)[p] for p in _per_label(labels, share, 0)
            ],
            "Return two collections of indices (whole numbers), not labels.",
        ),
    ),
    hint="Loop over np.unique(labels), shuffle the indices of each, and split them at `share`.",
)

# ---------------------------------------------------------------- a subset with a transform


class _Pairs(Dataset):
    """Six images of 2 x 2 pixels, with a transform of their own that doubles an image."""

    def __init__(self) -> None:
        self.transform = lambda image, mask: (2 * image, mask)

    def __len__(self) -> int:
        return 6

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        if not 0 <= i < 6:
            raise IndexError(i)
        return self.transform(torch.full((1, 2, 2), float(i)), torch.full((2, 2), int(i)))


class _Draws:
    """A random transform: the number of the call is added to the image."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        self.calls += 1
        return image + self.calls / 100, mask


def _shift(image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    return image + 100, mask + 10


def _values(dataset: Dataset) -> list[list[float]]:
    pairs = [dataset[i] for i in range(len(dataset))]
    return [[float(image.flatten()[0]) for image, _ in pairs],
            [float(mask.flatten()[0]) for _, mask in pairs]]  # fmt: skip


def _use(subset: Callable, question: str) -> Any:
    base = _Pairs()
    chosen = subset(base, np.array([4, 1, 3]) if "array" in question else [4, 1, 3], _shift)
    if chosen is None:
        return None
    if question.startswith("images and masks"):
        return _values(chosen)
    if question.startswith("another"):
        other = subset(base, [0, 2], lambda image, mask: (-image, mask))
        return [_values(chosen), _values(other), _values(base)]
    if question.startswith("a random"):
        random = subset(base, [4, 1], _Draws())
        first, again = float(random[0][0].mean()), float(random[0][0].mean())
        return "another image each time" if first != again else "the same image each time"
    return [images[:, 0, 0, 0].tolist() for images, _ in DataLoader(chosen, batch_size=2)]


class _Chosen(Dataset):
    def __init__(self, dataset: Dataset, indices: Sequence[int], transform: Callable) -> None:
        self.dataset, self.indices, self.transform = dataset, indices, transform

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return self.transform(*self.dataset[int(self.indices[i])])


class _IgnoresIndices(_Chosen):
    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return self.transform(*self.dataset[i])


class _FullLength(_Chosen):
    def __len__(self) -> int:
        return len(self.dataset)


class _OneOfTwoMethods(Subset):
    def __init__(self, dataset: Dataset, indices: Sequence[int], transform: Callable) -> None:
        super().__init__(dataset, [int(i) for i in indices])
        self.transform = transform

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return self.transform(*super().__getitem__(i))


class _ImageOnly(_Chosen):
    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        image, mask = self.dataset[int(self.indices[i])]
        return self.transform(image, mask)[0], mask


def _sets_the_original(dataset: _Pairs, indices: Sequence[int], transform: Callable) -> Subset:
    before = _Pairs().transform
    dataset.transform = lambda image, mask: transform(*before(image, mask))
    return Subset(dataset, [int(i) for i in indices])


subset_with_transform = Exercise(
    name="subset_with_transform",
    reference=_Chosen,
    measure=_use,
    cases=(
        Case("items 4, 1, 3", ("images and masks of items 4, 1, 3",)),
        Case("indices in an array", ("images and masks, indices in an array",)),
        Case("two subsets of one dataset", ("another subset with another transform",)),
        Case("a random transform", ("a random transform, item 0 read twice",)),
        Case("in a DataLoader", ("first pixels of the images, in batches of two",)),
    ),
    mistakes=(
        Mistake(
            lambda dataset, indices, transform: [transform(*dataset[int(i)]) for i in indices],
            "The transform runs once, when the list is made: a random one would give the same "
            "image in every epoch. Call it in __getitem__.",
        ),
        Mistake(
            _sets_the_original,
            "You changed the transform of the original dataset, and so of every other subset: "
            "the validation images would be augmented, too.",
        ),
        Mistake(
            lambda dataset, indices, transform: Subset(dataset, [int(i) for i in indices]),
            "The images are those of the dataset: the transform is never called.",
        ),
        Mistake(_IgnoresIndices, "Item i of the subset is item indices[i] of the dataset."),
        Mistake(_FullLength, "The subset is as long as `indices`, not as the dataset."),
        Mistake(
            _OneOfTwoMethods,
            "A DataLoader calls Subset.__getitems__ for a whole batch, without your __getitem__. "
            "Inherit from Dataset instead.",
        ),
        Mistake(_ImageOnly, "Return the mask of the transform, too: a flip must flip both."),
    ),
    hint="Write a class with __init__, __len__ and __getitem__, and return an object of it. "
    "__getitem__(i) gets an image and a mask, dataset[indices[i]], and passes both to transform.",
)
