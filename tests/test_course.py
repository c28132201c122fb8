"""Lessons are found, checked, run, measured, stopped and resumed. On made-up notebooks."""

import base64
import io
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import suppress
from pathlib import Path

import nbformat
import psutil
import pytest
from nbformat import v4
from PIL import Image

from segkit import course
from segkit.course import CourseError, Lesson, arguments, find, report
from segkit.course.progress import Bars, Lines, line
from segkit.course.refresh import clean, refresh
from segkit.course.run import environment, run

PARAMETERS = 'profile = "quick"\ndataset = "toy-pets"\ndata_dir = None\nseed = 0\nrate = 0.1'
SPEC = {"name": "python3", "language": "python", "display_name": "Python 3"}
SLOW = "import time\nwhile not __import__('pathlib').Path(data_dir).exists(): time.sleep(0.05)"


def write(path: Path, *cells: str, parameters: str | None = PARAMETERS) -> Lesson:
    head = f"# {path.stem[:2]} · Made up <b>\n\n*You see [it](x.md) all.*\n\n**Time**: 2 minutes"
    notebook = v4.new_notebook(cells=[v4.new_markdown_cell(head)], metadata={"kernelspec": SPEC})
    if parameters is not None:
        tagged = v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
        notebook.cells.append(tagged)
    notebook.cells += [v4.new_code_cell(source) for source in cells]
    nbformat.write(notebook, path)
    return Lesson(path)


def printed(notebook: Path) -> str:
    cells = nbformat.read(notebook, as_version=4).cells
    return "".join(o.get("text", "") for c in cells for o in c.get("outputs", []))


