"""Runs lessons, several at once if asked, each in a process that can be stopped and measured."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import psutil

from segkit.course import CourseError, Lesson, report
from segkit.course.report import Outcome
from segkit.environment import cores

POLL = 0.1  # seconds between two looks at the running lessons
MEASURE = 0.5  # seconds between two measurements of memory, which cost some milliseconds each


class Watcher(Protocol):
    """Told how a run goes on, to show it."""

    def running(self, jobs: "Sequence[Job]") -> None:
        """Called several times a second."""

    def finished(self, outcome: Outcome) -> None:
        """Called once for each lesson."""


class Job:
    """One lesson on its way."""

    def __init__(
        self,
        lesson: Lesson,
        parameters: Mapping[str, Any],
        folder: Path,
        *,
        cwd: Path | None = None,
        pages: bool = False,
    ):
        self.lesson, self.parameters, self.folder = lesson, dict(parameters), folder
        self.digest = lesson.digest()
        self.memory, self.family, self.measured = 0, [], 0.0
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "files").mkdir(parents=True)
        self.cwd = cwd or folder / "files"
        job = {"notebook": str(lesson.path), "parameters": self.parameters, "page": pages}
        (folder / "job.json").write_text(json.dumps(job), "utf-8")

    def start(self, environment: dict[str, str]) -> None:
        """Start the process. It is no part of the terminal's group: Ctrl-C is for us alone."""
        self.begun = time.perf_counter()
        with (self.folder / "log.txt").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "segkit.course.worker", str(self.folder)],
                cwd=self.cwd,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.root = psutil.Process(self.process.pid)  # knows when its number is used again

    @property
    def seconds(self) -> float:
        """Time since the start."""
        return time.perf_counter() - self.begun

    def progress(self) -> dict[str, Any]:
        """Return cell, of (number of code cells) and source (first line) of the running cell."""
        return _read(self.folder / "progress.json") or {"cell": 0, "of": 0, "source": ""}

    def ended(self) -> bool:
        """Whether the process is gone. Measures its memory while it is not."""
        if self.process.poll() is not None:
            return True
        self.family = _children(self.root)
        if self.seconds >= self.measured + MEASURE:
            self.measured = self.seconds
            self.memory = max(self.memory, sum(map(_memory, self.family)))
        return False

    def late(self, timeout: float) -> bool:
        """Whether the notebook still runs after `timeout` seconds."""
        return self.seconds > timeout and not (self.folder / "result.json").exists()

    def stop(self) -> bool:
        """Kill the process, its kernel and all that it started; whether it was still running."""
        running = self.process.poll() is None
        family = {*self.family, *_children(self.root)}
        self.process.kill()
        for process in list(family):  # what has lost its parent is no descendant of ours any more
            family.update(_children(process))
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()
        self.process.stdin.close()
        wait_gone(family)
        return running

    def outcome(self, seconds: float, late: bool) -> Outcome:
        """Return what became of the lesson, gone after `seconds`. late: it had to be stopped."""
        result = _read(self.folder / "result.json")
        if result is None:  # no word from the process: it was stopped, or it died
            at = self.progress()
            name, message = "Timeout", f"stopped after {seconds:.0f} s"
            if not late:
                log = (self.folder / "log.txt").read_text("utf-8", "replace").strip()
                name = "WorkerDied"
                message = f"exit code {self.process.returncode}; {log[-500:] or 'no message'}"
            error = {"cell": at["cell"], "source": at["source"], "name": name, "message": message}
            status = "timeout" if late else "failed"
            result = {"status": status, "seconds": seconds, "error": error}
            _mark_unfinished(self.folder / "notebook.ipynb", f"{name}: {message}")
        return Outcome(
            stem=self.lesson.stem,
            title=self.lesson.title,
            memory=self.memory,
            parameters=self.parameters,
            digest=self.digest,
            **result,
        )


