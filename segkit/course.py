"""The lessons: finds them, runs them through papermill, reports on the run, refreshes them."""

import ast
import base64
import hashlib
import io
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import psutil
from PIL import Image

from segkit import environment, paths
from segkit.errors import SegkitError, one_of
from segkit.files import write_text
from segkit.page import picture, render
from segkit.profiles import PROFILES

# The program of a lesson's process. papermill's own command line cannot merge the pieces in which
# printed text arrives, and these differ from run to run.
_PAPERMILL = """
import json, sys
sys.modules["rfc3987_syntax"] = None  # jsonschema would import it, which takes a second
import papermill
papermill.execute_notebook(*sys.argv[1:3], json.loads(sys.argv[3]), kernel_name="python3",
                           language="python", coalesce_streams=True, progress_bar=False)
"""
_VOLATILE = ("papermill", "execution", "ExecuteTime", "lines_to_next_cell")
_KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}


class CourseError(SegkitError, ValueError):
    """A request about the lessons that cannot be met."""


@dataclass(frozen=True)
class Lesson:
    """A notebook. Its file is read when its content is first used."""

    path: Path

    @property
    def number(self) -> str:
        """The two digits of the name, or "" when the notebook is not one of the course."""
        return self.path.name[:2] if re.fullmatch(r"\d\d_[a-z0-9_]+\.ipynb", self.path.name) else ""

    @cached_property
    def cells(self) -> list[dict[str, Any]]:
        """The notebook's cells as nbformat 4 has them, each source as one text."""
        try:  # plain JSON, because importing nbformat takes a second
            cells = json.loads(self.path.read_text("utf-8"))["cells"]
            for cell in cells:
                cell["source"] = "".join(cell["source"])
                cell["metadata"].get("tags"), cell["cell_type"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CourseError(f"{self.path}: not a readable notebook ({error!r})") from None
        return cells

    @property
    def introduction(self) -> str:
        """The text above the first code cell."""
        first = next((i for i, c in enumerate(self.cells) if c["cell_type"] == "code"), None)
        return "\n\n".join(cell["source"] for cell in self.cells[:first])

    @property
    def title(self) -> str:
        """The text of the first `# heading`, or the file's stem where there is none."""
        found = re.search(r"^# +(.+)$", self.introduction, re.M)
        return found[1].strip() if found else self.path.stem

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
        """The names and literal defaults assigned in the cell tagged `parameters`."""
        declared: dict[str, Any] = {}
        cells = [c for c in self.cells if "parameters" in c["metadata"].get("tags", [])]
        try:
            for line in ast.parse("\n".join(cell["source"] for cell in cells)).body:
                (target,) = line.targets if isinstance(line, ast.Assign) else [line.target]
                declared[target.id] = ast.literal_eval(line.value)
        except (ValueError, SyntaxError, AttributeError):  # "b = 2 * a" would ignore papermill's a
            rule = "a line in the cell tagged `parameters` is one name, one literal: `seed = 0`"
            raise CourseError(f"{self.path.name}: {rule}") from None
        return declared

    def digest(self) -> str:
        """Return a hash of the cells' kinds, sources and tags, but not of their outputs."""
        content = [(c["cell_type"], c["source"], c["metadata"].get("tags")) for c in self.cells]
        return hashlib.sha256(repr(content).encode()).hexdigest()


def lessons() -> list[Lesson]:
    """Return the notebooks NN_name.ipynb of the course, in order."""
    there = map(Lesson, sorted((paths.root() / "notebooks").glob("*.ipynb")))
    return [lesson for lesson in there if lesson.number]


def find(names: Sequence[str]) -> list[Lesson]:
    """Return lessons by number ("04", "4"), stem or path; all of the course if none is named."""
    known = {lesson.path.stem: lesson for lesson in lessons()}
    numbers = {int(lesson.number): stem for stem, lesson in known.items()}
    chosen: dict[str, Lesson] = {}
    for name in names or known:
        if name.endswith(".ipynb") and Path(name).is_file():
            lesson = Lesson(Path(name).resolve())
        else:
            stem = numbers.get(int(name), name) if name.isdecimal() else name
            lesson = known[one_of("lesson", stem, known)]
        stem = lesson.path.stem
        if chosen.setdefault(stem, lesson) != lesson:
            raise CourseError(f"two notebooks are called {stem}: run them one at a time")
    return list(chosen.values())


def arguments(
    chosen: Sequence[Lesson], given: Mapping[str, Any], *, strict: bool = True
) -> dict[Path, dict[str, Any]]:
    """Return the parameters each lesson is to be run with, by the lesson's path.

    Args:
        given: values, or texts as typed in a shell. Each gets the type of the lesson's default.
        strict: whether every lesson must declare every parameter given; else one lesson must.
    """
    for name in given:
        lacking = [lesson for lesson in chosen if name not in lesson.parameters]
        if lacking and (strict or len(lacking) == len(chosen)):
            stem, known = lacking[0].path.stem, ", ".join(lacking[0].parameters) or "none"
            raise CourseError(f"no parameter {name!r} in {stem} (it has: {known})")
    return {
        lesson.path: {n: _typed(lesson, n, v) for n, v in given.items() if n in lesson.parameters}
        for lesson in chosen
    }


def _typed(lesson: Lesson, name: str, value: Any) -> Any:
    """Return `value` as the type of the parameter's default; text is read as a literal."""
    default, typed = lesson.parameters[name], value
    is_path = re.fullmatch(r"(.*_)?(dir|folder|file|path)", name)
    if name == "profile":
        one_of("profile", typed, PROFILES)
    if is_path and typed and (default is None or isinstance(default, str)):
        typed = str(Path(typed).expanduser().resolve())  # the lesson runs in another folder
    elif isinstance(typed, str) and not isinstance(default, str):
        with suppress(ValueError, SyntaxError):  # True and true, None and none
            typed = ast.literal_eval(typed.title() if typed.isalpha() else typed)
    if isinstance(default, float) and type(typed) is int:
        typed = float(typed)
    if default is not None and type(typed) is not type(default):
        kind = f"of type {type(default).__name__} (as {default!r})"
        raise CourseError(f"{lesson.path.stem}: {name} is {kind}, not {value!r}")
    return typed


@dataclass
class _Outcome:
    """The result of running one lesson."""

    stem: str
    title: str
    parameters: dict[str, Any]
    digest: str
    status: str = "passed"  # or "failed", "timeout", "kept": passed before and not run again
    seconds: float = 0.0  # start of papermill and of the kernel included
    memory: int = 0  # peak of the largest single process, in bytes
    error: str = ""  # the cell that ran last, and what ended it
    finished: str = ""  # date and time

    def __str__(self) -> str:
        text = f"{self.status:<8} {self.stem:<24} {self.seconds:6.1f} s"
        text += f" {self.memory / 2**20:6.0f} MiB  {self.error}"
        return text.partition("\n")[0].rstrip()


def run(
    parameters: Mapping[Path, Mapping[str, Any]],
    out: Path,
    *,
    jobs: int = 1,
    timeout: float | None = None,
    resume: bool = False,
    pages: bool = True,
    in_place: bool = False,
) -> Iterator[_Outcome]:
    """Run lessons, write executed notebooks and a report to `out`, and yield each outcome.

    Closing the generator kills what runs and keeps what has finished.

    Args:
        parameters: the lessons' paths and their parameters, see `arguments`.
        timeout: seconds allowed to one lesson, start of its kernel included.
        resume: keep lessons that passed before with the same cells and parameters.
        pages: render each lesson as HTML too, which takes a second or two.
        in_place: run each lesson in its own folder, else in `out/work/STEM/files`.
    """
    out = out.resolve()
    if any(path.parent == out for path in parameters):
        raise CourseError(f"{out}: the lessons themselves are there; choose another folder")
    try:
        rows = json.loads((out / "report.json").read_text("utf-8"))["lessons"]
        report = {row["stem"]: _Outcome(**row) for row in rows}
    except (OSError, ValueError, KeyError, TypeError):  # it is missing or corrupted
        report = {}
    waiting = dict(parameters)
    for path, values in parameters.items():
        row = report.pop(path.stem, None)
        same = row and (row.parameters, row.digest) == (values, Lesson(path).digest())
        if resume and same and row.status == "passed" and (out / path.name).is_file():
            report[path.stem] = row
            del waiting[path]
            yield replace(row, status="kept")
    _write_report(out, report)
    stop = threading.Event()
    with ThreadPoolExecutor(jobs) as pool:
        futures = {
            pool.submit(_run_one, path, values, out, in_place, jobs, timeout, stop): path
            for path, values in waiting.items()
        }
        try:
            for future in as_completed(futures):
                path, outcome = futures[future], future.result()
                if pages and (out / path.name).exists():
                    page = _page(out / path.name, path.parent)
                    write_text(out / f"{path.stem}.html", page)
                report[path.stem] = outcome
                _write_report(out, report)
                yield outcome
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


def refresh(
    chosen: Sequence[Lesson], *, jobs: int = 1, timeout: float | None = None
) -> Iterator[_Outcome]:
    """Run lessons as they are, in their folder, store their outputs, and yield each outcome.

    A lesson is replaced only if every cell ran and nobody edited the file meanwhile.
    """
    import nbformat

    for lesson in chosen:
        if lesson.parameters.get("profile") != "quick":
            raise CourseError(f'{lesson.path.stem}: its parameters cell must say profile = "quick"')
    places = {lesson.path.stem: lesson.path for lesson in chosen}
    calls, options = {path: {} for path in places.values()}, {"jobs": jobs, "timeout": timeout}
    with (
        tempfile.TemporaryDirectory(prefix="segkit-") as out,
        closing(run(calls, Path(out), **options, pages=False, in_place=True)) as outcomes,
    ):
        for outcome in outcomes:
            path = places[outcome.stem]
            if outcome.status == "passed" and Lesson(path).digest() != outcome.digest:
                outcome.status, outcome.error = "failed", "the lesson was edited while it ran"
            elif outcome.status == "passed":
                notebook = nbformat.read(Path(out, path.name), as_version=4)
                notebook.metadata = {"kernelspec": _KERNEL, "language_info": {"name": "python"}}
                for cell in notebook.cells:
                    lasting = {n: v for n, v in cell.metadata.items() if v and n not in _VOLATILE}
                    cell.metadata = lasting
                write_text(path, nbformat.writes(notebook) + "\n")
            yield outcome


def _run_one(
    path: Path,
    parameters: Mapping[str, Any],
    out: Path,
    in_place: bool,
    jobs: int,
    timeout: float | None,
    stop: threading.Event,
) -> _Outcome:
    """Run a lesson in a process of its own; its executed notebook lies in `out`."""
    folder, executed, lesson = out / "work" / path.stem, out / path.name, Lesson(path)
    outcome = _Outcome(path.stem, lesson.title, dict(parameters), lesson.digest())
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "files").mkdir(parents=True)
    for suffix in (".ipynb", ".html"):  # of an earlier run
        executed.with_suffix(suffix).unlink(missing_ok=True)
    # papermill replaces {name} in paths; doubled braces stand for themselves
    files = [str(file).replace("{", "{{").replace("}", "}}") for file in (path, executed)]
    start, limit = time.perf_counter(), timeout or float("inf")
    with open(folder / "log.txt", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", _PAPERMILL, *files, json.dumps(outcome.parameters)],
            cwd=path.parent if in_place else folder / "files",
            env=_environment(folder, jobs),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a terminal's Ctrl-C reaches this program alone
        )
    pid = 0
    while not pid:
        time.sleep(0.05)
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        outcome.seconds = time.perf_counter() - start
        if not pid and (stop.is_set() or outcome.seconds > limit):
            papermill = psutil.Process(process.pid)
            doomed = papermill.children(recursive=True)  # the kernel, and all that it started
            if stop.is_set() or outcome.seconds > limit + 5:  # it has 5 s to write the notebook
                doomed.append(papermill)
            for one in doomed:
                with suppress(psutil.NoSuchProcess):
                    one.kill()
    process.returncode = os.waitstatus_to_exitcode(status)
    outcome.memory = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    outcome.finished = datetime.now().isoformat(" ", "seconds")
    if stop.is_set():
        executed.unlink(missing_ok=True)
    elif process.returncode:
        outcome.status = "timeout" if outcome.seconds > limit else "failed"
        # the log ends with papermill's own error, which matters where no cell failed
        reason = (folder / "log.txt").read_text("utf-8", "replace").strip().rpartition("\n")[2]
        if outcome.status == "timeout":
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


