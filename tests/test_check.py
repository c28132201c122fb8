"""Every exercise is fed its stub, its solution and its usual mistakes."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from segkit import check
from segkit.check import Case, Exercise, Mistake

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
SOLUTIONS = NOTEBOOKS / "solutions"
LESSONS = sorted(path.stem for path in NOTEBOOKS.glob("exercises/*.py"))
ALL = [(lesson, e) for lesson in LESSONS for e in check.exercises(lesson)]
every_exercise = pytest.mark.parametrize(
    ("lesson", "exercise"), ALL, ids=[f"{lesson}-{e.name}" for lesson, e in ALL]
)


def solution(lesson, exercise):
    """Run the solution's file and return what the lesson hands to the check."""
    path = SOLUTIONS / f"{lesson}_{exercise.name}.py"
    scope = {"__name__": "solution"}
    exec(compile(path.read_text(), str(path), "exec"), scope)
    if exercise.name in scope:
        return scope[exercise.name]
    # a value: the last name that the file assigns
    last = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Assign)][-1]
    return scope[last.targets[0].id]


def run(code, cwd, **environment):
    """Run code in a process of its own and return what it prints."""
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, cwd=cwd, env=os.environ | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@every_exercise
def test_the_solution_passes(lesson, exercise):
    result = exercise.grade(solution(lesson, exercise))
    assert result.status == "passed", result.message
    assert exercise.grade(exercise.reference).status == "passed"


@every_exercise
def test_every_usual_mistake_is_refused_with_its_own_hint(lesson, exercise):
    assert len(exercise.mistakes) >= 2
    hints = [mistake.hint for mistake in exercise.mistakes]
    assert len(set(hints)) == len(hints)
    for mistake in exercise.mistakes:
        result = exercise.grade(mistake.wrong)
        assert result.status == "failed"
        assert mistake.hint in result.message
        assert "got" in result.message
        # a wrong value is not answered with the right one
        assert ("expected" in result.message) == callable(exercise.reference)


def test_every_exercise_has_a_solution_and_is_the_only_public_name_beside_what_a_lesson_draws():
    names = {f"{lesson}_{e.name}" for lesson, e in ALL}
    assert names == {path.stem for path in SOLUTIONS.glob("*.py")}
    assert {name.partition("_")[2] for name in names} | set(check.__all__) == set(dir(check)) - {
        "four_masks", "four_splits", "four_transforms", "five_curves",
    }  # fmt: skip


def empty(x):
    """Say what it does."""
    ...  # your code here


def unwritten(x):
    raise NotImplementedError("your code here")


@pytest.mark.parametrize(
    "stub", [None, ..., {"a": None, "b": None}, empty, unwritten], ids=lambda stub: str(stub)[:12]
)
def test_a_stub_is_not_attempted_yet(stub):
    result = double.grade(stub)
    assert result.status == "todo" and "not attempted yet" in result.message


def test_every_stub_of_a_lesson_is_not_attempted_yet():
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        for cell in json.loads(path.read_text("utf-8"))["cells"]:
            text = "".join("".join(o.get("text", "")) for o in cell.get("outputs", []))
            if "check." in "".join(cell["source"]) and ": not yet." in text:
                assert path.name.startswith("00")  # which shows what a wrong answer looks like


def test_an_unknown_exercise_names_the_nearest():
    with pytest.raises(AttributeError, match=r"did you mean decode_trimap\?.*there are: .*box"):
        check.decode_trimp  # noqa: B018


def test_only_the_lesson_that_is_asked_for_is_loaded(tmp_path):
    code = "import sys, segkit.check as c; c.box; print(*[m for m in sys.modules if '{}' in m])"
    assert run(code.format("albumentations"), tmp_path).split() == []
    code = "from segkit import check; check.box; print(check._load.cache_info().currsize)"
    assert run(code, tmp_path) == "1\n"


def test_without_the_course_the_error_says_what_to_do(tmp_path):
    shutil.copytree(
        NOTEBOOKS.parent / "segkit", tmp_path / "segkit", ignore=lambda *_: ["__pycache__"]
    )
    code = (
        "from segkit import check\nprint('case' in dir(check))\n"
        "try:\n    check.box\nexcept FileNotFoundError as error:\n    print(error)"
    )
    printed = run(code, tmp_path, PYTHONPATH=str(tmp_path))
    assert printed.startswith("True\n") and "clone the repository and run inside it" in printed


double = Exercise(
    "double",
    reference=lambda x: 2 * x,
    cases=(Case("a number", (3,)), Case("an array", (np.ones(2),))),
    mistakes=(Mistake(lambda x: x * x, "That is the square."),),
    hint="Think again.",
)


def test_messages_of_a_wrong_answer():
    message = double.grade(lambda x: x + 3.5).message
    assert "a number" in message and "expected  6" in message and "got       6.5" in message
    assert "Think again." in message
    assert "That is the square." in double.grade(lambda x: x**2).message
    assert "check.double(double)" in double.grade([6]).message


def test_a_function_that_returns_nothing_is_told_so():
    def forgetful(x):
        x + x

    result = double.grade(forgetful)
    assert result.status == "failed" and "`return`" in result.message


def test_a_function_that_raises_does_not_break_the_run(capsys):
    double(lambda x: 1 / 0)
    assert "ZeroDivisionError" in capsys.readouterr().out


def test_an_attempt_cannot_spoil_the_cases():
    def writes(x):
        x *= 2
        return x

    assert double.grade(writes).status == double.grade(lambda x: 2 * x).status == "passed"


def test_a_measured_exercise_honours_its_tolerance():
    close = Exercise("close", lambda: 1.0, measure=lambda answer: 10 * answer(), tolerance=0.1)
    assert close.grade(lambda: 1.05).status == "passed"
    assert close.grade(lambda: 1.25).status == "failed"
    assert Exercise("value", 1.0).grade(1.0001).status == "failed"  # 1e-5 unless set


def test_every_result_is_added_to_the_log(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGKIT_CHECK_LOG", str(tmp_path / "log"))
    double(None)
    double(lambda x: x + missing)  # noqa: F821
    double(lambda x: 2 * x)
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [line["status"] for line in lines] == ["todo", "failed", "passed"]
    assert [line["raised"] for line in lines] == ["", "NameError", ""]
    assert {line["exercise"] for line in lines} == {"double"}


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        (torch.ones(2), torch.ones(2, 1)),
        ((3, 64, 64), (3, 64, 63)),
        ([np.array([1]), np.array([2])], [np.array([1]), np.array([3])]),
        ({"a": 1}, {"a": 2}),
        ({2, 5}, {2, 5, 8}),
        ("macro", "micro"),
        (0.5, 0.51),
        (True, "yes"),
    ],
)
def test_values_are_compared_by_what_they_are(right, wrong):
    exercise = Exercise("value", reference=right)
    assert exercise.grade(right).status == "passed"
    assert exercise.grade(wrong).status == "failed"


@pytest.mark.parametrize("answer", [["d", "a"], ("a", "d"), frozenset("ad"), "ad", "a, d"])
def test_any_collection_does_for_a_set(answer):
    letters = Exercise("letters", {"a", "d"}, mistakes=(Mistake({"a"}, "One more."),))
    assert letters.grade(answer).status == "passed"
    assert "One more." in letters.grade(["a"]).message
    assert letters.grade(3).status == "failed"
