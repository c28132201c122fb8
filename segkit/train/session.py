"""One training run, from its first epoch or a checkpoint to its last."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from segkit.metrics import Counts
from segkit.train import checkpoint, distributed
from segkit.train.checkpoint import Place
from segkit.train.loop import Run, evaluate, train_epoch
from segkit.train.tracking import History, Row, Trackers, line
from segkit.train.trouble import NotFinite, Stop, TrainingError, not_finite


@dataclass
class Session:
    """What `fit` has set up, and the epochs over it. The arguments are those of `fit`.

    batches: how many an epoch has; the loader's own length is of what is left of it.
    """

    run: Run
    train: DataLoader
    batches: int
    val: DataLoader | None
    history: History
    trackers: Trackers
    epochs: int
    seed: int
    patience: int | None
    keep: str
    out: Path | None
    save_every: int | None
    log: Callable[[str], object] | None
    stop: Stop = field(default_factory=Stop)
    best_weights: dict[str, Tensor] = field(default_factory=dict)

    def go(self, place: Place) -> None:
        """Train from `place` to the end, or to where patience or Ctrl-C ends it."""
        self.trackers.tell("start", self.history.config, self.history.rows)
        try:
            while place.epoch < self.epochs and not self.stop.asked and not self.out_of_patience():
                place = self.epoch(place)
        except NotFinite as error:
            raise TrainingError(self.not_finite(place, error.step)) from None
        finally:
            self.trackers.tell("finish")
        if self.stop.asked and place.epoch < self.epochs:
            self.history.stopped = f"interrupted in epoch {place.epoch + 1}"
        self.leave_weights()

    def epoch(self, place: Place) -> Place:
        """Train from `place` to the end of its epoch and judge it; return where that leads.

        After Ctrl-C that is a place within the epoch, which is not judged.
        """
        totals = place.totals.to(self.run.machine.device)
        started, batch, saved = time.perf_counter() - place.seconds, place.batch, place.batch
        for taken in self.steps(place, totals):
            batch += taken
            due = self.save_every and batch - saved >= self.save_every * self.run.accumulate
            if (due or self.stop.asked) and batch < self.batches:
                seconds, saved = time.perf_counter() - started, batch
                noise = distributed.gather(checkpoint.random_state(self.run.machine.device))
                here = Place(place.epoch, batch, seconds, totals, noise)
                self.save(here)
                if self.stop.asked:
                    return here
        row = self.judge(place.epoch, totals) | {"seconds": time.perf_counter() - started}
        self.end_epoch(row)
        return Place(place.epoch + 1)

    def steps(self, place: Place, totals: Tensor) -> Iterator[int]:
        """Train the rest of the epoch, step by step."""
        batches = distributed.epoch_batches(self.train, place.epoch, self.seed, place.batch)
        if place.random:
            state = place.random[distributed.rank()]
            checkpoint.set_random_state(self.run.machine.device, state)
        self.run.guard.begin()
        left = -(-(self.batches - place.batch) // self.run.accumulate)
        hidden = None if self.log else True  # None: shown where stderr is a terminal
        steps = train_epoch(self.run, batches, totals)
        yield from tqdm(steps, total=left, disable=hidden, leave=False)
        self.run.guard.look()
        if not totals[1]:
            raise TrainingError("the training loader yielded no batch: is its data set empty?")

    def end_epoch(self, row: Row) -> None:
        """Note the epoch's row and all that follows from it."""
        self.history.rows.append(row)
        self.run.course.epoch(row["train_loss"] if self.val is None else row["val_loss"])
        if self.history.best is row:
            self.save_best(row)
        self.save(Place(row["epoch"]))
        self.trackers.tell("log", row)
        if self.log:
            self.log(line(row, self.epochs))

    def judge(self, epoch: int, totals: Tensor) -> Row:
        """Score the epoch on the validation set; return its row of the history."""
        loss, images = distributed.all_sum(totals).tolist()
        row = {"epoch": epoch + 1, "train_loss": loss / images}
        row |= {"val_loss": None, "val_iou": None, "val_dice": None}
        if self.val is not None:
            totals, counted = evaluate(self.run.judged, self.val, self.run.loss, self.run.machine)
            loss, images = distributed.all_sum(totals).tolist()
            pooled = Counts(*distributed.all_sum(counted.total().stacked()))
            row["val_loss"] = loss / images
            row["val_iou"] = pooled.iou("macro").item()
            row["val_dice"] = pooled.dice("macro").item()
        row["lr"] = self.run.rate
        return row

    def not_finite(self, place: Place, step: int) -> str:
        """Say where the numbers broke, `step` steps after `place`, and what is left."""
        batch = place.batch + step * self.run.accumulate
        names = distributed.item_names(self.train, place.epoch, batch, self.run.accumulate)
        file = self.out and self.out / checkpoint.LAST
        kept = f"The last good checkpoint is {file}" if file and file.exists() else ""
        return not_finite(
            f"epoch {place.epoch + 1}, batch {batch + 1} of {self.batches}",
            self.run.rate,
            self.run.machine.precision.name,
            names,
            kept or 'Nothing was saved: out="runs/name" keeps the last good checkpoint',
        )

    def out_of_patience(self) -> bool:
        """Whether the best epoch lies too far back."""
        if self.patience is None or not self.history.rows:
            return False
        waited = self.history.since_best()
        if waited >= self.patience:
            self.history.stopped = f"no better {self.history.monitor} in {waited} epochs"
        return waited >= self.patience

    def save(self, place: Place) -> None:
        """Write last.safetensors, if there is a folder."""
        if self.out:
            checkpoint.save(self.out / checkpoint.LAST, self.run, place, self.history)

    def save_best(self, row: Row) -> None:
        """Write best.safetensors, and keep the weights where they are wanted at the end."""
        if self.out and distributed.rank() == 0:
            about = {"config": self.history.config, "row": row}
            checkpoint.save_weights(self.out / checkpoint.BEST, self.run.kept, about)
        if self.keep == "best" and not self.out:
            state = self.run.kept.state_dict()
            self.best_weights = {name: value.clone() for name, value in state.items()}

    def leave_weights(self) -> None:
        """Leave the network with the weights that were judged last, or best."""
        if self.keep == "best" and self.history.rows:
            if self.out:
                checkpoint.load_weights(self.out / checkpoint.BEST, self.run.plain)
            else:
                self.run.plain.load_state_dict(self.best_weights)
        elif self.run.average:
            self.run.plain.load_state_dict(self.run.kept.state_dict())
