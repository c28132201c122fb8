"""HTML pages that need no other file, from the templates in `templates/`."""

import base64
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


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
