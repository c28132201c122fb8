"""Every committed lesson keeps the conventions, and every convention can be broken."""

import base64
import re
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import nbformat
import notebook_rules as rules
import pytest
from nbformat import v4

from segkit import paths
from segkit.course import Lesson

FOLDER = paths.root() / "notebooks"
FILES = sorted(FOLDER.glob("*.ipynb"))
PNG = base64.b64encode(b"a picture").decode()
SPEC = {"name": "python3", "language": "python", "display_name": "Python 3"}
ALT = "A pet, its mask, and both together."


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_lesson_keeps_the_conventions(path: Path) -> None:
    found = rules.problems(rules.read(path))
    assert not found, rules.explain(found)


def test_lessons_are_numbered_once() -> None:
    numbers = [path.name[:2] for path in FILES]
    assert len(set(numbers)) == len(numbers), f"two lessons have the same number: {numbers}"
    assert all(Lesson(path).number for path in FILES), [path.name for path in FILES]


def test_every_solution_is_offered_by_its_lesson() -> None:
    for solution in FOLDER.glob("solutions/*.py"):
        lesson = next(FOLDER.glob(f"{solution.name[:2]}_*.ipynb"), None)
        if lesson is not None:  # it may come before its lesson
            assert f"%load solutions/{solution.name}" in lesson.read_text("utf-8"), lesson


def stream(text: str, name: str = "stdout") -> nbformat.NotebookNode:
    return v4.new_output("stream", name=name, text=text)


def picture(alt: str = ALT) -> nbformat.NotebookNode:
    content = {"image/png": PNG, "text/plain": alt}
    return v4.new_output("display_data", content, metadata={"image/png": {"alt": alt}})


def code(source: str, *outputs: nbformat.NotebookNode, tags: tuple[str, ...] = ()) -> dict:
    tagged = {"tags": list(tags)} if tags else {}
    return v4.new_code_cell(source, outputs=list(outputs), metadata=tagged)


def lesson() -> rules.Notebook:
    """Return a made-up lesson that keeps every convention."""
    head = (
        "# 04 · A lesson\n\n*After it you can see.*\n\n**You will** look.\n\n"
        "**Time**: about 9 minutes · **Before**: [03](03_before.ipynb)"
    )
    foot = (
        "## What usually goes wrong\n\nNothing.\n\n## Exercises\n\n`%load solutions/04_look.py`"
        "\n\n## Recap\n\n[03](03_before.ipynb), [05](05_after.ipynb)\n\n## Sources\n\nNone."
    )
    cells = [
        v4.new_markdown_cell(head),
        code('profile = "quick"\ndataset = "toy-pets"\ndata_dir = None\nseed = 0',
             tags=("parameters",)),
        v4.new_markdown_cell(f"## 1. Look\n\n![{ALT}](../figures/pets.png)\n\n### Closer"),
        *[code(f"print({i})", stream(f"{i}\n")) for i in range(8)],
        code("train()", stream("loss 0.3, 2.5 s\n"), tags=("nbval-ignore-output",)),
        code("assert loss < 0.5\nplot.show(fig, alt)", picture()),
        v4.new_markdown_cell(foot),
        code("check.look(None)", stream("not attempted yet\n")),
    ]  # fmt: skip
    for number, cell in enumerate((c for c in cells if c.cell_type == "code"), 1):
        cell.execution_count = number
    metadata = {"kernelspec": SPEC, "language_info": {"name": "python"}}
    content = v4.new_notebook(cells=cells, metadata=deepcopy(metadata))
    files = {"03_before.ipynb", "04_lesson.ipynb", "05_after.ipynb", "solutions/04_look.py"}
    files.add("../figures/pets.png")
    return rules.Notebook(Path("/nowhere/04_lesson.ipynb"), content, 5000, files)


def replace(cell: int, old: str, new: str) -> Callable[[rules.Notebook], None]:
    def change(notebook: rules.Notebook) -> None:
        assert old in notebook.cells[cell]["source"]
        notebook.cells[cell]["source"] = notebook.cells[cell]["source"].replace(old, new)

    return change


def source(cell: int, text: str) -> Callable[[rules.Notebook], None]:
    return lambda notebook: notebook.cells[cell].update(source=text)


def outputs(cell: int, *new: nbformat.NotebookNode) -> Callable[[rules.Notebook], None]:
    return lambda notebook: notebook.cells[cell].update(outputs=list(new))


