"""Marking learners' notebooks."""

import csv
import io
from pathlib import Path

import nbformat
import pytest
from typer.testing import CliRunner

from segkit import paths
from segkit.cli.grade import check
from segkit.grade import MISSING, exercises_only, grade, grade_all, to_csv

SOLUTION = (paths.root() / "notebooks" / "solutions" / "07_iou_and_dice.py").read_text("utf-8")
CHECK = "\n\ncheck.iou_and_dice(iou_and_dice)"
STUB = "def choose_average(claim):\n    ...\n\ncheck.choose_average(choose_average)"


def learner(folder: Path, *answers: str, before: str = "", title: str = "07 · IoU") -> Path:
    """Write a notebook of lesson 07 whose body would fail if it were run."""
    code, text = nbformat.v4.new_code_cell, nbformat.v4.new_markdown_cell
    cells = [text(f"# {title}"), code("from segkit import check"), code(before)]
    cells += [code("raise SystemError('the lesson itself was run')"), text("## Exercises")]
    path = folder / "ana.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells + [code(a) for a in answers]), path)
    return path


def test_right_wrong_untouched(tmp_path):
    right = learner(tmp_path, SOLUTION + CHECK, STUB)
    before = right.read_bytes()
    assert grade(right).marks == {"iou_and_dice": "passed", "choose_average": "todo"}
    assert right.read_bytes() == before
    wrong = learner(tmp_path, SOLUTION.replace("2 * tp", "tp") + CHECK, STUB)
    assert grade(wrong).marks["iou_and_dice"] == "failed"


def test_an_error_in_one_answer_leaves_the_other(tmp_path):
    marks = grade(learner(tmp_path, "1 / 0" + CHECK, STUB)).marks
    assert marks == {"iou_and_dice": MISSING, "choose_average": "todo"}


def test_an_answer_may_use_what_the_lesson_made(tmp_path):
    answer = SOLUTION.replace("2 * tp", "two * tp") + CHECK
    assert grade(learner(tmp_path, answer, before="two = 2")).marks["iou_and_dice"] == "passed"


def test_the_last_attempt_counts(tmp_path):
    wrong = SOLUTION.replace("2 * tp", "tp")
    assert grade(learner(tmp_path, wrong + CHECK, SOLUTION + CHECK)).passed == 1


def test_only_what_exercises_need_is_run(tmp_path):
    notebook = nbformat.read(paths.root() / "notebooks" / "07_iou_and_dice.ipynb", 4)
    kept = [c for c in exercises_only(notebook).cells if c.cell_type == "code"]
    assert "profile" in kept[0].source
    assert 3 <= len(kept) <= 6


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("gone.ipynb", None, "no notebook"),
        ("broken.ipynb", "{", "not a readable notebook"),
        ("other.ipynb", nbformat.writes(nbformat.v4.new_notebook()), "no lesson with exercises"),
    ],
)
def test_what_cannot_be_marked_says_why(tmp_path, name, text, said):
    if text is not None:
        (tmp_path / name).write_text(text)
    found = grade(tmp_path / name)
    assert found.marks == {}
    assert said in found.error


def test_an_endless_loop_ends(tmp_path):
    found = grade(learner(tmp_path, "while True: pass"), timeout=3)
    assert "timed out" in found.error


def test_the_table_of_a_class(tmp_path):
    path = learner(tmp_path, SOLUTION + CHECK, STUB)
    marked = grade_all([path, tmp_path / "gone.ipynb"], jobs=2)
    first, second = csv.DictReader(io.StringIO(to_csv(marked)))
    assert (first["iou_and_dice"], first["choose_average"]) == ("passed", "todo")
    assert (first["right"], second["right"]) == ("1", "0")
    done = CliRunner().invoke(check, [str(path), "--csv", str(tmp_path / "marks.csv")])
    assert done.exit_code == 0
    assert "1 of 2" in done.output
    assert "passed" in (tmp_path / "marks.csv").read_text()
