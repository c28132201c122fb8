"""What a training run leaves behind: its history, and the trackers that are told of each epoch."""

import csv
import io
import json
import os
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

COLUMNS = ("epoch", "train_loss", "val_loss", "val_iou", "val_dice", "lr", "seconds")
Row = dict[str, float | int | None]


def goal(column: str) -> int:
    """Return +1 for a column in which more is better (a score), -1 for a loss."""
    return -1 if "loss" in column else 1


@dataclass(repr=False)
class History:
    """One row per finished epoch, with the columns of `COLUMNS`; without a `val` its are None.

    `history["val_iou"]` is that column as a list. monitor: the column that chooses `best`.
    config: what the run was: seed, batch, precision and its reason, versions, hardware.
    stopped: why training ended before its last epoch, or "".
    """

    rows: list[Row] = field(default_factory=list)
    monitor: str = "val_iou"
    config: dict = field(default_factory=dict)
    stopped: str = ""

    def __repr__(self) -> str:
        if not self.rows:
            return "History(no epoch finished)"
        best, name = self.best, self.monitor
        return f"History({len(self)} epochs, best {name} {best[name]:.3f} in epoch {best['epoch']})"

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __getitem__(self, column: str) -> list:
        if column not in COLUMNS:
            raise KeyError(f"no column {column!r}; there are: {', '.join(COLUMNS)}")
        return [row[column] for row in self.rows]

    @property
    def last(self) -> Row:
        """The row of the last finished epoch."""
        if not self.rows:
            raise ValueError("no epoch was finished: the history is empty")
        return self.rows[-1]

    @property
    def best(self) -> Row:
        """The first row with the best value of `monitor`; a NaN is worse than any number."""
        sign = goal(self.monitor)
        return max(self.rows or [self.last], key=lambda row: _rank(sign, row[self.monitor]))

    def since_best(self) -> int:
        """Return how many epochs have passed since the best one."""
        return self.last["epoch"] - self.best["epoch"]

    def table(self) -> str:
        """Return the history as text, one line per epoch, the best one marked with a star."""
        lines = [" ".join(f"{name:>10}" for name in COLUMNS)]
        for row in self.rows:
            star = " *" if row is self.best else ""
            lines.append(" ".join(f"{_cell(row[name]):>10}" for name in COLUMNS) + star)
        return "\n".join(lines)

    def to_csv(self, path: str | Path | None = None) -> str:
        """Return the history as CSV, and write it to `path` if there is one."""
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        if path is not None:
            Path(path).write_text(text.getvalue())
        return text.getvalue()


def _rank(sign: int, value: float | None) -> float:
    return float("-inf") if value is None or value != value else sign * value


def _cell(value: float | int | None) -> str:
    return "" if value is None else str(value) if isinstance(value, int) else f"{value:.4g}"


def line(row: Row, epochs: int) -> str:
    """Return the line printed after an epoch."""
    parts = [f"epoch {row['epoch']:>{len(str(epochs))}}/{epochs}", f"loss {row['train_loss']:.3f}"]
    if row["val_loss"] is not None:
        parts.append(f"val loss {row['val_loss']:.3f}")
        parts.append(f"val IoU {row['val_iou']:.3f}")
        parts.append(f"val Dice {row['val_dice']:.3f}")
    return "  ".join([*parts, f"{row['seconds']:.1f} s"])


class Tracker(Protocol):
    """What training tells, and whoever listens: three calls, in this order.

    A tracker that raises is dropped with a warning; training goes on.
    """

    def start(self, config: dict, rows: list[Row]) -> None:
        """Begin a run, or go on after `rows`."""

    def log(self, row: Row) -> None:
        """Take the row of a finished epoch."""

    def finish(self) -> None:
        """End the run."""


class Files:
    """`config.json` and `history.csv` in a folder: what any program can read."""

    def __init__(self, out: str | Path) -> None:
        self.out = Path(out)

    def start(self, config: dict, rows: list[Row]) -> None:
        """Write the config and the rows there are."""
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / "config.json").write_text(json.dumps(config, indent=1) + "\n")
        self.rows = list(rows)
        self._write()

    def log(self, row: Row) -> None:
        """Write the table anew, with this row."""
        self.rows.append(row)
        self._write()

    def finish(self) -> None:
        """Nothing is left open."""

    def _write(self) -> None:
        beside = self.out / "history.csv.part"
        History(self.rows).to_csv(beside)
        os.replace(beside, self.out / "history.csv")


class TensorBoard:
    """Curves for `tensorboard --logdir` (extra: tracking)."""

    def __init__(self, out: str | Path) -> None:
        self.out = Path(out)

    def start(self, config: dict, rows: list[Row]) -> None:
        """Open the event file; what was drawn beyond `rows` is taken back."""
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(self.out), purge_step=len(rows) + 1)
        self.writer.add_text("config", f"```\n{json.dumps(config, indent=1)}\n```")

    def log(self, row: Row) -> None:
        """Add a point to each curve."""
        for name, value in row.items():
            if name != "epoch" and value is not None:
                self.writer.add_scalar(name, value, row["epoch"])
        self.writer.flush()

    def finish(self) -> None:
        """Close the event file."""
        self.writer.close()


class WandB:
    """Weights & Biases (extra: tracking), offline and without an account unless asked.

    options: those of `wandb.init`; `mode="online"`, or WANDB_MODE, sends the run away.
    """

    def __init__(self, out: str | Path, **options: Any) -> None:
        self.out, self.options = Path(out), options

    def start(self, config: dict, rows: list[Row]) -> None:
        """Open a run."""
        import wandb

        self.out.mkdir(parents=True, exist_ok=True)
        mode = os.environ.get("WANDB_MODE", "offline")
        quiet = wandb.Settings(silent=True)
        default = {"project": "segkit", "dir": str(self.out), "mode": mode, "settings": quiet}
        self.run = wandb.init(config=config, **(default | self.options))

    def log(self, row: Row) -> None:
        """Log the row under its epoch."""
        self.run.log({name: value for name, value in row.items() if value is not None})

    def finish(self) -> None:
        """End the run."""
        self.run.finish()


class Trackers:
    """Tells every tracker, and drops one that fails."""

    def __init__(
        self, wanted: Iterable[str | Tracker], out: Path | None, quiet: bool = False
    ) -> None:
        files = [Files(out)] if out else []
        everyone: list[Tracker] = [*files, *(_tracker(one, out) for one in wanted)]
        self.listening = [] if quiet else everyone

    def tell(self, call: str, *arguments: Any) -> None:
        """Call the method named `call` of each."""
        for tracker in list(self.listening):
            try:
                getattr(tracker, call)(*arguments)
            except Exception as error:
                self.listening.remove(tracker)
                warnings.warn(
                    f"{type(tracker).__name__} failed and is left out from here on, training "
                    f"goes on: {type(error).__name__}: {error}",
                    stacklevel=2,
                )


def _tracker(wanted: str | Tracker, out: Path | None) -> Tracker:
    if not isinstance(wanted, str):
        return wanted
    kinds = {"tensorboard": TensorBoard, "wandb": WandB}
    if wanted not in kinds:
        raise ValueError(f"no tracker {wanted!r}; there are: {', '.join(kinds)}, or an object")
    if out is None:
        raise ValueError(f'{wanted} needs a folder: fit(..., out="runs/name")')
    return kinds[wanted](out / wanted)
