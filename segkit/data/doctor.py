"""The data doctor: what is wrong with a folder of images and masks, before a network learns it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segkit.data.folder import GroupBy

SEVERITIES = ("error", "warning", "note")


@dataclass(frozen=True)
class Finding:
    """One kind of fault and all files that have it.

    code: what it is called, as "size-mismatch". severity: "error" (the loader refuses it, or a
    wrong model or score follows), "warning" (look at it), "note" (good to know). what, cure:
    sentences. files: relative to the folder. details: one per file, what was seen there, or "".
    fixable: whether `fix` can do something about it.
    """

    code: str
    severity: str
    what: str
    cure: str
    files: tuple[str, ...] = ()
    details: tuple[str, ...] = ()
    fixable: bool = False


@dataclass
class Report:
    """What `check` found in `folder`: the findings, the worst first, and facts about the data."""

    folder: Path
    layout: str
    findings: list[Finding] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def of(self, severity: str) -> list[Finding]:
        """Return the findings of one severity: "error", "warning" or "note"."""
        return [finding for finding in self.findings if finding.severity == severity]

    @property
    def ok(self) -> bool:
        """Whether there is no error."""
        return not self.of("error")

    def to_dict(self) -> dict[str, Any]:
        """Return the report as values that JSON can hold."""
        raise NotImplementedError

    def print(self, files: int = 3) -> None:
        """Print the report as tables; at most so many files of each finding are named."""
        raise NotImplementedError

    def write_html(self, path: str | Path) -> None:
        """Write the report as one page that needs no other file, with thumbnails."""
        raise NotImplementedError


@dataclass(frozen=True)
class Fix:
    """What `fix` did with one file: `written` is where, in `out`, or None if it was left out."""

    file: str
    written: str | None
    what: str


def check(
    folder: str | Path,
    *,
    class_names: Sequence[str] | None = None,
    values: str = "auto",
    group_by: GroupBy = None,
) -> Report:
    """Look at every file in `folder` and report what is wrong.

    folder: images and masks (see `segkit.data.folder`), Oxford-IIIT Pet, or LabelMe files.
    class_names, values, group_by: as for `segkit.data.folder.open_folder`.
    Raises FileNotFoundError where there is none of these layouts.
    """
    raise NotImplementedError


def fix(report: Report, out: str | Path) -> list[Fix]:
    """Write a corrected copy of the data of `report` to `out`; the originals stay as they are.

    out: a new or empty folder that is neither the source nor inside it. It appears when all is
    written, or not at all. What cannot be corrected without guessing is left out, and listed.
    Raises DataError for another `out`, or for a layout that is not images and masks.
    """
    raise NotImplementedError
