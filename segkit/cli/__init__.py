"""The `segkit` command. Each command imports what it needs when it is called: help is quick.

Exit codes: 0, all is well; 1, something failed, and the rest is done; 2, what was asked for is
wrong, and nothing was done; 130, interrupted.
"""

import sys
import traceback
from typing import Any

import typer

from segkit.cli import course, data, grade, use
from segkit.cli.frame import AsJson, example, print_json, print_table
from segkit.cli.reproduce import reproduce
from segkit.cli.train import train

app = typer.Typer(
    name="segkit",
    help="Semantic segmentation, taught end to end: run the lessons, train, evaluate and export.",
    epilog="Exit codes: 0 well, 1 something failed but the rest is done, 2 wrong usage or input, "
    "130 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
EXAMPLES = {
    train: "segkit train --data toy-pets --border ignore --epochs 5 -s model.width=8",
    use.evaluate: "segkit evaluate runs/pets/model.safetensors --split test --report card.html",
    use.predict: "segkit predict runs/pets/model.safetensors photos --out masks --overlay",
    use.export: "segkit export runs/pets/model.safetensors pets.onnx",
    reproduce: "segkit reproduce --profile full --data-dir ~/data --minutes 9",
}
for command, line in EXAMPLES.items():
    app.command(epilog=example(line))(command)
app.add_typer(data.data, name="data")
app.add_typer(course.course, name="course")
app.add_typer(grade.check, name="check")

FAILURES = ("TrainingError", "ExportError")  # the work failed; what was asked for is not wrong


@app.command(epilog=example("segkit doctor"))
def doctor(as_json: AsJson = False) -> None:
    """Report on this machine: versions, device, threads, precision, and what is missing."""
    from segkit.environment import report

    found = report()
    if as_json:
        print_json(found)
    else:
        print_table(("", ""), [(name, describe(value)) for name, value in found.items()])
    raise typer.Exit(1 if found["missing"] else 0)


def describe(value: Any) -> str:
    """Return a value of a report as text for a person."""
    if isinstance(value, dict):
        return "\n".join(f"{name} {describe(inner)}" for name, inner in value.items())
    if isinstance(value, list):
        return ", ".join(map(describe, value)) or "nothing"
    return {None: "not there", True: "yes", False: "no"}.get(value, str(value))


def main() -> None:
    """Run the command line; what is wrong with the input is a message, not a traceback."""
    try:
        app()
    except Exception as error:
        if not about_input(error):
            raise
        print(f"segkit: {error}", file=sys.stderr)
        sys.exit(1 if type(error).__name__ in FAILURES else 2)


def about_input(error: Exception) -> bool:
    """Whether the error tells of what segkit was given, and is no fault of a program.

    Those are segkit's own kinds, what the system says of files, and the plain errors that
    segkit's code, not a library it called, raised about an argument.
    """
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    ours = frame.f_globals.get("__name__", "").startswith("segkit")
    plain = isinstance(error, (ValueError, TypeError)) and ours
    return type(error).__module__.startswith("segkit") or isinstance(error, OSError) or plain
