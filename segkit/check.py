"""Exercises that check themselves: `check.iou(my_iou)` prints what is right or wrong.

The exercises of a lesson lie beside its notebook, in `notebooks/exercises/NN.py`, and are loaded
when one of them is first asked for. A wrong answer is compared with usual mistakes: the one with
the same results is the one that was made, and its hint is shown.
"""

import ast
import copy
import importlib.util
import inspect
import json
import os
import re
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, partial
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from segkit import paths
from segkit.errors import ArgumentError, one_of

__all__ = ["CASES", "Case", "Exercise", "MaskPair", "Mistake", "Result", "case", "exercises"]


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

    Args:
        name: the name after `check.`.
        reference: the right function, or the right value.
        cases: what the function is tried on; an exercise about a value has none.
        mistakes: usual wrong answers, each with its hint.
        hint: for any other wrong answer; or a function that returns the hint for an answer.
        tolerance: how far numbers may be off, relative and absolute.
        measure: for questions with many right answers: what is compared is
            `measure(answer, *case.args)` rather than the result of the answer itself.
    """

    name: str
    reference: Any
    cases: tuple[Case, ...] = (Case("the answer"),)
    mistakes: tuple[Mistake, ...] = ()
    hint: str | Callable[[Any], str] = "Read the task once more and try the case above by hand."
    tolerance: float = 1e-5
    measure: Callable | None = None

    def __call__(self, attempt: Any = None) -> None:
        """Print what is right or wrong about an answer.

        If the environment variable SEGKIT_CHECK_LOG names a file, add a line of JSON to it.
        """
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
    found = [getattr(_load(file), name) for name, file in _files().items() if file == lesson]
    return [value for value in found if isinstance(value, Exercise)]


def __getattr__(name: str) -> Any:
    if name.startswith("_"):  # what Python itself looks for is no exercise
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        one_of("exercise", name, _files())
    except ArgumentError as error:
        raise AttributeError(str(error)) from None
    return getattr(_load(_files()[name]), name)


def __dir__() -> list[str]:
    try:
        return [*__all__, *_files()]
    except paths.CourseMissingError:  # segkit without the course around it
        return __all__


@cache
def _files() -> dict[str, str]:
    """Return each public name in `notebooks/exercises` with its lesson; nothing there is run."""
    found = {}
    for path in sorted((paths.root() / "notebooks" / "exercises").glob("*.py")):
        for statement in ast.parse(path.read_text("utf-8")).body:
            if isinstance(statement, ast.FunctionDef):
                found[statement.name] = path.stem
            elif isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
                found[statement.targets[0].id] = path.stem
    return {name: lesson for name, lesson in found.items() if not name.startswith("_")}


@cache
def _load(lesson: str) -> ModuleType:
    path = paths.root() / "notebooks" / "exercises" / f"{lesson}.py"
    spec = importlib.util.spec_from_file_location(f"exercises_{lesson}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _is_stub(attempt: Any) -> bool:
    """Whether an answer is what the notebook starts with: None, `...`, or a body of `...`."""
    if attempt is None or attempt is ...:
        return True
    if isinstance(attempt, dict):
        return all(_is_stub(part) for part in attempt.values())
    try:
        source = textwrap.dedent(inspect.getsource(attempt))
        (definition,) = ast.parse(source).body
    except (OSError, TypeError, ValueError, SyntaxError):  # no function, or a lambda in a call
        return False
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
    if isinstance(b, (list, tuple)) and not all(isinstance(v, (int, float, np.number)) for v in b):
        return (
            isinstance(a, (list, tuple))
            and len(a) == len(b)
            and all(_same(x, y, tolerance) for x, y in zip(a, b, strict=True))
        )
    if isinstance(b, dict):
        return (
            isinstance(a, dict)
            and a.keys() == b.keys()
            and all(_same(a[k], b[k], tolerance) for k in b)
        )
    if isinstance(b, set):  # in any collection; "a, d" is the letters a and d
        try:
            return set(re.findall(r"\w", a) if isinstance(a, str) else a) == b
        except TypeError:
            return False
    if isinstance(b, str) or b is None:
        return type(a) is type(b) and a == b
    try:
        x, y = _array(a), _array(b)
    except (TypeError, ValueError):
        return False
    if x.dtype.kind not in "biufc" or y.dtype.kind not in "biufc":
        return False
    return x.shape == y.shape and bool(np.allclose(x, y, tolerance, tolerance, equal_nan=True))


def _array(value: Any) -> np.ndarray:
    return np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value)


def _short(value: Any) -> str:
    """Return a value in a line: small arrays in full, large ones by shape, type and values."""
    if isinstance(value, Exception):
        return f"{type(value).__name__}: {value}"
    if isinstance(value, (np.ndarray, Tensor)):
        array = _array(value)
        if array.ndim == 0:
            return f"{array.item():.6g}"
        if array.size <= 36:
            text = np.array2string(array, separator=", ", precision=4, max_line_width=1000)
            return " ".join(text.split())
        some = np.unique(array)
        values = ", ".join(f"{v:.4g}" for v in some[:6]) + (", …" if len(some) > 6 else "")
        return f"array {array.shape} of {array.dtype}, values {values}"
    if isinstance(value, float):
        return f"{value:.6g}"
    if callable(value):
        return getattr(value, "__name__", type(value).__name__)
    with np.printoptions(legacy="1.25"):  # 1, not np.int64(1)
        text = repr(value)
    return text if len(text) <= 160 else text[:157] + "…"


@dataclass(frozen=True)
class MaskPair:
    """A predicted mask and its ground truth, 4×4 pixels, with counts and scores made by hand."""

    name: str
    predicted: str  # four rows of class ids
    true: str  # the ground truth; "x" is a pixel to ignore
    tp: tuple[int, ...]  # true positives, one number per class; if binary, of the foreground
    fp: tuple[int, ...]
    fn: tuple[int, ...]
    tn: tuple[int, ...]
    iou: tuple[str, ...]  # fractions, one per class; "0/0" is a class in neither mask
    dice: tuple[str, ...]
    classes: int = 1  # 1 is binary

    def logits(self) -> Tensor:
        """Return logits (1, classes, 4, 4) of this prediction, ±2."""
        pred = torch.tensor([[int(pixel) for pixel in row] for row in self.predicted.split()])
        one_hot = pred == torch.arange(max(2, self.classes))[:, None, None]
        return 4.0 * (one_hot if self.classes > 1 else one_hot[1:])[None] - 2.0

    def target(self) -> Tensor:
        """Return the ground truth, int64 (1, 4, 4), with 255 where it is ignored."""
        rows = self.true.split()
        return torch.tensor(
            [[[255 if pixel == "x" else int(pixel) for pixel in row] for row in rows]]
        )

    def score(self, name: str) -> tuple[float, ...]:
        """Return `iou` or `dice` as numbers, NaN for "0/0"."""
        fractions = getattr(self, name)
        return tuple(float("nan") if f == "0/0" else float(Fraction(f)) for f in fractions)

    def __str__(self) -> str:
        rows = zip(self.predicted.split(), self.true.split(), strict=True)
        lines = (f"\n{' '.join(predicted)}    {' '.join(true)}" for predicted, true in rows)
        return f"{self.name}\npredicted  true{''.join(lines)}"


CASES = (
    MaskPair("perfect", "0000 0110 0110 0000", "0000 0110 0110 0000",
             tp=(4,), fp=(0,), fn=(0,), tn=(12,), iou=("1",), dice=("1",)),
    MaskPair("half found", "0110 0110 0000 0000", "0000 0110 0110 0000",
             tp=(2,), fp=(2,), fn=(2,), tn=(10,), iou=("2/6",), dice=("4/8",)),
    MaskPair("beside it", "1100 1100 0000 0000", "0000 0000 0011 0011",
             tp=(0,), fp=(4,), fn=(4,), tn=(8,), iou=("0",), dice=("0",)),
    MaskPair("too small", "0000 0100 0000 0000", "0000 0110 0110 0000",
             tp=(1,), fp=(0,), fn=(3,), tn=(12,), iou=("1/4",), dice=("2/5",)),
    MaskPair("all ones", "1111 1111 1111 1111", "0000 0110 0110 0000",
             tp=(4,), fp=(12,), fn=(0,), tn=(0,), iou=("4/16",), dice=("8/20",)),
    MaskPair("all zeros", "0000 0000 0000 0000", "0000 0110 0110 0000",
             tp=(0,), fp=(0,), fn=(4,), tn=(12,), iou=("0",), dice=("0",)),
    MaskPair("blank, left alone", "0000 0000 0000 0000", "0000 0000 0000 0000",
             tp=(0,), fp=(0,), fn=(0,), tn=(16,), iou=("0/0",), dice=("0/0",)),
    MaskPair("blank, false alarm", "0000 0000 0000 0001", "0000 0000 0000 0000",
             tp=(0,), fp=(1,), fn=(0,), tn=(15,), iou=("0",), dice=("0",)),
    MaskPair("border ignored", "0111 0111 0000 0000", "xxxx x11x x11x xxxx",
             tp=(2,), fp=(0,), fn=(2,), tn=(0,), iou=("2/4",), dice=("4/6",)),
    MaskPair("three classes", "0011 0011 0022 0022", "0011 0001 0222 2222",
             tp=(5, 3, 4), fp=(3, 1, 0), fn=(1, 0, 3), tn=(7, 12, 9),
             iou=("5/9", "3/4", "4/7"), dice=("10/14", "6/7", "8/11"), classes=3),
    MaskPair("three classes, one absent", "0000 0100 0000 0000", "0000 0110 x000 x000",
             tp=(12, 1, 0), fp=(1, 0, 0), fn=(0, 1, 0), tn=(1, 12, 14),
             iou=("12/13", "1/2", "0/0"), dice=("24/25", "2/3", "0/0"), classes=3),
)  # fmt: skip


def case(name: str) -> MaskPair:
    """Return the pair called `name`, such as "half found"."""
    pairs = {pair.name: pair for pair in CASES}
    return pairs[one_of("pair of masks", name, pairs)]
