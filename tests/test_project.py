"""The declarations that have to agree: pyproject, lock, conda environment, lessons."""

import re
import runpy
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from segkit.course import lessons, pictures

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = (ROOT / "requirements.txt").read_text()


def declared():
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    return [Requirement(r) for group in groups for r in group]


def locked():
    found = {}
    for line in LOCK.splitlines():
        if line and not line.startswith("#"):
            requirement = Requirement(line)
            found.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return found


@pytest.mark.parametrize("requirement", declared(), ids=str)
def test_the_lock_holds_what_is_declared(requirement):
    pins = locked().get(canonicalize_name(requirement.name))
    assert pins, f"{requirement} is not in requirements.txt: run make lock"
    for pin in pins:
        version = Version(str(pin.specifier).removeprefix("=="))
        assert requirement.specifier.contains(version), f"{pin} against {requirement}"


@pytest.mark.parametrize("python", ["3.11.7", "3.12.1", "3.13.0"])
def test_the_lock_serves_every_python(python):
    minor = python.rsplit(".", 1)[0]
    for requirement in declared():
        pins = locked()[canonicalize_name(requirement.name)]
        fitting = [
            pin for pin in pins
            if not pin.marker or pin.marker.evaluate(
                {"python_version": minor, "python_full_version": python}
            )
        ]  # fmt: skip
        assert len(fitting) == 1, f"{requirement.name} on Python {python}: {fitting}"


def test_the_lock_names_no_host():
    assert not re.search(r"https?://|--index|--find-links|\+cpu|\+cu", LOCK)


def test_conda_installs_the_same():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *conda, pip = environment["dependencies"]
    assert [Requirement(c).name for c in conda] == ["python", "pip"]
    assert (
        Requirement(conda[0]).specifier
        == Requirement(f"python{PROJECT['requires-python']}").specifier
    )
    assert pip == {"pip": ["-r requirements.txt", "--editable ."]}


def test_one_python_range_everywhere():
    minors = [c.rsplit(" ", 1)[1] for c in PROJECT["classifiers"] if re.search(r"3\.\d", c)]
    workflow = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text())
    assert workflow["jobs"]["test"]["strategy"]["matrix"]["python"] == minors
    allowed = SpecifierSet(PROJECT["requires-python"])
    assert all(allowed.contains(f"{minor}.0") for minor in minors)
    assert not allowed.contains("3.10.9") and not allowed.contains("3.14.0")


def test_the_readme_shows_the_lessons_as_they_are():
    with_table = runpy.run_path(str(ROOT / "docs" / "assemble.py"))["with_table"]
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert with_table(text) == text, "run: make refresh"
    for lesson in lessons():
        assert pictures(lesson), f"{lesson.path.stem} shows no picture"
    with pytest.raises(ValueError, match="lost the marks"):
        with_table("# segkit")


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "data/README.md"])
def test_every_link_inside_the_repository_leads_somewhere(page):
    text = (ROOT / page).read_text()
    links = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)|src=\"([^\"]+)\"", text)
    for link in (a or b for a, b in links):
        if not link.startswith(("http://", "https://")):
            assert ((ROOT / page).parent / link).exists(), f"{page} links to {link}"


def test_every_picture_in_the_readme_has_alternative_text():
    readme = (ROOT / "README.md").read_text()
    assert not re.search(r"!\[\s*\]", readme)
    assert all(re.search(r'alt="[^"]+"', tag) for tag in re.findall(r"<img[^>]*>", readme))
