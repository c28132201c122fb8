"""Marking learners' notebooks."""

import csv
import io
import json
from pathlib import Path

import nbformat
import pytest
from typer.testing import CliRunner

from segkit import paths
from segkit.cli.course import check
from segkit.grade import grade

SOLUTION = (paths.root() / "notebooks" / "solutions" / "07_iou_and_dice.py").read_text("utf-8")
WRONG = SOLUTION.replace("2 * tp", "tp")
CHECK = "\n\ncheck.iou_and_dice(iou_and_dice)"
STUB = "def choose_average(claim):\n    ...\n\ncheck.choose_average(choose_average)"


def learner(folder: Path, *answers: str, before: str = "", name: str = "ana.ipynb") -> Path:
    """Write a notebook of lesson 07 that leaves a file `ran` when its body is run."""
    code, text = nbformat.v4.new_code_cell, nbformat.v4.new_markdown_cell
    imports = "import segkit\nfrom segkit import check\n\np = segkit.profile('quick')"
    cells = [text("# 07 · IoU"), code(imports), code(before)]
    cells += [code(f"open({str(folder / 'ran')!r}, 'w')"), text("## Exercises")]
    notebook = nbformat.v4.new_notebook(cells=cells + [code(answer) for answer in answers])
    nbformat.write(notebook, folder / name)
    return folder / name


def test_the_last_attempt_counts_and_the_lesson_is_not_run(tmp_path):
    path = learner(tmp_path, WRONG + CHECK, SOLUTION + CHECK, STUB)
    before = path.read_bytes()
    assert grade(path).marks == {"iou_and_dice": "passed", "choose_average": "todo"}
    assert path.read_bytes() == before and not (tmp_path / "ran").exists()


def test_an_answer_may_use_what_the_lesson_made(tmp_path):
    answer = SOLUTION.replace("2 * tp", "two * tp") + CHECK
    assert grade(learner(tmp_path, answer, before="two = 2")).marks["iou_and_dice"] == "passed"
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("gone.ipynb", None, "no notebook"),
        ("broken.ipynb", "{", "not a readable notebook"),
        ("other.ipynb", nbformat.writes(nbformat.v4.new_notebook()), "no lesson with exercises"),
    ],
)
def test_what_cannot_be_marked_says_why(tmp_path, name, text, reason):
    if text is not None:
        (tmp_path / name).write_text(text)
    found = grade(tmp_path / name)
    assert found.marks == {}
    assert reason in found.error


def test_an_endless_loop_ends(tmp_path):
    found = grade(learner(tmp_path, "while True: pass"), timeout=3)
    assert "timed out" in found.error


def test_the_table_of_a_class(tmp_path):
    table = tmp_path / "marks.csv"
    right = learner(tmp_path, SOLUTION + CHECK, "1 / 0\n" + STUB)
    wrong = learner(tmp_path, WRONG + CHECK, STUB, name="ben.ipynb")
    paths = [str(right), str(wrong), str(tmp_path / "gone.ipynb")]
    done = CliRunner().invoke(check, [*paths, "--csv", str(table), "-j", "2"])
    assert done.exit_code == 1
    lines = [line.split() for line in done.output.splitlines()]
    assert ["ana.ipynb", "right", "not", "run", "1", "of", "2"] in lines
    assert ["ben.ipynb", "wrong", "-", "0", "of", "2"] in lines
    first, second, third = csv.DictReader(io.StringIO(table.read_text()))
    assert (first["iou_and_dice"], first["choose_average"], first["right"]) == (
        "passed", "not run", "1",
    )  # fmt: skip
    assert (second["iou_and_dice"], second["choose_average"]) == ("failed", "todo")
    assert "no notebook" in third["error"] and "no notebook" in done.output


def test_marks_as_json(tmp_path):
    path = str(tmp_path / "gone.ipynb")
    done = CliRunner().invoke(check, [path, "--json"])
    assert json.loads(done.stdout) == [
        {"notebook": path, "marks": {}, "error": f"no notebook {path}"}
    ]
