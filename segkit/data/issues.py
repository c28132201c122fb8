"""What can be wrong with data, and the one place where its sentence is made."""

import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from segkit.data.dataset import DataError

SEVERITIES = ("error", "warning", "note")
KINDS = tomllib.loads(resources.files("segkit.data").joinpath("issues.toml").read_text("utf-8"))


@dataclass(frozen=True)
class Issue:
    """One kind of issue and the files that have it.

    code: a key of `KINDS`. files, details: as many of each; a detail is what was seen in that
    file, or "". fixable: whether `segkit.doctor.fix` can correct some of the files.
    """

    code: str
    files: tuple[str | Path, ...]
    details: tuple[str, ...]
    fixable: bool = False

    @property
    def severity(self) -> str:
        """Return "error", "warning" or "note"."""
        return KINDS[self.code]["severity"]

    @property
    def what(self) -> str:
        """Return what is wrong."""
        return KINDS[self.code]["what"]

    @property
    def remedy(self) -> str:
        """Return what to do about it."""
        return KINDS[self.code]["remedy"]

    def places(self, show: int) -> list[str]:
        """Return the first files with their details, and how many more there are."""
        found = zip(self.files[:show], self.details, strict=False)
        lines = [f"{file} ({detail})" if detail else str(file) for file, detail in found]
        more = len(self.files) - show
        return lines + ([f"and {more} more"] if more > 0 else [])

    def __str__(self) -> str:
        if len(self.files) == 1:
            detail = f" ({self.details[0]})" if self.details[0] else ""
            return f"{self.files[0]}: {self.what}{detail}: {self.remedy}"
        files = "\n  ".join(self.places(5))
        return f"{len(self.files)} files: {self.what}: {self.remedy}\n  {files}"


def issue(code: str, file: str | Path, detail: str = "") -> Issue:
    """Return the issue of one file."""
    return Issue(code, (file,), (detail,))


def grouped(issues: Iterable[Issue]) -> list[Issue]:
    """Return one issue for each code, with all its files in order; the worst come first."""
    found: dict[str, list[tuple[str | Path, str]]] = {}
    single = [(f, d, i.code) for i in issues for f, d in zip(i.files, i.details, strict=True)]
    for file, detail, code in sorted(single, key=lambda entry: str(entry[0])):
        found.setdefault(code, []).append((file, detail))
    merged = [Issue(code, *zip(*pairs, strict=True)) for code, pairs in found.items()]
    return sorted(merged, key=lambda one: (SEVERITIES.index(one.severity), -len(one.files)))


class IssueError(DataError):
    """Data that cannot be used; `issues` says why."""

    def __init__(self, *issues: Issue, where: str | Path = "") -> None:
        super().__init__(_joined([str(one) for one in issues], where))
        self.issues = issues


def raise_errors(issues: Iterable[Issue], where: str | Path) -> None:
    """Raise one IssueError that lists all issues that are errors, if there are any."""
    errors = [one for one in grouped(issues) if one.severity == "error"]
    if errors:
        raise IssueError(*errors, where=where)


def refuse(messages: Sequence[str], where: str | Path) -> None:
    """Raise one DataError that lists the first messages, if there are any."""
    if messages:
        raise DataError(_joined(messages, where))


def _joined(messages: Sequence[str], where: str | Path, show: int = 8) -> str:
    if len(messages) == 1:
        return messages[0]
    lines = [f"{len(messages)} faults in {where}:", *(f"- {m}" for m in messages[:show])]
    return "\n".join(lines + [f"- and {len(messages) - show} more"] * (len(messages) > show))
