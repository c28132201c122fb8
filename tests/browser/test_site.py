"""The site as a reader meets it: built without a warning, whole, offline, open to everyone."""

import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

from segkit import paths

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(600)]
PAGES = ("index", "paths", "teachers", "glossary", "results", "api", "lessons/07_iou_and_dice")


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """Build the site as `make site` does."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    subprocess.run([sys.executable, paths.root() / "docs" / "assemble.py", source], check=True)
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html"]
    done = subprocess.run([*command, source, out], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out


def visit(page: Page, site: Path, name: str) -> None:
    page.goto((site / f"{name}.html").as_uri(), wait_until="load")


def test_no_link_is_broken(page: Page, site: Path):
    """Every page, every picture, every section that a page names is there."""
    anchors, links = {}, []
    for path in sorted(site.rglob("*.html")):
        page.goto(path.as_uri())
        anchors[path] = set(page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)"))
        found = page.evaluate(
            "[...document.querySelectorAll('a[href], img[src], script[src], link[href]')]"
            ".map(e => e.href || e.src)"
        )
        links += [(path, link) for link in found]
    broken = []
    for path, link in links:
        parts = urlsplit(link)
        if parts.scheme != "file":
            continue
        target = Path(unquote(parts.path))
        known = anchors.get(target, set()) | {"", "top"}
        if not target.exists() or (
            target.suffix == ".html" and unquote(parts.fragment) not in known
        ):
            broken.append((path.name, link))
    assert not broken


@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_asked_of_another_server(page: Page, site: Path, name: str):
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    visit(page, site, name)
    assert asked
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert page.complaints == []


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_no_serious_barrier(page: Page, site: Path, name: str, theme: str):
    """axe-core finds nothing that keeps out somebody who cannot see or use a mouse."""
    page.emulate_media(color_scheme=theme)
    visit(page, site, name)
    found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    serious = {
        one["id"]: [node["html"][:120] for node in one["nodes"][:3]]
        for one in found
        if one["impact"] in ("serious", "critical")
    }
    assert serious == {}


@pytest.mark.parametrize("name", PAGES)
def test_it_fits_a_phone(page: Page, site: Path, name: str):
    """No page is wider than the screen: only tables and code may be pushed aside."""
    page.set_viewport_size({"width": 375, "height": 700})
    visit(page, site, name)
    assert page.evaluate("document.documentElement.scrollWidth") <= 375


def test_search_finds_a_word(page: Page, site: Path):
    page.goto((site / "search.html").as_uri() + "?q=checkerboard")
    page.wait_for_selector("#search-results li a")
    assert "05" in page.locator("#search-results").inner_text()
