"""The lessons: found, checked, run, measured, stopped, resumed and refreshed. Made-up notebooks."""

import html
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import nbformat
import psutil
import pytest
from nbformat import v4

from segkit import paths
from segkit.course import CourseError, Lesson, arguments, find, refresh, run
from segkit.errors import ArgumentError, SegkitError

PARAMETERS = 'profile = "quick"\ndataset = "toy-pets"\ndata_dir = None\nseed = 0\nrate = 0.1'
SPEC = {"name": "python3", "language": "python", "display_name": "Python 3"}
SLOW = "import time\nwhile not __import__('pathlib').Path(data_dir).exists(): time.sleep(0.05)"


def write(path: Path, *cells: str, parameters: str = PARAMETERS) -> Lesson:
    head = f"# {path.stem[:2]} · Made up <b>\n\n*You see [it](x.md) all.*\n\n**Time**: 2 minutes"
    tagged = v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
    cells = [v4.new_markdown_cell(head), tagged, *map(v4.new_code_cell, cells)]
    nbformat.write(v4.new_notebook(cells=cells, metadata={"kernelspec": SPEC}), path)
    return Lesson(path)


def report(out: Path) -> dict[str, dict]:
    rows = json.loads((out / "report.json").read_text("utf-8"))["lessons"]
    return {row["stem"]: row for row in rows}


def printed(notebook: Path) -> str:
    cells = nbformat.read(notebook, as_version=4).cells
    return "".join(o.get("text", "") for c in cells for o in c.get("outputs", []))


