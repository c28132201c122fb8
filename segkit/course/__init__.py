"""The lessons as a whole: find them, check what is asked of them, run them, report on them."""

import ast
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from segkit import paths
from segkit.errors import SegkitError
from segkit.profiles import PROFILES

LESSON = re.compile(r"(\d\d)_[a-z0-9_]+\.ipynb")
# A parameter of such a name is a place on disk: a lesson runs in a folder of its own, so a
# relative one is resolved against the folder the command was given in.
PLACE = re.compile(r"(.*_)?(dir|folder|file|path)")


class CourseError(SegkitError, ValueError):
    """What was asked of the course cannot be done; the message says what can."""


@dataclass(frozen=True)
class Lesson:
    """A notebook of the course. Reads the file when first asked for what is in it."""

    path: Path

    @property
    def stem(self) -> str:
        """The file's name without `.ipynb`, as "04_dumbnet"."""
        return self.path.stem

    @property
    def number(self) -> str:
        """The two digits of the name, or "" when the notebook is not one of the course."""
        return self.path.name[:2] if LESSON.fullmatch(self.path.name) else ""

    @cached_property
    def cells(self) -> list[dict[str, Any]]:
        """The notebook's cells as nbformat 4 has them, each source as one text.

        Read as plain JSON, because importing nbformat takes a second. Raises CourseError for a
        broken file.
        """
        try:
            cells = json.loads(self.path.read_text("utf-8"))["cells"]
            for cell in cells:
                cell["source"] = "".join(cell["source"])
                cell["metadata"].get("tags"), cell["cell_type"]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            what = f"{type(error).__name__}: {error}"
            raise CourseError(f"{self.path}: not a readable notebook ({what})") from None
        return cells

    @cached_property
    def introduction(self) -> str:
        """The text above the first code cell."""
        texts = []
        for cell in self.cells:
            if cell["cell_type"] != "markdown":
                break
            texts.append(cell["source"])
        return "\n\n".join(texts)

    @property
    def title(self) -> str:
        """The text of the first `# heading`, or the stem where there is none."""
        found = re.search(r"^# +(.+)$", self.introduction, re.M)
        return found[1].strip() if found else self.stem

    @property
    def promise(self) -> str:
        """The paragraph under the title, on one line and without Markdown's marks."""
        found = re.search(r"^# .+\n\s*\n?((?:[^\n#].*\n?)+)", self.introduction, re.M)
        text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", found[1] if found else "")
        return " ".join(re.sub(r"[*_`]", "", text).split())

    @property
    def minutes(self) -> float | None:
        """The first number of minutes after `**Time**` in the introduction, or None."""
        found = re.search(r"\*\*Time:?\*\*[^\d\n]*(\d+(?:\.\d+)?) min", self.introduction)
        return float(found[1]) if found else None

    @cached_property
    def parameters(self) -> dict[str, Any]:
        """The names and literal defaults assigned in the cell tagged `parameters`.

        Raises CourseError when that cell holds anything else: what is derived from a parameter
        keeps its old value when papermill injects a new one.
        """
        declared: dict[str, Any] = {}
        for cell in self.cells:
            if "parameters" not in cell["metadata"].get("tags", []):
                continue
            try:
                for statement in ast.parse(cell["source"]).body:
                    declared[_target(statement)] = ast.literal_eval(statement.value)
            except (ValueError, SyntaxError, AttributeError):
                raise CourseError(
                    f"{self.path.name}: the cell tagged `parameters` may only hold lines such as"
                    " `seed = 0`: one name, one literal"
                ) from None
        return declared

    def digest(self) -> str:
        """A fingerprint of what runs: the cells' kinds, sources and tags, not their outputs."""
        content = [(c["cell_type"], c["source"], c["metadata"].get("tags")) for c in self.cells]
        return hashlib.sha256(repr(content).encode()).hexdigest()


def _target(statement: ast.stmt) -> str:
    targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
    if len(targets) != 1 or not isinstance(targets[0], ast.Name):
        raise ValueError
    return targets[0].id


def lessons(folder: Path | None = None) -> list[Lesson]:
    """Return the notebooks NN_name.ipynb of `folder` (default: the course's), in order."""
    folder = folder or paths.root() / "notebooks"
    return [Lesson(path) for path in sorted(folder.glob("*.ipynb")) if LESSON.fullmatch(path.name)]


def find(names: Sequence[str], folder: Path | None = None) -> list[Lesson]:
    """Return the lessons called `names`: by number ("04", "4"), stem or path. None: all.

    Raises CourseError, with what there is, when one does not exist.
    """
    there = lessons(folder)
    if not names:
        if not there:
            raise CourseError(f"no lessons in {folder or paths.root() / 'notebooks'}")
        return there
    chosen = {lesson.path: lesson for lesson in (_one(name, there) for name in names)}
    stems = [lesson.stem for lesson in chosen.values()]
    for stem in stems:
        if stems.count(stem) > 1:
            raise CourseError(f"two notebooks are called {stem}: run them one at a time")
    return list(chosen.values())


def _one(name: str, there: list[Lesson]) -> Lesson:
    if name.endswith(".ipynb"):
        if not Path(name).is_file():
            raise CourseError(f"no notebook {name}")
        return Lesson(Path(name).resolve())
    for lesson in there:
        if name == lesson.stem or (name.isdigit() and int(name) == int(lesson.number)):
            return lesson
    known = ", ".join(lesson.stem for lesson in there) or "none yet"
    raise CourseError(f"no lesson {name!r}; there are: {known}")


def arguments(
    chosen: Sequence[Lesson], given: Mapping[str, Any], *, strict: bool = True
) -> dict[Path, dict[str, Any]]:
    """Return what each lesson is to be run with: `given` as its `parameters` cell types it.

    strict: every lesson must declare every name given (for lessons chosen by hand). Otherwise
    each takes what it declares, and one at least must. A value may be text, as typed in a
    shell. Raises CourseError before anything runs.
    """
    for name in given:
        lacking = [lesson for lesson in chosen if name not in lesson.parameters]
        if lacking and (strict or len(lacking) == len(chosen)):
            raise CourseError(
                f"no parameter {name!r} in "
                + "; ".join(
                    f"{lesson.stem} (it has: {', '.join(lesson.parameters) or 'none'})"
                    for lesson in lacking
                )
            )
    return {
        lesson.path: {
            name: _typed(lesson, name, value)
            for name, value in given.items()
            if name in lesson.parameters
        }
        for lesson in chosen
    }


def _typed(lesson: Lesson, name: str, value: Any) -> Any:
    """Return `value` as the type of the parameter's default; text is read as a literal."""
    default = lesson.parameters[name]
    if isinstance(value, Path):
        value = str(value)
    place = PLACE.fullmatch(name)
    if isinstance(default, str) or (default is None and place):
        if not isinstance(value, str):
            raise CourseError(f"{lesson.stem}: {name} is text, not {value!r}")
        if name == "profile" and value not in PROFILES:
            raise CourseError(f"no profile {value!r}; there are: {', '.join(PROFILES)}")
        return str(Path(value).expanduser().resolve()) if value and place else value
    literal = _literal(value)
    if isinstance(default, float) and type(literal) is int:
        literal = float(literal)
    if default is not None and type(literal) is not type(default):
        kind = type(default).__name__
        raise CourseError(
            f"{lesson.stem}: {name} is of type {kind} (as {default!r}), not {value!r}"
        )
    return literal


def _literal(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    words = {"true": True, "false": False, "none": None}
    try:
        return words[value.lower()] if value.lower() in words else ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value
