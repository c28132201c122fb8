"""The exercises of the course, each able to check its own answer.

`check.iou(my_iou)` prints what is right or wrong. Every exercise lives in the module of its
lesson; the names here are what the notebooks call. `exercises()` lists them by lesson.
"""

from importlib import import_module
from pkgutil import iter_modules

from segkit.check.frame import Case, Exercise, Mistake, Result

__all__ = ["Case", "Exercise", "Mistake", "Result", "exercises"]


def exercises() -> dict[str, list[Exercise]]:
    """Return the exercises of each lesson: {"01": [...], ...}."""
    modules = sorted(m.name for m in iter_modules(__path__) if m.name.startswith("lesson"))
    found = {}
    for name in modules:
        module = import_module(f"{__name__}.{name}")
        found[name.removeprefix("lesson")] = [
            value for value in vars(module).values() if isinstance(value, Exercise)
        ]
    return found


def __getattr__(name: str) -> Exercise:
    # Imported when first asked for: one lesson's check does not wait for the others' imports.
    available = {exercise.name: exercise for group in exercises().values() for exercise in group}
    if name not in available:
        raise AttributeError(f"no exercise {name!r}; there are: {', '.join(available)}")
    return available[name]
