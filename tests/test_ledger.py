"""Every number that is quoted was measured, and every verdict follows from the records."""

import copy
import csv
import json
import re
from pathlib import Path

import pytest
from tiny import LOSS, RATE, design, record, records_of

from segkit import experiments
from segkit.experiments import Estimate, config_hash

claims, designs, ledger = (experiments.load(name) for name in ("claims", "designs", "ledger"))
HOLDS, FAILS, OPEN = claims.HOLDS, claims.FAILS, claims.OPEN
ROOT = Path(__file__).parent.parent
RESULTS = ledger.results()
COMMITTED = ledger.read()

# ---------------------------------------------------------------- verdicts


def test_the_rule_of_the_verdict():
    above, below, across = (0.1, 0.2), (-0.2, -0.1), (-0.1, 0.2)
    for intervals, more, verdict in (
        ([above], True, HOLDS), ([above], False, FAILS), ([below], True, FAILS),
        ([below], False, HOLDS), ([across], True, OPEN), ([(0, 0.2)], True, OPEN),
        ([above, across], True, OPEN), ([above, below], True, FAILS),
    ):  # fmt: skip
        gaps = [Estimate((low + high) / 2, low, high, ()) for low, high in intervals]
        assert claims.verdict(gaps, more) == verdict


def test_a_comparison_of_two_cells_and_of_a_factor():
    grid = design(loss=LOSS, rate=RATE)
    records = records_of(grid, lambda c, s: 40 + 10 * (c["loss"] == "dice"))
    found = claims.compare(grid, records, "test IoU", [("dice + slow", "bce + fast")])
    assert found.verdict == HOLDS
    assert found.figures["dice + slow − bce + fast, test IoU"].value == pytest.approx(0.1)
    less = claims.compare(grid, records, "test IoU", factor="loss", more=False)
    assert less.verdict == FAILS
    assert claims.compare(grid, records, "test IoU", factor="rate").verdict == OPEN


def test_epochs_to_a_target():
    for target, epoch in ((0.05, 1), (0.3, 2), (0.5, 2), (0.6, 3)):
        assert claims.epochs_to(record({}, 1, val_iou=(0.1, 0.5)), target) == epoch


def test_convergence_is_compared_at_a_common_target():
    grid = design(loss=LOSS)
    records = {
        config_hash(c): record(c, 50, val_iou=(0.5 if "dice" in c["fit"]["loss"] else 0.1, 0.5))
        for c in grid.configs()
    }
    found = claims.compare(grid, records, claims.EPOCHS, factor="loss", more=False)
    assert found.verdict == HOLDS
    assert found.figures["dice − bce, epochs to the target"].value == -1
    assert found.figures["bce, epochs to the target"].value == 2


def test_a_figure_is_reached_or_not_and_a_choice_matters_in_either_direction():
    grid = design()
    records = records_of(grid, lambda c, s: 50)
    for low, high, verdict in (
        (0.4, 0.6, HOLDS), (0.55, 1, FAILS), (0.5, 0.6, HOLDS), (0, 0.49, FAILS)
    ):  # fmt: skip
        found = claims.reaches(grid, records, "test IoU", "tiny", low, high)
        assert found.verdict == verdict
    grid = design(loss=LOSS)
    for gap, verdict in ((10, HOLDS), (-10, HOLDS), (1, FAILS)):
        records = records_of(grid, lambda c, s, gap=gap: 50 + gap * (c["loss"] == "dice"))
        found = claims.differ(grid, records, "test IoU", ("dice", "bce"), 0.05)
        assert found.verdict == verdict


def test_dice_is_f1_and_iou_is_not_near_it():
    grid = next(d for d in designs.quick() if d.name == "abi2024")
    records = records_of(grid, lambda c, s: [0, 10, 41, 59, 90, 100])
    assert claims.dice_is_f1(grid, records).verdict == HOLDS
    apart = claims.iou_near_dice(grid, records)
    assert apart.verdict == FAILS
    assert apart.figures["largest gap"] == pytest.approx(0.1716, abs=1e-3)


