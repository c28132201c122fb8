"""Experiments: grids of training runs that resume, and effects with their intervals.

A `Design` declares the runs, `run` does one of them and `run_all` many; each leaves a record, a
JSON file that counts right and wrong pixels image by image. `contrast` and `effects` compare
the records of a design. The designs, claims and records of the course lie in figures/results.
"""

import hashlib
import importlib.util
import json
import multiprocessing
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import combinations, product
from math import prod
from pathlib import Path
from statistics import median
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import psutil
import torch
from tqdm import tqdm

from segkit import data, environment, paths
from segkit.config import Config, apply_overrides, build_model, fit_arguments, open_split
from segkit.data import SegmentationDataset, splits
from segkit.errors import ArgumentError, one_of
from segkit.files import write_text
from segkit.metrics import Counts, boundary_counts, counts
from segkit.train import History, evaluate, fit, predict_batches

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Record = dict[str, Any]
MADE_WITH = ("device", "precision", "threads", "python", "torch", "git")
RUN_MEMORY = 2 * 2**30  # bytes for one run of a quick grid, with torch in it
# name: (which counts of a record, how they are scored)
SCORES: dict[str, tuple[str, Callable[[Counts], torch.Tensor]]] = {
    "test IoU": ("test", Counts.iou),
    "test IoU per image": ("test", partial(Counts.iou, reduction="micro-imagewise")),
    "test Dice": ("test", Counts.dice),
    "test accuracy": ("test", Counts.accuracy),
    "test boundary IoU": ("boundary", Counts.iou),
    "val accuracy": ("val", Counts.accuracy),
    "val IoU": ("val", Counts.iou),
    "train Dice": ("train", Counts.dice),
}


@cache
def load(name: str) -> ModuleType:
    """Return the module "claims", "designs" or "ledger", from figures/results of the repository.

    Raises:
        CourseMissingError: there is no repository around segkit.
    """
    file = paths.root() / "figures" / "results" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"segkit_results_{name}", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ---------------------------------------------------------------- designs


@dataclass(frozen=True)
class Design:
    """All combinations of the levels of some factors, for some seeds.

    name: what claims refer to. base: a config (see `segkit.config`); beside its keys, data may
    have `place`, a folder in the data folder, and `rule` (see `run`). factors: `{factor: {level:
    overrides}}`, where overrides set entries by dotted names, as `{"model.down": "strided"}`.
    seeds: of weights, order and augmentation. The data keep a seed of their own, so that all runs
    of a design are evaluated on the same images.
    """

    name: str
    base: Mapping[str, Any]
    factors: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0, 1, 2)

    def cells(self) -> list[dict[str, str]]:
        """Return the combinations, each as `{factor: level}`, the last factor fastest."""
        names = list(self.factors)
        return [dict(zip(names, levels, strict=True)) for levels in product(*self.factors.values())]

    def labels(self) -> list[str]:
        """Return a name for each cell: its levels."""
        return [" + ".join(cell.values()) or self.name for cell in self.cells()]

    def config(self, cell: Mapping[str, str], seed: int) -> Config:
        """Return the config of one run."""
        levels = [self.factors[factor][level] for factor, level in cell.items()]
        return apply_overrides(self.base, *levels, {"model.seed": seed, "fit.seed": seed})

    def configs(self) -> Iterator[Config]:
        """Yield all configs, seed by seed: a grid that is cut short has compared all cells."""
        for seed in self.seeds:
            for cell in self.cells():
                yield self.config(cell, seed)


