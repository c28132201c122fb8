"""Exercises that check themselves: `check.iou(my_iou)` prints what is right or wrong.

Those of a lesson lie in `notebooks/exercises/NN.py`, which is loaded when one is first used.
"""

import ast
import copy
import inspect
import json
import os
import re
import runpy
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from segkit import paths
from segkit.errors import ArgumentError, one_of

__all__ = ["Case", "Exercise", "Mistake", "Result", "exercises"]


class Case(NamedTuple):
    """One test of an answer: what it tries, and the arguments for the learner's function."""

    label: str
    args: tuple = ()


class Mistake(NamedTuple):
    """A usual wrong answer, as code that makes it (or the wrong value itself), and its hint."""

    wrong: Any
    hint: str


class Result(NamedTuple):
    """What a check found."""

    status: str  # "todo", "failed" or "passed"
    message: str  # for the learner
    raised: str = ""  # the name of the exception that ended the failed case


@dataclass(frozen=True)
class Exercise:
    """A question that checks its answer: a function, which is tried on cases, or a value.

    A wrong answer is compared with the usual mistakes: the hint of the one that has the same
    results is shown. Of a question with many right answers, `measure(answer, *case.args)` is
    compared rather than the result of the answer itself.
    """

    name: str  # after `check.`
    reference: Any  # the right function, or the right value
    cases: tuple[Case, ...] = (Case("the answer"),)  # an exercise about a value has no others
    mistakes: tuple[Mistake, ...] = ()
    # for any other wrong answer; or a function that returns the hint for an answer
    hint: str | Callable[[Any], str] = "Read the task once more and try the case above by hand."
    tolerance: float = 1e-5  # how far numbers may be off, relative and absolute
    measure: Callable | None = None

    def __call__(self, attempt: Any = None) -> None:
        """Print what is right or wrong; add it to the file $SEGKIT_CHECK_LOG as a line of JSON."""
        result = self.grade(attempt)
        print(result.message)
        if log := os.environ.get("SEGKIT_CHECK_LOG"):
            with open(log, "a", encoding="utf-8") as file:
                print(json.dumps({"exercise": self.name, **result._asdict()}), file=file)

    def grade(self, attempt: Any = None) -> Result:
        """Return the result for an answer: a function, or a value."""
        if _is_stub(attempt):
            return Result("todo", f"{self.name}: not attempted yet. Fill it in and run it again.")
        for case in self.cases:
            expected, got = self._run(self.reference, case), self._run(attempt, case)
            if not _same(got, expected, self.tolerance):
                raised = type(got).__name__ if isinstance(got, Exception) else ""
                return Result("failed", self._explain(attempt, case, expected, got), raised)
        labels = ", ".join(case.label for case in self.cases)
        return Result("passed", f"{self.name}: right. Passed {len(self.cases)}: {labels}.")

    def _run(self, attempt: Any, case: Case) -> Any:
        """Return what an answer results in; an exception that it raises is its result."""
        function = partial(self.measure, attempt) if self.measure else attempt
        if not callable(function) or (isinstance(function, type) and not case.args):
            return function
        try:
            return function(*copy.deepcopy(case.args))  # an answer may write into its arguments
        except Exception as error:
            return error

    def _explain(self, attempt: Any, case: Case, expected: Any, got: Any) -> str:
        if got is None:
            hint = "The function returns nothing: is there a `return` at its end?"
        elif case.args and not callable(attempt):
            hint = f"Pass the function itself: check.{self.name}({self.name})."
        else:
            hint = self._hint(attempt, case)
        message = f"{self.name}: not yet. The case that failed: {case.label}."
        if case.args:
            message += f"\n  input     {', '.join(_short(a) for a in case.args)}"
        if callable(self.reference):  # of a value, what is expected is the answer itself
            message += f"\n  expected  {_short(expected)}"
        return message + f"\n  got       {_short(got)}\n  hint      {hint}"

    def _hint(self, attempt: Any, failed: Case) -> str:
        """Return the hint of the mistake that matches in every case, else in the failed one."""
        for cases in (self.cases, (failed,)):
            results = [self._run(attempt, case) for case in cases]
            for wrong, hint in self.mistakes:
                pairs = zip(results, (self._run(wrong, case) for case in cases), strict=True)
                if all(_same(result, other, self.tolerance) for result, other in pairs):
                    return hint
        return self.hint(attempt) if callable(self.hint) else self.hint


