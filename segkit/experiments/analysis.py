"""What records say together: scores with spread, paired differences, effects of factors."""

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import combinations
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.stats import bootstrap

from segkit.experiments.grid import Design, name_of
from segkit.metrics import Counts

Record = dict[str, Any]
Score = Callable[[Counts], torch.Tensor]

# name: (which counts of a record, how they are scored)
SCORES: dict[str, tuple[str, Score]] = {
    "test IoU": ("test", Counts.iou),
    "test IoU per image": ("test", partial(Counts.iou, reduction="micro-imagewise")),
    "test Dice": ("test", Counts.dice),
    "test accuracy": ("test", Counts.accuracy),
    "test boundary IoU": ("boundary", Counts.iou),
    "val accuracy": ("val", Counts.accuracy),
    "val IoU": ("val", Counts.iou),
    "train Dice": ("train", Counts.dice),
}


class Measured(NamedTuple):
    """A figure, its 95 % interval over seeds and images, and each seed's own figure."""

    value: float
    low: float
    high: float
    seeds: tuple[float, ...]

    @property
    def spread(self) -> float:
        """The standard deviation over the seeds; NaN for one."""
        return float(np.std(self.seeds, ddof=1)) if len(self.seeds) > 1 else float("nan")


def read(folder: Path) -> dict[str, Record]:
    """Return the records of a folder by the runs' names."""
    return {file.stem: json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))}


def missing(design: Design, records: Mapping[str, Record]) -> int:
    """Return how many runs of a design have no record."""
    return sum(name_of(config) not in records for config in design.configs())


def table(design: Design, records: Mapping[str, Record]) -> list[list[Record]]:
    """Return the records of a design: a row per cell, a column per seed."""
    return [
        [records[name_of(design.config(cell, seed))] for seed in design.seeds]
        for cell in design.cells()
    ]


def contrast(
    design: Design,
    records: Mapping[str, Record],
    weights: Sequence[float],
    score: str = "test IoU",
    resamples: int = 1000,
) -> Measured:
    """Return a weighted sum, over the cells of a design, of their mean score over the seeds.

    weights: one number a cell; (1, -1) is the difference of two. The interval is a percentile
    bootstrap (scipy.stats.bootstrap) that draws seeds and images, with replacement, the same for
    every cell: what makes a seed or an image easy for all networks alike drops out of a
    difference. It says what other seeds and other images like these would give; of few seeds it
    knows little, so it is rather too narrow. For one seed, or counts that are a total over images,
    it is the range over the seeds.
    """
    part, function = SCORES[score]
    used = np.flatnonzero(weights)
    chosen = np.asarray(weights, float)[used]
    rows = table(design, records)
    found = np.asarray([[record[part] for record in rows[cell]] for cell in used], np.int64)
    found = found.transpose(1, 3, 2, 0, 4)  # seeds, images, 4, cells, classes

    def by_seed(seeds: np.ndarray, images: np.ndarray) -> np.ndarray:
        drawn = found[seeds[..., :, None], images[..., None, :]]
        counted = np.ascontiguousarray(drawn.swapaxes(-4, -2))  # seeds, cells, 4, images, classes
        scores = function(Counts(*torch.from_numpy(np.moveaxis(counted, -3, 0).copy())))
        return scores.numpy() @ chosen

    def statistic(seeds: np.ndarray, images: np.ndarray, axis: int) -> np.ndarray:
        return by_seed(seeds, images).mean(axis=axis)

    seeds, images = (np.arange(n) for n in found.shape[:2])
    each = by_seed(seeds, images)
    low, high = each.min(), each.max()
    if min(len(seeds), len(images)) > 1:
        low, high = bootstrap(
            (seeds, images), statistic, n_resamples=resamples, batch=100, method="percentile", rng=0
        ).confidence_interval
    return Measured(float(each.mean()), float(low), float(high), tuple(each.tolist()))


def by_seed(
    design: Design,
    records: Mapping[str, Record],
    value: Callable[[Sequence[Record]], float],
) -> Measured:
    """Return the mean over seeds of what `value` makes of the records of all cells of one seed.

    For what has no images to draw: seconds, losses, epochs. The interval is the range over seeds.
    """
    each = [float(value(cells)) for cells in zip(*table(design, records), strict=True)]
    return Measured(float(np.mean(each)), min(each), max(each), tuple(each))


def epochs_to(record: Record, target: float) -> int:
    """Return the first epoch with a validation IoU of `target`; one more than there are if none."""
    course = record["history"]["val_iou"]
    return next((i for i, iou in enumerate(course, start=1) if iou >= target), len(course) + 1)


def signs(design: Design, factors: Sequence[str]) -> np.ndarray:
    """Return, per cell, the product of -1 (first level) or +1 (second) of each of `factors`."""
    for factor in factors:
        if len(design.factors[factor]) != 2:
            raise ValueError(f"{factor} has {len(design.factors[factor])} levels: effects need 2")
    second = {factor: list(design.factors[factor])[1] for factor in factors}
    return np.array(
        [prod(1 if cell[f] == second[f] else -1 for f in factors) for cell in design.cells()]
    )


def effects(
    design: Design, records: Mapping[str, Record], score: str = "test IoU"
) -> dict[tuple[str, ...], Measured]:
    """Return main effects and interactions of a full design of two-level factors.

    A main effect is the mean score at the factor's second level minus that at its first. An
    interaction of two is half of what the one's effect changes by when the other goes from its
    first level to its second (Box, Hunter & Hunter, Statistics for Experimenters, 2005).
    """
    names = list(design.factors)
    groups = [group for n in range(1, len(names) + 1) for group in combinations(names, n)]
    half = len(design.cells()) / 2
    return {
        group: contrast(design, records, signs(design, group) / half, score) for group in groups
    }


def tidy(designs: Sequence[Design], records: Mapping[str, Record]) -> str:
    """Return CSV with a row per run that is done: design, factors, seed, costs and scores."""
    rows = []
    for design in designs:
        for cell in design.cells():
            for seed in design.seeds:
                run = records.get(name_of(design.config(cell, seed)))
                if run:
                    rows.append({"design": design.name, **cell, "seed": seed, **_measures(run)})
    columns = list(dict.fromkeys(column for row in rows for column in row))
    fixed = ["design", "seed", *_MEASURES]
    columns = ["design", *(c for c in columns if c not in fixed), *fixed[1:]]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


_MEASURES = ("run", "selected_epoch", "parameters", "seconds", *SCORES)


def _measures(run: Record) -> dict[str, Any]:
    scored = {
        name: f"{function(Counts(*torch.tensor(run[part]))).item():.5f}"
        for name, (part, function) in SCORES.items()
        if run[part]
    }
    return {"run": run["name"]} | {name: run[name] for name in _MEASURES[1:4]} | scored