def tag(cell: int, name: str = "nbval-ignore-output") -> Callable[[rules.Notebook], None]:
    return lambda n: n.cells[cell]["metadata"].update(tags=[name] if name else [])


def short(notebook: rules.Notebook) -> None:
    del notebook.cells[4], notebook.code[2], notebook.cells[4], notebook.code[2]
    for number, cell in enumerate(notebook.code, 1):
        cell["execution_count"] = number


def ignored(notebook: rules.Notebook) -> None:
    for i in (3, 4, 5, 6):
        tag(i)(notebook)
        source(i, "assert True")(notebook)


LONG = "\n".join(f"a{i} = {i}" for i in range(13))
TEN = range(3, 13)
HTML = {"text/html": "<b>1</b>"}
ERROR = v4.new_output("error", ename="ValueError", evalue="no", traceback=[])
# rule, how to break it, what the message must contain
BREAKS = [
    ("name", lambda n: setattr(n, "path", Path("/nowhere/4-Lesson.ipynb")), "NN_name.ipynb"),
    ("name", replace(0, "# 04 · A", "# A"), "title"),
    ("parameters", tag(1, name=""), "tagged `parameters`"),
    ("parameters", lambda n: n.code[-1]["metadata"].update(tags=["parameters"]), "one cell"),
    ("parameters", replace(1, "seed = 0", "seed = 0\nepochs = seed * 2"), "one literal"),
    ("parameters", replace(1, "quick", "full"), "profile"),
    ("parameters", replace(1, "seed = 0", "seed = None"), "seed"),
    ("parameters", replace(1, "data_dir = None", "batch = 4"), "data_dir"),
    ("kernel", lambda n: n.metadata["kernelspec"].update(name="segkit-dev"), "python3"),
    ("kernel", lambda n: n.metadata["kernelspec"].pop("language"), "language"),
    ("kernel", lambda n: n.metadata.pop("language_info"), "language_info"),
    ("counts", lambda n: n.code[3].update(execution_count=9), "counts"),
    ("counts", lambda n: n.code[3].update(execution_count=None), "counts"),
    ("counts", lambda n: [cell.update(outputs=[]) for cell in n.code[:7]], "show anything"),
    ("errors", outputs(4, ERROR), "ValueError"),
    ("errors", outputs(4, stream("UserWarning", "stderr")), "stderr"),
    ("places", outputs(4, stream("saved /home/ada/x.pt")), "/home/a"),
    ("places", source(4, "open('/tmp/x')"), "/tmp/x"),
    ("places", outputs(4, stream("C:\\Users\\ada")), "absolute"),
    ("size", lambda n: setattr(n, "size", 1_000_000), "1,000,000"),
    ("lengths", source(4, LONG + "\nb = 1\nc = 2\nd = 3\ne = 4"), "17 lines"),
    ("lengths", lambda n: [source(i, f"{LONG}\nassert a0 == 0")(n) for i in TEN], "10 cells"),
    ("amount", short, "8 code cells"),
    ("alternatives", outputs(4, picture("")), "plot.show"),
    ("alternatives", replace(2, ALT, "mask"), "pets.png"),
    ("alternatives", replace(2, "### Closer", '<img src="x.png">'), "<img"),
    ("neighbours", replace(13, "[05](05_after.ipynb)", "the next"), "05_after"),
    ("neighbours", replace(13, "[03](03_before.ipynb)", "the last"), "03_before"),
    ("frame", replace(0, "**You will**", "You will"), "You will"),
    ("frame", replace(0, "9 minutes", "an hour"), "minutes"),
    ("frame", replace(0, "*After it you can see.*\n\n", "## Go\n\n"), "promises"),
    ("frame", replace(13, "## Sources", "## Thanks"), "Sources"),
    ("frame", replace(13, "## Recap", "## Recap\n\n## Exercises"), "sections"),
    ("headings", replace(2, "## 1.", "# 1."), "title"),
    ("headings", replace(2, "### Closer", "#### Closer"), "skips"),
    ("compared", ignored, "5 of 11"),
    ("compared", replace(4, "print", "# NBVAL_IGNORE_OUTPUT\nprint"), "tag"),
    ("compared", tag(4, name="raises-exception"), "papermill"),
    ("asserted", replace(12, "assert ", ""), "assert"),
    ("semicolons", replace(4, "print(1)", "ax.plot(x);"), "`;`"),
    ("kinds", outputs(4, v4.new_output("display_data", HTML)), "HTML"),
    ("kinds", outputs(4, v4.new_output("display_data", {"application/pdf": PNG})), "PNG"),
    ("timings", tag(11, name=""), "5 s"),
    ("timings", outputs(4, stream("at 120 images/s")), "images/s"),
    ("drift", lambda n: n.cells[4]["metadata"].update(execution={}), "execution"),
    ("drift", lambda n: n.metadata.update(papermill={}), "refresh"),
    ("drift", lambda n: n.metadata["language_info"].update(version="3.11.7"), "refresh"),
    ("drift", outputs(4, stream("<Line2D at 0x7f3a11b2c>")), "address"),
    ("links", replace(0, "Before**: ", "Before**: [x](04_other.ipynb), "), "04_other"),
    ("links", replace(2, "### Closer", "[x](../figures/none.png)"), "none.png"),
    ("links", replace(13, "04_look.py", "04_see.py"), "04_see"),
    ("syntax", replace(4, "print(1)", "!pip install x"), "plain Python"),
]  # fmt: skip


