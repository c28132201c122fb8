"""The lessons: finds them, runs them through papermill, reports on the run, refreshes them."""

import ast
import base64
import hashlib
import io
import json
import math
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from functools import cached_property, lru_cache
from itertools import product, takewhile
from pathlib import Path
from typing import Any

import psutil
from PIL import Image

from segkit import environment, paths
from segkit.errors import SegkitError, one_of
from segkit.files import write_text
from segkit.page import picture, render
from segkit.profiles import PROFILES

_LESSON_NAME = re.compile(r"(\d\d)_[a-z0-9_]+\.ipynb")
# A lesson runs in a folder of its own. So a relative path in a parameter with such a name is
# resolved against the folder in which the command was given.
_PATH_PARAMETER = re.compile(r"(.*_)?(dir|folder|file|path)")

# The program of a lesson's process. papermill's own command line cannot merge the pieces in which
# printed text arrives, and these differ from run to run. jsonschema imports rfc3987_syntax where
# it is installed, which takes a second and serves no notebook.
_PAPERMILL = """
import json, sys
sys.modules["rfc3987_syntax"] = None
import papermill
papermill.execute_notebook(**json.loads(sys.argv[1]), coalesce_streams=True, progress_bar=False)
"""
_GRACE = 5  # seconds that papermill has to write the notebook after its kernel was killed
_KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
_VOLATILE = ("papermill", "execution", "ExecuteTime", "lines_to_next_cell")
_TABLE_BEGIN, _TABLE_END = "<!-- lessons: made by `make refresh` -->", "<!-- end of lessons -->"


class CourseError(SegkitError, ValueError):
    """A request about the lessons that cannot be met; the message lists what exists."""


@dataclass(frozen=True)
class Lesson:
    """A notebook. Its file is read when its content is first used."""

    path: Path

    @property
    def stem(self) -> str:
        """The file's name without `.ipynb`, as "04_dumbnet"."""
        return self.path.stem

    @property
    def number(self) -> str:
        """The two digits of the name, or "" when the notebook is not one of the course."""
        return self.path.name[:2] if _LESSON_NAME.fullmatch(self.path.name) else ""

    @cached_property
    def cells(self) -> list[dict[str, Any]]:
        """The notebook's cells as nbformat 4 has them, each source as one text.

        Read as plain JSON, because importing nbformat takes a second.

        Raises:
            CourseError: the file is not a readable notebook.
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

    @property
    def introduction(self) -> str:
        """The text above the first code cell."""
        texts = takewhile(lambda cell: cell["cell_type"] == "markdown", self.cells)
        return "\n\n".join(cell["source"] for cell in texts)

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

        Raises:
            CourseError: the cell holds anything else. A value computed from a parameter would keep
                its default when papermill sets the parameter.
        """
        declared: dict[str, Any] = {}
        cells = [c for c in self.cells if "parameters" in c["metadata"].get("tags", [])]
        try:
            for line in ast.parse("\n".join(cell["source"] for cell in cells)).body:
                (target,) = line.targets if isinstance(line, ast.Assign) else [line.target]
                declared[target.id] = ast.literal_eval(line.value)
        except (ValueError, SyntaxError, AttributeError):
            raise CourseError(
                f"{self.path.name}: the cell tagged `parameters` may only hold lines such as"
                " `seed = 0`: one name, one literal"
            ) from None
        return declared

    def digest(self) -> str:
        """Return a hash of the cells' kinds, sources and tags, but not of their outputs."""
        content = [(c["cell_type"], c["source"], c["metadata"].get("tags")) for c in self.cells]
        return hashlib.sha256(repr(content).encode()).hexdigest()


def lessons(folder: Path | None = None) -> list[Lesson]:
    """Return the notebooks NN_name.ipynb of `folder` (default: the course's), in order."""
    folder = folder or paths.root() / "notebooks"
    return [lesson for lesson in map(Lesson, sorted(folder.glob("*.ipynb"))) if lesson.number]


def find(names: Sequence[str], folder: Path | None = None) -> list[Lesson]:
    """Return the lessons with the given names.

    Args:
        names: a number ("04", "4"), a stem or a path for each; none means all lessons.
        folder: where the lessons are; default: `notebooks/` of the course.

    Raises:
        ArgumentError: a lesson does not exist; the message lists those that do.
        CourseError: there are no lessons, or two of the same name.
    """
    known = {lesson.stem: lesson for lesson in lessons(folder)}
    numbers = {int(lesson.number): lesson.stem for lesson in known.values()}
    if not names and not known:
        raise CourseError(f"no lessons in {folder or paths.root() / 'notebooks'}")
    chosen: dict[str, Lesson] = {}
    for name in names or known:
        if name.endswith(".ipynb") and Path(name).is_file():
            lesson = Lesson(Path(name).resolve())
        else:
            stem = numbers.get(int(name), name) if name.isdecimal() else name
            lesson = known[one_of("lesson", stem, known)]
        if chosen.setdefault(lesson.stem, lesson) != lesson:
            raise CourseError(f"two notebooks are called {lesson.stem}: run them one at a time")
    return list(chosen.values())