def leftovers(folder: Path) -> int:
    """How many processes of a run in `folder` live, by the environment they got."""
    found = 0
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            inside = process.environ().get("IPYTHONDIR", "").startswith(str(folder))
            found += inside and process.status() != psutil.STATUS_ZOMBIE
    return found


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    end = time.time() + seconds
    while not condition():
        assert time.time() < end
        time.sleep(0.1)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The notebooks of a course of two lessons."""
    monkeypatch.setattr(paths, "root", lambda: tmp_path)
    folder = tmp_path / "notebooks"
    folder.mkdir()
    write(folder / "00_start.ipynb", parameters='profile = "quick"\nseed = 0')
    write(folder / "04_net.ipynb")
    write(folder / "notes.ipynb")
    return folder


def test_lessons_are_found_by_number_name_and_path(folder: Path, tmp_path: Path) -> None:
    assert [lesson.path.stem for lesson in find([])] == ["00_start", "04_net"]
    for names in (["04"], ["4"], ["04_net"], [str(folder / "04_net.ipynb")], ["4", "04"]):
        (lesson,) = find(names)
        assert (lesson.path.stem, lesson.title) == ("04_net", "04 · Made up <b>")
        assert (lesson.promise, lesson.minutes) == ("You see it all.", 2)
        assert lesson.parameters["rate"] == 0.1
    assert find([str(folder / "notes.ipynb")])[0].number == ""
    with pytest.raises(CourseError, match="two notebooks are called 04_net"):
        find(["04", str(write(tmp_path / "04_net.ipynb").path)])


@pytest.mark.parametrize("name", ["05", "04_nett", "x", "''", "-1", "nowhere/04_net.ipynb"])
def test_an_unknown_lesson_is_refused_with_those_there_are(folder: Path, name: str) -> None:
    with pytest.raises(SegkitError, match=re.escape(name) + ".*; there are: 00_start, 04_net"):
        find([name])


@pytest.mark.parametrize("content", ["", "{}", '{"cells": 3}', "not json", "[1]"])
def test_a_broken_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "04_net.ipynb").write_text(content)
    with pytest.raises(CourseError, match=r"04_net.ipynb: not a readable notebook"):
        Lesson(tmp_path / "04_net.ipynb").parameters  # noqa: B018


@pytest.mark.parametrize(
    "source",
    ["a = 1\nb = a * 2", "print(1)", "a, b = 1, 2", "a.b = 1", "import os", "a = (", "a: int"],
)  # fmt: skip
def test_the_parameters_cell_holds_literals_only(tmp_path: Path, source: str) -> None:
    with pytest.raises(CourseError, match="one literal"):
        write(tmp_path / "04_net.ipynb", parameters=source).parameters  # noqa: B018


def test_an_unknown_parameter_is_refused_with_those_there_are(folder: Path) -> None:
    both = find([])
    with pytest.raises(CourseError, match=r"no parameter 'sed' in 04_net \(it has: profile, dat"):
        arguments(both[1:], {"sed": "1"})
    with pytest.raises(CourseError, match="'dataset' in 00_start"):
        arguments(both, {"dataset": "toy-xray"})
    taken = arguments(both, {"dataset": "toy-xray", "seed": 3}, strict=False)
    assert list(taken.values()) == [{"seed": 3}, {"dataset": "toy-xray", "seed": 3}]
    with pytest.raises(CourseError, match="'datset'"):
        arguments(both, {"datset": "toy-xray"}, strict=False)


@pytest.mark.parametrize(
    ("declared", "given", "typed"),
    [("a = 0", "3", 3), ("a = 0", "-3", -3), ("a = 0", 4, 4), ("a = 0.1", "2", 2.0),
     ("a = 0.1", "1e-4", 1e-4), ("a = False", "true", True), ("a = True", "False", False),
     ('a = "x"', "3", "3"), ("a = [1]", "[2, 3]", [2, 3]), ("a = None", "7", 7),
     ("a = None", "word", "word"), ("a: int = 0", "5", 5), ("a = None", "none", None),
     ("a = 0", "x", CourseError), ("a = 0", "1.5", CourseError), ("a = 0", "true", CourseError),
     ("a = True", "1", CourseError), ('a = "x"', 3, CourseError), ("a = [1]", "(1,)", CourseError),
     ("a = 0.1", "fast", CourseError), ('profile = "quick"', "slow", ArgumentError)],
)  # fmt: skip
def test_values_get_the_type_of_the_default_or_are_refused(tmp_path, declared, given, typed):
    lesson, name = write(tmp_path / "04_net.ipynb", parameters=declared), declared.split(" ")[0]
    if typed in (CourseError, ArgumentError):
        with pytest.raises(typed, match=re.escape(repr(given))):
            arguments([lesson], {name: given})
    else:
        (value,) = arguments([lesson], {"a": given})[lesson.path].values()
        assert value == typed and type(value) is type(typed)


def test_relative_paths_are_those_of_the_caller(tmp_path, monkeypatch) -> None:
    declared = 'profile = "quick"\ndata_dir = None\nfolder = ""\nprofile_name = ""'
    lesson = write(tmp_path / "04_net.ipynb", parameters=declared)
    monkeypatch.chdir(tmp_path)
    given = {"data_dir": Path("a"), "folder": "../b", "profile": "full", "profile_name": "c"}
    places = {"data_dir": str(tmp_path / "a"), "folder": str(tmp_path.parent / "b")}
    assert arguments([lesson], given)[lesson.path] == given | places
    assert arguments([lesson], {"folder": ""})[lesson.path] == {"folder": ""}


def test_the_digest_is_of_the_cells_and_not_of_their_outputs(tmp_path: Path) -> None:
    path = tmp_path / "04_net.ipynb"
    before = write(path, "1 + 1").digest()
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[-1].outputs = [v4.new_output("stream", text="2")]
    nbformat.write(notebook, path)
    assert Lesson(path).digest() == before != write(path, "1 + 2").digest()


PICTURE = """
from PIL import Image
bar = Image.new("RGB", (900, 30), "teal")
display(bar, metadata={"image/png": {"alt": 'a "teal" bar'}})
"""
CHILD = "import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'x = 2**29 * b\"1\"'])"
FACTS = """
import os, sys
names = ("OMP_NUM_THREADS", "MPLBACKEND", "SEGKIT_DATA")
print([seed, sys.executable, os.getcwd(), *map(os.environ.get, names)])
open("x.txt", "w").write("mine")
"""
FOREIGN = {"JUPYTER_PATH": "{}", "HOME": "/proc/none", "MPLBACKEND": "agg", "SEGKIT_DATA": "data"}
ENDLESS = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
time.sleep(100)
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run: one lesson passes, one fails, the kernel of one dies, one is slow."""
    place = tmp_path_factory.mktemp("ran {seed}")  # papermill would fill in the braces
    other = SPEC | {"argv": ["/bin/false"]}  # a kernel of the user
    (place / "kernels" / "python3").mkdir(parents=True)
    (place / "kernels" / "python3" / "kernel.json").write_text(json.dumps(other))
    chosen = [
        write(place / "00_pass.ipynb", FACTS, PICTURE, CHILD),
        write(place / "01_fail.ipynb", "print(1)", "# why\nraise KeyError('<here>')", "print(3)"),
        write(place / "02_dies.ipynb", "import os\nos.kill(os.getpid(), 9)"),
        write(place / "03_slow.ipynb", "print('begun')", ENDLESS),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        for name, value in FOREIGN.items():
            patch.setenv(name, value.format(place))
        patch.delenv("OMP_NUM_THREADS", raising=False)
        outcomes = list(run(arguments(chosen, {"seed": 7}), place / "out", jobs=4, timeout=20))
    assert "  cell [4] # why: KeyError: '<here>'" in "\n".join(map(str, outcomes))
    rows = report(place / "out").values()
    assert [row["status"] for row in rows] == ["passed", "failed", "failed", "timeout"]
    return place


@pytest.mark.slow
def test_each_lesson_runs_here_and_in_a_folder_of_its_own(ran: Path) -> None:
    threads = max(1, len(os.sched_getaffinity(0)) // 4)
    files = ran / "out" / "work" / "00_pass" / "files"
    backend = "module://matplotlib_inline.backend_inline"  # ipykernel's, not the shell's
    expected = [7, sys.executable, str(files), str(threads), backend, str(ran / "data")]
    assert printed(ran / "out" / "00_pass.ipynb") == f"{expected}\n"
    assert (files / "x.txt").read_text() == "mine"
    row = report(ran / "out")["00_pass"]
    # A process that is started inherits the peak of the one that starts it: here that of the tests.
    most = max(2**30, 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    assert row["error"] == "" and 2**29 < row["memory"] <= most, "that of the child, no sum"
    assert printed(ran / "00_pass.ipynb") == "", "the lesson itself was written to"


@pytest.mark.slow
def test_a_failure_names_cell_and_error_and_a_timeout_kills_all(ran: Path) -> None:
    _, fails, dies, slow = report(ran / "out").values()
    assert fails["error"] == "cell [4] # why: KeyError: '<here>'"
    assert "exception" in (ran / "out" / "01_fail.ipynb").read_text("utf-8").lower()
    assert re.fullmatch(r"cell \[3\] import os: .*DeadKernelError: Kernel died", dies["error"])
    assert "] import subprocess, sys, time: Timeout: stopped after 2" in slow["error"]
    assert 20 <= slow["seconds"] < 26 and slow["memory"] > 20 * 2**20
    first = nbformat.read(ran / "out" / "03_slow.ipynb", as_version=4).cells[0]
    assert "Not run to its end" in first.source and "Timeout: stopped after 2" in first.source
    assert printed(ran / "out" / "03_slow.ipynb") == "begun\n"
    wait_for(lambda: not leftovers(ran), seconds=2)


@pytest.mark.slow
def test_report_and_pages_need_no_other_file_and_no_network(ran: Path) -> None:
    page = (ran / "out" / "index.html").read_text("utf-8")
    assert re.search(r"4 lessons: 1 passed, 3 not, in\s", page) and ">timed out<" in page
    assert "Made up &lt;b&gt;" in page and "&lt;here&gt;" in page and "<b>" not in page
    assert "<small>seed=7 · 20" in page and "largest single process" in page
    (image,) = re.findall(r"<img[^>]+>", page)
    assert 'alt="a "teal" bar"' in html.unescape(image) and 'alt="a "teal' not in image
    assert not re.search(r'(?:src|href)="(?!data:|#|\d\d_\w+\.(?:html|ipynb)")', page)
    assert 'width="320"' in image and len(image) < 1000
    links = re.findall(r'href="([^"]+)"', page)
    assert len(links) == 8 and all((ran / "out" / link).is_file() for link in links)

    page = (ran / "out" / "00_pass.html").read_text("utf-8")
    assert "alt='a \"teal\" bar'" in page or 'alt="a &quot;teal&quot; bar"' in page
    assert not re.search(r"""(?:src|href)=["']?https?://|url\(["']?http|@import""", page)


@pytest.mark.slow
def test_resume_keeps_only_what_would_run_the_same(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    made = [write(tmp_path / f"0{i}_x.ipynb", f"print({i})").path for i in range(3)]
    write(tmp_path / "02_x.ipynb", "1 / 0")
    out = tmp_path / "out"

    def statuses(seed: int, resume: bool = True) -> list[str]:
        given = arguments([Lesson(path) for path in made], {"seed": seed})
        outcomes = run(given, out, pages=False, jobs=3, resume=resume)
        return sorted(f"{outcome.stem} {outcome.status}" for outcome in outcomes)

    assert statuses(1, resume=False) == ["00_x passed", "01_x passed", "02_x failed"]
    write(tmp_path / "01_x.ipynb", "import os\nprint('new', os.environ['OMP_NUM_THREADS'])")
    write(tmp_path / "02_x.ipynb", "print('repaired')")
    assert statuses(1) == ["00_x kept", "01_x passed", "02_x passed"]
    assert printed(out / "01_x.ipynb") == "new 5\n", "what the user set stays"
    assert [row["status"] for row in report(out).values()] == ["passed"] * 3
    del made[1:]
    assert statuses(2) == ["00_x passed"], "another seed is another run"
    assert len(report(out)) == 3, "the report keeps lessons that were not asked for"
    assert statuses(2) == ["00_x kept"]
    (out / "00_x.ipynb").unlink()
    (out / "01_x.ipynb").unlink()
    assert statuses(2) == ["00_x passed"], "nothing is kept whose notebook is gone"
    (out / "report.json").write_text("{half")
    assert statuses(2) == ["00_x passed"], "without a report nothing is known to have passed"


def test_a_folder_that_cannot_take_the_results_is_refused(tmp_path: Path) -> None:
    given = arguments([write(tmp_path / "04_x.ipynb", "print(1)")], {})
    with pytest.raises(CourseError, match="choose another folder"):
        list(run(given, tmp_path))
    (tmp_path / "file").touch()
    with pytest.raises(SegkitError, match=r"file/out.*Not a directory"):
        list(run(given, tmp_path / "file" / "out"))


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_keeps_what_is_finished_and_resume_goes_on(tmp_path, signum) -> None:
    begun, go, out = tmp_path / "begun", tmp_path / "go", tmp_path / "out"
    child, _ = ENDLESS.strip().rsplit("\n", 1)
    slow = f"{child}\nopen({str(begun)!r}, 'w').close()\n{SLOW}"
    quick = write(tmp_path / "00_quick.ipynb", "print('done')").path
    slow = write(tmp_path / "01_slow.ipynb", slow, "child.kill()").path
    command = [sys.executable, "-m", "segkit", "course", "run", quick, slow, "--out", out]
    command += ["--data-dir", go, "--no-pages"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}

    process = subprocess.Popen(command, **pipes)
    wait_for(begun.exists)
    assert leftovers(tmp_path) >= 3, "papermill, kernel and child can be seen while they live"
    process.send_signal(signum)
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and "Interrupted" in text and "Traceback" not in text
    wait_for(lambda: not leftovers(tmp_path), seconds=10)
    assert list(report(out)) == ["00_quick"] and not (out / "01_slow.ipynb").exists()
    assert "1 lesson: 1 passed" in (out / "index.html").read_text("utf-8")
    if signum == signal.SIGINT:
        go.touch()
        text = subprocess.run([*command, "--resume"], timeout=60, **pipes).stdout
        assert "[1/2] kept     00_quick" in text and "[2/2] passed   01_slow" in text


@pytest.mark.slow
def test_a_killed_papermill_is_one_failure(tmp_path: Path) -> None:
    lesson = write(tmp_path / "04_x.ipynb", "import os\nos.kill(os.getppid(), 9)")
    (outcome,) = run(arguments([lesson], {}), tmp_path / "out", pages=False)
    assert outcome.status == "failed" and "cell [2] import os: Killed: " in outcome.error
    wait_for(lambda: not leftovers(tmp_path), seconds=10)  # the kernel ends without its parent


@pytest.mark.slow
def test_refresh_stores_outputs_and_nothing_volatile(tmp_path: Path) -> None:
    mixed = "import sys\nprint(seed)\nprint(2, file=sys.stderr, flush=True)\nprint(seed)"
    path = write(tmp_path / "04_x.ipynb", mixed, "import os\nos.getcwd()").path
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata.update(papermill={}, widgets={"state": "a picture"})
    notebook.cells[2].metadata.update(ExecuteTime={"start": "today"}, tags=[])
    nbformat.write(notebook, path)
    assert [outcome.status for outcome in refresh([Lesson(path)])] == ["passed"]
    once, notebook = path.read_bytes(), nbformat.read(path, as_version=4)
    assert [cell.execution_count for cell in notebook.cells[1:]] == [1, 2, 3]
    streams = [(output.name, output.text) for output in notebook.cells[2].outputs]
    assert streams == [("stdout", "0\n0\n"), ("stderr", "2\n")]
    assert notebook.cells[3].outputs[0].data["text/plain"] == repr(str(tmp_path))
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.metadata.language_info == {"name": "python"}
    metadata = [dict(cell.metadata) for cell in notebook.cells]
    assert metadata == [{}, {"tags": ["parameters"]}, {}, {}]
    assert list(refresh([Lesson(path)])) and path.read_bytes() == once


@pytest.mark.slow
def test_refresh_leaves_a_failing_or_changed_lesson_alone(tmp_path: Path) -> None:
    fails = write(tmp_path / "04_x.ipynb", "print(1)", "1 / 0")
    edit = 'from pathlib import Path\npath = Path("05_y.ipynb")\n'
    edit += 'path.write_text(path.read_text().replace("Made up", "Made anew"))'
    edited = write(tmp_path / "05_y.ipynb", edit, "print(1)")
    before = fails.path.read_bytes()
    with pytest.raises(CourseError, match="quick"):
        next(refresh([write(tmp_path / "06_z.ipynb", parameters='profile = "full"')]))
    first, second = sorted(refresh([fails, edited], jobs=2), key=lambda outcome: outcome.stem)
    assert "ZeroDivisionError" in first.error and "edited while it ran" in second.error
    assert first.status == second.status == "failed"
    assert fails.path.read_bytes() == before
    assert printed(edited.path) == "" and "Made anew" in edited.path.read_text("utf-8")
