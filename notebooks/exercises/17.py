"""Exercises of lesson 17: inference and errors."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from segkit.check import Case, Exercise, Mistake


def _join(left: np.ndarray, right: np.ndarray, overlap: int, weight: np.ndarray) -> np.ndarray:
    """Return both tiles as one; `weight` is that of `left` in the overlap."""
    shared = weight * left[:, -overlap:] + (1 - weight) * right[:, :overlap]
    return np.concatenate([left[:, :-overlap], shared, right[:, overlap:]], axis=1)


def _falling(overlap: int) -> np.ndarray:
    return 1 - np.arange(1, overlap + 1) / (overlap + 1)


def _sum(left: np.ndarray, right: np.ndarray, overlap: int) -> np.ndarray:
    joined = _join(left, right, overlap, np.ones(overlap))
    joined[:, left.shape[1] - overlap : left.shape[1]] += right[:, :overlap]
    return joined


_RANDOM = np.random.default_rng(17)

blend = Exercise(
    name="blend",
    reference=lambda left, right, overlap: _join(left, right, overlap, _falling(overlap)),
    cases=(
        Case("from 0 to 4", (np.zeros((1, 4)), np.full((1, 4), 4.0), 3)),
        Case("tiles that agree", (np.full((2, 3), 1.5), np.full((2, 3), 1.5), 2)),
        Case("one column shared", (np.zeros((1, 2)), np.full((1, 3), 2.0), 1)),
        Case("any two", (_RANDOM.normal(size=(3, 6)), _RANDOM.normal(size=(3, 9)), 4)),
    ),
    mistakes=(
        Mistake(
            lambda left, right, overlap: np.concatenate([left, right], axis=1),
            "The columns of the overlap are there twice in your array.",
        ),
        Mistake(
            lambda left, right, overlap: _join(left, right, overlap, np.full(overlap, 0.5)),
            "A plain mean: the value jumps at both ends of the overlap. Let the weight fall.",
        ),
        Mistake(
            lambda left, right, overlap: _join(left, right, overlap, np.ones(overlap)),
            "All of `left`, then `right`: the seam is where `left` ends. Blend in the overlap.",
        ),
        Mistake(
            lambda left, right, overlap: _join(left, right, overlap, _falling(overlap)[::-1]),
            "The weights are reversed: `left` counts most at the overlap's right end.",
        ),
        Mistake(
            lambda left, right, overlap: _join(left, right, overlap, np.linspace(1, 0, overlap)),
            "Your weights begin at 1 and end at 0. For three columns they are 3/4, 2/4, 1/4.",
        ),
        Mistake(
            _sum,
            "In the overlap you add both tiles. The weights of `left` and `right` must sum to 1.",
        ),
    ),
    hint="Make the weights first, an array of `overlap` numbers; check them for 1 and 3 columns.",
)


def _by_letter(answer: object) -> dict[str, int] | str:
    """Return the number of each image, from a dictionary or from the four in order."""
    try:
        pairs = answer if isinstance(answer, dict) else dict(zip("abcd", answer, strict=True))
        return {str(letter): int(number) for letter, number in pairs.items()}
    except (TypeError, ValueError):
        return "not four numbers"


def _failures_hint(answer: object) -> str:
    found = _by_letter(answer)
    if isinstance(found, str) or set(found) != set("abcd"):
        return 'Give one number for each image: {"a": ..., "b": ..., "c": ..., "d": ...}.'
    if len(set(found.values())) < 4:
        return "Each of the numbers 1 to 4 is used once."
    return (
        "First ask whether too little was predicted (low recall) or too much (low precision); "
        "then count components."
    )


failures = Exercise(
    name="failures",
    reference={"a": 4, "b": 2, "c": 1, "d": 3},
    measure=_by_letter,
    mistakes=(
        Mistake(
            {"a": 1, "b": 2, "c": 4, "d": 3},
            "In a and c recall is low. In one of them there are nine components for nine cells.",
        ),
        Mistake(
            {"a": 4, "b": 3, "c": 1, "d": 2},
            "In b and d precision is low. What makes components fewer, and what makes them more?",
        ),
        Mistake(
            {"a": 2, "b": 4, "c": 3, "d": 1},
            "Recall falls when cells are missed, precision when too much is predicted; you have "
            "swapped them.",
        ),
        Mistake(
            {"a": 2, "b": 4, "c": 1, "d": 3},
            "c and d are right. Cells merge into few components, but are their pixels missed?",
        ),
    ),
    hint=_failures_hint,
)


_Model = Callable[[Tensor], Tensor]


def _average(
    turns: tuple[int, ...] = (0, 1, 2, 3),
    mirrors: tuple[bool, ...] = (False, True),
    back: bool = True,
    reverse: bool = True,
    combine: Callable[[Tensor], Tensor] = lambda versions: versions.mean(dim=0),
) -> Callable[[_Model, Tensor], Tensor]:
    """Return test-time augmentation over rotations and mirror images, right or wrong."""

    def attempt(model: _Model, images: Tensor) -> Tensor:
        versions = []
        for mirrored in mirrors:
            for turn in turns:
                x = images.flip(-1) if mirrored else images
                y = model(x.rot90(turn, dims=(-2, -1)))
                if back and reverse:
                    y = y.rot90(-turn, dims=(-2, -1))
                    y = y.flip(-1) if mirrored else y
                elif back:
                    y = y.flip(-1) if mirrored else y
                    y = y.rot90(-turn, dims=(-2, -1))
                versions.append(y)
        return combine(torch.stack(versions))

    return attempt


def _uneven(images: Tensor) -> Tensor:
    """A model whose two channels depend on position and direction, and have no symmetry."""
    difference = images - images.roll((1, 2), dims=(-2, -1))
    ramp = torch.linspace(0.5, 2, images.shape[-1])
    return torch.cat([difference * ramp, difference**2], dim=1)


_IMAGES = torch.from_numpy(_RANDOM.normal(size=(2, 1, 4, 4))).float()
_WIDE = torch.from_numpy(_RANDOM.normal(size=(2, 1, 3, 5))).float()

symmetry_average = Exercise(
    name="symmetry_average",
    reference=_average(),
    cases=(
        Case("a model without context", (lambda images: 3 * images, _IMAGES)),
        Case("a model that depends on the direction", (_uneven, _IMAGES)),
        Case("images that are not square", (_uneven, _WIDE)),
    ),
    mistakes=(
        Mistake(
            _average(back=False),
            "The predictions are averaged as they are. Transform each one back first.",
        ),
        Mistake(
            _average(reverse=False),
            "Undo the two steps in the reverse order: what came last is undone first.",
        ),
        Mistake(
            _average(mirrors=(False,)),
            "These are the four rotations. The mirror image of each is missing.",
        ),
        Mistake(
            _average(turns=(0, 2)),
            "These are four versions. The rotations by 90 and 270 degrees are missing.",
        ),
        Mistake(
            _average(combine=lambda versions: versions.sum(dim=0)),
            "That is the sum of the eight predictions: divide by 8.",
        ),
        Mistake(
            _average(combine=lambda versions: versions.sigmoid().mean(dim=0)),
            "That is a mean of probabilities. Here it is the mean of the logits.",
        ),
        Mistake(
            lambda model, images: model(images),
            "That is the prediction for the original image alone.",
        ),
    ),
    hint="torch.rot90(x, turn, dims=(-2, -1)) rotates by turn * 90 degrees, and x.flip(-1) "
    "mirrors. Test with a model that returns its input: the result must be the input.",
)
