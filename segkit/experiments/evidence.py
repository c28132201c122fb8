"""How a claim is decided: by the interval of a difference, or by what is the same in every run."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean

import numpy as np

from segkit.experiments import analysis
from segkit.experiments.analysis import Measured, Record
from segkit.experiments.grid import Design

HOLDS, FAILS, OPEN = "holds", "does not hold", "undecided"
UNTESTABLE, UNMEASURED = "not testable", "not yet measured"

Weights = Mapping[str, Sequence[float]]  # name of a difference: one number for each cell


@dataclass(frozen=True)
class Finding:
    """A verdict, what it rests on in a few words, and the figures behind it."""

    verdict: str
    why: str
    figures: Mapping[str, Measured | float] = field(default_factory=dict)


@dataclass(frozen=True)
class Evidence:
    """The designs of one profile, by name, and the records there are, by the runs' names."""

    designs: Mapping[str, Design]
    records: Mapping[str, Record]

    def measure(self, design: str, weights: Sequence[float], what: "str | Target") -> Measured:
        """Return a weighted sum over a design's cells: of a score's means, or of any `what`."""
        chosen = self.designs[design]
        if isinstance(what, str):
            return analysis.contrast(chosen, self.records, weights, what)
        rate = what.of(chosen, self.records)
        return analysis.by_seed(
            chosen,
            self.records,
            lambda runs: sum(w * rate(run) for w, run in zip(weights, runs, strict=True)),
        )


Check = Callable[[Evidence], Finding]


@dataclass(frozen=True)
class Target:
    """What is read off a run rather than counted on images; its interval is the seeds' range.

    of: makes, from a design and the records, the function that reads a record.
    """

    name: str
    of: Callable[[Design, Mapping[str, Record]], Callable[[Record], float]]

    def __str__(self) -> str:
        return self.name


def _epochs(design: Design, records: Mapping[str, Record]) -> Callable[[Record], float]:
    """Take as the target 90 % of the mean, over the design's runs, of the best validation IoU."""
    runs = [run for row in analysis.table(design, records) for run in row]
    target = 0.9 * mean(max(run["history"]["val_iou"]) for run in runs)
    return lambda run: analysis.epochs_to(run, target)


EPOCHS = Target("epochs to the target", _epochs)
LAST_LOSS = Target("last training loss", lambda *_: lambda run: run["history"]["train_loss"][-1])
SECONDS = Target(  # of the fastest epoch, the one that other work on the machine slowed least
    "seconds of the fastest epoch", lambda *_: lambda run: min(run["history"]["seconds"])
)
MEMORY = Target(
    "MiB added by training",
    lambda *_: lambda run: (run["memory"]["peak"] - run["memory"]["start"]) / 2**20,
)


def labels(design: Design) -> list[str]:
    """Return a name for each cell of a design: its levels."""
    return [" + ".join(cell.values()) or design.name for cell in design.cells()]


def pairs(*wanted: tuple[str, str]) -> Callable[[Design], Weights]:
    """Return the differences between cells: the first of each pair less the second."""

    def of(design: Design) -> Weights:
        names = labels(design)
        return {f"{a} − {b}": [(n == a) - (n == b) for n in names] for a, b in wanted}

    return of


def main_effect(factor: str) -> Callable[[Design], Weights]:
    """Return what going from a factor's first level to its second does, over all other factors."""

    def of(design: Design) -> Weights:
        first, second = design.factors[factor]
        half = len(design.cells()) / 2
        return {f"{second} − {first}": analysis.signs(design, [factor]) / half}

    return of


def compare(
    design: str,
    differences: Callable[[Design], Weights],
    what: str | Target,
    more: bool = True,
) -> Check:
    """Return the check that differences lie above zero (below it, unless `more`), all of them.

    The claim holds if every interval lies on the claimed side of zero, does not hold if one lies
    on the other side, and is undecided else.
    """

    def check(evidence: Evidence) -> Finding:
        chosen = evidence.designs[design]

        def measured(weights: Weights) -> dict[str, Measured]:
            names = {f"{name}, {what}": row for name, row in weights.items()}
            return {name: evidence.measure(design, row, what) for name, row in names.items()}

        gaps, means = measured(differences(chosen)), {}
        if isinstance(what, Target):  # of scores, the ledger has a table for each design
            means = measured(dict(zip(labels(chosen), np.eye(len(chosen.cells())), strict=True)))
        told = verdict(gaps.values(), more)
        return Finding(told, "by the interval of the difference", gaps | means)

    return check


def reaches(design: str, cell: str, what: str, low: float, high: float = 1.0) -> Check:
    """Return the check that a cell's mean score lies from `low` to `high`.

    It holds if the interval lies within, does not if it lies outside, and is undecided else.
    """

    def check(evidence: Evidence) -> Finding:
        names = labels(evidence.designs[design])
        found = evidence.measure(design, [name == cell for name in names], what)
        inside = low <= found.low and found.high <= high
        outside = found.high < low or found.low > high
        told = HOLDS if inside else FAILS if outside else OPEN
        return Finding(
            told, f"by the interval, against {low:g} to {high:g}", {f"{cell}, {what}": found}
        )

    return check


def verdict(differences: Sequence[Measured], more: bool = True) -> str:
    """Return what the intervals of differences say of their being above (or below) zero."""
    sides = [(m.low, m.high) if more else (-m.high, -m.low) for m in differences]
    if any(high < 0 for _, high in sides):
        return FAILS
    return HOLDS if all(low > 0 for low, _ in sides) else OPEN
