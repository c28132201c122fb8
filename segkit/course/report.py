"""What a run of the course left, as `report.json` for scripts and `index.html` for people."""

import base64
import io
import json
import platform
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import datetime
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import Any

from segkit import environment
from segkit.files import write_text
from segkit.page import page as frame
from segkit.page import picture

PICTURES = 3  # of each lesson
WIDTH, HEIGHT = 320, 200  # at most, in pixels
COLUMNS = ("Lesson", "Outcome", "Time", "Peak memory", "First pictures, or error", "Open")
STYLE = """
:root { --good: #1a6b33; --goodback: #dff3e4; --bad: #9c1c1c; --badback: #fbe3e1; }
@media (prefers-color-scheme: dark) { :root {
  --good: #8fe0a6; --goodback: #16351f; --bad: #ffb3ab; --badback: #46191a; } }
table { width: 100%; }
th:nth-child(3), td:nth-child(3), th:nth-child(4), td:nth-child(4) { text-align: right;
  white-space: nowrap; font-variant-numeric: tabular-nums; }
th small { display: block; }
td img { height: 5rem; margin: 0 .4rem .4rem 0; max-width: none; width: auto; }
.badge { background: var(--goodback); border-radius: 1rem; color: var(--good);
  padding: .1rem .6rem; white-space: nowrap; }
.failed .badge, .timeout .badge { background: var(--badback); color: var(--bad); }
pre { background: var(--badback); border-radius: 4px; color: var(--bad); margin: 0;
  max-width: 34rem; overflow-x: auto; padding: .5rem .7rem; white-space: pre-wrap; }
@media (max-width: 45rem) {
  thead { display: none; }
  tr, tr > th, tr > td:nth-child(n) { border: 0; display: block; padding: .15rem 0;
    text-align: left; }
  tr { border-bottom: 1px solid var(--line); padding: .6rem 0; } }
"""
WORDS = {"passed": "passed", "failed": "failed", "timeout": "timed out"}


@dataclass
class Outcome:
    """What became of one lesson. `notebook` and `page` are names inside the output folder.

    status: "passed", "failed", "timeout" (stopped after the time allowed), or "kept" (passed
    before with the same cells and parameters). memory: the highest sum, in bytes, over the
    kernel and its children. error: cell (its number in the executed notebook), source (its
    first line), name, message.
    """

    stem: str
    title: str
    status: str
    seconds: float
    memory: int
    parameters: dict[str, Any]
    digest: str
    error: dict[str, Any] | None = None
    notebook: str | None = None
    page: str | None = None
    finished: str = field(default_factory=lambda: datetime.now().isoformat(" ", "seconds"))

    @property
    def ok(self) -> bool:
        """Whether the lesson ran to its end, now or before."""
        return self.status in ("passed", "kept")


def read(out: Path) -> dict[str, Outcome]:
    """Return the outcomes, by stem, of `out/report.json`; none where it is missing or broken."""
    try:
        rows = json.loads((out / "report.json").read_text("utf-8"))["lessons"]
        return {row["stem"]: Outcome(**row) for row in rows}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def forget(out: Path, stems: Iterable[str]) -> None:
    """Take away what an earlier run left of these lessons."""
    rows = read(out)
    for stem in stems:
        rows.pop(stem, None)
        for suffix in (".ipynb", ".html"):
            (out / f"{stem}{suffix}").unlink(missing_ok=True)
    _write(out, rows)


def write(out: Path, outcomes: Iterable[Outcome]) -> None:
    """Add `outcomes` to the report in `out`; rows of lessons not run this time stay."""
    _write(out, read(out) | {outcome.stem: outcome for outcome in outcomes})


def _write(out: Path, rows: dict[str, Outcome]) -> None:
    ordered = [rows[stem] for stem in sorted(rows)]
    content = {"machine": machine(), "lessons": [asdict(row) for row in ordered]}
    write_text(out / "report.json", json.dumps(content, indent=1))
    write_text(out / "index.html", page(out, ordered))


