"""What the commands share: how they print, watch, stop and end."""

import json
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for a script.")]
Batch = Annotated[int | None, typer.Option("--batch-size", min=1, help="Images at a time.")]
Border = Annotated[
    str | None,
    typer.Option(help="What a trimap's border becomes: ignore, pet, background or class."),
]
Data = Annotated[
    str | None,
    typer.Option("--data", "-d", help="A data set by name, a folder, or a config file."),
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda or mps. Default: the best there is.")]


def example(command: str) -> str:
    """Return the last lines of a command's help."""
    return f"Example: {command}"


def pairs(texts: Sequence[str] | None, hint: str = "--param") -> dict[str, str]:
    """Return NAME=VALUE texts as a dictionary."""
    for text in texts or []:
        if "=" not in text:
            raise typer.BadParameter(f"{text!r} is not NAME=VALUE", param_hint=hint)
    return dict(text.split("=", 1) for text in texts or [])


def values(texts: Sequence[str] | None, hint: str = "--set") -> dict[str, Any]:
    """Return NAME=VALUE texts as a dictionary; the values are read as YAML: 3, true, [1, 2]."""
    import yaml

    try:
        return {name: yaml.safe_load(text) for name, text in pairs(texts, hint).items()}
    except yaml.YAMLError as error:
        raise typer.BadParameter(f"not a value: {error}", param_hint=hint) from None


def print_json(value: Any) -> None:
    """Print a value for a script."""
    print(json.dumps(value, indent=1, ensure_ascii=False, default=str))


def print_table(
    columns: tuple[str, ...], rows: Sequence[tuple[str, ...]], numbers: bool = False
) -> None:
    """Print a table that fits the terminal; numbers: all columns but the first hold such."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE, show_header=any(columns))
    for k, column in enumerate(columns):
        table.add_column(column, justify="right" if numbers and k else "left")
    for row in rows:
        table.add_row(*row)
    Console().print(table, markup=False)


def stderr() -> "Console":
    """Return the console for what only a person reads: nothing shows in a log or a pipe."""
    from rich.console import Console

    return Console(stderr=True, quiet=not sys.stderr.isatty())


@contextmanager
def bar(what: str, total: int | None = None) -> Iterator[Callable[..., None]]:
    """Yield what is called after each file; it moves a bar on stderr, where a person watches."""
    from rich.progress import Progress

    # Rich would send what is printed to stderr too, and so past a pipe or a file.
    own = sys.stdout.isatty()
    with Progress(console=stderr(), transient=True, redirect_stdout=own) as progress:
        task = progress.add_task(what, total=total)
        yield lambda *_: progress.advance(task)


@contextmanager
def stoppable() -> Iterator[None]:
    """Leave with code 130 on Ctrl-C, and on the "please stop" of a scheduler (SIGTERM)."""

    def stop(number: int, frame: FrameType | None) -> None:
        on_ctrl_c = signal.getsignal(signal.SIGINT)  # training, for one, has its own
        (on_ctrl_c if callable(on_ctrl_c) else signal.default_int_handler)(number, frame)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        raise typer.Exit(130) from None
    finally:
        signal.signal(signal.SIGTERM, before)
