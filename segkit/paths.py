"""Where things are, whatever directory a notebook or a command was started from."""

import os
import subprocess
from pathlib import Path

from segkit.errors import SegkitError


class CourseMissingError(SegkitError, FileNotFoundError):
    """segkit is installed without the course around it."""


def root() -> Path:
    """Return the root of the course: the folder that holds `notebooks/` and `pyproject.toml`.

    Raises:
        CourseMissingError: the notebooks are not there; the message says what to do.
    """
    here = Path(__file__).resolve().parent.parent
    for folder in (here, Path.cwd(), *Path.cwd().parents):
        if (folder / "notebooks").is_dir() and (folder / "pyproject.toml").is_file():
            return folder
    raise CourseMissingError(
        "the course's notebooks are not beside segkit: clone the repository and run inside it"
    )


def data_dir() -> Path:
    """Return the folder for downloads and caches: $SEGKIT_DATA, else `data/` of the course.

    Outside a checkout it is `~/.cache/segkit`. The folder is not created here.
    """
    if os.environ.get("SEGKIT_DATA"):
        return Path(os.environ["SEGKIT_DATA"]).expanduser()
    try:
        return root() / "data"
    except CourseMissingError:
        return Path.home() / ".cache" / "segkit"


def git_revision() -> str | None:
    """Return the git revision of the code, with "-dirty" if it was edited, or None."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    options = {"cwd": Path(__file__).parent, "capture_output": True, "text": True, "timeout": 10}
    try:
        return subprocess.run(command, **options).stdout.strip() or None
    except (OSError, subprocess.TimeoutExpired):
        return None
