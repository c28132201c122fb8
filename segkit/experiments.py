"""Experiments: grids of training runs that resume, and effects with their intervals.

A `Design` declares the runs, `run` and `run_all` do them; each leaves a record, a JSON file that
counts right and wrong pixels image by image. `contrast` and `effects` compare the records. The
designs, claims and records of the course lie in figures/results.
"""

import hashlib
import importlib.util
import json
import math
import multiprocessing
import resource
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, ProcessPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import combinations, product
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import psutil
import torch
from tqdm import tqdm

from segkit import data, environment, paths
from segkit.config import Config, apply_overrides, build_model, fit_arguments, open_split
from segkit.data import SegmentationDataset, splits
from segkit.errors import ArgumentError, SegkitError, one_of
from segkit.files import write_text
from segkit.metrics import Counts, boundary_counts, counts
from segkit.train import evaluate, fit, predict_batches
from segkit.train.distributed import pick_device

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Record = dict[str, Any]
Records = Mapping[str, Record]  # by the names of the runs
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
    """Return the module "claims", "designs" or "ledger", from figures/results of the repository."""
    file = paths.root() / "figures" / "results" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"segkit_results_{name}", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True)
class Design:
    """All combinations of the levels of some factors, for some seeds.

    `base` is a config (see `segkit.config`), of which `data` may have `place`, a folder in the data
    folder, and `rule` (see `run`). Factors are `{factor: {level: overrides}}`, with overrides as
    `{"model.down": "strided"}`. The seeds are those of weights, order and augmentation, not of the
    data: all runs of a design are evaluated on the same images.
    """

    name: str
    base: Mapping[str, Any]
    factors: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0, 1, 2)

    def cells(self) -> list[dict[str, str]]:
        """Return the combinations, each as `{factor: level}`, the last factor fastest."""
        return [dict(zip(self.factors, x, strict=True)) for x in product(*self.factors.values())]

    def labels(self) -> list[str]:
        """Return a name for each cell: its levels."""
        return [" + ".join(cell.values()) or self.name for cell in self.cells()]

    def config(self, cell: Mapping[str, str], seed: int) -> Config:
        """Return the config of one run."""
        levels = [self.factors[factor][level] for factor, level in cell.items()]
        return apply_overrides(self.base, *levels, {"model.seed": seed, "fit.seed": seed})

    def configs(self) -> Iterator[Config]:
        """Yield all configs, seed by seed: a grid that is cut short has compared all cells."""
        for seed, cell in product(self.seeds, self.cells()):
            yield self.config(cell, seed)


