"""Marks the exercises in learners' notebooks, for a teacher.

It runs code that others wrote: do that as a user, or on a machine, that it cannot harm.
"""

import ast
import json
import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
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


class _Marks(NamedTuple):
    """The marks of one notebook."""

    notebook: Path
    marks: dict[str, str]  # exercise -> "passed", "failed", "todo", or "not run": no check reached
    error: str = ""  # why there are no marks


def grade_all(notebooks: Sequence[Path], jobs: int = 1, timeout: float = 120) -> list[_Marks]:
    """Return the marks of each notebook, in order. `timeout`: seconds that a cell may take."""
    with ThreadPoolExecutor(jobs) as pool:
        marked = pool.map(lambda path: _grade(path, timeout), notebooks)
        return list(tqdm(marked, "marking", len(notebooks), leave=False, disable=None))


def _grade(path: Path, timeout: float = 120) -> _Marks:
    """Return the marks of one notebook, which is not changed.

    It runs in an empty folder, and the lesson in it only if an answer needs it.
    """
    try:
        if not path.is_file():
            raise CourseError(f"no notebook {path}")
        title = Lesson(path).title
        if not (names := [exercise.name for exercise in check.exercises(title[:2])]):
            raise CourseError(f"{title!r} is no lesson with exercises; was its title changed?")
        try:
            notebook = nbformat.read(path, 4)
        except Exception as error:  # nbformat's errors have no common base
            raise CourseError(f"{path}: not a readable notebook ({error!r})") from error
        found, undefined = _run(_exercise_cells(notebook.cells), timeout)
        if undefined:  # an answer uses something that the lesson defined
            found, _ = _run(notebook.cells, timeout)
    except (SegkitError, CellTimeoutError, DeadKernelError) as error:
        return _Marks(path, {}, str(error).strip().splitlines()[0])
    return _Marks(path, {name: found.get(name, "not run") for name in names})


def _exercise_cells(cells: list[NotebookNode]) -> list[NotebookNode]:
    """Return the parameters, what the lesson imports, its checks, and all after "Exercises"."""
    chosen, reached = [], False
    for cell in cells:
        reached |= cell.cell_type == "markdown" and "## Exercises" in cell.source
        parameters = "parameters" in cell.metadata.get("tags", [])
        if reached or parameters or "check." in cell.source:
            chosen.append(cell)
        elif cell.cell_type == "code":
            with suppress(SyntaxError):  # a magic command, or a learner's slip
                lines = ast.parse(cell.source).body
                lines = [line for line in lines if isinstance(line, ast.Import | ast.ImportFrom)]
                chosen.append(nbformat.v4.new_code_cell("\n".join(map(ast.unparse, lines))))
    return chosen


def _run(cells: list[NotebookNode], timeout: float) -> tuple[dict[str, str], bool]:
    """Run the cells, past errors; return each check's last status, and if a name was undefined."""
    with tempfile.TemporaryDirectory() as work, tempfile.NamedTemporaryFile() as log:
        # without kernel_dirs, "python3" is this interpreter and not what a user has registered
        kernel = AsyncKernelManager(kernel_spec_manager=KernelSpecManager(kernel_dirs=[]))
        notebook = nbformat.v4.new_notebook(cells=cells)
        client = NotebookClient(notebook, kernel, timeout=timeout, allow_errors=True)
        client.execute(cleanup_kc=True, cwd=work, env=os.environ | {"SEGKIT_CHECK_LOG": log.name})
        checks = [json.loads(line) for line in log]
    raised = [one["raised"] for one in checks]
    for cell in cells:  # what only draws, beside the checks, may do without the lesson
        if "check." in cell.source:
            raised += [output.get("ename") for output in cell.get("outputs", [])]
    return {one["exercise"]: one["status"] for one in checks}, "NameError" in raised