def test_claims_that_need_no_training():
    found = {
        c.key: claims.decide(c, "always", {}) for c in claims.CLAIMS if c.profiles == ("always",)
    }
    odd = {"deb-override": FAILS, "nycu-blind": FAILS, "abi-dice-loss": "not testable"}
    assert {key: finding.verdict for key, finding in found.items()} == dict.fromkeys(
        found, HOLDS
    ) | odd
    for key, expected in {
        "pdr-size": {"pdr_unet": 361_482},
        "abi-strided-weights": {"maxpool": 31_043_521, "strided": 34_177_921},
        "pdr-weights": {"pdr_unet": 363_521, "fusionnet": 78_531_137},
        "pdr-view": {"block 8": 509, "output": 633},
        "unet-size": {"side": 388},
        "deb-bilinear": {"nearest": 2},
        "nycu-blind": {"without false positives": 1},
    }.items():
        assert expected.items() <= found[key].figures.items(), key
    grown = found["deb-override"].figures
    assert grown["after"] > 1.05 * grown["before"] and found["nycu-blind"].figures["Dice"] < 0.7


def test_every_claim_has_a_key_of_its_own_and_is_decided_once_its_runs_are_there():
    """And a miniature never says that a claim holds or does not, unless it is an identity."""
    assert len({claim.key for claim in claims.CLAIMS}) == len(claims.CLAIMS)
    for profile, group in designs.GROUPS.items():
        configs = [config for grid in group() for config in grid.configs()]
        records = {config_hash(config): record(config, 50) for config in configs}
        for claim in claims.CLAIMS:
            if claim.design and profile in claim.profiles:
                assert claims.decide(claim, profile, {}).verdict == claims.UNMEASURED
                verdict = claims.decide(claim, profile, records).verdict
                miniature = profile == "quick" and not claim.identity
                words = claims.MINIATURE.values() if miniature else (HOLDS, FAILS, OPEN)
                assert verdict in words
            elif profile == "quick":
                assert claims.decide(claim, profile, records).verdict == claims.UNTESTABLE


# ---------------------------------------------------------------- the ledger


def test_the_ledger_follows_from_the_records():
    records = experiments.read_records(RESULTS / "records")
    texts = [json.dumps(part, indent=1) for part in (ledger.build(records), COMMITTED)]
    words, committed_words = (re.sub(r"-?\d[\d.e+-]*", "#", text).splitlines() for text in texts)
    assert words == committed_words
    numbers, expected = (
        [float(n) for n in re.findall(r"(?<=[:\n]) +(-?\d[\d.e+-]*)", text)] for text in texts
    )
    assert len(numbers) > 1000 and numbers == pytest.approx(expected, rel=1e-4, abs=1e-6)
    with (RESULTS / "runs.csv").open(encoding="utf-8", newline="") as file:
        committed = list(csv.DictReader(file))
    rows = list(ledger.run_rows(records))
    assert len(committed) == len(rows)
    for found, expected in zip(rows, committed, strict=True):
        assert {k: str(v) for k, v in found.items()}.items() <= expected.items()


def test_the_page_follows_from_the_ledger_and_what_is_not_measured_has_no_verdict():
    assert ledger.markdown(COMMITTED) == (RESULTS / "ledger.md").read_text(encoding="utf-8")
    for result in (r for claim in COMMITTED["claims"] for r in claim["results"].values()):
        if result["verdict"] == claims.UNMEASURED:
            assert not result["figures"] and "runs are missing" in result["why"]


def test_a_row_per_run_and_no_score_without_counts(monkeypatch):
    grid = design(loss=LOSS)
    records = records_of(grid, lambda c, s: 40 + s)
    next(iter(records.values()))["test"] = None
    monkeypatch.setattr(designs, "GROUPS", {"quick": lambda: [grid]})
    rows = list(ledger.run_rows(records))
    assert [(r["design"], r["loss"], r["seed"]) for r in rows] == [
        ("tiny", "bce", 0), ("tiny", "bce", 1), ("tiny", "dice", 0), ("tiny", "dice", 1),
    ]  # fmt: skip
    assert "test IoU" not in rows[0] and rows[1]["test IoU"] == "0.41000"
    assert rows[0]["val accuracy"] == "0.70000"


