"""Writing a text whole or not at all.

The writing itself is `segkit.onnx_predictor.whole_file`, because that module travels alone beside
exported networks and can import nothing from here.
"""

from pathlib import Path

from segkit.onnx_predictor import whole_file


def write_atomic(path: str | Path, text: str) -> None:
    """Write `text` to `path` so that a reader, or a crash, never meets half of it."""
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8", newline="\n")
