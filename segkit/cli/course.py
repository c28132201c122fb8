"""`segkit course`: the lessons."""

import json
from pathlib import Path
from typing import Annotated

import typer

from segkit.cli.frame import AsJson, example, pairs, print_table, stoppable

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


@course.command("refresh", epilog=example("segkit course refresh 07"))
def course_refresh(lesson: Lessons = None, jobs: Jobs = 1, timeout: Timeout = None) -> None:
    """Run the committed lessons where they are and store their outputs in them.

    The README's table of lessons and its thumbnails are made anew. A lesson of which a cell
    fails stays as it was; the exit code is then 1.
    """
    from segkit.course import find, lessons, readme
    from segkit.course.progress import watcher
    from segkit.course.refresh import refresh

    chosen = find(lesson or [])
    with stoppable(), watcher(len(chosen)) as watching:
        outcomes = refresh(chosen, watching, jobs=jobs, timeout=timeout)
    readme.update(lessons())
    finish(outcomes)


def finish(outcomes: list) -> None:
    """Say how many lessons passed, and leave with code 1 unless all did."""
    passed = sum(outcome.ok for outcome in outcomes)
    print(f"{passed} of {len(outcomes)} lessons passed")
    raise typer.Exit(0 if passed == len(outcomes) else 1)
