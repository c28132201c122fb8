"""Writing a text, or a folder, whole or not at all.

For files it is `segkit.onnx_predictor.whole_file` that does it, because that module travels alone
beside exported networks and can import nothing from here.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from segkit.onnx_predictor import whole_file


def write_atomic(path: str | Path, text: str) -> None:
    """Write `text` to `path` so that a reader, or a crash, never meets half of it."""
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8", newline="\n")


@contextmanager
def whole_folder(out: str | Path, source: str | Path) -> Iterator[Path]:
    """Give a folder to write to, and move it to `out` when all is written: whole or not at all.

    out: new or empty, and apart from `source`, whose files thus stay as they are. Raises
    FileExistsError, an OSError, for any other.
    """
    target, origin = Path(out).resolve(), Path(source).resolve()
    if target == origin or origin in target.parents or target in origin.parents:
        raise FileExistsError(f"{out} lies inside {source} or around it: choose a folder elsewhere")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(f"{out} is there already, and not empty: choose a new folder")
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    part.mkdir(parents=True)
    try:
        yield part
        if target.exists():
            target.rmdir()
        os.replace(part, target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