def arguments(
    chosen: Sequence[Lesson], given: Mapping[str, Any], *, strict: bool = True
) -> dict[Path, dict[str, Any]]:
    """Return the parameters each lesson is to be run with, by the lesson's path.

    Args:
        chosen: the lessons.
        given: parameter -> value; the value may be text, as typed in a shell. It gets the type of
            the default in the lesson's cell of parameters.
        strict: whether every lesson must declare every parameter given. Otherwise at least one
            lesson must, and the others run without it.

    Raises:
        CourseError: a parameter does not exist, or its value has another type than the default.
        ArgumentError: the profile does not exist.
    """
    for name in given:
        lacking = [lesson for lesson in chosen if name not in lesson.parameters]
        if lacking and (strict or len(lacking) == len(chosen)):
            known = ", ".join(lacking[0].parameters) or "none"
            raise CourseError(f"no parameter {name!r} in {lacking[0].stem} (it has: {known})")
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
    default, typed = lesson.parameters[name], value
    is_path = _PATH_PARAMETER.fullmatch(name) and (default is None or isinstance(default, str))
    if name == "profile":
        one_of("profile", typed, PROFILES)
    if is_path and typed:
        typed = str(Path(str(typed)).expanduser().resolve())
    elif isinstance(typed, str) and not isinstance(default, str):
        words = {"true": "True", "false": "False", "none": "None"}
        with suppress(ValueError, SyntaxError):
            typed = ast.literal_eval(words.get(typed.lower(), typed))
    if isinstance(default, float) and type(typed) is int:
        typed = float(typed)
    if default is not None and type(typed) is not type(default):
        kind = f"of type {type(default).__name__} (as {default!r})"
        raise CourseError(f"{lesson.stem}: {name} is {kind}, not {value!r}")
    return typed


@dataclass
class Outcome:
    """The result of running one lesson.

    Args:
        status: "passed", "failed", "timeout" (killed after the time allowed), or "kept" (passed
            before with the same cells and parameters, and not run again).
        seconds: the duration, start of papermill and of the kernel included.
        memory: the peak memory in bytes of the largest single process of the lesson.
        error: cell (its number in the executed notebook), source (its first line), name, message.
        notebook, page: names of files in the output folder.
    """

    stem: str
    title: str
    status: str
    seconds: float
    memory: int
    parameters: dict[str, Any]
    digest: str
    error: dict[str, Any] | None = None
    notebook: str | None = None
    page: str | None = None
    finished: str = field(default_factory=lambda: datetime.now().isoformat(" ", "seconds"))

    @property
    def ok(self) -> bool:
        """Whether the lesson ran to its end, now or before."""
        return self.status in ("passed", "kept")

    def __str__(self) -> str:
        text = f"{self.status:<8} {self.stem:<24} {self.seconds:6.1f} s"
        text += f" {self.memory / 2**20:6.0f} MiB"
        if self.error:
            text += "  cell [{cell}] {source}: {name}: ".format(**self.error)
            text += self.error["message"].strip().partition("\n")[0]
        return text


