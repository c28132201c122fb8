"""What a training run leaves behind: its history, its metadata, and trackers of each epoch."""

import json
import math
import os
import platform
import sys
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from segkit import paths
from segkit.data.dataset import SegmentationDataset
from segkit.errors import ArgumentError, one_of
from segkit.files import csv_text
from segkit.train import distributed
from segkit.train.precision import Precision

_COLUMNS = ("epoch", "train_loss", "val_loss", "val_iou", "val_dice", "lr", "seconds")
_Row = dict[str, float | int | None]


@dataclass(repr=False)
class History:
    """One row per finished epoch; `history["val_iou"]` is a column as a list.

    Args:
        rows: dicts of epoch, train_loss, val_loss, val_iou, val_dice, lr and seconds; without
            validation data its values are None.
        monitor: the column that chooses `best`.
        config: what the run was: settings, data, device, precision and its reason, versions.
        stopped: why training ended before its last epoch, or "".
    """

    rows: list[_Row] = field(default_factory=list)
    monitor: str = "val_iou"
    config: dict = field(default_factory=dict)
    stopped: str = ""

    def __repr__(self) -> str:
        if not self.rows:
            return "History(no epoch finished)"
        found = f"{self.monitor} {self.best[self.monitor]:.3f} in epoch {self.best['epoch']}"
        return f"History({len(self)} epochs, best {found})"

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, column: str) -> list:
        if column not in _COLUMNS:
            raise KeyError(f"no column {column!r}; there are: {', '.join(_COLUMNS)}")
        return [row[column] for row in self.rows]

    @property
    def last(self) -> _Row:
        """The row of the last finished epoch."""
        if not self.rows:
            raise ValueError("no epoch was finished: the history is empty")
        return self.rows[-1]

    @property
    def best(self) -> _Row:
        """The first row with the best value of `monitor`; a NaN is worse than any number."""
        sign = -1 if "loss" in self.monitor else 1

        def goodness(row: _Row) -> float:
            return -math.inf if math.isnan(row[self.monitor]) else sign * row[self.monitor]

        return max(self.rows or [self.last], key=goodness)

    def since_best(self) -> int:
        """Return how many epochs have passed since the best one; 0 without any."""
        return self.last["epoch"] - self.best["epoch"] if self.rows else 0

    def to_csv(self) -> str:
        """Return the history as CSV."""
        return csv_text(_COLUMNS, self.rows)


def epoch_line(row: _Row, epochs: int) -> str:
    """Return the line printed after an epoch."""
    line = f"epoch {row['epoch']:>{len(str(epochs))}}/{epochs}  loss {row['train_loss']:.3f}"
    if row["val_loss"] is not None:
        line += f"  val loss {row['val_loss']:.3f}  val IoU {row['val_iou']:.3f}"
        line += f"  val Dice {row['val_dice']:.3f}"
    return f"{line}  {row['seconds']:.1f} s"


@dataclass
class _TensorBoard:
    """Curves for `tensorboard --logdir` (extra: tracking)."""

    out: Path

    def start(self, config: dict, rows: list[_Row]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(self.out / "tensorboard"), purge_step=len(rows) + 1)
        self.writer.add_text("config", f"```\n{json.dumps(config, indent=1)}\n```")

    def log(self, row: _Row) -> None:
        for name, value in row.items():
            if name != "epoch" and value is not None:
                self.writer.add_scalar(name, value, row["epoch"])
        self.writer.flush()

    def finish(self) -> None:
        self.writer.close()


@dataclass
class _WandB:
    """Weights & Biases (extra: tracking), offline unless WANDB_MODE names another mode."""

    out: Path

    def start(self, config: dict, rows: list[_Row]) -> None:
        import wandb

        (self.out / "wandb").mkdir(parents=True, exist_ok=True)
        mode = os.environ.get("WANDB_MODE", "offline")
        options = {"mode": mode, "settings": wandb.Settings(silent=True)}
        self.run = wandb.init(dir=self.out / "wandb", project="segkit", config=config, **options)

    def log(self, row: _Row) -> None:
        self.run.log({name: value for name, value in row.items() if value is not None})

    def finish(self) -> None:
        self.run.finish()


def make_trackers(trackers: Iterable[Any], out: Path | None) -> list:
    """Return the trackers, made from their names where needed."""
    kinds = {"tensorboard": _TensorBoard, "wandb": _WandB}
    made = [kinds[one_of("tracker", t, kinds)](out) if isinstance(t, str) else t for t in trackers]
    if out is None and any(isinstance(t, (_TensorBoard, _WandB)) for t in made):
        raise ArgumentError('tensorboard and wandb need a folder: out="runs/name"')
    return made


def call_trackers(trackers: list, method: str, *arguments: Any) -> None:
    """Call a method of each tracker, in process 0; remove one that fails, with a warning."""
    for tracker in list(trackers) if distributed.rank() == 0 else []:
        try:
            getattr(tracker, method)(*arguments)
        except Exception as error:
            trackers.remove(tracker)
            what = f"{type(tracker).__name__} failed and is left out from here on, training goes on"
            warnings.warn(f"{what}: {type(error).__name__}: {error}", stacklevel=2)


def run_metadata(
    settings: dict[str, Any], model: nn.Module, precision: Precision, loader: DataLoader
) -> dict[str, Any]:
    """Return what it takes to repeat a run, ready for JSON; `settings` as `fit` was given them."""
    data, about_data = loader.dataset, {}
    if isinstance(data, SegmentationDataset):
        about_data = {"class_names": list(data.class_names), "channels": data.channels}
        about_data |= {"size": list(data.masks.shape[1:])}
        about_data |= {name: list(getattr(data.transform, name, ())) for name in ("mean", "std")}
    recorded = {name: _for_json(value) for name, value in settings.items()}
    recorded |= {"model": type(model).__name__, "train_items": len(data)}
    return {
        "settings": recorded | {"processes": distributed.ranks()},
        "parameters": sum(p.numel() for p in model.parameters()),
        "data": about_data,
        "device": distributed.device_name(precision.device),
        "precision": str(precision),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "git": paths.git_revision(),
        "command": sys.argv,
    }


def _for_json(value: Any) -> Any:
    """Return a setting as JSON can hold it; a loss by its name and the arguments it stores."""
    if value is None or isinstance(value, (bool, int, float, str, list)):
        return value
    if isinstance(value, nn.Module):
        arguments = {k: v for k, v in vars(value).items() if k[0] != "_" and k != "training"}
        arguments |= dict(value.named_buffers(recurse=False))
        parts = [f"{k}={v.tolist() if isinstance(v, Tensor) else v}" for k, v in arguments.items()]
        parts += [_for_json(child) for child in value.children()]
        return f"{type(value).__name__}({', '.join(parts)})"
    if isinstance(value, Optimizer):
        return type(value).__name__
    return getattr(value, "__name__", repr(value))
