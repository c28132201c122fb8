"""`segkit course`: the lessons."""

import json
import shutil
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count, zip_longest
from pathlib import Path
from typing import Annotated

import typer

from segkit.cli.frame import AsJson, example, pairs, stoppable

course = typer.Typer(help="The lessons: list them, run them, refresh them.", no_args_is_help=True)

Lessons = Annotated[
    list[str] | None,
    typer.Argument(metavar="[LESSON]...", help="Number (04), name or file. None: all of them."),
]
Jobs = Annotated[int, typer.Option("--jobs", "-j", min=1, help="Lessons to run at once.")]
Timeout = Annotated[
    float | None,
    typer.Option(min=1, help="Seconds allowed to one lesson, its kernel's start included."),
]


@course.command("list", epilog=example("segkit course list --json"))
def course_list(as_json: AsJson = False) -> None:
    """List the lessons: what each promises, how long it takes, what it can be given."""
    from segkit.course import lessons
    from segkit.files import text_table

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
    width = max(30, shutil.get_terminal_size().columns - 40)
    lines: list[tuple] = []
    for row in rows:
        given = ", ".join(f"{name}={value!r}" for name, value in row["parameters"].items())
        text = textwrap.wrap(row["promise"], width) + textwrap.wrap(f"Parameters: {given}", width)
        minutes = "" if row["minutes"] is None else f"{row['minutes']:g}"
        lines += zip_longest([row["name"]], text, [minutes])
    print(text_table(("Lesson", "What it promises", "Minutes"), lines, left=2))


@course.command("run", epilog=example("segkit course run 4 5 --profile quick --jobs 2"))
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
    from segkit.course import arguments, find, run

    named = {"profile": profile, "dataset": dataset, "data_dir": data_dir, "seed": seed}
    given = {name: value for name, value in named.items() if value is not None} | pairs(param or [])
    parameters = arguments(find(lesson or []), given, strict=bool(lesson))
    options = {"jobs": jobs, "timeout": timeout, "resume": resume, "pages": pages}
    try:
        with stoppable(), _progress(len(parameters)) as show:
            outcomes = run(parameters, out, **options, finished=show)
    finally:
        print(f"Report: {out / 'index.html'}")
    _finish(outcomes)


@course.command("refresh", epilog=example("segkit course refresh 07"))
def course_refresh(lesson: Lessons = None, jobs: Jobs = 1, timeout: Timeout = None) -> None:
    """Run the committed lessons where they are and store their outputs in them.

    The README's table of lessons and its thumbnails are made anew. A lesson of which a cell
    fails stays as it was; the exit code is then 1.
    """
    from segkit.course import find, refresh, update_readme

    chosen = find(lesson or [])
    with stoppable(), _progress(len(chosen)) as show:
        outcomes = refresh(chosen, jobs=jobs, timeout=timeout, finished=show)
    update_readme()
    _finish(outcomes)


@contextmanager
def _progress(total: int) -> Iterator[Callable]:
    """Yield a function that prints the outcome of a lesson; on a terminal, a bar counts them."""
    from tqdm import tqdm

    numbers = count(1)
    with tqdm(total=total, unit="lesson", disable=None) as bar:

        def show(outcome: object) -> None:
            tqdm.write(f"[{next(numbers)}/{total}] {outcome}")
            bar.update()

        yield show


def _finish(outcomes: list) -> None:
    """Print how many lessons passed; exit with code 1 unless all did."""
    passed = sum(outcome.ok for outcome in outcomes)
    print(f"{passed} of {len(outcomes)} lessons passed")
    raise typer.Exit(0 if passed == len(outcomes) else 1)