def config_hash(config: Config) -> str:
    """Return the name of a run: 12 hex digits that change with any entry of its config."""
    text = json.dumps(config, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


def by_hash(configs: Iterable[Config]) -> dict[str, Config]:
    """Return configs by the names of their runs; one that several designs share is there once."""
    return {config_hash(config): config for config in configs}


# ---------------------------------------------------------------- runs


class Unfinished(Exception):
    """The time was up, or Ctrl-C was pressed; the next call resumes from the checkpoint."""


def run(
    config: Config, folder: Path, data_dir: Path | None = None, seconds: float | None = None
) -> Path:
    """Train by `config`, select the best epoch on validation, then evaluate once on test images.

    Does nothing if the record is there already.

    Args:
        config: of `Design.configs`. With `data.rule` "sorted", all images in the order of their
            names are split 80 : 20 into training and validation, which leaves no test images.
        folder: gets the record, named by `config_hash`, and checkpoints while the run goes on.
        data_dir: holds the folder `data.place`.
        seconds: after which training stops.

    Returns:
        The file of the record.

    Raises:
        Unfinished: `seconds` were not enough; the next call goes on.
    """
    file = folder / f"{config_hash(config)}.json"
    if file.exists():
        return file
    work = folder / "runs" / file.stem  # git-ignored
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    memory, _ = _memory()
    source = dict(config["data"])
    rule = one_of("data.rule", source.pop("rule", "official"), ("official", "sorted"))
    if "place" in source:
        if data_dir is None:
            raise ArgumentError(f"no folder holds {source['place']}: give --data-dir")
        source["data_dir"] = Path(data_dir, source.pop("place"))
    elif data_dir and "data_dir" in data.options(source["name"]):
        source["data_dir"] = data_dir
    train, val = (open_split(source, split) for split in ("train", "val"))
    if rule == "sorted":
        train, val = _split_by_name(train, val, open_split(source, "test"))
    model = build_model(config["model"], train.channels, train.classes)
    options = {"keep": "best"} | fit_arguments(config["fit"])
    try:
        with _interrupt_after(seconds):
            history = fit(model, train, val, out=work, resume=True, log=None, **options)
    except KeyboardInterrupt:
        raise Unfinished from None
    if history.stopped.startswith("interrupted"):
        raise Unfinished
    precision = options.get("precision", "auto")
    _, on_val = evaluate(model, val, precision=precision)
    _, on_train = evaluate(model, train.with_transform(val.transform), precision=precision)
    record = _record(config, history) | {
        # TP, FP, FN, TN: a row per image, a number per class. Counts(*tensor) goes back.
        "train": on_train.total().stacked().tolist(),
        "val": on_val.stacked().tolist(),
        "test": None,
        "boundary": None,
    }
    if rule == "official":
        batches = [
            (counts(logits, masks).stacked(), boundary_counts(logits, masks).stacked())
            for logits, masks in predict_batches(model, open_split(source, "test"))
        ]
        for name, parts in zip(("test", "boundary"), zip(*batches, strict=True), strict=True):
            record[name] = torch.cat(parts, dim=1).tolist()
    record["memory"] = {"start": memory, "peak": _memory()[1]}
    write_text(file, json.dumps(record, separators=(",", ":")) + "\n")
    shutil.rmtree(work)
    return file


def _record(config: Config, history: History) -> Record:
    columns = [name for name in history.last if name != "epoch"]
    return {
        "name": config_hash(config),
        "config": config,
        "selected_epoch": history.best["epoch"],
        "stopped": history.stopped,
        "history": {name: [_rounded(value) for value in history[name]] for name in columns},
        "parameters": history.config["parameters"],
        "seconds": _rounded(sum(history["seconds"])),
        "seconds_per_epoch": _rounded(median(history["seconds"])),
        "cpu_seconds": _rounded(time.process_time()),  # without other work on the machine
        "made_with": {name: history.config[name] for name in MADE_WITH},
    }


def _split_by_name(*parts: SegmentationDataset) -> list[SegmentationDataset]:
    """Return the images of all parts, in the order of their names, split 80 : 20."""
    pool = SegmentationDataset(
        np.concatenate([part.images for part in parts]),
        np.concatenate([part.masks for part in parts]),
        parts[0].class_names,
        [name for part in parts for name in part.names],
        seed=parts[0].seed,
    )
    pool = pool.subset(sorted(range(len(pool)), key=pool.names.__getitem__))
    indices = splits.sorted_split(len(pool), (0.8, 0.2))
    return [
        pool.subset(kept).with_transform(part.transform)
        for kept, part in zip(indices, parts[:2], strict=True)
    ]


@contextmanager
def _interrupt_after(seconds: float | None) -> Iterator[None]:
    """Raise SIGINT in this process after `seconds`; `fit` then saves and returns."""
    timer = threading.Timer(seconds or 0, signal.raise_signal, [signal.SIGINT])
    timer.daemon = True
    if seconds is not None:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.5g}")


def _memory() -> tuple[int, int | None]:
    """Return the bytes that this process holds, on a GPU machine of the GPU's, and their peak."""
    if torch.cuda.is_available():
        return torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()
    now = psutil.Process().memory_info().rss
    try:
        import resource
    except ImportError:  # Windows
        return now, None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return now, peak if sys.platform == "darwin" else peak * 1024


@dataclass
class Outcome:
    """The names of runs that are done, or left for the next call, and the errors of the others."""

    done: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