def page(out: Path, rows: list[Outcome]) -> str:
    """Return the report as HTML that needs no other file."""
    bad = sum(not row.ok for row in rows)
    seconds = sum(row.seconds for row in rows)
    summary = f"{len(rows)} lessons: {len(rows) - bad} passed, {bad} not, in {_time(seconds)}."
    body = "".join(_row(out, row) for row in rows)
    facts = ", ".join(f"{name} {value}" for name, value in machine().items())
    heads = "".join(f'<th scope="col">{name}</th>' for name in COLUMNS)
    return frame(
        "Course report",
        f"<p>{escape(summary)}</p>"
        f'<div class="scroll" tabindex="0" role="region" aria-label="Lessons"><table>'
        f"<thead><tr>{heads}</tr></thead><tbody>\n{body}</tbody></table></div>"
        "<p><small>Time counts the start of the kernel. Peak memory is the highest sum seen, twice "
        f"a second, over the kernel and the processes it started. Run with {escape(facts)}."
        "</small></p>",
        STYLE,
    )


def machine() -> dict[str, Any]:
    """Return what the times and the memory belong to."""
    names = ("segkit", "torch")
    facts = {name: environment.version(name) for name in names}
    facts |= {
        "Python": platform.python_version(),
        "on": f"{platform.system()} {platform.machine()}",
    }
    return facts | {"cores": environment.cores()}


def _row(out: Path, row: Outcome) -> str:
    settings = ", ".join(f"{name}={value}" for name, value in row.parameters.items())
    links = [("notebook", row.notebook), ("page", row.page)]
    linked = " · ".join(
        f'<a href="{escape(file)}" aria-label="{word} of {escape(row.title)}">{word}</a>'
        for word, file in links
        if file
    )
    pictures = _pictures(out / row.notebook, row.title) if row.notebook else ""
    error = ""
    if row.error:
        where = f"cell [{row.error['cell']}]: {row.error['source']}"
        what = f"{row.error['name']}: {row.error['message']}"
        error = f"<pre>{escape(where)}\n{escape(what)}</pre>"
    return (
        f'<tr class="{row.status}"><th scope="row">{escape(row.title)}'
        f"<small>{escape(settings or 'as it stands')} · {escape(row.finished)}</small></th>"
        f'<td><span class="badge">{WORDS[row.status]}</span></td>'
        f"<td>{_time(row.seconds)}</td><td>{row.memory / 2**20:.0f} MiB</td>"
        f"<td>{pictures}{error}</td><td>{linked}</td></tr>\n"
    )


def _time(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds / 60:.1f} min"


def _pictures(notebook: Path, title: str) -> str:
    """Return the notebook's first pictures, made small, as `<img>` elements."""
    try:
        changed = notebook.stat().st_mtime_ns
    except OSError:
        return ""
    images = _thumbnails(notebook, changed)
    return "".join(
        picture(png, "png", alt or f"picture {number} of {title}", width)
        for number, (png, width, alt) in enumerate(images, 1)
    )


@lru_cache(maxsize=256)
def _thumbnails(notebook: Path, changed: int) -> list[tuple[bytes, int, str]]:
    """Return PNG, width and alternative text of the first pictures of a notebook on disk."""
    from PIL import Image

    cells = json.loads(notebook.read_text("utf-8"))["cells"]
    outputs = (output for cell in cells for output in cell.get("outputs", []))
    found = []
    for output in outputs:
        png = output.get("data", {}).get("image/png")
        if png and len(found) < PICTURES:
            image = Image.open(io.BytesIO(base64.b64decode("".join(png)))).convert("RGBA")
            image.thumbnail((WIDTH, HEIGHT))
            buffer = io.BytesIO()
            image.save(buffer, "PNG", optimize=True)
            alt = output.get("metadata", {}).get("image/png", {}).get("alt", "")
            found.append((buffer.getvalue(), image.width, alt))
    return found
