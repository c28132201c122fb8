"""What the commands share: options, and how they print, stop and show progress."""

import json
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Annotated, Any

from typer import BadParameter, Exit, Option

AsJson = Annotated[bool, Option("--json", help="Print JSON, for a script.")]
Batch = Annotated[int | None, Option("--batch-size", min=1, help="Images at a time.")]
Border = Annotated[str | None, Option(help="Of a trimap: ignore, pet, background or class.")]
Data = Annotated[str | None, Option("--data", "-d", help="A data set, folder or config file.")]
Device = Annotated[str | None, Option(help="cpu, cuda or mps. Default: the best there is.")]
ImageSuffix = Annotated[str, Option(help="Of image names: _rgb pairs a_rgb.jpg with a.png.")]
Intensity = Annotated[
    str | None,
    Option(help="Of 16-bit, float or N-channel images: percentile, dtype, or LOW,HIGH."),
]
Jobs = Annotated[int, Option("--jobs", "-j", min=1, help="How many at once.")]
MaskSuffix = Annotated[str, Option(help="Of mask names: _mask pairs a.jpg with a_mask.png.")]
Values = Annotated[
    str | None,
    Option(
        help="What masks hold: auto, ids, 0/255, or a class per value, as 0=background,128=disc "
        "or '#000000=background,#ff0000=disc'; ignore is one, too."
    ),
]


def example(command: str) -> str:
    """Return the last line of a command's help."""
    return f"Example: {command}"


def pairs(texts: Sequence[str] | None, hint: str = "--param") -> dict[str, str]:
    """Return NAME=VALUE texts as a dictionary."""
    for text in texts or []:
        if "=" not in text:
            raise BadParameter(f"{text!r} is not NAME=VALUE", param_hint=hint)
    return dict(text.split("=", 1) for text in texts or [])


def values(texts: Sequence[str] | None, hint: str = "--set") -> dict[str, Any]:
    """Return NAME=VALUE texts as a dictionary; the values are read as YAML: 3, true, [1, 2]."""
    import yaml

    try:
        return {name: yaml.safe_load(text) for name, text in pairs(texts, hint).items()}
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise BadParameter(f"not a value: {error}", param_hint=hint) from None


def value_map(text: str | None) -> dict[str, str] | str | None:
    """Return what --values was given, VALUE=CLASS,... as a dictionary."""
    if not text or "=" not in text:
        return text
    found = [part.strip() for part in text.split(",")]
    made = {k.strip(): v.strip() for k, v in pairs(found, "--values").items()}
    if len(made) < len(found):
        raise BadParameter(f"{text!r} names a value twice", param_hint="--values")
    return made


def intensity(text: str | None) -> str | list[float] | None:
    """Return what --intensity was given, LOW,HIGH as two numbers."""
    if not text or "," not in text:
        return text
    try:
        return [float(number) for number in text.split(",")]
    except ValueError:
        raise BadParameter(f"{text!r} is not LOW,HIGH", param_hint="--intensity") from None


def print_json(value: Any) -> None:
    """Print a value for a script."""
    print(json.dumps(value, indent=1, ensure_ascii=False, default=str))


def progress(text: str) -> None:
    """Print what is being done on stderr, where a person watches: nothing in a log or a pipe."""
    if sys.stderr.isatty():
        print(f"{text} …", file=sys.stderr)


@contextmanager
def stoppable() -> Iterator[None]:
    """Exit with code 130 on Ctrl-C, and on the SIGTERM of a scheduler."""

    def stop(number: int, frame: FrameType | None) -> None:
        on_ctrl_c = signal.getsignal(signal.SIGINT)  # training, for one, has its own
        (on_ctrl_c if callable(on_ctrl_c) else signal.default_int_handler)(number, frame)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        raise Exit(130) from None
    finally:
        signal.signal(signal.SIGTERM, before)
