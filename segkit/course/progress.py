"""Shows how a run goes on: bars where a person watches, else one line per lesson."""

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from segkit.course.report import Outcome

if TYPE_CHECKING:
    from segkit.course.run import Job


def line(outcome: Outcome) -> str:
    """Return what became of a lesson, on one line."""
    text = f"{outcome.status:<8} {outcome.stem:<24} {outcome.seconds:6.1f} s"
    text += f" {outcome.memory / 2**20:6.0f} MiB"
    if outcome.error:
        error = outcome.error
        first = error["message"].strip().splitlines()[:1]
        text += f"  cell [{error['cell']}] {error['source']}: {error['name']}: {''.join(first)}"
    return text


class Lines(AbstractContextManager):
    """A line per lesson, for a log."""

    def __init__(self, total: int):
        self.total, self.done = total, 0

    def __exit__(self, *exception: object) -> None:
        """Nothing to close."""

    def running(self, jobs: "Sequence[Job]") -> None:
        """Say nothing."""

    def finished(self, outcome: Outcome) -> None:
        """Print the line of a lesson that has ended."""
        self.done += 1
        print(f"[{self.done}/{self.total}] {line(outcome)}", flush=True)


class Bars(AbstractContextManager):
    """A bar for the course and one for each lesson that runs, on a terminal."""

    def __init__(self, total: int):
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self.progress = Progress(
            TextColumn("{task.description:<24}"),
            BarColumn(),
            TextColumn("{task.fields[unit]} {task.completed}/{task.total}"),
            TimeElapsedColumn(),
        )
        self.course = self.progress.add_task("course", total=total, unit="lesson")
        self.tasks: dict[str, int] = {}

    def __enter__(self) -> "Bars":
        """Take over the terminal's last lines."""
        self.progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Give them back."""
        self.progress.stop()

    def running(self, jobs: "Sequence[Job]") -> None:
        """Draw cell and time of each lesson that runs."""
        for job in jobs:
            stem, at = job.lesson.stem, job.progress()
            if stem not in self.tasks:
                self.tasks[stem] = self.progress.add_task(stem, total=None, unit="cell")
            self.progress.update(self.tasks[stem], completed=at["cell"], total=at["of"] or None)

    def finished(self, outcome: Outcome) -> None:
        """Replace the lesson's bar by its line."""
        if outcome.stem in self.tasks:
            self.progress.remove_task(self.tasks.pop(outcome.stem))
        self.progress.print(line(outcome), markup=False, highlight=False, soft_wrap=True)
        self.progress.advance(self.course)


def watcher(total: int) -> Lines | Bars:
    """Return what suits standard output."""
    return Bars(total) if sys.stdout.isatty() else Lines(total)