def run_all(
    configs: Mapping[str, Config],
    folder: Path,
    data_dir: Path | None = None,
    jobs: int | None = None,
    minutes: float | None = None,
) -> Outcome:
    """Do the runs whose records are missing; an error of one does not stop the others.

    Args:
        configs: as `by_hash` returns them, in the order in which they start.
        folder: see `run`, as `data_dir`.
        jobs: runs at a time, each in a process with one thread, so that the numbers do not depend
            on `jobs`. Default: one on a GPU, else one per core as far as memory allows.
        minutes: after which no run starts, and those under way stop at their next step. They are
            resumed by the next call, as they are after Ctrl-C.
    """
    outcome, waiting, running = Outcome(), [], {}
    for name in configs:
        (outcome.done if (folder / f"{name}.json").exists() else waiting).append(name)
    if not waiting:
        return outcome
    end = None if minutes is None else time.monotonic() + 60 * minutes
    cuda = torch.cuda.is_available()
    if jobs is None:
        room = psutil.virtual_memory().available // RUN_MEMORY
        jobs = 1 if cuda else max(1, min(environment.cores(), room))
    threads = None if cuda else torch.set_num_threads
    context = multiprocessing.get_context("spawn")
    if "forkserver" in multiprocessing.get_all_start_methods() and not cuda:
        context = multiprocessing.get_context("forkserver")
        # the last is what torch's optimizers import: slow, and else repeated by every run
        context.set_forkserver_preload(["segkit.experiments", "segkit.data.toy", "torch._dynamo"])
    with (
        tqdm(total=len(waiting), unit="run", file=sys.stderr) as bar,
        ProcessPoolExecutor(jobs, context, threads, (1,), max_tasks_per_child=1) as pool,
    ):
        try:
            while waiting or running:
                while waiting and len(running) < jobs and (end is None or time.monotonic() < end):
                    name = waiting.pop(0)
                    left = None if end is None else end - time.monotonic()
                    try:
                        running[pool.submit(run, configs[name], folder, data_dir, left)] = name
                    except BrokenProcessPool:  # a process was killed, which ends the pool
                        outcome.left += [name, *waiting]
                        waiting.clear()
                if not running:
                    break
                for task in wait(running, return_when=FIRST_COMPLETED).done:
                    name, error = running.pop(task), task.exception()
                    bar.update()
                    if error is None:
                        outcome.done.append(name)
                    elif isinstance(error, Unfinished):
                        outcome.left.append(name)
                    elif isinstance(error, BrokenProcessPool):
                        reason = "its process was killed: was the memory enough? Try --jobs 1"
                        outcome.failed[name] = reason
                    else:
                        outcome.failed[name] = f"{type(error).__name__}: {error}"
        except KeyboardInterrupt:
            wait(running)  # the same Ctrl-C has reached them: they save and end
            raise
    outcome.left += waiting
    return outcome


# ---------------------------------------------------------------- records


class Estimate(NamedTuple):
    """A mean over seeds, its interval, and the value of each seed."""

    value: float
    low: float
    high: float
    seeds: tuple[float, ...]

    @property
    def std(self) -> float:
        """The standard deviation over the seeds; NaN for one seed."""
        return float(np.std(self.seeds, ddof=1)) if len(self.seeds) > 1 else float("nan")


def read_records(folder: Path) -> dict[str, Record]:
    """Return the records of a folder by the names of their runs."""
    return {file.stem: json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))}


def missing(design: Design, records: Mapping[str, Record]) -> int:
    """Return the number of runs of a design that have no record."""
    return sum(config_hash(config) not in records for config in design.configs())


def table(design: Design, records: Mapping[str, Record]) -> list[list[Record]]:
    """Return the records of a design: a row per cell, a column per seed."""
    return [
        [records[config_hash(design.config(cell, seed))] for seed in design.seeds]
        for cell in design.cells()
    ]


def contrast(
    design: Design,
    records: Mapping[str, Record],
    weights: Sequence[float],
    score: str | Callable[[Record], float] = "test IoU",
    resamples: int = 1000,
) -> Estimate:
    """Return a weighted sum, over the cells of a design, of their mean score over the seeds.

    Args:
        design: whose records are all there.
        records: by the names of the runs.
        weights: one number per cell; (1, -1) is the difference of two cells.
        score: one of `SCORES`, or a function of a record, for what is not counted on images.
        resamples: of the bootstrap.

    Returns:
        The estimate. Its interval is a 95 % percentile bootstrap (scipy.stats.bootstrap) that
        draws seeds and images with replacement, the same for every cell: the differences are
        paired. With few seeds it is too narrow. For one seed, for a score that is a function and
        for counts that are totals over images, it is the range over the seeds instead.
    """
    used = np.flatnonzero(weights)
    chosen = np.asarray(weights, float)[used]
    rows = [table(design, records)[cell] for cell in used]
    if callable(score):
        each = chosen @ np.array([[score(record) for record in row] for row in rows], float)
        return Estimate(float(each.mean()), min(each), max(each), tuple(each.tolist()))
    part, function = SCORES[one_of("score", score, SCORES)]
    cells = np.asarray([[record[part] for record in row] for row in rows], np.int64)
    cells = cells.transpose(1, 3, 2, 0, 4)  # seeds, images, 4, cells, classes

    def by_seed(seeds: np.ndarray, images: np.ndarray) -> np.ndarray:
        drawn = cells[seeds[..., :, None], images[..., None, :]]
        counted = np.ascontiguousarray(drawn.swapaxes(-4, -2))  # seeds, cells, 4, images, classes
        scores = function(Counts(*torch.from_numpy(np.moveaxis(counted, -3, 0).copy())))
        return scores.numpy() @ chosen

    def statistic(seeds: np.ndarray, images: np.ndarray, axis: int) -> np.ndarray:
        return by_seed(seeds, images).mean(axis=axis)

    seeds, images = (np.arange(n) for n in cells.shape[:2])
    each = by_seed(seeds, images)
    low, high = each.min(), each.max()
    if min(len(seeds), len(images)) > 1:
        from scipy.stats import bootstrap  # here, so that no run waits for it

        low, high = bootstrap(
            (seeds, images), statistic, n_resamples=resamples, batch=100, method="percentile", rng=0
        ).confidence_interval
    return Estimate(float(each.mean()), float(low), float(high), tuple(each.tolist()))