def run(
    parameters: Mapping[Path, Mapping[str, Any]],
    out: Path,
    *,
    jobs: int = 1,
    timeout: float | None = None,
    resume: bool = False,
    pages: bool = True,
    finished: Callable[[Outcome], object] = lambda outcome: None,
) -> list[Outcome]:
    """Run lessons and write executed notebooks, pages and a report to `out`.

    A lesson's working directory is `out/work/STEM/files`. An interruption kills what runs, keeps
    what has finished, and is raised again.

    Args:
        parameters: the lessons' paths and their parameters, see `arguments`.
        out: a folder for the results.
        jobs: how many lessons run at once.
        timeout: seconds allowed to one lesson, start of its kernel included.
        resume: keep lessons that passed before with the same cells and parameters.
        pages: render each lesson as HTML too, which takes a second or two.
        finished: called with the outcome of each lesson when it ends.

    Raises:
        CourseError: `out` is the lessons' own folder.
        FileError: `out` cannot be written to.
    """
    out = out.resolve()
    if any(path.parent == out for path in parameters):
        raise CourseError(f"{out}: the lessons themselves are there; choose another folder")
    report, outcomes, calls = read_report(out), [], {}
    for path, values in parameters.items():
        row, notebook, folder = report.get(path.stem), out / path.name, out / "work" / path.stem
        unchanged = row and (row.parameters, row.digest) == (values, Lesson(path).digest())
        if resume and unchanged and row.ok and notebook.is_file():
            outcomes.append(replace(row, status="kept"))
            finished(outcomes[-1])
        else:
            calls[path.stem] = (path, values, folder, folder / "files")
            report.pop(path.stem, None)
    _write_report(out, report)
    for stem, suffix in product(calls, (".ipynb", ".html")):  # of an earlier run
        (out / f"{stem}{suffix}").unlink(missing_ok=True)
    with closing(_execute(calls.values(), jobs, timeout)) as ended:
        for outcome in ended:
            path, _, folder, _ = calls[outcome.stem]
            if (folder / "notebook.ipynb").exists():
                outcome.notebook = path.name
                (folder / "notebook.ipynb").replace(out / outcome.notebook)
                if pages:
                    outcome.page = f"{outcome.stem}.html"
                    write_text(out / outcome.page, _page(out / outcome.notebook, path.parent))
            report[outcome.stem] = outcome
            _write_report(out, report)
            outcomes.append(outcome)
            finished(outcome)
    return sorted(outcomes, key=lambda outcome: outcome.stem)


def refresh(
    chosen: Sequence[Lesson],
    *,
    jobs: int = 1,
    timeout: float | None = None,
    finished: Callable[[Outcome], object] = lambda outcome: None,
) -> list[Outcome]:
    """Execute each lesson with its own parameters, in its own folder, and store its outputs in it.

    A lesson is replaced atomically, and only if every cell ran and nobody edited the file
    meanwhile. Otherwise it counts as failed.

    Args:
        chosen: the lessons.
        jobs, timeout, finished: as in `run`.

    Raises:
        CourseError: the default profile of a lesson is not "quick".
    """
    import nbformat

    for lesson in chosen:
        if lesson.parameters.get("profile") != "quick":
            raise CourseError(f'{lesson.stem}: its parameters cell must say profile = "quick"')
    outcomes, places = [], {lesson.stem: lesson.path for lesson in chosen}
    with tempfile.TemporaryDirectory(prefix="segkit-") as scratch:
        calls = [(path, {}, Path(scratch, stem), path.parent) for stem, path in places.items()]
        with closing(_execute(calls, jobs, timeout)) as ended:
            for outcome in ended:
                path = places[outcome.stem]
                if outcome.ok and Lesson(path).digest() != outcome.digest:
                    message = "the lesson was edited while it ran"
                    outcome.error = {"cell": 0, "source": "", "name": "Changed", "message": message}
                    outcome.status = "failed"
                if outcome.ok:
                    notebook = nbformat.read(Path(scratch, outcome.stem, "notebook.ipynb"), 4)
                    _remove_volatile(notebook)
                    write_text(path, nbformat.writes(notebook) + "\n")
                outcomes.append(outcome)
                finished(outcome)
    return outcomes


def _remove_volatile(notebook: Any) -> None:
    """Remove from an nbformat notebook what differs between runs or machines."""
    notebook.metadata.pop("papermill", None)
    notebook.metadata.pop("widgets", None)  # their state, with new ids on every run
    notebook.metadata["kernelspec"] = dict(_KERNEL)
    notebook.metadata["language_info"] = {"name": "python"}
    for cell in notebook.cells:
        for name in _VOLATILE:
            cell.metadata.pop(name, None)
        if not cell.metadata.get("tags", True):
            del cell.metadata["tags"]


def _execute(calls: Iterable[tuple], jobs: int, timeout: float | None) -> Iterator[Outcome]:
    """Yield the outcome of each call of `_run_one`; kill what runs when the generator is closed."""
    stop = threading.Event()
    with ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(_run_one, *call, jobs, timeout, stop) for call in calls]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


