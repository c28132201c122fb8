"""`segkit check`: the exercises of a class."""

from pathlib import Path
from typing import Annotated

import typer

from segkit.cli.frame import AsJson, example, print_json, stoppable

check = typer.Typer(help="The exercises: mark those of a class.", no_args_is_help=True)
SIGNS = {"passed": "right", "failed": "wrong", "todo": "-", "not run": "not run"}


@check.command("grade", epilog=example("segkit check grade class/*_07.ipynb --csv marks.csv"))
def grade(
    notebooks: Annotated[
        list[Path], typer.Argument(metavar="NOTEBOOK...", help="Learners' files.")
    ],
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, help="Notebooks at once.")] = 1,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds that a cell may take.")] = 120,
    csv: Annotated[Path | None, typer.Option(help="Write the table to this file, too.")] = None,
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
    right = [sum(status == "passed" for status in one.marks.values()) for one in marked]
    if csv:
        rows = [
            {"notebook": one.notebook, "right": count, "error": one.error, **one.marks}
            for one, count in zip(marked, right, strict=True)
        ]
        write_text(csv, csv_text(("notebook", *names, "right", "error"), rows))
    if as_json:
        print_json([{**one._asdict(), "notebook": str(one.notebook)} for one in marked])
    else:
        rows = [
            (
                one.notebook.name,
                *(SIGNS.get(one.marks.get(name), "") for name in names),
                f"{count} of {len(one.marks)}" if one.marks else one.error,
            )
            for one, count in zip(marked, right, strict=True)
        ]
        print(text_table(("notebook", *names, "right"), rows, left=len(names) + 2))
    raise typer.Exit(1 if any(one.error for one in marked) else 0)
