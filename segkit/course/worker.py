"""Runs one notebook in a process of its own: `python -m segkit.course.worker FOLDER`.

The job is read from `FOLDER/job.json`; `progress.json`, `result.json`, `notebook.ipynb` and
`notebook.html` are left beside it. The notebook's working directory is the process's own. A
process per notebook is what makes it possible to stop one, to limit its time and to measure
its memory.
"""

import json
import os
import re
import sys
import threading
import time
from pathlib import Path

# ruff: noqa: E402
# jsonschema compiles a grammar of internationalised addresses on import if this package is there,
# and a second is lost for each lesson. No notebook holds such addresses.
sys.modules["rfc3987_syntax"] = None

import nbformat
import papermill
import psutil
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager

from segkit.files import write_text

SOURCE_LINE = 80  # characters of a cell's first line that a message shows


class SameInterpreter(AsyncKernelManager):
    """Starts the kernel with this interpreter, whatever kernel "python3" is on the machine."""

    @property
    def kernel_spec(self) -> KernelSpec:
        """The command that starts ipykernel here."""
        command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=command, display_name="Python 3", language="python")


def execute(job: dict, folder: Path) -> dict:
    """Run the notebook of `job` and return status, seconds and, if it failed, the error."""
    total = len([c for c in nbformat.read(job["notebook"], 4).cells if c.cell_type == "code"])
    total += bool(job["parameters"])  # papermill puts them into a cell of their own
    at = {"cell": 0, "of": total, "source": ""}

    def cell_starts(cell: nbformat.NotebookNode, cell_index: int) -> None:
        if cell.cell_type == "code" and cell.source.strip():
            at.update(cell=at["cell"] + 1, source=cell.source.strip().splitlines()[0][:SOURCE_LINE])
            write_text(folder / "progress.json", json.dumps(at))

    start = time.perf_counter()
    error = None
    try:
        papermill.execute_notebook(
            verbatim(job["notebook"]),
            verbatim(folder / "notebook.ipynb"),
            job["parameters"],
            kernel_name="python3",
            language="python",
            progress_bar=False,
            kernel_manager_class=SameInterpreter,
            on_cell_start=cell_starts,
            coalesce_streams=True,
        )
    except papermill.PapermillExecutionError as failed:
        line = failed.source.strip().splitlines()[0][:SOURCE_LINE]
        error = {"cell": failed.exec_count, "source": line}
        error |= {"name": failed.ename, "message": failed.evalue}
    except Exception as failed:  # a dead kernel, a broken notebook: reported, never raised
        error = {"cell": at["cell"], "source": at["source"]}
        error |= {"name": type(failed).__name__, "message": str(failed)}
    seconds = time.perf_counter() - start
    return {"status": "failed" if error else "passed", "seconds": seconds, "error": error}


def verbatim(path: Path | str) -> str:
    """Return `path` so that papermill, which fills in `{name}` in paths, leaves it alone."""
    return str(path).replace("{", "{{").replace("}", "}}")


def render(notebook: Path, pictures_from: Path) -> str:
    """Return a page of `notebook` that needs no other file and no network.

    Formulas stay in TeX: typesetting them would take a script from elsewhere.
    """
    from nbconvert import HTMLExporter

    # The classic template is the one that carries pictures' alternative text over.
    exporter = HTMLExporter(template_name="classic", embed_images=True)
    exporter.require_js_url = exporter.jquery_url = exporter.mathjax_url = ""
    exporter.mermaid_js_url = ""
    resources = {"metadata": {"path": str(pictures_from), "name": pictures_from.name}}
    page, _ = exporter.from_filename(str(notebook), resources)
    return re.sub(r'href="(\d\d_\w+)\.ipynb', r'href="\1.html', page)


def leave_with_parent() -> None:
    """Wait until whoever started this process is gone, then end it and its kernel."""
    while os.read(0, 1):  # the other end of standard input is held open and never written to
        pass
    for child in psutil.Process().children(recursive=True):
        child.kill()
    os._exit(1)


def main(folder: Path) -> None:
    """Run the job in `folder`."""
    threading.Thread(target=leave_with_parent, daemon=True).start()
    job = json.loads((folder / "job.json").read_text("utf-8"))
    result = execute(job, folder)
    write_text(folder / "result.json", json.dumps(result))
    notebook = folder / "notebook.ipynb"
    if job["page"] and notebook.exists():
        write_text(notebook.with_suffix(".html"), render(notebook, Path(job["notebook"]).parent))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
