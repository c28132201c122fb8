"""`segkit check`: the exercises of a class."""

from pathlib import Path
from typing import Annotated

import typer

from segkit.cli.frame import AsJson, bar, example, print_json, print_table, stoppable

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
    from segkit.files import write_text
    from segkit.grade import asked, grade_all, to_csv

    with stoppable(), bar("marking", len(notebooks)) as advance:
        marked = grade_all(notebooks, jobs, timeout, advance)
    if csv:
        write_text(csv, to_csv(marked))
    if as_json:
        rows = [{"notebook": str(m.notebook), "marks": m.marks, "error": m.error} for m in marked]
        print_json(rows)
    else:
        columns = asked(marked)
        rows = []
        for one in marked:
            signs = [SIGNS.get(one.marks.get(name, ""), "") for name in columns]
            total = f"{one.passed} of {len(one.marks)}" if one.marks else one.error
            rows.append((one.notebook.name, *signs, total))
        print_table(("notebook", *columns, "right"), rows)
    raise typer.Exit(1 if any(one.error for one in marked) else 0)