def test_a_good_lesson_passes() -> None:
    found = rules.problems(lesson())
    assert not found, rules.explain(found)


@pytest.mark.parametrize(("rule", "spoil", "message"), BREAKS)
def test_a_broken_lesson_is_refused(rule: str, spoil: Callable, message: str) -> None:
    broken = lesson()
    spoil(broken)
    broken.lesson.__dict__.pop("introduction", None)
    found = rules.problems(broken)
    assert rule in found, f"nothing but {rules.explain(found)}"
    assert message in " ".join(found.pop(rule))
    assert not found, f"the same fault breaks other rules too: {rules.explain(found)}"


def test_every_rule_is_shown_able_to_fail() -> None:
    assert {rule for rule, _, _ in BREAKS} == {rule.__name__ for rule in rules.RULES}


@pytest.mark.parametrize(
    "text", ["class 0: 30 pixels", "62% of it", "0.842", "3 classes", "16 steps", "(64, 64) s"]
)
def test_what_is_no_time_may_be_compared(text: str) -> None:
    assert not rules.TIMING.search(text)


def test_nbval_evens_out_what_the_config_says() -> None:
    text = (FOLDER / "nbval.cfg").read_text("ascii")
    pairs = re.findall(r"^regex: (.+)\nreplace: (.+)$", text, re.M)
    assert len(pairs) == text.count("regex:")
    out = "at 0x7f00aabbcc, <Figure size 640x480 with 1 Axes>, 0.84312345"
    for pattern, replacement in pairs:
        out = re.sub(pattern, replacement, out)
    assert out == "at 0xADDRESS, <Figure size WxH with 1 Axes>, 0.843"


@pytest.mark.slow
def test_nbval_compares_text_and_skips_what_always_differs(tmp_path: Path) -> None:
    warns = "import sys\nprint('noise', file=sys.stderr)\nprint(object())\nprint(0.84312999)"
    shows = "from IPython.display import display\ndisplay({'text/html': 'b'}, raw=True)"
    address = stream("<object object at 0x7f0000000000>\n0.84311\n")
    same = [
        code(warns, stream("other noise", "stderr"), address),
        code(shows, v4.new_output("display_data", {"text/html": "other"})),
    ]
    other = [
        code("print('one')", stream("two\n")),
        code("display({'image/png': '', 'text/plain': 'a'}, raw=True)", picture("b")),
    ]
    for number, cell in enumerate(same + other, 1):
        cell.execution_count = number
    notebook = v4.new_notebook(cells=same + other, metadata={"kernelspec": SPEC})
    nbformat.write(notebook, tmp_path / "04_x.ipynb")
    (tmp_path / "conftest.py").write_text((FOLDER / "conftest.py").read_text("utf-8"))
    options = "-q -p no:cacheprovider --nbval --nbval-current-env --nbval-sanitize-with"
    command = [sys.executable, "-m", "pytest", *options.split(), FOLDER / "nbval.cfg", tmp_path]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, cwd=tmp_path)
    failed = re.findall(r"^FAILED .*::Cell (\d)", done.stdout, re.M)
    assert len(failed) == 2 and "2 failed, 2 passed" in done.stdout, done.stdout
    assert "one" in done.stdout and "two" in done.stdout
