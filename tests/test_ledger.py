"""What is quoted anywhere is what was measured."""

import copy
import json
from pathlib import Path

import pytest

from segkit.experiments import ledger
from segkit.experiments.analysis import read

ROOT = Path(__file__).parent.parent
RESULTS = ledger.results()
COMMITTED = ledger.read()


def close(got, expected, where="ledger"):
    """Compare two ledgers, numbers to 1e-4 of their size: sums are ordered by the machine."""
    assert type(got) is type(expected), where
    if isinstance(got, dict):
        assert list(got) == list(expected), where
        for key in got:
            close(got[key], expected[key], f"{where} / {key}")
    elif isinstance(got, list):
        assert len(got) == len(expected), where
        for i, pair in enumerate(zip(got, expected, strict=True)):
            close(*pair, f"{where} / {i}")
    elif isinstance(got, float):
        assert got == pytest.approx(expected, rel=1e-4, abs=1e-6), where
    else:
        assert got == expected, where


def test_the_ledger_is_what_the_records_say():
    close(json.loads(json.dumps(ledger.build(read(RESULTS / "records")))), COMMITTED)


def test_the_page_is_what_the_ledger_says():
    assert ledger.markdown(COMMITTED) == (RESULTS / "ledger.md").read_text(encoding="utf-8")


def test_the_miniature_is_complete_and_small():
    assert COMMITTED["profiles"]["quick"]["missing"] == 0, "run: segkit reproduce"
    files = [f for f in RESULTS.rglob("*") if f.is_file() and "runs" not in f.parts]
    assert sum(f.stat().st_size for f in files) < 1_000_000  # runs/: of a run that goes on


def test_what_nobody_has_run_is_not_given_a_verdict():
    for claim in COMMITTED["claims"]:
        for result in claim["results"].values():
            if result["verdict"] == "not yet measured":
                assert not result["figures"] and "runs are missing" in result["why"]


def pages():
    yield from (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "data" / "README.md")
    yield from sorted((ROOT / "notebooks").glob("*.ipynb"))


def prose(page):
    """Return the words of a page; of a notebook, those of its Markdown cells."""
    text = page.read_text(encoding="utf-8")
    if page.suffix != ".ipynb":
        return text
    cells = json.loads(text)["cells"]
    return "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")


@pytest.mark.parametrize("page", list(pages()), ids=lambda page: page.name)
def test_prose_quotes_what_the_ledger_holds(page):
    assert ledger.misquoted(prose(page), COMMITTED) == []


def test_the_readme_shows_the_results_as_they_are():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert ledger.with_summary(text, COMMITTED) == text, "run: segkit reproduce"


def made_up():
    figure = {"value": 0.5124, "spread": 0.01, "low": 0.49, "high": 0.53, "seeds": [0.5, 0.52]}
    result = {"verdict": "holds", "why": "", "figures": {"a": figure, "weights": 31_043_521}}
    design = {"scores": {"two cells": {"a": {"IoU": figure}}}, "effects": {}}
    return {"claims": [{"key": "one", "results": {"quick": result}}], "profiles": {"quick": design}}


@pytest.mark.parametrize(
    "quoted, wrong",
    [
        ("IoU [0.512](figures/results/ledger.md#one)", []),
        ("[0.512 ± 0.010 (0.490 to 0.530)](../figures/results/ledger.md#one)", []),
        ("[31,043,521 weights](ledger.md#one)", []),
        ("[0.512](ledger.md#quick-two-cells)", []),
        ("[0.513](ledger.md#quick-two-cells)", ["0.513: no figure of quick-two-cells"]),
        ("[0.513](ledger.md#one)", ["0.513: no figure of one"]),
        ("[0.51](ledger.md#one)", ["0.51: no figure of one"]),
        ("[31](ledger.md#one)", ["31: no figure of one"]),
        ("[0.512](ledger.md#two)", ["0.512: the ledger has no two"]),
        ("[the ledger](ledger.md#one) and 0.9 elsewhere", []),
    ],
)
def test_a_quoted_number_that_differs_is_found(quoted, wrong):
    assert ledger.misquoted(quoted, made_up()) == wrong


def test_the_readme_s_table_is_made_between_its_marks():
    page = f"before\n{ledger.BEGIN}\nstale\n{ledger.END}\nafter"
    new = ledger.with_summary(page, COMMITTED)
    assert new.startswith("before\n") and new.endswith("\nafter") and "stale" not in new
    assert ledger.with_summary(new, COMMITTED) == new
    other = copy.deepcopy(COMMITTED)
    result = next(iter(other["claims"][0]["results"].values()))
    result["verdict"] = "undecided" if result["verdict"] != "undecided" else "holds"
    assert ledger.with_summary(new, other) != new
    assert ledger.with_summary("no marks", COMMITTED) == "no marks"


@pytest.mark.parametrize(
    "value, text",
    [(0.51239, "0.512"), (-0.0614, "−0.061"), (12.345, "12.3"), (31043521, "31,043,521"),
     (0.0, "0.000"), (None, "–")],
)  # fmt: skip
def test_one_way_to_write_a_number(value, text):
    assert ledger.number(value) == text
