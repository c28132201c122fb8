"""Marking learners' notebooks."""

import csv
import io
import json
from pathlib import Path

import nbformat
import pytest
from typer.testing import CliRunner

from segkit import paths
from segkit.cli.grade import check
from segkit.grade import grade

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
    assert marks == {"iou_and_dice": "not run", "choose_average": "todo"}


def test_an_answer_may_use_what_the_lesson_made(tmp_path):
    answer = SOLUTION.replace("2 * tp", "two * tp") + CHECK
    assert grade(learner(tmp_path, answer, before="two = 2")).marks["iou_and_dice"] == "passed"


def test_the_last_attempt_counts(tmp_path):
    wrong = SOLUTION.replace("2 * tp", "tp")
    assert (
        grade(learner(tmp_path, wrong + CHECK, SOLUTION + CHECK)).marks["iou_and_dice"] == "passed"
    )


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
    path, table = learner(tmp_path, SOLUTION + CHECK, STUB), tmp_path / "marks.csv"
    arguments = [str(path), str(tmp_path / "gone.ipynb"), "--csv", str(table), "-j", "2"]
    done = CliRunner().invoke(check, arguments)
    assert done.exit_code == 1
    assert "1 of 2" in done.output and "no notebook" in done.output
    first, second = csv.DictReader(io.StringIO(table.read_text()))
    assert (first["iou_and_dice"], first["choose_average"]) == ("passed", "todo")
    assert (first["right"], second["right"]) == ("1", "0")
    assert "no notebook" in second["error"]


def test_marks_as_json(tmp_path):
    path = learner(tmp_path, SOLUTION + CHECK)
    done = CliRunner().invoke(check, [str(path), "--json"])
    (row,) = json.loads(done.stdout)
    marks = {"iou_and_dice": "passed", "choose_average": "not run"}
    assert row == {"notebook": str(path), "marks": marks, "error": ""}
    assert done.exit_code == 0