def leftovers(folder: Path) -> list[psutil.Process]:
    """Workers, kernels and their children of a run in `folder`, by the environment they got."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            inside = process.environ().get("IPYTHONDIR", "").startswith(str(folder))
            if inside and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def gone(folder: Path, pid: int, seconds: float = 20) -> bool:
    """Whether, within `seconds`, nothing of a run in `folder` is left, nor process `pid`."""
    end = time.time() + seconds
    while time.time() < end:
        alive = psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        if not alive and not leftovers(folder):
            return True
        time.sleep(0.1)
    return False


def wait_for(path: Path, seconds: float = 60) -> str:
    end = time.time() + seconds
    while not (path.exists() and path.read_text()):
        assert time.time() < end, f"{path} never came"
        time.sleep(0.05)
    return path.read_text()


def segkit(*words: object) -> subprocess.Popen:
    command = [sys.executable, "-m", "segkit", *map(str, words)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=subprocess.STDOUT, text=True)


# ---------------------------------------------------------------- finding and asking


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "00_start.ipynb", parameters='profile = "quick"\nseed = 0')
    write(tmp_path / "04_net.ipynb")
    write(tmp_path / "notes.ipynb")
    return tmp_path


def test_lessons_are_found_by_number_name_and_path(folder: Path) -> None:
    assert [lesson.stem for lesson in find([], folder)] == ["00_start", "04_net"]
    for name in ("04", "4", "04_net", str(folder / "04_net.ipynb")):
        assert [lesson.stem for lesson in find([name], folder)] == ["04_net"]
    assert [lesson.stem for lesson in find(["4", "04"], folder)] == ["04_net"], "once is enough"
    assert find([str(folder / "notes.ipynb")], folder)[0].number == ""


@pytest.mark.parametrize("name", ["05", "04_nett", "x", "''", "-1", "nowhere/04_net.ipynb"])
def test_a_misspelt_lesson_is_refused(folder: Path, name: str) -> None:
    with pytest.raises(CourseError, match=re.escape(name)):
        find([name], folder)


def test_two_notebooks_of_one_name_are_refused(folder: Path) -> None:
    (folder / "more").mkdir()
    write(folder / "more" / "04_net.ipynb")
    with pytest.raises(CourseError, match="two notebooks are called 04_net"):
        find(["04", str(folder / "more" / "04_net.ipynb")], folder)


def test_an_empty_folder_is_no_course(tmp_path: Path) -> None:
    with pytest.raises(CourseError, match="no lessons"):
        find([], tmp_path)


def test_a_lesson_tells_what_it_is(folder: Path) -> None:
    lesson = find(["4"], folder)[0]
    assert lesson.title == "04 · Made up <b>"
    assert lesson.promise == "You see it all."
    assert lesson.minutes == 2
    assert lesson.parameters["rate"] == 0.1


@pytest.mark.parametrize(
    "content", ["", "{}", '{"cells": 3}', "not json", "[1]", '{"nbformat": 9}']
)
def test_a_broken_file_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "04_net.ipynb"
    path.write_text(content)
    with pytest.raises(CourseError, match=r"04_net.ipynb: not a readable notebook"):
        Lesson(path).parameters  # noqa: B018


@pytest.mark.parametrize(
    "source",
    ["a = 1\nb = a * 2", "print(1)", "a, b = 1, 2", "a.b = 1", "import os", "a = (", "a: int"],
)  # fmt: skip
def test_the_parameters_cell_holds_literals_only(tmp_path: Path, source: str) -> None:
    lesson = write(tmp_path / "04_net.ipynb", parameters=source)
    with pytest.raises(CourseError, match="one literal"):
        lesson.parameters  # noqa: B018


def test_a_misspelt_parameter_is_refused_with_what_there_is(folder: Path) -> None:
    with pytest.raises(CourseError, match=r"no parameter 'sed' in 04_net \(it has: profile, dat"):
        arguments(find(["04"], folder), {"sed": "1"})


def test_chosen_lessons_must_all_take_a_parameter_and_the_course_some(folder: Path) -> None:
    both = find([], folder)
    with pytest.raises(CourseError, match="'dataset' in 00_start"):
        arguments(both, {"dataset": "toy-xray"})
    taken = arguments(both, {"dataset": "toy-xray", "seed": 3}, strict=False)
    assert list(taken.values()) == [{"seed": 3}, {"dataset": "toy-xray", "seed": 3}]
    with pytest.raises(CourseError, match="'datset'"):
        arguments(both, {"datset": "toy-xray"}, strict=False)


@pytest.mark.parametrize(
    ("declared", "given", "typed"),
    [
        ("a = 0", "3", 3),
        ("a = 0", "-3", -3),
        ("a = 0", 4, 4),
        ("a = 0.1", "2", 2.0),
        ("a = 0.1", "1e-4", 1e-4),
        ("a = False", "true", True),
        ("a = True", "False", False),
        ('a = "x"', "3", "3"),
        ("a = [1]", "[2, 3]", [2, 3]),
        ("a = None", "7", 7),
        ("a = None", "word", "word"),
        ("a: int = 0", "5", 5),
    ],
)
def test_values_get_the_type_of_the_default(
    tmp_path: Path, declared: str, given: object, typed: object
) -> None:
    lesson = write(tmp_path / "04_net.ipynb", parameters=declared)
    value = arguments([lesson], {"a": given})[lesson.path]["a"]
    assert value == typed and type(value) is type(typed)


@pytest.mark.parametrize(
    ("declared", "given"),
    [("a = 0", "x"), ("a = 0", "1.5"), ("a = 0", "true"), ("a = True", "1"), ('a = "x"', 3),
     ("a = [1]", "(1,)"), ("a = 0.1", "fast"), ('profile = "quick"', "slow")],
)  # fmt: skip
def test_a_value_of_another_type_is_refused(tmp_path: Path, declared: str, given: object) -> None:
    lesson = write(tmp_path / "04_net.ipynb", parameters=declared)
    with pytest.raises(CourseError, match=re.escape(repr(given))):
        arguments([lesson], {declared.split(" ")[0]: given})


def test_relative_places_are_those_of_the_caller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    declared = 'profile = "quick"\ndata_dir = None\nfolder = ""\nprofile_name = ""'
    lesson = write(tmp_path / "04_net.ipynb", parameters=declared)
    monkeypatch.chdir(tmp_path)
    given = {"data_dir": Path("a"), "folder": "../b", "profile": "full", "profile_name": "c"}
    assert arguments([lesson], given)[lesson.path] == {
        "data_dir": str(tmp_path / "a"),
        "folder": str(tmp_path.parent / "b"),
        "profile": "full",
        "profile_name": "c",
    }
    assert arguments([lesson], {"folder": ""})[lesson.path] == {"folder": ""}


def test_a_lesson_that_only_has_new_outputs_is_the_same_lesson(tmp_path: Path) -> None:
    lesson = write(tmp_path / "04_net.ipynb", "1 + 1")
    before = lesson.digest()
    notebook = nbformat.read(lesson.path, as_version=4)
    notebook.cells[-1].outputs = [v4.new_output("stream", text="2")]
    nbformat.write(notebook, lesson.path)
    assert Lesson(lesson.path).digest() == before
    write(tmp_path / "04_net.ipynb", "1 + 2")
    assert Lesson(lesson.path).digest() != before


# ---------------------------------------------------------------- running


PICTURE = """
import base64, io
from IPython.display import display
from PIL import Image
buffer = io.BytesIO()
Image.new("RGB", (900, 30), "teal").save(buffer, "PNG")
png = base64.b64encode(buffer.getvalue()).decode()
display({"image/png": png}, metadata={"image/png": {"alt": 'a "teal" bar'}}, raw=True)
"""
CHILD = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; x = b'1' * 2**27; time.sleep(2)"])
time.sleep(1.5)
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder a run left: one lesson that passes, one that fails, one that dies, one slow."""
    place = tmp_path_factory.mktemp("ran {seed}")  # papermill fills in braces if it is let
    (place / "kernels" / "kernels" / "python3").mkdir(parents=True)
    other = {"argv": ["/bin/false"], "display_name": "Other", "language": "python"}
    (place / "kernels" / "kernels" / "python3" / "kernel.json").write_text(json.dumps(other))
    facts = "import os, sys\nprint([seed, sys.executable, os.environ['OMP_NUM_THREADS']])"
    chosen = [
        write(place / "00_pass.ipynb", facts, "open('x.txt', 'w').write('mine')", PICTURE, CHILD),
        write(place / "01_fail.ipynb", "print(1)", "# why\nraise KeyError('<here>')", "print(3)"),
        write(place / "02_dies.ipynb", "import os\nos.kill(os.getpid(), 9)"),
        write(place / "03_slow.ipynb", "print('begun')", "import time\ntime.sleep(60)"),
    ]  # fmt: skip
    parameters = arguments(chosen, {"seed": 7})
    with pytest.MonkeyPatch.context() as patch, Lines(4) as watcher:
        patch.setenv("JUPYTER_PATH", str(place / "kernels"))
        patch.setenv("HOME", "/proc/none")
        patch.delenv("OMP_NUM_THREADS", raising=False)
        outcomes = run(parameters, place / "out", watcher, jobs=4, timeout=15)
    assert [outcome.status for outcome in outcomes] == ["passed", "failed", "failed", "timeout"]
    return place