def config_hash(config: Config) -> str:
    """Return the name of a run: 12 hex digits that change with any entry of its config."""
    text = json.dumps(config, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


def by_hash(configs: Iterable[Config]) -> dict[str, Config]:
    """Return configs by the names of their runs; one that several designs share is there once."""
    return {config_hash(config): config for config in configs}


class _Unfinished(Exception):
    """The time was up, or Ctrl-C was pressed."""


def run(
    config: Config, folder: Path, data_dir: Path | None = None, seconds: float = math.inf
) -> Path:
    """Train by `config`, select the best epoch on validation, then evaluate once on test images.

    With `data.rule` "sorted", all images in the order of their names are split 80 : 20 into
    training and validation, which leaves no test images. `data_dir` holds the folder `data.place`.
    Returns the record, a file of `folder` named by `config_hash`; one that is there stays.

    Raises:
        _Unfinished: `seconds` were not enough; the next call resumes from the checkpoint.
    """
    file = folder / f"{config_hash(config)}.json"
    if file.exists():
        return file
    work = folder / "runs" / file.stem  # git-ignored
    memory = psutil.Process().memory_info().rss
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        memory = torch.cuda.memory_allocated()
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
    timer = threading.Timer(seconds, signal.raise_signal, [signal.SIGINT])  # `fit` saves, returns
    try:
        if seconds < math.inf:
            timer.start()
        history = fit(model, train, val, out=work, resume=True, log=None, **options)
    except KeyboardInterrupt:
        raise _Unfinished from None
    finally:
        timer.cancel()
    if history.stopped.startswith("interrupted"):
        raise _Unfinished
    precision = options.get("precision", "auto")
    _, on_val = evaluate(model, val, precision=precision)
    _, on_train = evaluate(model, train.with_transform(val.transform), precision=precision)
    made_with = ("device", "precision", "threads", "python", "torch", "git")
    record: Record = {
        "name": file.stem,
        "config": config,
        "selected_epoch": history.best["epoch"],
        "history": {k: [_rounded(x) for x in history[k]] for k in history.last if k != "epoch"},
        "parameters": history.config["parameters"],
        "seconds": _rounded(sum(history["seconds"])),
        "cpu_seconds": _rounded(time.process_time()),  # without other work on the machine
        "made_with": {name: history.config[name] for name in made_with},
        # TP, FP, FN, TN: a row per image, a number per class. Counts(*tensor) goes back.
        "train": on_train.total().stacked().tolist(),
        "val": on_val.stacked().tolist(),
        "test": None,
        "boundary": None,
    }
    if rule == "official":
        tested = predict_batches(model, open_split(source, "test"), device=pick_device(None))
        batches = [(counts(*batch), boundary_counts(*batch)) for batch in tested]
        test, boundary = (Counts.cat(parts) for parts in zip(*batches, strict=True))
        record |= {"test": test.stacked().tolist(), "boundary": boundary.stacked().tolist()}
    record["memory"] = {"start": memory, "peak": _peak_memory()}
    write_text(file, json.dumps(record, separators=(",", ":")) + "\n")
    shutil.rmtree(work)
    return file


def _split_by_name(*parts: SegmentationDataset) -> list[SegmentationDataset]:
    """Return the images of all parts, in the order of their names, split 80 : 20."""
    images, masks = (np.concatenate([getattr(p, k) for p in parts]) for k in ("images", "masks"))
    names = np.array([name for part in parts for name in part.names])
    pool = SegmentationDataset(images, masks, parts[0].class_names, names, seed=parts[0].seed)
    pool = pool.subset(np.argsort(names, kind="stable"))
    halves = zip(splits.sorted_split(len(pool), (0.8, 0.2)), parts[:2], strict=True)
    return [pool.subset(half).with_transform(part.transform) for half, part in halves]


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")


def _peak_memory() -> int:
    """Return the most bytes that this process has held, on a GPU machine of the GPU's."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class _Outcome(NamedTuple):
    """The names of runs that are done, or left for the next call, and the errors of the others."""

    done: list[str]
    left: list[str]
    failed: dict[str, str]


def run_all(
    configs: Mapping[str, Config],
    folder: Path,
    data_dir: Path | None = None,
    jobs: int | None = None,
    minutes: float | None = None,
) -> _Outcome:
    """Do the runs whose records are missing; one that cannot be done does not stop the others.

    Args:
        configs: as `by_hash` returns them, in the order in which they start.
        folder: see `run`, as `data_dir`.
        jobs: runs at a time, each in a process with one thread, so that the numbers do not depend
            on `jobs`. Default: one on a GPU, else one per core as far as memory allows.
        minutes: after which no run starts, and those under way stop; the next call resumes them.
    """
    end = math.inf if minutes is None else time.monotonic() + 60 * minutes
    waiting = [name for name in configs if not (folder / f"{name}.json").exists()]
    running, failed = {}, {}
    cuda = torch.cuda.is_available()
    if jobs is None:
        room = psutil.virtual_memory().available // 2**31  # 2 GiB for one run of a quick grid
        jobs = 1 if cuda else max(1, min(environment.cores(), room))
    context = multiprocessing.get_context("spawn" if cuda else "forkserver")
    if not cuda:  # the last is what torch's optimizers import: slow, and else repeated by every run
        context.set_forkserver_preload(["segkit.experiments", "segkit.data.toy", "torch._dynamo"])
    threads = None if cuda else torch.set_num_threads
    with (
        suppress(BrokenExecutor),
        tqdm(total=len(waiting), unit="run", file=sys.stderr, disable=not waiting) as bar,
        ProcessPoolExecutor(jobs, context, threads, (1,), max_tasks_per_child=1) as pool,
    ):
        try:
            while True:
                while waiting and len(running) < jobs and (left := end - time.monotonic()) > 0:
                    name = waiting.pop(0)
                    running[pool.submit(run, configs[name], folder, data_dir, left)] = name
                if not running:
                    break
                for task in wait(running, return_when=FIRST_COMPLETED).done:
                    name = running.pop(task)
                    bar.update()
                    try:
                        task.result()
                    except _Unfinished:
                        continue
                    except BrokenExecutor:
                        failed[name] = "its process was killed: for want of memory? Try --jobs 1"
                    except SegkitError as error:
                        failed[name] = f"{type(error).__name__}: {error}"
        except KeyboardInterrupt:
            wait(running)  # the same Ctrl-C has reached them: they save and end
            raise
    done = [name for name in configs if (folder / f"{name}.json").exists()]
    return _Outcome(done, [name for name in configs if name not in {*done, *failed}], failed)


class Estimate(NamedTuple):
    """A mean over seeds, its 95 % t-interval, and the value of each seed."""

    value: float
    low: float  # NaN, as `high`, for one seed
    high: float
    seeds: tuple[float, ...]
    images: tuple[float, float] = (math.nan, math.nan)  # bootstrap over images, the seeds as run

    @property
    def std(self) -> float:
        """The standard deviation over the seeds; NaN for one seed."""
        return float(np.std(self.seeds, ddof=1)) if len(self.seeds) > 1 else float("nan")


def read_records(folder: Path) -> dict[str, Record]:
    """Return the records of a folder by the names of their runs."""
    records = {}
    for file in sorted(folder.glob("*.json")):
        try:
            records[file.stem] = json.loads(file.read_text("utf-8"))
        except ValueError as error:
            remedy = "delete it, and the run is repeated"
            raise ArgumentError(f"{file} is not a record ({error}): {remedy}") from None
    return records


def missing(design: Design, records: Records) -> int:
    """Return the number of runs of a design that have no record."""
    return sum(config_hash(config) not in records for config in design.configs())


def table(design: Design, records: Records) -> list[list[Record]]:
    """Return the records of a design: a row per cell, a column per seed."""
    return [
        [records[config_hash(design.config(cell, seed))] for seed in design.seeds]
        for cell in design.cells()
    ]


def contrast(
    design: Design,
    records: Records,
    weights: Sequence[float],
    score: str | Callable[[Record], float] = "test IoU",
) -> Estimate:
    """Return a weighted sum, over the cells of a design, of their mean score over the seeds.

    It is computed seed by seed, so differences are paired. The interval is Student's t of these
    values, n - 1 degrees of freedom: it says what other seeds would give on the same images. The
    interval over images (percentile bootstrap, the same images for every cell) says what other
    test images would give with the same runs.

    Args:
        weights: one number per cell; (1, -1) is the difference of two cells.
        score: one of `SCORES`, or a function of a record, for what is not counted on images.
    """
    used = np.flatnonzero(weights)
    chosen, cells = np.asarray(weights, float)[used], table(design, records)
    rows = [cells[cell] for cell in used]
    if callable(score):
        each = chosen @ np.array([[score(record) for record in row] for row in rows], float)
        return Estimate(*_t_interval(each), tuple(each.tolist()))
    part, function = SCORES[one_of("score", score, SCORES)]
    cells = np.array([[record[part] for record in row] for row in rows], np.int64)
    cells = torch.from_numpy(cells).permute(2, 0, 1, 3, 4)  # 4, cells, seeds, images, classes

    def by_seed(images: np.ndarray) -> np.ndarray:
        drawn = cells[:, :, :, images].movedim(2, -3)  # seeds behind the axis of resamples
        return np.tensordot(chosen, function(Counts(*drawn)).numpy(), axes=1)

    each, images = by_seed(np.arange(cells.shape[3])), (math.nan, math.nan)
    if cells.shape[3] > 1:
        from scipy.stats import bootstrap  # here, so that no run waits for it

        def mean(images: np.ndarray, axis: int) -> np.ndarray:
            return by_seed(images).mean(-1)

        options = {"n_resamples": 1000, "batch": 100, "method": "percentile", "rng": 0}
        images = bootstrap((np.arange(cells.shape[3]),), mean, **options).confidence_interval
    return Estimate(*_t_interval(each), tuple(each.tolist()), tuple(map(float, images)))


def _t_interval(values: np.ndarray) -> tuple[float, float, float]:
    """Return the mean of independent values and its 95 % interval, NaN for one value."""
    from scipy.stats import t

    center, n = float(values.mean()), len(values)
    if n == 1:
        return center, math.nan, math.nan
    half = float(t.ppf(0.975, n - 1) * values.std(ddof=1) / math.sqrt(n))
    return center, center - half, center + half


def effect_weights(design: Design, factors: Sequence[str]) -> np.ndarray:
    """Return the weights of a main effect (one factor) or of an interaction for `contrast`.

    A main effect is the mean score at the factor's second level minus that at its first; an
    interaction of two is half of the change of one's effect from the other's first level to its
    second (Box, Hunter & Hunter, Statistics for Experimenters, 2005).
    """
    cells, signs = design.cells(), 1
    for factor in factors:
        levels = list(design.factors[factor])
        if len(levels) != 2:
            raise ArgumentError(f"{factor} has {len(levels)} levels: an effect needs 2")
        signs = signs * np.array([2 * levels.index(cell[factor]) - 1 for cell in cells])
    return signs / (len(cells) / 2)


def effects(
    design: Design, records: Records, score: str = "test IoU"
) -> dict[tuple[str, ...], Estimate]:
    """Return the main effects and interactions of two-level factors, by the factors' names."""
    sizes = range(1, len(design.factors) + 1)
    groups = [group for size in sizes for group in combinations(design.factors, size)]
    return {g: contrast(design, records, effect_weights(design, g), score) for g in groups}


def plot_effects(design: Design, records: Records, score: str = "test IoU") -> "Figure":
    """Draw main effects and interactions of two-level factors with their t-intervals."""
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
    ax.set(xlabel=f"effect on {score}: mean, 95 % t-interval, each seed")
    return fig


def plot_interactions(design: Design, records: Records, score: str = "test IoU") -> "Figure":
    """Draw the mean score at each pair of levels of two factors; parallel lines do not interact."""
    from segkit import plot

    pairs, cells = list(combinations(design.factors, 2)), design.cells()
    fig, axes = plot.figure(2.9 * len(pairs), 2.9, ncols=len(pairs), sharey=True, squeeze=False)
    for ax, (across, lines) in zip(axes.flat, pairs, strict=True):
        for shift, level in enumerate(design.factors[lines]):
            inside = [
                np.array([c[across] == other and c[lines] == level for c in cells], float)
                for other in design.factors[across]
            ]
            means = [contrast(design, records, row / row.sum(), score) for row in inside]
            values, low, high = (np.array([m[i] for m in means]) for i in range(3))
            bars = [values - low, high - values]
            positions = [i + 0.04 * shift for i in range(len(means))]
            ax.errorbar(positions, values, bars, marker="o", capsize=2, label=level)
        ax.set_xticks(range(len(design.factors[across])), design.factors[across])
        ax.set(xlabel=across, xlim=(-0.3, len(design.factors[across]) - 0.7))
        ax.legend(title=lines)
    axes[0, 0].set_ylabel(score)
    return fig
