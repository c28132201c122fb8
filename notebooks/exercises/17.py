"""Exercises of lesson 17: inference and errors."""

import numpy as np

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

failures = Exercise(
    name="failures",
    reference={"a": 4, "b": 2, "c": 1, "d": 3},
    mistakes=(
        Mistake(
            {"a": 1, "b": 2, "c": 4, "d": 3},
            "In a and c recall is low. In one of them there are nine patches for nine cells.",
        ),
        Mistake(
            {"a": 4, "b": 3, "c": 1, "d": 2},
            "In b and d precision is low. What makes patches fewer, and what makes them more?",
        ),
        Mistake(
            {"a": 2, "b": 4, "c": 3, "d": 1},
            "Recall falls when cells are missed, precision when too much is predicted; you have "
            "swapped them.",
        ),
        Mistake(
            {"a": 2, "b": 4, "c": 1, "d": 3},
            "c and d are right. Cells merge into few patches, but are their pixels missed?",
        ),
    ),
    hint="First ask whether too little was predicted (low recall) or too much (low precision); "
    "then count patches. Each number is used once.",
)