def _error(executed: Path, reason: str) -> str:
    """Return the cell that ran last and its error; if it has none, `reason`, and say so on top."""
    import nbformat
    from nbformat.v4 import new_markdown_cell

    try:
        notebook = nbformat.read(executed, as_version=4)
    except (OSError, ValueError):  # it is missing, or half written
        executed.unlink(missing_ok=True)
        return reason
    code = [c for c in notebook.cells if c.cell_type == "code" and c.source.strip()]
    ran = [cell for cell in code if cell.metadata.papermill.start_time]
    failed = [o for cell in ran[-1:] for o in cell.outputs if o.output_type == "error"]
    if failed and not reason.startswith("Timeout"):
        reason = f"{failed[-1].ename}: {failed[-1].evalue}"
    else:
        notebook.cells.insert(0, new_markdown_cell(f"**Not run to its end.** {reason}"))
        nbformat.write(notebook, executed)
    source = ran[-1].source.strip().partition("\n")[0] if ran else ""
    return f"cell [{len(ran)}] {source}: {reason}"


def _page(notebook: Path, pictures_from: Path) -> str:
    """Return a notebook as HTML that needs no other file and no network; formulas stay in TeX."""
    from nbconvert import HTMLExporter

    # Of nbconvert's templates, only the classic one keeps the pictures' alternative text.
    exporter = HTMLExporter(template_name="classic", embed_images=True)
    exporter.require_js_url = exporter.jquery_url = exporter.mathjax_url = ""
    exporter.mermaid_js_url = ""
    resources = {"metadata": {"path": str(pictures_from), "name": notebook.stem}}
    page, _ = exporter.from_filename(str(notebook), resources)
    return re.sub(r'href="(\d\d_\w+)\.ipynb', r'href="\1.html', page)


