"""Every exercise is fed its stub, its solution and its usual mistakes."""

import ast
from pathlib import Path

import numpy as np
import pytest
import torch

from segkit import check
from segkit.check import Case, Exercise, Mistake

SOLUTIONS = Path(__file__).parent.parent / "notebooks" / "solutions"
ALL = [(lesson, e) for lesson, group in check.exercises().items() for e in group]
IDS = [f"{lesson}-{e.name}" for lesson, e in ALL]


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


@pytest.mark.parametrize(("lesson", "exercise"), ALL, ids=IDS)
def test_a_stub_is_not_attempted_yet(lesson, exercise):
    def stub(*args, **kwargs):
        """Say what it does."""
        ...

    for attempt in (stub, None, ...):
        result = exercise.grade(attempt)
        assert result.status == "todo" and "not attempted yet" in result.message


@pytest.mark.parametrize(("lesson", "exercise"), ALL, ids=IDS)
def test_the_solution_passes(lesson, exercise):
    result = exercise.grade(solution(lesson, exercise))
    assert result.passed, result.message
    assert exercise.grade(exercise.reference).passed


@pytest.mark.parametrize(("lesson", "exercise"), ALL, ids=IDS)
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


def test_every_solution_belongs_to_an_exercise():
    files = {path.stem for path in SOLUTIONS.glob("*.py")}
    assert files == {f"{lesson}_{e.name}" for lesson, e in ALL}


def test_a_misspelt_exercise_lists_what_there_is():
    with pytest.raises(AttributeError, match=r"there are: .*decode_trimap"):
        check.decode_trimp  # noqa: B018


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

    assert double.grade(writes).passed and double.grade(lambda x: 2 * x).passed


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        (torch.ones(2), torch.ones(2, 1)),
        ((3, 64, 64), (3, 64, 63)),
        ([np.array([1]), np.array([2])], [np.array([1]), np.array([3])]),
        ({"a": 1}, {"a": 2}),
        ("macro", "micro"),
        (0.5, 0.51),
        (True, "yes"),
    ],
)
def test_values_are_compared_by_what_they_are(right, wrong):
    exercise = Exercise("value", reference=right)
    assert exercise.grade(right).passed
    assert not exercise.grade(wrong).passed