def exercises(lesson: str) -> list[Exercise]:
    """Return the exercises of a lesson, such as "07", in their order."""
    found = [_load(file)[name] for name, file in _files().items() if file == lesson]
    return [value for value in found if isinstance(value, Exercise)]


def __getattr__(name: str) -> Any:
    if name.startswith("_"):  # what Python itself looks for is no exercise
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        one_of("exercise", name, _files())
    except ArgumentError as error:
        raise AttributeError(str(error)) from None
    return _load(_files()[name])[name]


def __dir__() -> list[str]:
    try:
        return [*__all__, *_files()]
    except paths.CourseMissingError:  # segkit without the course around it
        return __all__


@cache
def _files() -> dict[str, str]:
    """Return each public name in `notebooks/exercises` with its lesson; nothing there is run."""
    return {
        name: path.stem
        for path in sorted((paths.root() / "notebooks" / "exercises").glob("*.py"))
        for name in re.findall(r"^(?:def )?([a-zA-Z]\w*)(?: = |\()", path.read_text("utf-8"), re.M)
    }


@cache
def _load(lesson: str) -> dict[str, Any]:
    return runpy.run_path(str(paths.root() / "notebooks" / "exercises" / f"{lesson}.py"))


def _is_stub(attempt: Any) -> bool:
    """Whether an answer is what the notebook starts with: None, `...`, or a body of `...`."""
    if isinstance(attempt, dict) and attempt:
        return all(_is_stub(part) for part in attempt.values())
    try:
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(attempt))).body
    except (OSError, TypeError, ValueError, SyntaxError):  # no function, or a lambda in a call
        return attempt is None or attempt is ...
    return isinstance(definition, ast.FunctionDef) and all(
        (isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant))
        or ast.unparse(line).startswith("raise NotImplementedError")
        or ast.unparse(line) in ("pass", "return", "return None", "return ...")
        for line in definition.body
    )


def _same(a: Any, b: Any, tolerance: float) -> bool:
    """Whether a result equals the expected `b`: in kind, shape, and numbers within `tolerance`."""
    if isinstance(a, Exception) or isinstance(b, Exception):
        return type(a) is type(b)
    if isinstance(b, str) or b is None:
        return type(a) is type(b) and a == b
    if isinstance(b, dict):
        alike = isinstance(a, dict) and a.keys() == b.keys()
        return alike and all(_same(a[k], b[k], tolerance) for k in b)
    if isinstance(b, (list, tuple)) and not all(isinstance(v, (int, float, np.number)) for v in b):
        alike = isinstance(a, (list, tuple)) and len(a) == len(b)
        return alike and all(_same(x, y, tolerance) for x, y in zip(a, b, strict=True))
    try:
        if isinstance(b, set):  # in any collection; "a, d" is the letters a and d
            return set(re.findall(r"\w", a) if isinstance(a, str) else a) == b
        x, y = _array(a), _array(b)
    except (TypeError, ValueError):
        return False
    numbers = x.dtype.kind in "biufc" and y.dtype.kind in "biufc" and x.shape == y.shape
    return numbers and np.allclose(x, y, tolerance, tolerance, equal_nan=True)


def _array(value: Any) -> np.ndarray:
    if isinstance(value, (list, tuple)):
        return np.asarray([_array(part) for part in value])
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        value = value.float() if value.dtype == torch.bfloat16 else value  # numpy has no such type
    return np.asarray(value)


def _short(value: Any) -> str:
    """Return a value in a line: small arrays in full, large ones by shape, type and values."""
    if isinstance(value, Exception):
        return f"{type(value).__name__}: {value}"
    if isinstance(value, (np.ndarray, Tensor)):
        array = _array(value)
        if array.size <= 36 and array.ndim:
            text = np.array2string(array, separator=", ", precision=4, max_line_width=1000)
            return " ".join(text.split())
        if array.ndim:
            some = np.unique(array)
            values = ", ".join(f"{v:.4g}" for v in some[:6]) + (", …" if len(some) > 6 else "")
            return f"array {array.shape} of {array.dtype}, values {values}"
        value = array.item()
    if isinstance(value, float):
        return f"{value:.6g}"
    if callable(value):
        return getattr(value, "__name__", type(value).__name__)
    with np.printoptions(legacy="1.25"):  # 1, not np.int64(1)
        text = repr(value)
    return text if len(text) <= 160 else text[:157] + "…"
