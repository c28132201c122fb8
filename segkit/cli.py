"""The `segkit` command. Each command imports what it needs when it is called: help is quick."""

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    name="segkit",
    help="Semantic segmentation, taught end to end: run the lessons, train, judge and export.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
course = typer.Typer(help="The lessons: list them, run them, refresh them.", no_args_is_help=True)
app.add_typer(course, name="course")

Lessons = Annotated[
    list[str] | None,
    typer.Argument(metavar="[LESSON]...", help="Number (04), name or file. None: all of them."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for a script.")]
Jobs = Annotated[int, typer.Option("--jobs", "-j", min=1, help="Lessons to run at once.")]
Timeout = Annotated[
    float | None,
    typer.Option(min=1, help="Seconds allowed to one lesson, its kernel's start included."),
]


@course.command("list")
def course_list(as_json: AsJson = False) -> None:
    """List the lessons: what each promises, how long it takes, what it can be given."""
    from segkit.course import lessons

    rows = [
        {
            "number": lesson.number,
            "name": lesson.stem,
            "title": lesson.title,
            "promise": lesson.promise,
            "minutes": lesson.minutes,
            "parameters": lesson.parameters,
            "path": str(lesson.path),
        }
        for lesson in lessons()
    ]
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    columns = ("Lesson", "What it promises", "Minutes", "Parameters")
    print_table(
        columns,
        [
            (
                row["name"],
                row["promise"],
                "" if row["minutes"] is None else f"{row['minutes']:g}",
                ", ".join(f"{name}={value!r}" for name, value in row["parameters"].items()),
            )
            for row in rows
        ],
    )


@course.command("run")
def course_run(
    lesson: Lessons = None,
    profile: Annotated[
        str | None, typer.Option(help="quick (CPU) or full (the real thing).")
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="Data set, as oxford-pet.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder a real data set lies in.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.")] = None,
    param: Annotated[
        list[str] | None,
        typer.Option("--param", "-p", metavar="NAME=VALUE", help="Any other parameter."),
    ] = None,
    jobs: Jobs = 1,
    out: Annotated[Path, typer.Option(help="Folder for notebooks and report.")] = Path(
        "build/course"
    ),
    resume: Annotated[bool, typer.Option("--resume", help="Keep what passed unchanged.")] = False,
    timeout: Timeout = None,
    pages: Annotated[bool, typer.Option(help="Render each lesson as HTML too.")] = True,
) -> None:
    """Run lessons and report on them in OUT/index.html.

    A lesson chosen by hand must declare every parameter given. When all are run, each takes
    those it declares, and the rest keep to their own data. Exit code 1: a lesson did not
    pass; 2: nothing ran, because a name or a value is wrong; 130: interrupted.
    """
    from segkit import course as lessons
    from segkit.course.progress import watcher
    from segkit.course.run import run

    named = {"profile": profile, "dataset": dataset, "data_dir": data_dir, "seed": seed}
    given = {name: value for name, value in named.items() if value is not None} | pairs(param or [])
    chosen = lessons.find(lesson or [])
    parameters = lessons.arguments(chosen, given, strict=bool(lesson))
    try:
        with stoppable(), watcher(len(chosen)) as watching:
            outcomes = run(
                parameters, out, watching, jobs=jobs, timeout=timeout, resume=resume, pages=pages
            )
    finally:
        print(f"Report: {out / 'index.html'}")
    finish(outcomes)


@course.command("refresh")
def course_refresh(lesson: Lessons = None, jobs: Jobs = 1, timeout: Timeout = None) -> None:
    """Run the committed lessons where they are and store their outputs in them.

    The README's table of lessons and its thumbnails are made anew. A lesson of which a cell
    fails stays as it was; the exit code is then 1.
    """
    from segkit.course import find
    from segkit.course.progress import watcher
    from segkit.course.refresh import refresh

    chosen = find(lesson or [])
    with stoppable(), watcher(len(chosen)) as watching:
        outcomes = refresh(chosen, watching, jobs=jobs, timeout=timeout)
    finish(outcomes)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Report on this machine: versions, device, threads, precision, and what is missing."""
    from segkit.environment import report

    found = report()
    if as_json:
        print(json.dumps(found, indent=1))
    else:
        print_table(("", ""), [(name, describe(value)) for name, value in found.items()])
    raise typer.Exit(1 if found["missing"] else 0)


def finish(outcomes: list) -> None:
    """Say how many lessons passed, and leave with code 1 unless all did."""
    passed = sum(outcome.ok for outcome in outcomes)
    print(f"{passed} of {len(outcomes)} lessons passed")
    raise typer.Exit(0 if passed == len(outcomes) else 1)


def pairs(texts: list[str]) -> dict[str, str]:
    """Return NAME=VALUE texts as a dictionary."""
    for text in texts:
        if "=" not in text:
            raise typer.BadParameter(f"{text!r} is not NAME=VALUE", param_hint="--param")
    return dict(text.split("=", 1) for text in texts)


def describe(value: Any) -> str:
    """Return a value of a report as text for a person."""
    if isinstance(value, dict):
        return "\n".join(f"{name} {describe(inner)}" for name, inner in value.items())
    if isinstance(value, list):
        return ", ".join(map(describe, value)) or "nothing"
    return {None: "not there", True: "yes", False: "no"}.get(value, str(value))


def print_table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """Print a table that fits the terminal."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, box=box.SIMPLE, show_header=any(columns))
    for row in rows:
        table.add_row(*row)
    Console().print(table, markup=False)


@contextmanager
def stoppable() -> Iterator[None]:
    """Leave with code 130 on Ctrl-C, and on the "please stop" of a scheduler (SIGTERM)."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        raise typer.Exit(130) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def main() -> None:
    """Run the command line; an error that segkit itself raises is a message, not a traceback."""
    try:
        app()
    except Exception as error:
        if not type(error).__module__.startswith("segkit"):
            raise
        print(f"segkit: {error}", file=sys.stderr)
        sys.exit(2)