def test_the_records_are_small():
    files = [f for f in RESULTS.rglob("*") if f.is_file() and "runs" not in f.parts]
    assert sum(f.stat().st_size for f in files if f.suffix not in (".py", ".pyc")) < 1_000_000


def test_numbers_are_written_in_one_form():
    written = {0.51239: "0.512", -0.0614: "−0.061", 12.345: "12.3", 31043521: "31,043,521"}
    for value, text in (written | {0.0: "0.000", None: "–"}).items():
        assert ledger.number(value) == text


def test_the_readme_shows_the_verdicts_as_they_are():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert ledger.with_summary(text, COMMITTED) == text, "run: segkit reproduce"
    page = f"before\n{ledger.BEGIN}\nstale\n{ledger.END}\nafter"
    new = ledger.with_summary(page, COMMITTED)
    assert new.startswith("before\n") and new.endswith("\nafter") and "stale" not in new
    assert ledger.with_summary(new, COMMITTED) == new
    other = copy.deepcopy(COMMITTED)
    result = next(iter(other["claims"][0]["results"].values()))
    result["verdict"] = "undecided" if result["verdict"] != "undecided" else "holds"
    assert ledger.with_summary(new, other) != new
    assert ledger.with_summary("no marks", COMMITTED) == "no marks"


# ---------------------------------------------------------------- quotations

QUOTE = re.compile(r"\[([^\]]+)\]\([^)\s]*ledger\.md#([\w-]+)\)")
NUMBER = re.compile(r"(?<![\w.])[−-]?\d[\d,]*(?:\.\d+)?")


def figures(part):
    """Yield all figures within a part of the ledger, as they are written."""
    if isinstance(part, (int, float)) or (isinstance(part, dict) and "spread" in part):
        yield ledger.figure_text(part)
    elif isinstance(part, dict):
        for inner in part.values():
            yield from figures(inner)


def misquoted(text, found):
    """Return the numbers in `text` that the ledger does not hold, with what they refer to.

    Prose quotes a number as a link to its claim, `[0.512](../figures/results/ledger.md#key)`, or
    to a design's table, `#quick-abi2024`. All numbers in the link's text have to be there.
    """
    known = {claim["key"]: list(figures(claim["results"])) for claim in found["claims"]}
    for profile, measured in found["profiles"].items():
        for name, scores in measured["scores"].items():
            known[ledger.anchor(profile, name)] = [
                *figures(scores), *figures(measured["effects"].get(name, {}))
            ]  # fmt: skip
    wrong = []
    for quoted, key in QUOTE.findall(text):
        if key not in known:
            wrong.append(f"{quoted}: the ledger has no {key}")
            continue
        there = set(NUMBER.findall(" ".join(known[key])))
        wrong += [f"{n}: no figure of {key}" for n in NUMBER.findall(quoted) if n not in there]
    return wrong


def prose(page):
    """Return the words of a page; of a notebook, those of its Markdown cells."""
    text = page.read_text(encoding="utf-8")
    if page.suffix != ".ipynb":
        return text
    cells = json.loads(text)["cells"]
    return "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")


@pytest.mark.parametrize(
    "page",
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "data" / "README.md"]
    + sorted((ROOT / "notebooks").glob("*.ipynb")),
    ids=lambda page: page.name,
)
def test_prose_quotes_what_the_ledger_holds(page):
    assert misquoted(prose(page), COMMITTED) == []


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
    figure = {"value": 0.5124, "spread": 0.01, "low": 0.49, "high": 0.53, "seeds": [0.5, 0.52]}
    figure["images"] = [0.505, 0.521]
    result = {"verdict": "holds", "why": "", "figures": {"a": figure, "weights": 31_043_521}}
    measured = {"scores": {"two cells": {"a": {"IoU": figure}}}, "effects": {}}
    made_up = {
        "claims": [{"key": "one", "results": {"quick": result}}],
        "profiles": {"quick": measured},
    }
    assert misquoted(quoted, made_up) == wrong
