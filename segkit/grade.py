"""Marks the exercises in learners' notebooks, for a teacher.

It runs code that others wrote: do that as a user, or on a machine, that it cannot harm.
"""

import ast
import csv
import io
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import nbformat
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

from segkit.check import exercises
from segkit.course import CourseError, Lesson

# Before the learner's code: every check also notes what it found. After it: the notes.
BEFORE = """
import json as _json
from segkit.check.frame import Exercise as _Exercise
_found = {}
def _noted(self, attempt=None):
    _result = self.grade(attempt)
    _found[self.name] = _result.status, "NameError" in _result.message
    print(_result.message)
_Exercise.__call__ = _noted
"""
AFTER = "print(_json.dumps(_found))"
MISSING = "not run"  # an exercise whose check was never reached


class SameInterpreter(AsyncKernelManager):
    """Starts the kernel with this interpreter, whatever kernel "python3" is on the machine."""

    @property
    def kernel_spec(self) -> KernelSpec:
        """The command that starts ipykernel here."""
        command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=command, display_name="Python 3", language="python")


@dataclass(frozen=True)
class Marks:
    """One notebook: exercise -> "passed", "failed", "todo" or "not run"; or why there are none."""

    notebook: Path
    marks: dict[str, str]
    error: str = ""

    @property
    def passed(self) -> int:
        """How many exercises are right."""
        return sum(mark == "passed" for mark in self.marks.values())


def grade_all(
    notebooks: Sequence[Path],
    jobs: int = 1,
    timeout: float = 120,
    finished: Callable[[Marks], object] = lambda marks: None,
) -> list[Marks]:
    """Return the marks of each notebook, in order; `jobs` are run at once.

    timeout: seconds that a cell may take. finished: called after each notebook. The files are
    not changed; each notebook runs in an empty folder of its own. What cannot be marked has no
    marks, and says why.
    """
    marked = []
    with ThreadPoolExecutor(jobs) as pool:
        for marks in pool.map(partial(grade, timeout=timeout), notebooks):
            marked.append(marks)
            finished(marks)
    return marked


def asked(marked: Sequence[Marks]) -> list[str]:
    """Return the names of the exercises in all the notebooks, each once: the table's columns."""
    return list(dict.fromkeys(name for one in marked for name in one.marks))


def to_csv(marked: Sequence[Marks]) -> str:
    """Return the marks as CSV: notebook, a column for each exercise, how many are right, error."""
    text = io.StringIO()
    columns = ["notebook", *asked(marked), "right", "error"]
    rows = csv.DictWriter(text, columns, lineterminator="\n")
    rows.writeheader()
    for one in marked:
        rows.writerow(
            {"notebook": one.notebook, "right": one.passed, "error": one.error} | one.marks
        )
    return text.getvalue()


def grade(path: Path, timeout: float = 120) -> Marks:
    """Return the marks of one notebook: its exercises, run without the lesson if they can be."""
    try:
        if not path.is_file():
            raise CourseError(f"no notebook {path}")
        lesson = Lesson(path)
        names = [exercise.name for exercise in exercises().get(lesson.title[:2], [])]
        if not names:
            raise CourseError(
                f"{lesson.title!r} is no lesson with exercises; was its title changed?"
            )
        notebook = nbformat.read(path, 4)
        found, lost = results(exercises_only(notebook), timeout)
        if lost:  # an answer uses something that the lesson made
            found, _ = results(notebook, timeout)
    except (CourseError, CellTimeoutError, DeadKernelError, nbformat.ValidationError) as error:
        return Marks(path, {}, str(error).strip().splitlines()[0])
    return Marks(path, {name: found.get(name, MISSING) for name in names})


def exercises_only(notebook: NotebookNode) -> NotebookNode:
    """Return the cells that import something, the parameters, and all from the exercises on."""
    kept, reached = [], False
    for cell in notebook.cells:
        reached |= cell.cell_type == "markdown" and "## Exercises" in cell.source
        needed = "parameters" in cell.metadata.get("tags", []) or imports(cell)
        if reached or needed:
            kept.append(cell)
    return nbformat.v4.new_notebook(cells=kept)


def imports(cell: NotebookNode) -> bool:
    """Whether a code cell does nothing but import."""
    try:
        lines = ast.parse(cell.source).body if cell.cell_type == "code" else []
    except SyntaxError:
        return False
    return bool(lines) and all(isinstance(line, ast.Import | ast.ImportFrom) for line in lines)


def results(notebook: NotebookNode, timeout: float) -> tuple[dict[str, str], bool]:
    """Run the cells, past errors; return each check's last result, and whether a name was lost."""
    before, after = map(nbformat.v4.new_code_cell, (BEFORE, AFTER))
    noted = nbformat.v4.new_notebook(cells=[before, *notebook.cells, after])
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            noted,
            timeout=timeout,
            allow_errors=True,
            kernel_manager_class=SameInterpreter,
            resources={"metadata": {"path": folder}},
        )
        client.execute()
    outputs = [output for cell in noted.cells[1:-1] for output in cell.get("outputs", [])]
    found = json.loads(after.outputs[-1].text)
    lost = any(output.get("ename") == "NameError" for output in outputs)
    lost |= any(unknown for _, unknown in found.values())
    return {name: status for name, (status, _) in found.items()}, lost
