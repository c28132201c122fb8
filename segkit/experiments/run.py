"""One run of a grid: train, select on validation, score once on test, leave a record."""

import json
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn

from segkit.config import fit_arguments
from segkit.experiments.build import network, test_data, training_data
from segkit.experiments.grid import Config, name_of
from segkit.files import write_text
from segkit.metrics import Counts, boundary_counts, counts
from segkit.predict import logits_of
from segkit.train import COLUMNS, History, evaluate, fit

MADE_WITH = ("device", "precision", "threads", "python", "torch", "git")


class Unfinished(Exception):
    """The time was up, or Ctrl-C pressed; the checkpoint is where the next call goes on."""


class DisciplineError(RuntimeError):
    """The test set was asked for before selection had ended, or a second time."""


@dataclass
class Selection:
    """A network whose training and selection on validation are over: the only key to the test set.

    history: of the training; its best row is the epoch that was selected, and `model` has that
    epoch's weights. val, train: their counts on the validation and (not augmented) training set.
    """

    model: nn.Module
    history: History
    val: Counts
    train: Counts
    config: Config
    data_dir: Path | None = None
    spent: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        if self.history.stopped.startswith("interrupted") or self.history.best["val_iou"] is None:
            raise DisciplineError("training or validation has not ended: the test set stays shut")

    def test(self) -> tuple[Counts, Counts] | None:
        """Open the test set and score on it: counts, and counts near the contours. Once.

        None where the split leaves no test set. Raises DisciplineError the second time.
        """
        if self.spent:
            raise DisciplineError(
                "this network has been scored on the test set: whoever chooses now, chooses by it"
            )
        self.spent = True
        data = test_data(self.config["data"], self.data_dir)
        if data is None:
            return None
        found = [
            (counts(logits, masks).stacked(), boundary_counts(logits, masks).stacked())
            for logits, masks in logits_of(self.model, data)
        ]
        return tuple(Counts(*torch.cat(parts, dim=1)) for parts in zip(*found, strict=True))


def select(
    config: Config,
    work: Path | None = None,
    data_dir: Path | None = None,
    seconds: float | None = None,
) -> Selection:
    """Train by `config` and select the best epoch on validation.

    work: folder for checkpoints, from which training goes on if it was cut short. seconds: after
    so many training stops, and Unfinished is raised.
    """
    train, val = training_data(config["data"], data_dir)
    model = network(config["model"], train.channels, train.classes)
    options = {"keep": "best"} | fit_arguments(config.get("fit") or {})
    with _alarm(seconds):
        try:
            history = fit(model, train, val, out=work, resume=work is not None, log=None, **options)
        except KeyboardInterrupt:
            raise Unfinished from None
    if history.stopped.startswith("interrupted"):
        raise Unfinished
    seen = [val, train.with_transform(val.transform)]
    found = [evaluate(model, images, precision=options.get("precision", "auto")) for images in seen]
    return Selection(model, history, *(of for _, of in found), config, data_dir)


@contextmanager
def _alarm(seconds: float | None) -> Iterator[None]:
    """Press Ctrl-C in this process after so many seconds; `fit` then saves and returns."""
    timer = threading.Timer(max(seconds or 0, 0), signal.raise_signal, [signal.SIGINT])
    if seconds is not None:
        timer.daemon = True
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


def run(
    config: Config, folder: Path, data_dir: Path | None = None, seconds: float | None = None
) -> Path:
    """Do the run of `config` unless `folder` holds its record; return the record's file.

    Raises Unfinished where `seconds` were not enough; call again to go on.
    """
    file = folder / f"{name_of(config)}.json"
    if file.exists():
        return file
    work, start = folder / "runs" / file.stem, resident()  # runs/ is git-ignored
    selection = select(config, work, data_dir, seconds)
    tested = selection.test()
    record = _record(selection, start) | {
        "test": tested and cells(tested[0]),
        "boundary": tested and cells(tested[1]),
    }
    write_text(file, json.dumps(record, separators=(",", ":")) + "\n")
    shutil.rmtree(work)
    return file


def _record(selection: Selection, start: int) -> dict[str, Any]:
    history, about = selection.history, selection.history.config
    seconds = history["seconds"]
    columns = [name for name in COLUMNS if name != "epoch"]
    return {
        "name": name_of(selection.config),
        "config": selection.config,
        "selected_epoch": history.best["epoch"],
        "stopped": history.stopped,
        "history": {name: [_short(value) for value in history[name]] for name in columns},
        "parameters": about["parameters"],
        "seconds": _short(sum(seconds)),
        "seconds_per_epoch": _short(median(seconds)),
        "cpu_seconds": _short(time.process_time()),  # other work on the machine is not in it
        "memory": {"start": start, "peak": peak_memory()},
        "made_with": {name: about[name] for name in MADE_WITH},
        "train": cells(selection.train.total()),
        "val": cells(selection.val),
    }


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.5g}")


def cells(found: Counts) -> list:
    """Return counts as JSON holds them: TP, FP, FN, TN, each one row per image, one number a class.

    `Counts(*torch.tensor(cells))` goes back.
    """
    return found.stacked().tolist()


def resident() -> int:
    """Return the bytes of memory that this process holds now; on a GPU machine, of the GPU's."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    import psutil

    return psutil.Process().memory_info().rss


def peak_memory() -> int | None:
    """Return the most bytes this process has held (on a GPU machine, of the GPU's); None: unknown.

    Meaningful for one run if the process did nothing else.
    """
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