@pytest.mark.slow
def test_each_lesson_runs_here_and_in_a_folder_of_its_own(ran: Path) -> None:
    threads = max(1, len(os.sched_getaffinity(0)) // 4)
    assert printed(ran / "out" / "00_pass.ipynb") == f"{[7, sys.executable, str(threads)]}\n"
    assert (ran / "out" / "work" / "00_pass" / "files" / "x.txt").read_text() == "mine"
    assert printed(ran / "00_pass.ipynb") == "", "the lesson itself was written to"


@pytest.mark.slow
def test_a_failure_names_cell_and_error(ran: Path) -> None:
    rows = report.read(ran / "out")
    assert rows["00_pass"].error is None
    assert rows["01_fail"].error == {
        "cell": 4, "source": "# why", "name": "KeyError", "message": "'<here>'"
    }  # fmt: skip
    assert "cell [4] # why: KeyError: '<here>'" in line(rows["01_fail"])
    assert rows["02_dies"].error["name"] == "DeadKernelError"
    assert rows["02_dies"].error["cell"] == 3
    assert rows["03_slow"].error["name"] == "Timeout"
    assert rows["03_slow"].error["source"] == "import time"
    assert 15 <= rows["03_slow"].seconds < 20


@pytest.mark.slow
def test_an_unfinished_notebook_says_so(ran: Path) -> None:
    first = nbformat.read(ran / "out" / "03_slow.ipynb", as_version=4).cells[0]
    assert "Not run to its end" in first.source and "15 s" in first.source
    assert printed(ran / "out" / "03_slow.ipynb") == "begun\n"
    assert "exception" in (ran / "out" / "01_fail.ipynb").read_text("utf-8").lower()


@pytest.mark.slow
def test_memory_counts_what_the_kernel_started(ran: Path) -> None:
    rows = report.read(ran / "out")
    assert rows["00_pass"].memory > rows["03_slow"].memory + 100 * 2**20
    assert rows["03_slow"].memory > 20 * 2**20


@pytest.mark.slow
def test_no_kernel_outlives_the_run(ran: Path) -> None:
    assert leftovers(ran) == []


@pytest.mark.slow
def test_the_report_stands_alone(ran: Path) -> None:
    page = (ran / "out" / "index.html").read_text("utf-8")
    assert "4 lessons: 1 passed, 3 not" in page
    assert "Made up &lt;b&gt;" in page and "&lt;here&gt;" in page and "<b>" not in page
    assert 'alt="a &quot;teal&quot; bar"' in page
    assert not re.search(r'(?:src|href)="(?!data:|#|\d\d_\w+\.(?:html|ipynb)")', page)
    picture = re.search(r"data:image/png;base64,([^\"]+)", page)[1]
    assert Image.open(io.BytesIO(base64.b64decode(picture))).size == (320, 11)
    for link in re.findall(r'href="([^"]+)"', page):
        assert (ran / "out" / link).is_file()


@pytest.mark.slow
def test_a_lesson_s_page_needs_no_network(ran: Path) -> None:
    page = (ran / "out" / "00_pass.html").read_text("utf-8")
    assert "alt='a \"teal\" bar'" in page or 'alt="a &quot;teal&quot; bar"' in page
    assert not re.search(r"""(?:src|href)=["']?https?://|url\(["']?http|@import""", page)


class Recorder(Lines):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__(0)
        self.told: list[str] = []

    def finished(self, outcome: report.Outcome) -> None:
        self.told.append(f"{outcome.stem} {outcome.status}")


@pytest.mark.slow
def test_resume_keeps_only_what_would_run_the_same(tmp_path: Path) -> None:
    lessons = [write(tmp_path / f"0{i}_x.ipynb", f"print({i})") for i in range(3)]
    write(tmp_path / "02_x.ipynb", "1 / 0")
    out = tmp_path / "out"

    def told(seed: int, **options: bool) -> list[str]:
        fresh = [Lesson(lesson.path) for lesson in lessons]
        recorder = Recorder()
        run(arguments(fresh, {"seed": seed}), out, recorder, pages=False, jobs=3, **options)
        return sorted(recorder.told)

    assert told(1) == ["00_x passed", "01_x passed", "02_x failed"]
    write(tmp_path / "01_x.ipynb", "print('new')")
    write(tmp_path / "02_x.ipynb", "print('mended')")
    assert told(1, resume=True) == ["00_x kept", "01_x passed", "02_x passed"]
    assert printed(out / "01_x.ipynb") == "new\n"
    assert [row.status for row in report.read(out).values()] == ["passed"] * 3
    del lessons[1:]
    assert told(2, resume=True) == ["00_x passed"], "another seed is another run"
    assert len(report.read(out)) == 3, "the report keeps lessons that were not asked for"
    assert told(2, resume=True) == ["00_x kept"]
    (out / "00_x.ipynb").unlink()
    assert told(2, resume=True) == ["00_x passed"], "nothing is done whose notebook is gone"
    (out / "report.json").write_text("{half")
    assert report.read(out) == {}, "without a report nothing is known to be done"


def test_the_lessons_own_folder_is_no_place_for_results(tmp_path: Path) -> None:
    lesson = write(tmp_path / "04_x.ipynb", "print(1)")
    with pytest.raises(CourseError, match="choose another folder"):
        run(arguments([lesson], {}), tmp_path, Recorder())
    (tmp_path / "file").touch()
    with pytest.raises(CourseError, match=r"file/out: Not a directory; choose another folder"):
        run(arguments([lesson], {}), tmp_path / "file" / "out", Recorder())


def test_a_lesson_s_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setenv("SEGKIT_DATA", "mine")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    values = environment(tmp_path / "w", jobs=2)
    assert "MPLBACKEND" not in values
    assert values["SEGKIT_DATA"] == str(tmp_path / "mine")
    assert values["OMP_NUM_THREADS"] == "3", "what the user set stays"
    assert values["IPYTHONDIR"].startswith(str(tmp_path / "w"))


# ---------------------------------------------------------------- being stopped


@pytest.fixture
def endless(tmp_path: Path) -> tuple[Path, list[object]]:
    """A quick lesson and one that waits for a file `go`, with the command that runs both."""
    child = (
        "import pathlib, subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(100)'])\n"
        "pathlib.Path('pid').write_text(str(child.pid))\n"
    )
    paths = [write(tmp_path / "00_quick.ipynb", "print('done')").path,
             write(tmp_path / "01_slow.ipynb", child + SLOW, "child.kill()").path]  # fmt: skip
    words = [
        "course",
        "run",
        *paths,
        "--out",
        tmp_path / "out",
        "--data-dir",
        tmp_path / "go",
        "--no-pages",
    ]
    return tmp_path, words


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_keeps_what_is_finished_and_resume_goes_on(
    endless: tuple[Path, list[object]], signum: int
) -> None:
    place, words = endless
    process = segkit(*words, "--jobs", 1)
    child = int(wait_for(place / "out" / "work" / "01_slow" / "files" / "pid"))
    process.send_signal(signum)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and "Interrupted" in said and "Traceback" not in said
    assert gone(place, child)
    assert list(report.read(place / "out")) == ["00_quick"]
    assert "1 lessons: 1 passed" in (place / "out" / "index.html").read_text("utf-8")
    assert not (place / "out" / "01_slow.ipynb").exists()
    if signum == signal.SIGTERM:
        return
    (place / "go").touch()
    process = segkit(*words, "--resume")
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert "kept     00_quick" in said and "passed   01_slow" in said


@pytest.mark.slow
def test_nothing_survives_the_death_of_the_command(endless: tuple[Path, list[object]]) -> None:
    place, words = endless
    process = segkit(*words, "--jobs", 2)
    child = int(wait_for(place / "out" / "work" / "01_slow" / "files" / "pid"))
    assert len(leftovers(place)) >= 3, "worker, kernel and child are to be seen while they live"
    process.kill()
    process.communicate()
    assert gone(place, child)


@pytest.mark.slow
def test_the_death_of_a_worker_is_one_failure(endless: tuple[Path, list[object]]) -> None:
    place, words = endless
    process = segkit(*words, "--jobs", 2)
    child = int(wait_for(place / "out" / "work" / "01_slow" / "files" / "pid"))
    worker = psutil.Process(child).parent().parent()
    worker.kill()
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 1 and "WorkerDied" in said and "1 of 2 lessons passed" in said
    assert gone(place, child)


# ---------------------------------------------------------------- refreshing


@pytest.mark.slow
def test_refresh_stores_outputs_and_nothing_volatile(tmp_path: Path) -> None:
    lesson = write(tmp_path / "04_x.ipynb", "print(seed)\nprint(seed)", "import os\nos.getcwd()")
    refresh([lesson], Recorder())
    notebook = nbformat.read(lesson.path, as_version=4)
    assert [cell.execution_count for cell in notebook.cells[1:]] == [1, 2, 3]
    assert notebook.cells[2].outputs == [
        {"output_type": "stream", "name": "stdout", "text": "0\n0\n"}
    ]
    assert notebook.cells[3].outputs[0].data["text/plain"] == repr(str(tmp_path))
    assert notebook.metadata.language_info == {"name": "python"}
    assert [dict(cell.metadata) for cell in notebook.cells] == [
        {},
        {"tags": ["parameters"]},
        {},
        {},
    ]
    once = lesson.path.read_bytes()
    refresh([Lesson(lesson.path)], Recorder())
    assert lesson.path.read_bytes() == once


def test_widgets_are_stored_without_their_state() -> None:
    notebook = v4.new_notebook(metadata={"papermill": {}, "widgets": {"state": "a picture"}})
    assert set(clean(notebook).metadata) == {"kernelspec", "language_info"}


@pytest.mark.slow
def test_refresh_leaves_a_failing_or_changed_lesson_alone(tmp_path: Path) -> None:
    fails = write(tmp_path / "04_x.ipynb", "print(1)", "1 / 0")
    edit = """
    import pathlib
    path = pathlib.Path("05_y.ipynb")
    path.write_text(path.read_text().replace("Made up", "Made anew"))
    """
    edited = write(tmp_path / "05_y.ipynb", textwrap.dedent(edit), "print(1)")
    before = fails.path.read_bytes()
    outcomes = {row.stem: row for row in refresh([fails, edited], Recorder(), jobs=2)}
    assert outcomes["04_x"].error["name"] == "ZeroDivisionError"
    assert outcomes["05_y"].error["name"] == "Changed" and not outcomes["05_y"].ok
    assert fails.path.read_bytes() == before
    assert printed(edited.path) == "" and "Made anew" in edited.path.read_text("utf-8")


def test_refresh_is_for_the_quick_profile(tmp_path: Path) -> None:
    lesson = write(tmp_path / "04_x.ipynb", parameters='profile = "full"')
    with pytest.raises(CourseError, match="quick"):
        refresh([lesson], Recorder())


def test_bars_are_drawn_where_a_person_watches(capsys: pytest.CaptureFixture) -> None:
    with Bars(1) as bars:
        bars.running([])
        row = report.Outcome("04_x", "[red]4", "passed", 3.0, 2**20, {}, "")
        bars.finished(row)
    assert "passed   04_x" in capsys.readouterr().out
    assert bars.progress.finished


def test_the_course_s_own_lessons_are_found() -> None:
    assert all(lesson.number for lesson in course.lessons())