def _run_one(
    path: Path,
    parameters: Mapping[str, Any],
    folder: Path,
    cwd: Path,
    jobs: int,
    timeout: float | None,
    stop: threading.Event,
) -> Outcome:
    """Run a lesson in a process of its own; its executed notebook is `folder/notebook.ipynb`."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "files").mkdir(parents=True)
    lesson, executed, log = Lesson(path), folder / "notebook.ipynb", folder / "log.txt"
    outcome = Outcome(lesson.stem, lesson.title, "passed", 0, 0, dict(parameters), lesson.digest())
    # papermill replaces {name} in paths; doubled braces stand for themselves
    source, target = (str(p).replace("{", "{{").replace("}", "}}") for p in (path, executed))
    call = {"input_path": source, "output_path": target, "parameters": outcome.parameters}
    call |= {"kernel_name": "python3", "language": "python"}
    start = time.perf_counter()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", _PAPERMILL, json.dumps(call)],
            cwd=cwd,
            env=_environment(folder, jobs),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a terminal's Ctrl-C reaches this program alone
        )
    pid, limit = 0, math.inf if timeout is None else timeout
    while not pid:
        time.sleep(0.05)
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        outcome.seconds = time.perf_counter() - start
        if not pid and (stop.is_set() or outcome.seconds > limit):
            # after the time allowed, papermill may still write the notebook
            _kill(process, papermill=stop.is_set() or outcome.seconds > limit + _GRACE)
    process.returncode = os.waitstatus_to_exitcode(status)
    outcome.memory = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    outcome.finished = datetime.now().isoformat(" ", "seconds")
    if process.returncode:
        late = outcome.seconds > limit
        outcome.status = "timeout" if late else "failed"
        # the log ends with papermill's own error, which matters where no cell failed
        reason = log.read_text("utf-8", "replace").strip().rpartition("\n")[2]
        if late:
            reason = f"Timeout: stopped after {outcome.seconds:.0f} s"
        elif process.returncode < 0:
            reason = f"Killed: papermill was ended by signal {-process.returncode}"
        outcome.error = _error(executed, reason)
    return outcome


def _environment(folder: Path, jobs: int) -> dict[str, str]:
    """Return the environment of a lesson: the user's, without the user's Jupyter and IPython."""
    values = os.environ | {
        "IPYTHONDIR": str(folder / "ipython"),
        "JUPYTER_PATH": str(Path(sys.prefix, "share", "jupyter")),  # its kernel runs this Python
        "SEGKIT_DATA": str(paths.data_dir().resolve()),  # the lesson runs in another folder
    }
    values.pop("MPLBACKEND", None)  # "agg" would keep figures out of the notebook
    if not os.access(os.path.expanduser("~"), os.W_OK):
        values.setdefault("MPLCONFIGDIR", str(folder.parent / "matplotlib"))
    if jobs > 1:
        values.setdefault("OMP_NUM_THREADS", str(max(1, environment.cores() // jobs)))
    return values


def _kill(process: subprocess.Popen, papermill: bool = True) -> None:
    """Kill the kernel, all that it started, and papermill if asked."""
    for child in psutil.Process(process.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            child.kill()
    if papermill:
        process.kill()


def _error(executed: Path, reason: str) -> dict[str, Any]:
    """Return the error of the cell that ran last, or `reason`, where that cell has no error.

    In the second case, mark the notebook as unfinished, or remove it where it is half written.
    """
    import nbformat

    name, _, message = reason.partition(": ")
    error = {"cell": 0, "source": "", "name": name.rpartition(".")[2], "message": message}
    try:
        notebook = nbformat.read(executed, as_version=4)
    except (OSError, ValueError):
        executed.unlink(missing_ok=True)
        return error
    for cell in notebook.cells:
        if cell.cell_type == "code" and cell.source.strip() and cell.metadata.papermill.start_time:
            error["cell"] += 1
            error["source"] = cell.source.strip().partition("\n")[0][:80]
            failed = [output for output in cell.outputs if output.output_type == "error"]
    if error["cell"] and failed and name != "Timeout":
        return error | {"name": failed[-1].ename, "message": failed[-1].evalue}
    mark = nbformat.v4.new_markdown_cell(f"**Not run to its end.** {reason}")
    notebook.cells.insert(0, mark)
    nbformat.write(notebook, executed)
    return error


def _page(notebook: Path, pictures_from: Path) -> str:
    """Return a notebook as HTML that needs no other file and no network.

    Formulas stay in TeX, because a script from the network would have to typeset them.
    """
    from nbconvert import HTMLExporter

    # Of nbconvert's templates, only the classic one keeps the pictures' alternative text.
    exporter = HTMLExporter(template_name="classic", embed_images=True)
    exporter.require_js_url = exporter.jquery_url = exporter.mathjax_url = ""
    exporter.mermaid_js_url = ""
    resources = {"metadata": {"path": str(pictures_from), "name": notebook.stem}}
    page, _ = exporter.from_filename(str(notebook), resources)
    return re.sub(r'href="(\d\d_\w+)\.ipynb', r'href="\1.html', page)


def read_report(out: Path) -> dict[str, Outcome]:
    """Return the outcomes, by stem, of `out/report.json`; none where it is missing or corrupted."""
    try:
        rows = json.loads((out / "report.json").read_text("utf-8"))["lessons"]
        return {row["stem"]: Outcome(**row) for row in rows}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _write_report(out: Path, report: Mapping[str, Outcome]) -> None:
    """Write `report.json` and `index.html`."""
    rows = [report[stem] for stem in sorted(report)]
    machine = {name: environment.version(name) for name in ("segkit", "torch")}
    machine |= {"Python": platform.python_version()}
    machine |= {"on": f"{platform.system()} {platform.machine()}", "cores": environment.cores()}
    content = {"machine": machine, "lessons": [asdict(row) for row in rows]}
    write_text(out / "report.json", json.dumps(content, indent=1))
    images: dict[str, list[str]] = {row.stem: [] for row in rows}
    for row in rows:
        if row.notebook and (out / row.notebook).is_file():
            for png, alt in pictures(Lesson(out / row.notebook))[:3]:
                small, width = _thumbnail(png, (320, 200))
                image = picture(small, "png", alt or f"A picture of {row.title}", width)
                images[row.stem].append(image)
    page = render(
        "course_report.html",
        title="Course report",
        rows=rows,
        pictures=images,
        machine=machine,
        duration=lambda s: f"{s:.1f} s" if s < 100 else f"{s / 60:.1f} min",
    )
    write_text(out / "index.html", page)


def pictures(notebook: Lesson) -> list[tuple[bytes, str]]:
    """Return PNG outputs and their alternative texts; cells tagged `thumbnail` come first."""
    code = [cell for cell in notebook.cells if cell["cell_type"] == "code"]
    code.sort(key=lambda cell: "thumbnail" not in cell["metadata"].get("tags", []))
    outputs = [output for cell in code for output in cell["outputs"]]
    return [
        (
            base64.b64decode("".join(output["data"]["image/png"])),
            output["metadata"].get("image/png", {}).get("alt", ""),
        )
        for output in outputs
        if "image/png" in output.get("data", {})
    ]


@lru_cache(maxsize=100)  # the report is written again after each lesson
def _thumbnail(png: bytes, size: tuple[int, int]) -> tuple[bytes, int]:
    """Return a small PNG and its width; `size`: width and height in pixels, at most."""
    image = Image.open(io.BytesIO(png)).convert("RGB")
    image.thumbnail(size)
    small = io.BytesIO()
    image.quantize(128).save(small, "PNG", optimize=True)
    return small.getvalue(), image.width


def markdown_table(lessons: Sequence[Lesson], folder: str, thumbnails: str = "") -> str:
    """Return a Markdown table of lessons: title, promise, minutes to read.

    Args:
        lessons: a row for each.
        folder: where the links lead.
        thumbnails: the folder of the pictures in a first column; "" is no such column.
    """
    head = "| lesson | what you can do after it | to read |"
    lines = [f"| {head}", "|---|---|---|---|"] if thumbnails else [head, "|---|---|---|"]
    for lesson in lessons:
        alt = f"A picture from lesson {lesson.number}."
        image = f'| <img src="{thumbnails}/{lesson.number}.png" width="120" alt="{alt}"> '
        link = f"[{lesson.title}]({folder}/{lesson.path.name})"
        row = f"| {link} | {lesson.promise} | {lesson.minutes:.0f} min |"
        lines.append(image + row if thumbnails else row)
    return "\n".join(lines)


def with_table(text: str, lessons: Sequence[Lesson]) -> str:
    """Return the README's text with a new table of lessons between its two marks."""
    if _TABLE_BEGIN not in text or _TABLE_END not in text:
        raise CourseError(f"README.md lost the marks of its table: {_TABLE_BEGIN} and {_TABLE_END}")
    before, rest = text.split(_TABLE_BEGIN, 1)
    table = markdown_table(lessons, "notebooks", "figures/lessons")
    return f"{before}{_TABLE_BEGIN}\n{table}\n{_TABLE_END}{rest.split(_TABLE_END, 1)[1]}"


def update_readme() -> None:
    """Write the README's table of lessons and their thumbnails `figures/lessons/NN.png`."""
    readme, known = paths.root() / "README.md", lessons()
    for lesson in known:
        for png, _ in pictures(lesson)[:1]:
            small, _ = _thumbnail(png, (240, 240))
            (paths.root() / "figures" / "lessons" / f"{lesson.number}.png").write_bytes(small)
    write_text(readme, with_table(readme.read_text("utf-8"), known))
