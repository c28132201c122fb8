"""Calling the command line from a test."""

import sys

import pytest
from typer.testing import CliRunner

from segkit import cli


def call(*words: object) -> tuple[int, str]:
    """Return exit code and all that was printed; what is raised is raised."""
    result = CliRunner().invoke(cli.app, [str(word) for word in words])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def printed(*words: object) -> str:
    """Return what a command that must succeed printed for a script, on standard output alone."""
    result = CliRunner().invoke(cli.app, [str(word) for word in words])
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


def main(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    """Return the exit code of the whole program, which turns errors into messages."""
    monkeypatch.setattr(sys, "argv", ["segkit", *map(str, words)])
    with pytest.raises(SystemExit) as left:
        cli.main()
    return left.value.code or 0
