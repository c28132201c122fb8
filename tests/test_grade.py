"""Marking learners' notebooks."""

import csv
import json
from pathlib import Path

import nbformat
import pytest
from calls import call

from segkit import paths
from segkit.grade import grade_all

SOLUTION = (paths.root() / "notebooks" / "solutions" / "07_iou_and_dice.py").read_text("utf-8")
WRONG = SOLUTION.replace("2 * tp", "tp")
CHECK = "\n\ncheck.iou_and_dice(iou_and_dice)"
STUB = "def choose_average(claim):\n    ...\n\ncheck.choose_average(choose_average)"


def grade(path: Path, timeout: float = 120) -> tuple[dict[str, str], str]:
    ((_, marks, error),) = grade_all([path], timeout=timeout)
    return marks, error


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
    marks = {"iou_and_dice": "passed", "mean_iou": "not run", "choose_average": "todo"}
    assert grade(path)[0] == marks | {"is_sound": "not run"}
    assert path.read_bytes() == before and not (tmp_path / "ran").exists()


def test_an_answer_may_use_what_the_lesson_made(tmp_path):
    answer = SOLUTION.replace("2 * tp", "two * tp") + CHECK
    assert grade(learner(tmp_path, answer, before="two = 2"))[0]["iou_and_dice"] == "passed"
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "no notebook"),
        ("{", "not a readable notebook"),
        (
            '{"cells": [{"cell_type": "markdown", "metadata": {}, "source": "# 07 · IoU"}]}',
            "not a readable notebook",
        ),
        (nbformat.writes(nbformat.v4.new_notebook()), "no lesson with exercises"),
    ],
)
def test_what_cannot_be_marked_says_why(tmp_path, text, reason):
    if text is not None:
        (tmp_path / "ana.ipynb").write_text(text)
    marks, error = grade(tmp_path / "ana.ipynb")
    assert marks == {} and reason in error


def test_an_endless_loop_ends(tmp_path):
    assert "timed out" in grade(learner(tmp_path, "while True: pass"), timeout=3)[1]


def test_the_table_of_a_class(tmp_path):
    table, gone = tmp_path / "marks.csv", str(tmp_path / "gone.ipynb")
    right = learner(tmp_path, SOLUTION + CHECK, "1 / 0\n" + STUB)
    wrong = learner(tmp_path, WRONG + CHECK, STUB, name="ben.ipynb")
    code, text = call("check", "grade", right, wrong, gone, "--csv", table, "-j", 2)
    assert code == 1
    lines = [line.split() for line in text.splitlines()]
    not_run = ["not", "run"]
    assert ["ana.ipynb", "right", *3 * not_run, "1", "of", "4"] in lines
    assert ["ben.ipynb", "wrong", *not_run, "-", *not_run, "0", "of", "4"] in lines
    first, second, third = csv.DictReader(table.read_text().splitlines())
    names = ("iou_and_dice", "choose_average", "right")
    assert [first[name] for name in names] == ["passed", "not run", "1"]
    assert [second[name] for name in names] == ["failed", "todo", "0"]
    assert "no notebook" in third["error"] and "no notebook" in text
    _, text = call("check", "grade", gone, "--json")
    assert json.loads(text) == [{"notebook": gone, "marks": {}, "error": f"no notebook {gone}"}]
