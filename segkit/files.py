"""Writing files and folders whole or not at all, and tables as text."""

import csv
import io
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from segkit.errors import SegkitError


class FileError(SegkitError, OSError):
    """A file or folder that cannot be written where it was asked for."""


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Yield a name to write to, and move it to `path` once everything is written.

    A reader, or a crash, never meets half a file. Missing parent folders are created.

    Raises:
        FileError: the file cannot be written; what stood at `path` is still there.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        with open(part, "rb+") as written:
            os.fsync(written.fileno())  # else a power cut may leave the name without its content
        os.replace(part, path)
    except OSError as error:
        if isinstance(error, SegkitError):
            raise
        raise FileError(
            f"cannot write {path}: {error.strerror or error}. Make room, or choose another place"
        ) from error
    finally:
        with suppress(OSError):  # the folder may not exist
            part.unlink()


def write_text(path: str | Path, text: str) -> None:
    """Write `text` to `path` as UTF-8, whole or not at all."""
    with atomic_file(path) as part:
        part.write_text(text, encoding="utf-8", newline="\n")


@contextmanager
def atomic_folder(out: str | Path, source: str | Path) -> Iterator[Path]:
    """Yield a folder to write to, and move it to `out` once everything is written.

    Args:
        out: a new or empty folder, apart from `source`, whose files thus stay as they are.
        source: the folder that is read.

    Raises:
        FileError: `out` holds files, or lies inside `source` or around it.
    """
    target, origin = Path(out).resolve(), Path(source).resolve()
    if target == origin or origin in target.parents or target in origin.parents:
        raise FileError(f"{out} lies inside {source} or around it: choose a folder elsewhere")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FileError(f"{out} is there already, and not empty: choose a new folder")
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        part.mkdir(parents=True)
        yield part
        if target.exists():
            target.rmdir()
        os.replace(part, target)
    except OSError as error:
        if isinstance(error, SegkitError):
            raise
        # The file may be one that was read: name it.
        file = f" ({error.filename})" if error.filename else ""
        raise FileError(f"cannot write {out}: {error.strerror or error}{file}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def text_table(columns: Sequence[str], rows: Iterable[Sequence[object]], left: int = 1) -> str:
    """Return a table as text: a line of column names, then one line per row.

    Args:
        columns: the names above the columns.
        rows: the cells of each row; None is an empty cell.
        left: how many columns, from the first, are aligned to the left; the others, usually
            numbers, to the right.
    """
    lines = [[*columns], *(["" if cell is None else str(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if k < left else cell.rjust(width)
            for k, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Return rows as CSV with a line of column names; None is an empty cell."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