def effect_weights(design: Design, factors: Sequence[str]) -> np.ndarray:
    """Return the weights of a main effect (one factor) or of an interaction for `contrast`.

    A main effect is the mean score at the factor's second level minus that at its first. An
    interaction of two is half of the change of the one's effect when the other goes from its
    first level to its second (Box, Hunter & Hunter, Statistics for Experimenters, 2005).

    Raises:
        ArgumentError: a factor does not have two levels.
    """
    for factor in factors:
        if len(design.factors[factor]) != 2:
            levels = len(design.factors[factor])
            raise ArgumentError(f"{factor} has {levels} levels: an effect needs 2")
    second = {factor: list(design.factors[factor])[1] for factor in factors}
    cells = design.cells()
    signs = [prod(1 if cell[f] == second[f] else -1 for f in factors) for cell in cells]
    return np.array(signs) / (len(cells) / 2)


def effects(
    design: Design, records: Mapping[str, Record], score: str = "test IoU"
) -> dict[tuple[str, ...], Estimate]:
    """Return the main effects and interactions of two-level factors, by the factors' names."""
    names = list(design.factors)
    groups = [group for n in range(1, len(names) + 1) for group in combinations(names, n)]
    return {
        group: contrast(design, records, effect_weights(design, group), score) for group in groups
    }


def plot_effects(
    design: Design, records: Mapping[str, Record], score: str = "test IoU"
) -> "Figure":
    """Draw main effects and interactions of two-level factors with their intervals."""
    from segkit import plot

    found = effects(design, records, score)
    fig, ax = plot.figure(6.5, 0.6 + 0.32 * len(found))
    titles = []
    for row, (names, effect) in enumerate(found.items()):
        away = effect.low > 0 or effect.high < 0
        ax.plot([effect.low, effect.high], [row, row], color="C0", alpha=1 if away else 0.45)
        ax.plot(effect.seeds, [row] * len(effect.seeds), "|", color="C1", markersize=9)
        ax.plot(effect.value, row, "o", color="C0", markerfacecolor="C0" if away else "white")
        levels = " − ".join(reversed(list(design.factors[names[0]])))
        titles.append(f"{names[0]}: {levels}" if len(names) == 1 else " × ".join(names))
    ax.axvline(0, color="black", linewidth=0.8)
    ax.set_yticks(range(len(found)), titles)
    ax.invert_yaxis()
    ax.set(xlabel=f"effect on {score}: mean, 95 % interval, each seed")
    return fig


def plot_interactions(
    design: Design, records: Mapping[str, Record], score: str = "test IoU"
) -> "Figure":
    """Draw, for each pair of factors, the mean score at each pair of levels.

    Parallel lines show that the factors do not interact.
    """
    from segkit import plot

    pairs, cells = list(combinations(design.factors, 2)), design.cells()
    fig, axes = plot.figure(2.9 * len(pairs), 2.9, ncols=len(pairs), sharey=True, squeeze=False)
    for ax, (across, lines) in zip(axes.flat, pairs, strict=True):
        for shift, level in enumerate(design.factors[lines]):
            means = []
            for other in design.factors[across]:
                inside = [c[across] == other and c[lines] == level for c in cells]
                weights = [one / sum(inside) for one in inside]
                means.append(contrast(design, records, weights, score))
            values = [m.value for m in means]
            bars = [[m.value - m.low for m in means], [m.high - m.value for m in means]]
            positions = [i + 0.04 * shift for i in range(len(means))]
            ax.errorbar(positions, values, bars, marker="o", capsize=2, label=level)
        ax.set_xticks(range(len(design.factors[across])), design.factors[across])
        ax.set(xlabel=across, xlim=(-0.3, len(design.factors[across]) - 0.7))
        ax.legend(title=lines)
    axes[0, 0].set_ylabel(score)
    return fig