def run(
    parameters: Mapping[Path, Mapping[str, Any]],
    out: Path,
    watcher: Watcher,
    *,
    jobs: int = 1,
    timeout: float | None = None,
    resume: bool = False,
    pages: bool = True,
) -> list[Outcome]:
    """Run each lesson (path) with its parameters, see `arguments`, and return the outcomes.

    Executed notebooks, pages and a report land in `out`, each lesson's own files in
    `out/work/STEM/files`, its working directory. timeout: seconds allowed to one lesson, start
    of its kernel included. resume: keep lessons that passed before with the same cells and
    parameters. pages: render each as HTML too, which takes a second or two. An interruption
    stops what runs, keeps what has finished, and is raised again.
    """
    out = out.resolve()
    if any(path.parent == out for path in parameters):
        raise CourseError(f"{out}: the lessons themselves are there; choose another folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CourseError(f"{out}: {error.strerror}; choose another folder") from None
    before = report.read(out) if resume else {}
    waiting, outcomes = [], []
    for lesson in map(Lesson, parameters):
        old = before.get(lesson.stem)
        if old and _same(old, lesson, parameters[lesson.path], out):
            old.status = "kept"
            outcomes.append(old)
            watcher.finished(old)
        else:
            folder = out / "work" / lesson.stem
            waiting.append(Job(lesson, parameters[lesson.path], folder, pages=pages))
    report.forget(out, [job.lesson.stem for job in waiting])
    try:
        for job, outcome in execute(waiting, watcher, jobs=jobs, timeout=timeout):
            _move(job, outcome, out)
            outcomes.append(outcome)
            report.write(out, [outcome])
            watcher.finished(outcome)
    finally:
        report.write(out, [])
    return sorted(outcomes, key=lambda outcome: outcome.stem)


def execute(
    waiting: Sequence[Job], watcher: Watcher, *, jobs: int, timeout: float | None
) -> Iterator[tuple[Job, Outcome]]:
    """Yield each job with its outcome as it ends; leave no process behind, however this ends."""
    waiting, running = list(waiting), []
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                running.append(waiting.pop(0))
                running[-1].start(environment(running[-1].folder, jobs))
            for job in list(running):
                if job.ended() or (timeout is not None and job.late(timeout)):
                    seconds = job.seconds
                    late = job.stop()
                    running.remove(job)
                    yield job, job.outcome(seconds, late)
            watcher.running(running)
            time.sleep(POLL)
    finally:
        for job in running:
            job.stop()


def environment(folder: Path, jobs: int) -> dict[str, str]:
    """Return the variables a lesson runs under: nothing of the user's Jupyter gets in or out."""
    values = dict(os.environ)
    values.pop("MPLBACKEND", None)  # one set for scripts would keep figures out of the notebook
    values["IPYTHONDIR"] = str(folder / "ipython")
    if values.get("SEGKIT_DATA"):  # relative to here, and the lesson runs elsewhere
        values["SEGKIT_DATA"] = str(Path(values["SEGKIT_DATA"]).expanduser().resolve())
    if not os.access(os.path.expanduser("~"), os.W_OK):
        values.setdefault("MPLCONFIGDIR", str(folder.parent / "matplotlib"))
    if jobs > 1:
        values.setdefault("OMP_NUM_THREADS", str(max(1, cores() // jobs)))
    return values


def _same(old: Outcome, lesson: Lesson, parameters: Mapping[str, Any], out: Path) -> bool:
    """Whether `old` is a finished run of the same cells with the same parameters."""
    return (
        old.ok
        and old.parameters == parameters
        and old.digest == lesson.digest()
        and bool(old.notebook)
        and (out / old.notebook).is_file()
    )


def _move(job: Job, outcome: Outcome, out: Path) -> None:
    """Put what the job left, now that it is whole, where the report links to it."""
    for suffix, name in ((".html", "page"), (".ipynb", "notebook")):
        left = job.folder / f"notebook{suffix}"
        if left.exists():
            left.replace(out / f"{outcome.stem}{suffix}")
            setattr(outcome, name, f"{outcome.stem}{suffix}")


def _mark_unfinished(notebook: Path, why: str) -> None:
    """Say at the top of a notebook that it was not run to its end; drop it when unreadable."""
    import nbformat

    try:
        content = nbformat.read(notebook, as_version=4)
    except (OSError, ValueError):  # killed before the first cell, or while it was written
        notebook.unlink(missing_ok=True)
        return
    content.cells.insert(0, nbformat.v4.new_markdown_cell(f"**Not run to its end.** {why}"))
    nbformat.write(content, notebook)


def wait_gone(processes: Iterable[psutil.Process], seconds: float = 5) -> None:
    """Wait until killed processes are gone, or only await that their parent takes note of it."""
    end = time.perf_counter() + seconds
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            while process.status() != psutil.STATUS_ZOMBIE and time.perf_counter() < end:
                time.sleep(0.01)


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _memory(process: psutil.Process) -> int:
    """Bytes held by `process`; pages it shares with others count in part where that is known."""
    try:
        info = process.memory_full_info() if psutil.LINUX else process.memory_info()
    except psutil.Error:
        return 0
    return getattr(info, "pss", info.rss)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
