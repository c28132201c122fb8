"""Exercises with many right answers: what is compared is measured on the answer."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from segkit.check.frame import Exercise, Mistake, Result, untouched


@dataclass(frozen=True)
class Measured(Exercise):
    """An exercise of which `measure(answer, *case.args)` is compared, not the answer itself."""

    measure: Callable | None = None

    def grade(self, attempt: Any = None) -> Result:
        """Return the result for an attempt, told by its measurements."""
        if untouched(attempt):
            return super().grade(attempt)
        plain = Exercise(
            name=self.name,
            reference=partial(self.measure, self.reference),
            cases=self.cases,
            mistakes=tuple(Mistake(partial(self.measure, m.wrong), m.hint) for m in self.mistakes),
            hint=self.hint,
        )
        return plain.grade(partial(self.measure, attempt))
