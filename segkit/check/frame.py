"""How an exercise checks itself: cases, and the mistakes one usually makes.

A wrong answer is compared with the answers of known mistakes. The mistake that behaves the same
is the one that was made, and its hint is shown. So each hint is tested by running its mistake.
"""

import copy
import dis
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class Case:
    """One question: what it tries, and the arguments of the learner's function."""

    label: str
    args: tuple = ()


@dataclass(frozen=True)
class Mistake:
    """A usual wrong answer, as code that makes it (or the wrong value itself), and its hint."""

    wrong: Any
    hint: str


@dataclass(frozen=True)
class Result:
    """What a check found: status is "todo", "failed" or "passed"; message is for the learner."""

    status: str
    message: str

    @property
    def passed(self) -> bool:
        """Whether the answer is right."""
        return self.status == "passed"


@dataclass(frozen=True)
class Exercise:
    """A question that checks its own answer: call it with a function, or with a value.

    reference: the right function, or the right value. cases: what the function is tried on; an
    exercise about a value has none. mistakes: usual wrong answers. hint: for any other one.
    tolerance: how far numbers may be off, relative and absolute.
    """

    name: str
    reference: Any
    cases: tuple[Case, ...] = (Case("the answer"),)
    mistakes: tuple[Mistake, ...] = ()
    hint: str = "Read the task once more and try the case above by hand."
    tolerance: float = 1e-5

    def __call__(self, attempt: Any = None) -> None:
        """Print what is right or wrong about the attempt; never raises for a wrong one."""
        print(self.grade(attempt).message)

    def grade(self, attempt: Any = None) -> Result:
        """Return the result for an attempt: a function, or a value."""
        if untouched(attempt):
            return Result("todo", f"{self.name}: not attempted yet. Fill it in and run it again.")
        for case in self.cases:
            expected = answer(self.reference, case)
            got = answer(attempt, case)
            if not same(got, expected, self.tolerance):
                return Result("failed", self.explain(attempt, case, expected, got))
        labels = ", ".join(case.label for case in self.cases)
        return Result("passed", f"{self.name}: right. Passed {len(self.cases)}: {labels}.")

    def explain(self, attempt: Any, case: Case, expected: Any, got: Any) -> str:
        """Return the message for a wrong answer: the case, expected, got, and a hint."""
        if got is None:
            got_text, hint = "None", "The function returns nothing: is there a `return` at its end?"
        elif case.args and not callable(attempt):
            name = self.name
            got_text, hint = short(got), f"Hand over the function itself: check.{name}({name})."
        else:
            got_text, hint = short(got), self.hint_for(attempt, case)
        lines = [f"{self.name}: not yet. The case that failed: {case.label}."]
        if case.args:
            lines.append(f"  input     {', '.join(short(a) for a in case.args)}")
        lines += [
            # of a value, what is expected is the answer itself
            *([f"  expected  {short(expected)}"] if callable(self.reference) else []),
            f"  got       {got_text}",
            f"  hint      {hint}",
        ]
        return "\n".join(lines)

    def hint_for(self, attempt: Any, failed: Case) -> str:
        """Return the hint of the mistake that answers as the attempt does.

        Best a mistake that does so in every case, else one that does in the case that failed.
        """
        for cases in (self.cases, (failed,)):
            for mistake in self.mistakes:
                if all(
                    same(answer(attempt, case), answer(mistake.wrong, case), self.tolerance)
                    for case in cases
                ):
                    return mistake.hint
        return self.hint


def untouched(attempt: Any) -> bool:
    """Whether an attempt is the stub it started as: nothing, `...`, or a body that does nothing."""
    if attempt is None or attempt is ...:
        return True
    if isinstance(attempt, dict):
        attempt = list(attempt.values())
    if isinstance(attempt, (list, tuple)):
        return len(attempt) > 0 and all(untouched(a) for a in attempt)
    code = getattr(attempt, "__code__", None)
    if code is None:
        return False
    if code.co_names == ("NotImplementedError",):
        return True
    idle = {"RESUME", "NOP", "LOAD_CONST", "RETURN_CONST", "RETURN_VALUE"}
    return all(step.opname in idle for step in dis.get_instructions(code)) and all(
        step.argval is None
        for step in dis.get_instructions(code)
        if step.opname in ("LOAD_CONST", "RETURN_CONST")
    )


def answer(attempt: Any, case: Case) -> Any:
    """Return what an attempt answers to a case; an exception that it raises is its answer."""
    if not callable(attempt) or (isinstance(attempt, type) and not case.args):
        return attempt
    try:
        return attempt(*copy.deepcopy(case.args))  # an attempt may write into its arguments
    except Exception as error:
        return error


def same(a: Any, b: Any, tolerance: float) -> bool:
    """Whether two answers are equal: type of thing, shape, and numbers within `tolerance`."""
    if isinstance(a, Exception) or isinstance(b, Exception):
        return type(a) is type(b) and isinstance(a, Exception)
    if isinstance(b, (list, tuple)) and not _numeric(b):
        return (
            isinstance(a, (list, tuple))
            and len(a) == len(b)
            and all(same(x, y, tolerance) for x, y in zip(a, b, strict=True))
        )
    if isinstance(b, dict):
        return (
            isinstance(a, dict)
            and a.keys() == b.keys()
            and all(same(a[k], b[k], tolerance) for k in b)
        )
    if isinstance(b, str) or b is None or isinstance(b, set):
        return type(a) is type(b) and a == b
    try:
        x, y = _array(a), _array(b)
    except (TypeError, ValueError):
        return False
    if x.dtype.kind not in "biufc" or y.dtype.kind not in "biufc":
        return False
    return x.shape == y.shape and bool(np.allclose(x, y, tolerance, tolerance, equal_nan=True))


def _numeric(values: Any) -> bool:
    return all(isinstance(v, (int, float, np.number)) for v in values)


def _array(value: Any) -> np.ndarray:
    return np.asarray(value.detach().cpu() if isinstance(value, torch.Tensor) else value)


def short(value: Any) -> str:
    """Return a value in a line: small arrays in full, large ones by shape, type and values."""
    if isinstance(value, Exception):
        return f"{type(value).__name__}: {value}"
    if isinstance(value, (np.ndarray, torch.Tensor)):
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
