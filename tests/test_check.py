"""Every exercise is fed its solution and its usual mistakes."""

import ast
import copy
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from segkit import check
from segkit.check import Case, Exercise, Mistake

ROOT = Path(__file__).parent.parent
SOLUTIONS = ROOT / "notebooks" / "solutions"
LESSONS = sorted(path.stem for path in ROOT.glob("notebooks/exercises/*.py"))
ALL = [(lesson, e) for lesson in LESSONS for e in check.exercises(lesson)]
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
def test_solution_passes_and_every_mistake_gets_its_own_hint(lesson, exercise):
    result = exercise.grade(solution(lesson, exercise))
    assert result.status == "passed", result.message
    assert exercise.grade(exercise.reference).status == "passed"
    assert len({mistake.hint for mistake in exercise.mistakes}) == len(exercise.mistakes) >= 2
    for mistake in exercise.mistakes:
        result = exercise.grade(mistake.wrong)
        assert result.status == "failed"
        assert mistake.hint in result.message and "got" in result.message
        # a wrong value is not answered with the right one
        assert ("expected" in result.message) == callable(exercise.reference)


def test_every_solution_belongs_to_an_exercise():
    assert {path.stem for path in SOLUTIONS.glob("*.py")} == {f"{n}_{e.name}" for n, e in ALL}


def test_only_exercises_and_what_lessons_draw_are_public():
    drawn = {"four_masks", "four_splits", "four_transforms", "five_curves", "CASES", "case"}
    drawn |= {"embryos_with_spots", "draw_kinds"}
    names = [e.name for _, e in ALL]
    assert len(set(names)) == len(names)
    assert {*dir(check)} == {*check.__all__, *names, *drawn}


def test_an_unknown_exercise_names_the_nearest():
    with pytest.raises(AttributeError, match=r"did you mean decode_trimap\?.*there are: .*box"):
        check.decode_trimp  # noqa: B018


def test_only_the_lesson_asked_for_is_loaded():
    code = (
        "import sys; from segkit import check; check.box; assert check._load.cache_info()[3] == 1"
    )
    code += "; assert 'albumentations' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_the_course_the_error_says_what_to_do(tmp_path):
    shutil.copytree(ROOT / "segkit", tmp_path / "segkit", ignore=lambda *_: ["__pycache__"])
    code = "from segkit import check; assert 'Case' in dir(check); check.box"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, stderr=subprocess.PIPE)
    assert b"clone the repository and run inside it" in done.stderr


def empty(x):
    """Say what it does."""
    ...  # your code here


def unwritten(x):
    raise NotImplementedError("your code here")


@pytest.mark.parametrize("stub", [None, ..., {"a": None, "b": ...}, empty, unwritten])
def test_a_stub_is_not_attempted_yet(stub):
    result = double.grade(stub)
    assert result.status == "todo" and "not attempted yet" in result.message


double = Exercise(
    "double",
    reference=lambda x: 2 * x,
    cases=(Case("a number", (3,)), Case("an array", (np.ones(2),))),
    mistakes=(Mistake(lambda x: x * x, "That is the square."),),
    hint="Think again.",
)


def forgetful(x):
    x + x


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda x: x + 3.5, "a number|expected  6|got       6.5|Think again."),
        (lambda x: x**2, "That is the square."),
        (lambda x: 1 / 0, "ZeroDivisionError"),
        (forgetful, "`return`"),
        ([6], "check.double(double)"),
    ],
)
def test_messages_of_a_wrong_answer(answer, words, capsys):
    double(answer)
    printed = capsys.readouterr().out
    assert [word for word in words.split("|") if word not in printed] == []


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
    for answer in (None, lambda x: x + missing, lambda x: 2 * x):  # noqa: F821
        double(answer)
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [line["status"] for line in lines] == ["todo", "failed", "passed"]
    assert [line["raised"] for line in lines] == ["", "NameError", ""]
    assert {line["exercise"] for line in lines} == {"double"}


@pytest.mark.parametrize(
    ("right", "wrong"),
    [(torch.ones(2), torch.ones(2, 1)), ((3, 64, 64), (3, 64, 63)), ({"a": 1}, {"a": 2}),
     ([np.array([1]), np.array([2])], [np.array([1]), np.array([3])]), ({2, 5}, {2, 5, 8}),
     ("macro", "micro"), (0.5, 0.51), (True, "yes")],
)  # fmt: skip
def test_values_are_compared_by_what_they_are(right, wrong):
    exercise = Exercise("value", reference=right)
    assert [exercise.grade(value).status for value in (right, wrong)] == ["passed", "failed"]


def test_any_collection_does_for_a_set():
    letters = Exercise("letters", {"a", "d"}, mistakes=(Mistake({"a"}, "One more."),))
    for answer in (["d", "a"], ("a", "d"), frozenset("ad"), "ad", "a, d"):
        assert letters.grade(answer).status == "passed"
    assert "One more." in letters.grade(["a"]).message
    assert letters.grade(3).status == letters.grade([[]]).status == "failed"


def _stratified(labels, share, seed):
    """The solution of lesson 02, as lists."""
    return [part.tolist() for part in solution("02", check.stratified)(labels, share, seed)]


@pytest.mark.parametrize(
    "style",
    [
        lambda part, n: set(part),
        lambda part, n: tuple(part),
        lambda part, n: np.array(part),
        lambda part, n: torch.tensor(part),
        lambda part, n: np.isin(np.arange(n), part),
    ],
    ids=["sets", "tuples", "arrays", "tensors", "booleans"],
)
def test_indices_of_a_split_may_have_any_form(style):
    def stratified(labels, share, seed):
        return [style(part, len(labels)) for part in _stratified(labels, share, seed)]

    assert check.stratified.grade(stratified).status == "passed"


@pytest.mark.parametrize(
    "style",
    [list, tuple, sorted, np.array, ", ".join, lambda names: dict.fromkeys(names).keys()],
    ids=["list", "tuple", "sorted", "array", "string", "keys"],
)
def test_groups_that_leak_may_have_any_form(style):
    right = solution("02", check.shared_groups)
    answer = check.shared_groups.grade(lambda groups, parts: style(list(right(groups, parts))))
    assert answer.status == "passed", answer.message


def test_a_subset_may_copy_the_dataset_or_be_written_as_a_class():
    def copied(dataset, indices, transform):
        own = copy.copy(dataset)
        own.transform = lambda image, mask: transform(*dataset.transform(image, mask))
        return torch.utils.data.Subset(own, list(indices))

    assert check.subset_with_transform.grade(copied).status == "passed"


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        ({"batches": 6, "images in the last batch": 16, "batches with drop_last": 7}, "Not right"),
        ({"batches": 7, "images in the last batch": 4, "batches with drop_last": None}, "None"),
        ([7, 4, 6], "Fill in the dictionary"),
    ],
)
def test_a_hint_about_batches_names_what_is_not_right(answer, hint):
    assert hint in check.batches.grade(answer).message
