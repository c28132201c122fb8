"""The lessons as a learner meets them: JupyterLab, run all, an exercise, wrong and right."""

import re

import pytest
from playwright.sync_api import Locator, Page, expect

from segkit import paths

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(600)]
RUN = 240_000  # milliseconds that a lesson may take here, beside other tests on the same cores


def open_lesson(page: Page, lab: str, name: str) -> None:
    """Open a lesson and wait until its kernel is there."""
    page.goto(lab.replace("NAME", name))
    expect(page.locator(".jp-NotebookPanel .jp-Cell").first).to_be_visible(timeout=120_000)
    kernel = page.locator(".jp-NotebookPanel .jp-Toolbar-kernelName")
    expect(kernel).to_have_text("Python 3 (ipykernel)", timeout=120_000)
    idle(page)


def idle(page: Page, timeout: int = RUN) -> None:
    """Wait until the kernel has nothing left to do."""
    status = page.locator(".jp-NotebookPanel .jp-Notebook-ExecutionIndicator")
    expect(status).to_have_attribute("data-status", "idle", timeout=timeout)


def run_all(page: Page) -> None:
    """Clear what is shown, and run all cells, as a learner would from the menu."""
    menu(page, "Edit", "Clear Outputs of All Cells")
    expect(page.locator(".jp-OutputArea-output")).to_have_count(0)
    menu(page, "Run", "Run All Cells")
    last = page.locator(".jp-CodeCell").last.locator(".jp-InputPrompt")
    expect(last).to_have_text(re.compile(r"\[\d+\]:"), timeout=RUN)


def menu(page: Page, name: str, entry: str) -> None:
    page.locator(".lm-MenuBar-item", has_text=re.compile(f"^{name}$")).click()
    page.locator(".lm-Menu-itemLabel", has_text=re.compile(f"^{re.escape(entry)}$")).click()


def looks_well(page: Page) -> None:
    """Hold that every cell ran, nothing failed, and each picture and widget is there to see."""
    prompts = page.locator(".jp-CodeCell .jp-InputPrompt").all_text_contents()
    shown = [prompt for prompt in prompts if prompt]  # that of a cell with hidden code is empty
    assert len(shown) > 10
    for prompt in shown:
        assert re.fullmatch(r"\[\d+\]:", prompt), "a cell did not run"
    failed = page.locator('[data-mime-type="application/vnd.jupyter.error"]')
    assert failed.count() == 0, failed.first.text_content()
    warned = page.locator('[data-mime-type="application/vnd.jupyter.stderr"]')
    assert warned.count() == 0, warned.first.text_content()
    pictures = page.locator(".jp-OutputArea-output img")
    assert pictures.count() > 0
    for picture in pictures.all():
        assert picture.evaluate("image => image.complete && image.naturalWidth") > 100
    assert page.complaints == []


def answer(page: Page, exercise: str, code: str) -> Locator:
    """Replace an exercise's cell by `code`, run it, and return its output."""
    cell = page.locator(".jp-CodeCell", has_text=f"check.{exercise}(").last
    cell.locator(".cm-content").click()
    page.keyboard.press("Control+a")
    page.keyboard.insert_text(f"{code}\n\ncheck.{exercise}({exercise})")
    page.keyboard.press("Control+Enter")
    idle(page)
    return cell.locator(".jp-OutputArea-output")


def solution(name: str) -> str:
    return (paths.root() / "notebooks" / "solutions" / f"{name}.py").read_text("utf-8")


def test_the_first_lesson_runs(page: Page, lab: str):
    open_lesson(page, lab, "00_start_here")
    run_all(page)
    looks_well(page)


def test_an_exercise_answered_wrongly_and_rightly(page: Page, lab: str):
    open_lesson(page, lab, "07_iou_and_dice")
    run_all(page)
    looks_well(page)
    stub = page.locator(".jp-CodeCell", has_text="check.iou_and_dice(").last
    expect(stub.locator(".jp-OutputArea-output")).to_contain_text("not attempted yet")
    right = solution("07_iou_and_dice")
    wrong = right.replace("2 * tp", "tp")
    assert wrong != right
    expect(answer(page, "iou_and_dice", wrong)).to_contain_text("expected")
    expect(answer(page, "iou_and_dice", right)).to_contain_text("right. Passed")
    assert page.complaints == []


def test_the_slider_redraws_the_mask(page: Page, lab: str):
    open_lesson(page, lab, "18_export")
    run_all(page)
    looks_well(page)
    box = page.locator(".jp-OutputArea-output .widget-vbox", has=page.locator(".widget-slider"))
    words, picture = box.locator(".widget-label").last, box.locator("img")
    before = words.text_content(), picture.get_attribute("src")
    box.locator(".noUi-handle").focus()
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    expect(words).not_to_have_text(before[0], timeout=60_000)
    expect(picture).not_to_have_attribute("src", before[1], timeout=60_000)
    assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
    assert page.complaints == []
