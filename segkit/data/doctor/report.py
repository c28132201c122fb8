"""What the data doctor found, and how it is shown: in the terminal, as JSON, as a page."""

import io
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from segkit.data import read
from segkit.data.dataset import IGNORE, DataError
from segkit.files import write_text
from segkit.page import page, picture, table

SEVERITIES = ("error", "warning", "note")
COLOURS = {"error": "red", "warning": "yellow", "note": "cyan"}
THUMBNAIL = 150  # pixels of the longer side
SHOWN = 6  # thumbnails and details of a finding, on the page
STYLE = """
.thumbs { display: flex; flex-wrap: wrap; gap: .8rem; }
.thumbs figure { max-width: 310px; overflow-wrap: anywhere; }
.error { color: #d1242f; } .warning { color: #9a6700; } .note { color: var(--quiet); }
@media (prefers-color-scheme: dark) { .error { color: #ff7b72; } .warning { color: #e3b341; } }
"""


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
class Example:
    """An image and its mask, and all that is to be known about them once both were read.

    image, mask: None where it is missing. modes: how the image's file stores a pixel. size: (H, W).
    counts: pixels of each mask value, int (256,). thin: how many of them are close to a lower and
    a higher value, as at interpolated edges. jumps, strips: see `look.jumps`. lossy: whether the
    mask is a JPEG. colours: of the mask's values, if it has a palette. digest: of the image's
    pixels. hash: perceptual, bool (256,). look: the image in small, normalised, float (1024,).
    """

    name: str
    split: str
    image: Path | None
    mask: Path | None
    modes: tuple[str, ...] = ()
    size: tuple[int, int] | None = None
    counts: np.ndarray | None = None
    thin: np.ndarray | None = None
    jumps: float = np.nan
    strips: int = 0
    lossy: bool = False
    colours: dict[int, tuple[int, ...]] = field(default_factory=dict)
    digest: bytes = b""
    hash: np.ndarray | None = None
    look: np.ndarray | None = None

    @property
    def files(self) -> list[Path]:
        """The files there are."""
        return [file for file in (self.image, self.mask) if file]

    @property
    def values(self) -> list[int]:
        """The values in the mask, in order; none where it could not be read."""
        return [] if self.counts is None else np.flatnonzero(self.counts).tolist()


