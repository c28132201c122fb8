"""`segkit course`, `segkit check` and `segkit reproduce`: lessons, exercises, experiments."""

import shutil
import sys
import textwrap
from collections import Counter
from collections.abc import Generator
from contextlib import closing
from itertools import zip_longest
from pathlib import Path
from typing import Annotated

from typer import Argument, Exit, Option, Typer

from segkit.cli.options import AsJson, Jobs, example, pairs, print_json, stoppable

course = Typer(help="The lessons: list them, run them, refresh them.", no_args_is_help=True)
check = Typer(help="The exercises: mark those of a class.", no_args_is_help=True)

_Lessons = Annotated[
    list[str] | None,
    Argument(metavar="[LESSON]...", help="Number (04), name or file. None: all of them."),
]
_Timeout = Annotated[
    float | None, Option(min=1, help="Seconds allowed to one lesson, its kernel's start included.")
]


@course.command("list", epilog=example("segkit course list --json"))
def _list(as_json: AsJson = False) -> None:
    """List the lessons: what each promises, how long it takes, what it can be given."""
    from segkit.course import lessons
    from segkit.files import text_table

    rows = [
        {"number": lesson.number, "name": lesson.path.stem, "title": lesson.title}
        | {"promise": lesson.promise, "minutes": lesson.minutes}
        | {"parameters": lesson.parameters, "path": str(lesson.path)}
        for lesson in lessons()
    ]
    if as_json:
        print_json(rows)
        return
    width = max(30, shutil.get_terminal_size().columns - 40)
    lines: list[tuple] = []
    for row in rows:
        given = ", ".join(f"{name}={value!r}" for name, value in row["parameters"].items())
        text = textwrap.wrap(row["promise"], width) + textwrap.wrap(f"Parameters: {given}", width)
        lines += zip_longest([row["name"]], text, [f"{row['minutes'] or 0:g}"])
    print(text_table(("Lesson", "What it promises", "Minutes"), lines, left=2))


@course.command("run", epilog=example("segkit course run 4 5 --profile quick --jobs 2"))
def _run(
    lesson: _Lessons = None,
    profile: Annotated[str | None, Option(help="quick (CPU) or full (real sizes, a GPU).")] = None,
    dataset: Annotated[str | None, Option(help="Data set, as oxford-pet.")] = None,
    data_dir: Annotated[Path | None, Option(help="Folder a real data set lies in.")] = None,
    seed: Annotated[int | None, Option(help="Seed of everything random.")] = None,
    param: Annotated[
        list[str] | None, Option("--param", "-p", metavar="NAME=VALUE", help="Another parameter.")
    ] = None,
    jobs: Jobs = 1,
    out: Annotated[Path, Option(help="Folder for notebooks and report.")] = Path("build/course"),
    resume: Annotated[bool, Option("--resume", help="Keep what passed unchanged.")] = False,
    timeout: _Timeout = None,
    pages: Annotated[bool, Option(help="Render each lesson as HTML too.")] = True,
) -> None:
    """Run lessons and report on them in OUT/index.html.

    A lesson chosen by hand must declare every parameter given. When all are run, each takes
    those it declares, and the rest keep to their own data. Exit code 1: a lesson did not
    pass; 2: nothing ran, because a name or a value is wrong; 130: interrupted.
    """
    from segkit.course import arguments, find, run

    named = {"profile": profile, "dataset": dataset, "data_dir": data_dir, "seed": seed}
    given = {name: value for name, value in named.items() if value is not None} | pairs(param)
    parameters = arguments(find(lesson or []), given, strict=bool(lesson))
    options = {"jobs": jobs, "timeout": timeout, "resume": resume, "pages": pages}
    try:
        _follow(run(parameters, out, **options), len(parameters))
    finally:
        if (out / "index.html").is_file():
            print(f"Report: {out / 'index.html'}")


@course.command("refresh", epilog=example("segkit course refresh 07"))
def _refresh(lesson: _Lessons = None, jobs: Jobs = 1, timeout: _Timeout = None) -> None:
    """Run the committed lessons where they are and store their outputs in them.

    A lesson of which a cell fails stays as it was; the exit code is then 1.
    """
    from segkit.course import find, refresh

    chosen = find(lesson or [])
    _follow(refresh(chosen, jobs=jobs, timeout=timeout), len(chosen))


