"""Marks the exercises in learners' notebooks, for a teacher.

It runs code that others wrote: do that as a user, or on a machine, that it cannot harm.
"""

import ast
import json
import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from tqdm import tqdm

from segkit import check
from segkit.course import CourseError, Lesson
from segkit.errors import SegkitError


class Marks(NamedTuple):
    """The marks of one notebook.

    marks: exercise -> "passed", "failed", "todo", or "not run" where its check was not reached.
    error: why there are no marks, or "".
    """

    notebook: Path
    marks: dict[str, str]
    error: str = ""


def grade_all(notebooks: Sequence[Path], jobs: int = 1, timeout: float = 120) -> list[Marks]:
    """Return the marks of each notebook, in order, and show a bar on a terminal.

    Args:
        notebooks: learners' files. They are not changed; each runs in an empty folder of its own.
        jobs: how many run at once.
        timeout: seconds that a cell may take.
    """
    with ThreadPoolExecutor(jobs) as pool:
        marked = pool.map(partial(grade, timeout=timeout), notebooks)
        return list(tqdm(marked, "marking", len(notebooks), leave=False, disable=None))


def grade(path: Path, timeout: float = 120) -> Marks:
    """Return the marks of one notebook; the lesson is run only if an answer needs it."""
    try:
        if not path.is_file():
            raise CourseError(f"no notebook {path}")
        title = Lesson(path).title
        if not (names := [exercise.name for exercise in check.exercises(title[:2])]):
            raise CourseError(f"{title!r} is no lesson with exercises; was its title changed?")
        notebook = nbformat.read(path, 4)
        found, undefined = _run(_exercise_cells(notebook.cells), timeout)
        if undefined:  # an answer uses something that the lesson defined
            found, _ = _run(notebook.cells, timeout)
    except (SegkitError, CellTimeoutError, DeadKernelError, nbformat.ValidationError) as error:
        return Marks(path, {}, str(error).strip().splitlines()[0])
    return Marks(path, {name: found.get(name, "not run") for name in names})


def _exercise_cells(cells: list[NotebookNode]) -> list[NotebookNode]:
    """Return the cells that only import, the parameters, and all from the exercises on."""
    texts = [cell.source if cell.cell_type == "markdown" else "" for cell in cells]
    start = next((k for k, text in enumerate(texts) if "## Exercises" in text), len(cells))
    needed = (c for c in cells[:start] if "parameters" in c.metadata.get("tags", []) or _imports(c))
    return [*needed, *cells[start:]]


def _imports(cell: NotebookNode) -> bool:
    try:
        lines = ast.parse(cell.source).body if cell.cell_type == "code" else []
    except SyntaxError:
        return False
    return bool(lines) and all(isinstance(line, ast.Import | ast.ImportFrom) for line in lines)


def _run(cells: list[NotebookNode], timeout: float) -> tuple[dict[str, str], bool]:
    """Run the cells, past errors; return each check's last status, and if a name was undefined."""
    notebook = nbformat.v4.new_notebook(cells=cells)
    with tempfile.TemporaryDirectory() as work, tempfile.TemporaryDirectory() as beside:
        log = Path(beside, "checks.jsonl")
        log.touch()
        # without kernel_dirs, "python3" is this interpreter and not what a user has registered
        kernel = AsyncKernelManager(kernel_spec_manager=KernelSpecManager(kernel_dirs=[]))
        client = NotebookClient(notebook, kernel, timeout=timeout, allow_errors=True)
        client.execute(cleanup_kc=True, cwd=work, env=os.environ | {"SEGKIT_CHECK_LOG": str(log)})
        checks = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    raised = [one["raised"] for one in checks]
    raised += [output.get("ename") for cell in cells for output in cell.get("outputs", [])]
    return {one["exercise"]: one["status"] for one in checks}, "NameError" in raised
