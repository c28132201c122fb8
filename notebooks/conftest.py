"""How nbval compares the lessons: see also nbval.cfg beside this file."""

import os

import pytest

# Never the same twice: warnings name the process, vector graphics carry dates and ids, and
# HTML carries ids. Each of these has a text or a PNG beside it.
NOT_COMPARED = ("stderr", "image/svg+xml", "application/pdf", "text/html")

os.environ.pop("MPLBACKEND", None)  # one set for scripts would keep figures out of the lessons


def pytest_collectstart(collector: pytest.Collector) -> None:
    """Leave out what cannot be compared, in every notebook."""
    if hasattr(collector, "skip_compare"):
        collector.skip_compare += NOT_COMPARED
