"""Runs committed lessons where they are and stores what they put out."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import nbformat

from segkit.course import CourseError, Lesson
from segkit.course.report import Outcome
from segkit.course.run import Job, Watcher, execute
from segkit.files import write_text

KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
VOLATILE = ("papermill", "execution", "ExecuteTime", "lines_to_next_cell")


def refresh(
    chosen: Sequence[Lesson], watcher: Watcher, *, jobs: int = 1, timeout: float | None = None
) -> list[Outcome]:
    """Execute each lesson as it stands, in its own folder, and store the outputs in it.

    A lesson is replaced in one go, and only if every cell ran and nobody changed the file
    meanwhile: it counts as failed otherwise. Raises CourseError for a lesson whose own profile
    is not "quick".
    """
    for lesson in chosen:
        if lesson.parameters.get("profile") != "quick":
            raise CourseError(f'{lesson.stem}: its parameters cell must say profile = "quick"')
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="segkit-") as scratch:
        waiting = [
            Job(lesson, {}, Path(scratch) / lesson.stem, cwd=lesson.path.parent)
            for lesson in chosen
        ]
        for job, outcome in execute(waiting, watcher, jobs=jobs, timeout=timeout):
            if outcome.ok and Lesson(job.lesson.path).digest() != job.digest:
                what = {"name": "Changed", "message": "the lesson was edited while it ran"}
                outcome.status, outcome.error = "failed", {"cell": 0, "source": "", **what}
            if outcome.ok:
                store(job.folder / "notebook.ipynb", job.lesson.path)
            outcomes.append(outcome)
            watcher.finished(outcome)
    return outcomes


def store(executed: Path, committed: Path) -> None:
    """Put `executed`, cleaned, in the place of the lesson at `committed`."""
    notebook = nbformat.read(executed, as_version=4)
    write_text(committed, nbformat.writes(clean(notebook)) + "\n")


def clean(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Take out what differs from run to run or from machine to machine, and return it."""
    notebook.metadata.pop("papermill", None)
    notebook.metadata.pop("widgets", None)  # pictures and all, and other ids on every run
    notebook.metadata["kernelspec"] = dict(KERNEL)
    notebook.metadata["language_info"] = {"name": "python"}
    for cell in notebook.cells:
        for name in VOLATILE:
            cell.metadata.pop(name, None)
        if not cell.metadata.get("tags", True):
            del cell.metadata["tags"]
    return notebook
