"""The `segkit` command. Each command imports what it needs when it is called: help is quick."""

import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from inspect import Parameter, signature
from typing import Any

import typer

from segkit.cli import course, data, model
from segkit.cli.options import AsJson, example, print_json
from segkit.errors import SegkitError

app = typer.Typer(
    name="segkit",
    help="Semantic segmentation, taught end to end: run the lessons, train, evaluate, export.",
    epilog="Exit codes: 0 well, 1 something failed but the rest is done, 2 wrong usage or input, "
    "130 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
_IMPORT = "segkit import-weights unet.pth -n unet --classes background,cell --size 256 "
_IMPORT += "--mean 0,0,0 --std 1,1,1 -o model.safetensors"
_EXAMPLES = {
    model.train: "segkit train --data toy-pets --border ignore --epochs 5 -s model.width=8",
    model.evaluate: "segkit evaluate runs/pets/model.safetensors --split test --report card.html",
    model.import_weights: _IMPORT,
    model.predict: "segkit predict runs/pets/model.safetensors photos --out masks --overlay",
    model.export: "segkit export runs/pets/model.safetensors pets.onnx",
    course.reproduce: "segkit reproduce --profile full --data-dir ~/data --minutes 9",
}
for _command, _line in _EXAMPLES.items():
    app.command(epilog=example(_line))(_command)
app.add_typer(data.data, name="data")
app.add_typer(course.course, name="course")
app.add_typer(course.check, name="check")


@app.command("doctor", epilog=example("segkit doctor"))
def _doctor(as_json: AsJson = False) -> None:
    """Report on this machine: versions, device, threads, precision, and what is missing."""
    from segkit.environment import report
    from segkit.files import text_table

    found = report()
    if as_json:
        print_json(found)
    else:
        rows = [(name, _describe(value)) for name, value in found.items()]
        print(text_table(("", ""), rows, left=2).lstrip("\n"))
    raise typer.Exit(1 if found["missing"] else 0)


def _describe(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_describe(inner)}" for name, inner in value.items())
    if isinstance(value, list):
        return ", ".join(map(_describe, value)) or "nothing"
    return "not there" if value is None else str(value)


def _in_options(message: str, words: Sequence[str]) -> str:
    """Return a message with the options of the command called in place of Python's arguments."""
    command = typer.main.get_command(app)
    for word in words:
        command = getattr(command, "commands", {}).get(word, command)
    options = {p.name: max(p.opts, key=len) for p in command.params if p.opts[0].startswith("-")}
    options |= {"class_names": options["classes"]} if "classes" in options else {}

    def spelled(match: re.Match) -> str:
        name, value = match[1], match[2].strip("'\"")
        if name in options:
            return options[name] if value == "True" else f"{options[name]} {shlex.quote(value)}"
        if command.name == "train" and name in _parameters():
            return f"-s fit.{name}={value}"
        return match[0]

    return re.sub(r"(?<![.\w])([a-z]\w+)=(\"[^\"]*\"|'[^']*'|[\w.+-]*\w)", spelled, message)


def _parameters() -> Mapping[str, Parameter]:
    from segkit.train import fit

    return signature(fit).parameters


def main() -> None:
    """Run the command line; an error about the input is one line, a bug shows its traceback."""
    try:
        app()
    except SegkitError as error:
        print(f"segkit: {_in_options(str(error), sys.argv[1:])}", file=sys.stderr)
        # the work failed, but what was asked for is not wrong
        sys.exit(1 if type(error).__name__ in ("TrainingError", "ExportError") else 2)