def _write_report(out: Path, report: Mapping[str, _Outcome]) -> None:
    """Write `report.json` and `index.html`."""
    rows = [report[stem] for stem in sorted(report)]
    machine = {
        **{name: environment.version(name) for name in ("segkit", "torch")},
        "Python": platform.python_version(),
        "on": f"{platform.system()} {platform.machine()}",
        "cores": environment.cores(),
    }
    content = {"machine": machine, "lessons": [asdict(row) for row in rows]}
    write_text(out / "report.json", json.dumps(content, indent=1))
    images = {row.stem: [] for row in rows}
    for row in rows:
        notebook = Lesson(out / f"{row.stem}.ipynb")
        for png, alt in pictures(notebook)[:3] if notebook.path.is_file() else ():
            small, width = thumbnail(png, (320, 200))
            alt = alt or f"A picture of {row.title}"
            images[row.stem].append(picture(small, "png", alt, width))
    page = render(
        "course_report.html",
        title="Course report",
        rows=rows,
        files=os.listdir(out),
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
    pngs = [output for output in outputs if "image/png" in output.get("data", {})]
    alts = [png["metadata"].get("image/png", {}).get("alt", "") for png in pngs]
    contents = [base64.b64decode("".join(png["data"]["image/png"])) for png in pngs]
    return list(zip(contents, alts, strict=True))


@lru_cache(maxsize=100)  # the report is written again after each lesson
def thumbnail(png: bytes, size: tuple[int, int]) -> tuple[bytes, int]:
    """Return a PNG made smaller than `size` (width, height), and its width."""
    image = Image.open(io.BytesIO(png)).convert("RGB")
    image.thumbnail(size)
    small = io.BytesIO()
    image.quantize(128).save(small, "PNG", optimize=True)
    return small.getvalue(), image.width