@dataclass
class Report:
    """What `check` found in `folder`: the findings, the worst first, and facts about the data.

    layout: "folder", "oxford-pet" or "labelme". facts: "pairs" per split, "sizes" and "modes" with
    their number of images, "values" (how the masks are read: "ids", "0/255" or "trimap", None if
    unclear) and "classes", each with its "id", "name", "share" of all pixels and "images".
    """

    folder: Path
    layout: str
    findings: list[Finding] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    examples: list[Example] = field(default_factory=list, repr=False)
    load: Callable[[Example], tuple[np.ndarray, np.ndarray]] | None = field(
        default=None, repr=False
    )

    def of(self, severity: str) -> list[Finding]:
        """Return the findings of one severity: "error", "warning" or "note"."""
        return [finding for finding in self.findings if finding.severity == severity]

    @property
    def ok(self) -> bool:
        """Whether there is no error."""
        return not self.of("error")

    @property
    def verdict(self) -> str:
        """One line: how many findings of each severity."""
        number = {severity: len(self.of(severity)) for severity in SEVERITIES}
        told = [f"{n} {severity}{'s' * (n > 1)}" for severity, n in number.items() if n]
        pairs = sum(self.facts["pairs"].values())
        return f"{pairs} pairs: {', '.join(told) or 'nothing to complain about'}"

    def to_dict(self) -> dict[str, Any]:
        """Return the report as values that JSON can hold."""
        return {
            "folder": str(self.folder),
            "layout": self.layout,
            "ok": self.ok,
            "findings": [asdict(finding) for finding in self.findings],
            "facts": self.facts,
        }

    def print(self, files: int = 3) -> None:
        """Print the report as tables; at most so many files of each finding are named."""
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        console = Console()
        console.print(Text(f"{self.folder} ({self.layout}): {self.verdict}", "bold"))
        if self.findings:
            shown = Table(box=box.SIMPLE)
            shown.add_column("", no_wrap=True)
            shown.add_column("What, and what to do", ratio=1)
            shown.add_column("Where", ratio=1, overflow="fold")
            for finding in self.findings:
                fix = " (--fix corrects a copy, where that is clear)" if finding.fixable else ""
                shown.add_row(
                    Text(f"{finding.code}\n{finding.severity}", COLOURS[finding.severity]),
                    Text(f"{finding.what}\n").append(finding.cure + fix, "italic"),
                    Text("\n".join(_places(finding, files))),
                )
            console.print(shown)
        facts = Table("", "", box=box.SIMPLE, show_header=False)
        for name, value in self._lines():
            facts.add_row(name, Text(value))
        console.print(facts)

    def write_html(self, path: str | Path) -> None:
        """Write the report as one page that needs no other file, with thumbnails."""
        parts = [f'<p class="quiet">{escape(str(self.folder))}, read as {self.layout}</p>']
        parts += [self._section(finding) for finding in self.findings]
        parts += ["<h2>The data</h2>", table("What is there", (), self._lines(), numbers=False)]
        parts += [f'<div class="thumbs">{self._samples()}</div>']
        write_text(path, page(f"Data: {self.verdict}", "\n".join(parts), STYLE))

    def _lines(self) -> list[tuple[str, str]]:
        facts = self.facts
        lines = [(name, _counted(facts[name])) for name in ("pairs", "sizes", "modes")]
        lines.append(("mask values", facts["values"] or "unclear"))
        for c in facts["classes"]:
            told = f"{100 * c['share']:.2f} % of all pixels, in {c['images']} images"
            lines.append((f"class {c['id']}, {c['name']}", told))
        return lines

    def _section(self, finding: Finding) -> str:
        lines = "".join(f"<li>{escape(line)}</li>" for line in _places(finding, SHOWN))
        fix = " --fix corrects a copy, where that is clear." if finding.fixable else ""
        return (
            f'<h2><span class="{finding.severity}">{finding.severity}</span> {finding.code}</h2>'
            f"<p>{escape(finding.what)}</p><p><b>What to do:</b> {escape(finding.cure)}.{fix}</p>"
            f'<ul>{lines}</ul><div class="thumbs">{self._thumbs(finding.files[:SHOWN])}</div>'
        )

    def _thumbs(self, files: tuple[str, ...]) -> str:
        of = {self.relative(file): ex for ex in self.examples for file in ex.files}
        chosen = dict.fromkeys(id(of[file]) for file in files if file in of)
        by_id = {id(example): example for example in self.examples}
        return "".join(self._thumb(by_id[key]) for key in chosen)

    def _samples(self) -> str:
        step = max(1, len(self.examples) // SHOWN)
        return "".join(self._thumb(example) for example in self.examples[::step][:SHOWN])

    def _thumb(self, example: Example) -> str:
        """Return the image, and beside it the mask over it, as far as they can be read."""
        image, mask = self.load(example)
        try:
            drawn = _strip(_anyhow(example.image) if image is None else image, mask)
        except DataError:
            return ""
        name = f"{example.split}/{example.name}".strip("/")
        shown = picture(drawn[0], "jpeg", f"{name}: image, and its mask over it", drawn[1])
        return f"<figure>{shown}<figcaption>{escape(name)}</figcaption></figure>"

    def relative(self, file: Path) -> str:
        """Return a file's path below the folder, with forward slashes."""
        return file.relative_to(self.folder).as_posix()


def _places(finding: Finding, show: int) -> list[str]:
    """Return the first few files and what was seen there."""
    lines = [
        f"{file} ({detail})" if detail else file
        for file, detail in zip(finding.files, finding.details, strict=True)
    ]
    more = len(lines) - show
    return lines[:show] + ([f"and {more} more"] if more > 0 else [])


def _counted(numbers: dict[str, int], show: int = 6) -> str:
    most = sorted(numbers.items(), key=lambda entry: -entry[1])
    told = [f"{name} {number}".strip() for name, number in most[:show]]
    return ", ".join(told) + (", …" if len(most) > show else "")


def _anyhow(file: Path) -> np.ndarray:
    """Return an image that the loader refuses, as well as it can be shown."""
    with read.opened(file) as picture:
        return np.array(picture.convert("RGB"))


def _strip(image: np.ndarray, mask: np.ndarray | None) -> tuple[bytes, int]:
    """Return a JPEG of the image and of the mask over it, and its width in pixels."""
    from segkit import plot  # matplotlib is slow to import, and a check without a page needs none

    small = Image.fromarray(plot.rgb(image))
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    panels = [small]
    if mask is not None:
        ids = np.array(Image.fromarray(mask).resize(small.size, Image.Resampling.NEAREST))
        if not set(np.unique(ids)) - {0, IGNORE}:
            ids[ids == IGNORE] = 1
        panels.append(Image.fromarray(plot.overlay(np.array(small), ids)))
    strip = Image.new(
        "RGB", (sum(p.width for p in panels) + 6 * (len(panels) - 1), small.height), "white"
    )
    for k, panel in enumerate(panels):
        strip.paste(panel, (k * (small.width + 6), 0))
    content = io.BytesIO()
    strip.save(content, "JPEG", quality=85)
    return content.getvalue(), strip.width