def _follow(outcomes: Generator, total: int) -> None:
    """Print each lesson's outcome as it ends; exit with code 1 unless all passed."""
    from tqdm import tqdm

    passed = 0
    with stoppable(), closing(outcomes), tqdm(total=total, unit="lesson", disable=None) as bar:
        for number, outcome in enumerate(outcomes, 1):
            tqdm.write(f"[{number}/{total}] {outcome}")
            bar.update()
            passed += outcome.status in ("passed", "kept")
    print(f"{passed} of {total} lessons passed")
    raise Exit(0 if passed == total else 1)


@check.command("grade", epilog=example("segkit check grade class/*_07.ipynb --csv marks.csv"))
def _grade(
    notebooks: Annotated[list[Path], Argument(metavar="NOTEBOOK...", help="Learners' files.")],
    jobs: Jobs = 1,
    timeout: Annotated[float, Option(min=1, help="Seconds that a cell may take.")] = 120,
    csv: Annotated[Path | None, Option(help="Write the table to this file, too.")] = None,
    as_json: AsJson = False,
) -> None:
    """Mark the exercises in learners' notebooks: a row for each, a column for each exercise.

    Runs the code in them: do that where it can do no harm. The notebooks are not changed. Exit
    code 1: some notebook could not be marked.
    """
    from segkit.files import csv_text, text_table, write_text
    from segkit.grade import grade_all

    with stoppable():
        marked = grade_all(notebooks, jobs, timeout)
    names = list(dict.fromkeys(name for one in marked for name in one.marks))
    words = {"passed": "right", "failed": "wrong", "todo": "-", "not run": "not run"}
    rows, lines = [], []
    for one in marked:
        right = sum(status == "passed" for status in one.marks.values())
        rows.append({"notebook": one.notebook, "right": right, "error": one.error, **one.marks})
        total = f"{right} of {len(one.marks)}" if one.marks else ""
        marks = (words.get(one.marks.get(name), "") for name in names)
        lines.append((one.notebook.name, *marks, total, one.error))
    if csv:
        write_text(csv, csv_text(("notebook", *names, "right", "error"), rows))
    if as_json:
        print_json([one._asdict() for one in marked])
    else:
        print(text_table(("notebook", *names, "right", "error"), lines, left=len(names) + 3))
    raise Exit(1 if any(one.error for one in marked) else 0)


def reproduce(
    profile: Annotated[
        str, Option(help="quick (a CPU, procedural data) or full (a GPU, real data).")
    ] = "quick",
    only: Annotated[
        list[str] | None,
        Option(metavar="DESIGN", help="One design alone, as abi2024; repeat it for more."),
    ] = None,
    data_dir: Annotated[
        Path | None,
        Option(envvar="SEGKIT_REAL_DATA", help="Folder with oxford-iiit-pet, teeth-xray, nuclei."),
    ] = None,
    minutes: Annotated[
        float | None, Option(min=0, help="Stop after so many; the next call resumes.")
    ] = None,
    jobs: Annotated[
        int | None, Option("--jobs", "-j", min=1, help="Runs at a time. Default: by cores.")
    ] = None,
    out: Annotated[
        Path | None, Option(help="Folder of records and ledger. Default: figures/results.")
    ] = None,
) -> None:
    """Run the experiments that are missing and rewrite the ledger of claims.

    A run whose record lies in OUT/records is not repeated: give a new --out to repeat all.
    The design "quality", real pets at 128 pixels, belongs to no profile and has to be named.
    Exit code 1: not all runs are done, because some failed or the time was up.
    """
    from segkit import experiments

    designs, ledger = experiments.load("designs"), experiments.load("ledger")
    chosen = designs.select(profile, only or [])
    out = out or ledger.results()
    configs = experiments.by_hash(config for design in chosen for config in design.configs())
    with stoppable():
        outcome = experiments.run_all(configs, out / "records", data_dir, jobs, minutes)
        ledger.publish(out)
    print(f"{len(outcome.done)} of {len(configs)} runs are done. Ledger: {out / 'ledger.md'}")
    for error, times in Counter(outcome.failed.values()).items():
        print(f"{times} failed: {error}", file=sys.stderr)
    if outcome.left:
        print(f"{len(outcome.left)} are left: call again to resume", file=sys.stderr)
    raise Exit(1 if outcome.failed or outcome.left else 0)
