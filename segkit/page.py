"""HTML pages that need no other file, from the templates in `templates/`."""

import base64
from collections.abc import Sequence
from functools import cache
from html import escape
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

Raw = Markup

STYLE = """
:root { color-scheme: light dark; --line: #d5d9de; --quiet: #56606b; --accent: #0b62a4; }
@media (prefers-color-scheme: dark) {
  :root { --line: #3a4148; --quiet: #a4adb7; --accent: #7cc0f5; } }
body { font: 16px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem;
  padding: 0 1rem; }
h1 { line-height: 1.2; } h2 { margin-top: 2.5rem; }
a { color: var(--accent); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; }
caption { color: var(--quiet); padding: .4rem 0; text-align: left; }
th, td { border-bottom: 1px solid var(--line); padding: .45rem .7rem; text-align: left;
  vertical-align: top; }
td.number, th.number { font-variant-numeric: tabular-nums; text-align: right;
  white-space: nowrap; }
td { overflow-wrap: anywhere; }
small, .quiet { color: var(--quiet); font-weight: normal; }
img { background: #fff; border-radius: 4px; max-width: 100%; }
figure { margin: 0; } figcaption { color: var(--quiet); font-size: .9rem; }
.side { display: flex; flex-wrap: wrap; gap: 1.5rem; }
.side > * { flex: 0 1 29rem; }
"""


def page(title: str, body: str, style: str = "") -> str:
    """Return a page; `body` is HTML, `style` is added to the style that all pages share."""
    return f"""<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{STYLE}{style}</style>
<main>
<h1>{escape(title)}</h1>
{body}
</main>
</html>
"""


def table(
    caption: str, columns: Sequence[str], rows: Sequence[Sequence[str]], numbers: bool = True
) -> str:
    """Return a table. The first cell of a row names it; the cells are text, or HTML if `Raw`.

    numbers: whether all cells but the first are aligned as numbers.
    """
    align = ' class="number"' if numbers else ""
    heads = "".join(
        f'<th scope="col"{align if k else ""}>{escape(name)}</th>' for k, name in enumerate(columns)
    )
    head = f"<thead><tr>{heads}</tr></thead>" if any(columns) else ""
    body = "".join(
        f'<tr><th scope="row">{_cell(first)}</th>'
        + "".join(f"<td{align}>{_cell(cell)}</td>" for cell in rest)
        + "</tr>\n"
        for first, *rest in rows
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}"><table>'
        f"<caption>{escape(caption)}</caption>{head}<tbody>\n{body}</tbody></table></div>\n"
    )


def _cell(value: str) -> str:
    return value if isinstance(value, Markup) else escape(value)


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("segkit"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(template: str, **values: Any) -> str:
    """Return the page that a template makes of some values; text in them is escaped.

    Args:
        template: the name of a file in `segkit/templates/`; it extends `base.html`.
        values: what the template names.
    """
    return _environment().get_template(template).render(**values)


def picture(content: bytes, kind: str, alt: str, width: int) -> Markup:
    """Return an `<img>` that holds its own content.

    Args:
        content: the picture's file.
        kind: "png" or "jpeg".
        alt: what the picture shows, for those who do not see it.
        width: in CSS pixels.
    """
    data = base64.b64encode(content).decode()
    return Markup('<img width="{}" src="data:image/{};base64,{}" alt="{}">').format(
        width, kind, data, alt
    )
