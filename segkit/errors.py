"""The errors that are about what segkit was given. Everything else that is raised is a bug."""

import difflib
from collections.abc import Collection


class SegkitError(Exception):
    """The input, an argument or a file cannot be used; the message says what to do.

    The command line prints the message of these alone. Any other exception shows its traceback.
    """


class ArgumentError(SegkitError, ValueError):
    """An argument whose value cannot be used."""


class DataError(SegkitError, ValueError):
    """Data that would train a wrong model; the message names the file and the remedy."""


class NoDataError(DataError, FileNotFoundError):
    """Data that are not there; the message says how to get them."""


class CheckpointError(SegkitError, RuntimeError):
    """A checkpoint or model file that cannot be used; the message names the file and the remedy."""


class TrainingError(SegkitError, RuntimeError):
    """Training cannot continue; the message says at which step, on what, and what to change."""


def one_of(kind: str, value: object, known: Collection[str]) -> str:
    """Return `value` if it is a known name.

    Args:
        kind: what the value names, for the message: "network", "loss".
        value: the name that was given.
        known: the names that exist.

    Raises:
        ArgumentError: it is none of them; the message lists them, with the closest one first.
    """
    if isinstance(value, str) and value in known:
        return value
    close = difflib.get_close_matches(str(value), known, 1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    raise ArgumentError(f"no {kind} {value!r}{hint}; there are: {', '.join(known)}")
