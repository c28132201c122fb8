"""The command line: what it refuses, what it passes on, and what it answers a script."""

import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import click
import pytest
import torch
import typer
from calls import call, main, printed

from segkit import cli, course, environment, paths
from segkit.train import precision

ROOT = paths.root()


def commands(group: click.Group, name: str = "segkit") -> Iterator[tuple[str, click.Command]]:
    for word, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{name} {word}")
        else:
            yield f"{name} {word}", command


@pytest.mark.parametrize(
    ("name", "command"),
    [pytest.param(*pair, id=pair[0]) for pair in commands(typer.main.get_command(cli.app))],
)
def test_every_command_and_option_says_what_it_is(name: str, command: click.Command) -> None:
    assert command.help and command.help.strip().endswith("."), name
    for parameter in command.params:
        assert parameter.help, f"{name} {parameter.name}"
    words = shlex.split(command.epilog.removeprefix("Example: "))
    asked = name.split()
    assert words[: len(asked)] == asked, "the example is one of this command"
    command.make_context(words[-1], words[len(asked) :])  # which raises for what does not exist


def test_help_imports_nothing_heavy() -> None:
    heavy = {"torch", "numpy", "papermill", "nbformat", "matplotlib", "psutil", "segkit.course"}
    program = (
        "import sys; sys.argv = ['segkit', '--help']\n"
        "from segkit import cli\n"
        "try: cli.main()\n"
        f"except SystemExit: sys.exit(', '.join({heavy!r} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "course" in done.stdout and "doctor" in done.stdout


def test_list_answers_people_and_scripts() -> None:
    rows = json.loads(printed("course", "list", "--json"))
    assert [row["name"] for row in rows] == [lesson.path.stem for lesson in course.lessons()]
    keys = ["number", "name", "title", "promise", "minutes", "parameters", "path"]
    assert list(rows[0]) == keys
    assert rows[0]["name"] in printed("course", "list")


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict:
    """What `run` was called with, in place of running anything; "status" says how it ends."""
    called = {"status": "passed"}
    (tmp_path / "notebooks").mkdir()
    for stem, declared in (("00_a", "seed = 0"), ("04_b", "seed = 0\ndata_dir = None\nrate = 1.0")):
        cell = {"cell_type": "code", "metadata": {"tags": ["parameters"]}}
        cell["source"] = f'profile = "quick"\n{declared}'
        (tmp_path / "notebooks" / f"{stem}.ipynb").write_text(json.dumps({"cells": [cell]}))

    def run(parameters: dict, out: Path, **options: object) -> Iterator[SimpleNamespace]:
        called.update(parameters={p.stem: v for p, v in parameters.items()}, out=out, **options)
        if called["status"] == "interrupted":
            raise KeyboardInterrupt
        out.mkdir(parents=True, exist_ok=True)
        (out / "index.html").touch()
        yield from [SimpleNamespace(status=called["status"])] * len(parameters)

    monkeypatch.setattr(course, "run", run)
    monkeypatch.setattr(paths, "root", lambda: tmp_path)
    monkeypatch.chdir(tmp_path)
    return called


def test_run_passes_everything_on(ran: dict, tmp_path: Path) -> None:
    code, text = call(
        "course", "run", "4", "--profile", "full", "--seed", 3, "--data-dir", "../d", "-p",
        "rate=2", "--jobs", 2, "--out", "o", "--resume", "--timeout", 60, "--no-pages",
    )  # fmt: skip
    assert code == 0, text
    assert ran["parameters"] == {
        "04_b": {"profile": "full", "seed": 3, "data_dir": str(tmp_path.parent / "d"), "rate": 2.0}
    }
    assert ran["out"] == Path("o")
    assert [ran[key] for key in ("jobs", "resume", "timeout", "pages")] == [2, True, 60.0, False]
    assert "Report: o/index.html" in text and "1 of 1 lessons passed" in text


def test_run_without_options_leaves_lessons_as_they_stand(ran: dict) -> None:
    assert call("course", "run")[0] == 0
    assert ran["parameters"] == {"00_a": {}, "04_b": {}} and ran["out"] == Path("build/course")
    assert [ran[key] for key in ("jobs", "resume", "timeout", "pages")] == [1, False, None, True]
    assert call("course", "run", "-p", "rate=3")[0] == 0
    assert ran["parameters"] == {"00_a": {}, "04_b": {"rate": 3.0}}, "each takes what it declares"


@pytest.mark.parametrize(("status", "code"), [("kept", 0), ("failed", 1), ("interrupted", 130)])
def test_exit_codes(ran: dict, status: str, code: int) -> None:
    ran["status"] = status
    assert call("course", "run")[0] == code


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["04_net"], "no lesson '04_net' (did you mean 04_b?); there are: 00_a, 04_b"),
        (["00", "-p", "rate=1"], "no parameter 'rate' in 00_a (it has: profile, seed)"),
        (["--dataset", "toy-pets"], "no parameter 'dataset'"),
        (["--profile", "fast"], "no profile 'fast'; there are: quick, full"),
        (["04", "-p", "rate=much"], "rate is of type float (as 1.0), not 'much'"),
    ],
)
def test_what_is_misspelt_is_refused_before_anything_runs(
    ran: dict, monkeypatch, capsys, words: list[str], message: str
) -> None:
    assert main(monkeypatch, "course", "run", *words) == 2
    called = capsys.readouterr().err
    assert message in called and "Traceback" not in called
    assert "parameters" not in ran and not Path("build").exists()


@pytest.mark.parametrize(
    "words", [["--sed", "3"], ["--jobs", "0"], ["--timeout", "0"], ["-p", "rate"], ["--seed", "x"]]
)
def test_what_typer_refuses(ran: dict, words: list[str]) -> None:
    assert call("course", "run", *words)[0] == 2
    assert "parameters" not in ran


def test_doctor_reports_this_machine() -> None:
    found = json.loads(printed("doctor", "--json"))
    assert found["missing"] == []
    assert found["packages"]["torch"].startswith(torch.__version__.partition("+")[0])
    assert found["threads"] == torch.get_num_threads()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    assert found["precision"] == str(precision.choose("auto", device))
    assert str(paths.data_dir()) in found["data folder"]
    text = printed("doctor")
    assert re.search(r"missing +nothing", text)
    assert re.search(rf"threads +{torch.get_num_threads()}\n", text), "1 is a number, not yes"


def test_doctor_names_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    real, absent = environment.version, ("scipy", "torch", "onnx")
    monkeypatch.setattr(environment, "version", lambda n: None if n in absent else real(n))
    code, text = call("doctor", "--json")
    found = json.loads(text)
    assert code == 1 and found["missing"] == ["torch", "scipy"]
    assert found["packages"]["torch"] is None and "device" not in found
    assert found["extras"]["export"] == "lacks torch, onnx"
    assert "torch, scipy" in call("doctor")[1]


def test_the_requirements_are_those_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    required, extras = environment.requirements()
    assert required == [re.match(r"[\w.-]+", line)[0] for line in project["dependencies"]]
    assert set(extras) == set(project["optional-dependencies"])


def test_a_data_folder_that_cannot_be_written_is_named(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SEGKIT_DATA", str(tmp_path / "new" / "deep"))
    assert "GiB free" in environment.report()["data folder"]
    monkeypatch.setattr(environment.os, "access", lambda path, mode: False)
    assert "not writable; set SEGKIT_DATA" in environment.report()["data folder"]
