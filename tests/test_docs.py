"""What the pages of the site say about the lessons is so."""

import re
import subprocess
import sys

import pytest

from segkit import paths
from segkit.course import lessons

DOCS = paths.root() / "docs"
ENTRY = re.compile(r"^(\S.*)\n((?:  .*\n)+)", re.M)


def prose(lesson) -> str:
    text = "\n".join(c["source"] for c in lesson.cells if c["cell_type"] == "markdown")
    return " ".join(text.split())


def entries() -> list[tuple[str, str]]:
    text = (DOCS / "glossary.md").read_text("utf-8")
    return ENTRY.findall(text.partition("```{glossary}\n")[2])


def test_the_glossary_is_in_order_and_names_a_term_once():
    terms = [term.lower() for term, _ in entries()]
    assert len(terms) > 60
    assert terms == sorted(set(terms))


@pytest.mark.parametrize(("term", "meaning"), entries(), ids=lambda value: value[:24])
def test_the_lesson_that_a_term_names_explains_it(term, meaning):
    """There the term stands in bold, as every term does where it is explained."""
    number, file = re.search(r"\[Lesson (\d\d)\]\(lessons/(\S+)\)", meaning).groups()
    (lesson,) = [one for one in lessons() if one.number == number]
    assert lesson.path.name == file
    bold = re.findall(r"\*\*(.+?)\*\*", prose(lesson))
    assert any(term.lower().rstrip("s") in words.lower() for words in bold), bold


def test_spelling():
    """codespell finds no usual slip in the lessons, the pages and the package."""
    places = [paths.root() / name for name in ("notebooks", "docs", "segkit", "README.md")]
    command = [sys.executable, "-m", "codespell_lib", "--skip", "*.png,*.pyc"]
    command += ["--ignore-regex", r'"image/png": "[^"]*"']
    done = subprocess.run([*command, *places], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("lesson", lessons(), ids=lambda lesson: lesson.number)
def test_the_time_to_read_is_honest(lesson):
    """At 130 words a minute, with a quarter of a minute for each cell and its picture."""
    words = len(prose(lesson).split())
    code = sum(cell["cell_type"] == "code" for cell in lesson.cells)
    minutes = words / 130 + code / 4
    assert 0.5 * minutes < lesson.minutes < 3 * minutes, f"{words} words, {code} cells: {minutes}"
