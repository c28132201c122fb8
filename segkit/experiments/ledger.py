"""The ledger: every claim with its verdict and figures, as JSON and as Markdown."""

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from segkit import paths
from segkit.experiments import analysis
from segkit.experiments.analysis import Measured, Record
from segkit.experiments.claims import BOTH, RACE, Claim, claims
from segkit.experiments.designs import GROUPS
from segkit.experiments.evidence import (
    FAILS,
    HOLDS,
    OPEN,
    UNMEASURED,
    UNTESTABLE,
    Evidence,
    labels,
)
from segkit.experiments.grid import Design, named
from segkit.files import write_text

VERDICTS = (HOLDS, FAILS, OPEN, UNTESTABLE, UNMEASURED)
MADE = "<!-- made by `segkit reproduce`: edit nothing here -->"
BEGIN, END = "<!-- results: made by `segkit reproduce` -->", "<!-- end of results -->"
QUOTE = re.compile(r"\[([^\]]+)\]\([^)\s]*ledger\.md#([\w-]+)\)")
NUMBER = re.compile(r"(?<![\w.])[−-]?\d[\d,]*(?:\.\d+)?")
SHOWN = (
    "test IoU",
    "test IoU per image",
    "test Dice",
    "test accuracy",
    "test boundary IoU",
    "val accuracy",
)

Ledger = dict[str, Any]


def build(records: Mapping[str, Record]) -> Ledger:
    """Return the ledger: what `records`, by the runs' names, say of all claims; for JSON."""
    profiles = {
        name: Evidence({design.name: design for design in group()}, records)
        for name, group in GROUPS.items()
    }
    return {
        "claims": [
            _entry(claim, profiles | {"always": Evidence({}, records)}) for claim in claims()
        ],
        "profiles": {name: _profile(evidence) for name, evidence in profiles.items()},
    }


def _entry(claim: Claim, profiles: Mapping[str, Evidence]) -> dict[str, Any]:
    told = {"key": claim.key, "who": claim.who, "what": claim.what}
    told |= {"conditions": claim.conditions, "test": claim.test, "design": claim.design}
    return told | {"results": {name: _result(claim, profiles[name]) for name in claim.profiles}}


def _result(claim: Claim, evidence: Evidence) -> dict[str, Any]:
    if claim.design:
        lacking = analysis.missing(evidence.designs[claim.design], evidence.records)
        if lacking:
            return {"verdict": UNMEASURED, "why": f"{lacking} runs are missing", "figures": {}}
    found = claim.check(evidence)
    figures = {name: _figure(value) for name, value in found.figures.items()}
    return {"verdict": found.verdict, "why": found.why, "figures": figures}


def _figure(value: Measured | float) -> dict[str, Any] | float:
    if not isinstance(value, Measured):
        return _short(value)
    numbers = {"value": value.value, "spread": value.spread, "low": value.low, "high": value.high}
    return {name: _short(n) for name, n in numbers.items()} | {
        "seeds": [_short(n) for n in value.seeds]
    }


def _short(value: float) -> float | int | None:
    """Return a number as the ledger keeps it; None for what is no number."""
    if isinstance(value, int):
        return value
    return None if math.isnan(value) else float(f"{value:.5g}")


def _profile(evidence: Evidence) -> dict[str, Any]:
    """Return scores and effects of the finished designs of one profile, and what they cost."""
    done = [d for d in evidence.designs.values() if not analysis.missing(d, evidence.records)]
    runs = [evidence.records[name] for name in named(c for d in done for c in d.configs())]
    told = {
        "runs": len(runs),
        "missing": sum(analysis.missing(d, evidence.records) for d in evidence.designs.values()),
        "seconds": _short(sum(run["seconds"] for run in runs) + 0.0),
        "cpu_seconds": _short(sum(run["cpu_seconds"] for run in runs) + 0.0),
        "made_with": sorted({_made_with(run) for run in runs}),
        "scores": {design.name: _scores(design, evidence) for design in done},
    }
    factorial = [d for d in done if len(d.factors) > 1]
    return told | {"effects": {d.name: _effects(d, evidence.records) for d in factorial}}


def _made_with(run: Record) -> str:
    made = run["made_with"]
    return f"{made['device']}, torch {made['torch']}, Python {made['python']}, {made['precision']}"


def _scores(design: Design, evidence: Evidence) -> dict[str, Any]:
    cells = labels(design)
    tested = all(run["test"] for row in analysis.table(design, evidence.records) for run in row)
    wanted = [s for s in SHOWN if s.startswith("test") == tested]
    return {
        cell: {
            score: _figure(evidence.measure(design.name, [c == cell for c in cells], score))
            for score in wanted
        }
        for cell in cells
    }


def _effects(design: Design, records: Mapping[str, Record]) -> dict[str, Any]:
    return {
        score: {
            " × ".join(names): _figure(found)
            for names, found in analysis.effects(design, records, score).items()
        }
        for score in ("test IoU", "test accuracy", "test boundary IoU")
    }


def results() -> Path:
    """Return the folder of the committed records and the committed ledger."""
    return paths.root() / "figures" / "results"


def write(folder: Path) -> Ledger:
    """Read the records in `folder`/records; write claims.json, ledger.md and runs.csv beside."""
    records = analysis.read(folder / "records")
    ledger = build(records)
    write_text(folder / "claims.json", json.dumps(ledger, indent=1, ensure_ascii=False) + "\n")
    write_text(folder / "ledger.md", markdown(ledger))
    everything = [design for group in GROUPS.values() for design in group()]
    write_text(folder / "runs.csv", analysis.tidy(everything, records))
    return ledger


def publish(folder: Path) -> None:
    """Write the ledger in `folder` and its pictures, and, of a checkout, the README's results."""
    from segkit.experiments import plots  # matplotlib, which only this needs

    ledger, records = write(folder), analysis.read(folder / "records")
    for profile, group in GROUPS.items():
        for design in group():
            if len(design.factors) > 1 and not analysis.missing(design, records):
                for name, draw in (
                    ("effects", plots.effects),
                    ("interactions", plots.interactions),
                ):
                    draw(design, records).savefig(folder / f"{name}-{profile}.png", dpi=100)
    if folder.resolve() == results():
        readme = paths.root() / "README.md"
        text = readme.read_text(encoding="utf-8")
        if with_summary(text, ledger) != text:
            write_text(readme, with_summary(text, ledger))


def read(folder: Path | None = None) -> Ledger:
    """Return the ledger in `folder`, by default the committed one: what lessons print from."""
    return json.loads(((folder or results()) / "claims.json").read_text(encoding="utf-8"))


def markdown(ledger: Ledger) -> str:
    """Return the ledger as a page: the claims, then what each design measured, then the effects."""
    lines = [MADE, "", "# What is claimed, and what was measured", "", *_how_to_read(), ""]
    lines += ["## Claims", ""]
    for claim in ledger["claims"]:
        lines += [f'<a id="{claim["key"]}"></a>', f"**{claim['who']}**: {claim['what']}  "]
        lines += [f"Conditions there: {claim['conditions']}.  ", f"Test here: {claim['test']}.", ""]
        for profile, result in claim["results"].items():
            where = "" if profile == "always" else f"{profile}: "
            lines.append(f"- {where}**{result['verdict']}** ({result['why']})")
            lines += [f"  - {name}: {told(value)}" for name, value in result["figures"].items()]
        lines.append("")
    for profile, found in ledger["profiles"].items():
        lines += _profile_page(profile, found)
    return "\n".join(lines).rstrip() + "\n"


def _how_to_read() -> list[str]:
    return [
        "A figure is a mean over seeds ± their standard deviation, with a 95 % bootstrap interval "
        "over seeds and images in brackets, which for three seeds is rather too narrow. Of what is "
        "not counted on images (epochs, losses, seconds, memory) the brackets hold the range over "
        "the seeds. A claim about a difference holds if the whole interval lies on the claimed "
        "side of zero, does not hold if it lies on the other, and is undecided otherwise. `quick` "
        "is a miniature on procedural data, and so are its verdicts. `full` is a claim's own size.",
    ]


def _profile_page(profile: str, found: Mapping[str, Any]) -> Iterator[str]:
    yield f"## {profile}"
    yield ""
    command = "--only quality" if profile in RACE else f"--profile {profile}"
    minutes = {name: f"{(found[name] or 0) / 60:.1f} min" for name in ("seconds", "cpu_seconds")}
    yield (
        f"`segkit reproduce {command}`: {found['runs']} runs in finished designs, "
        f"{found['missing']} runs missing; {minutes['seconds']} of training by the clock, "
        f"{minutes['cpu_seconds']} of processor time in all."
    )
    for made in found["made_with"]:
        yield f"- {made}"
    yield ""
    for design, cells in found["scores"].items():
        scores = list(next(iter(cells.values())))
        yield f'<a id="{anchor(profile, design)}"></a>'
        yield ""
        yield f"| {design} | {' | '.join(scores)} |"
        yield "|---" * (1 + len(scores)) + "|"
        for cell, row in cells.items():
            yield f"| {cell} | {' | '.join(told(row[score]) for score in scores)} |"
        yield ""
    for design, scored in found["effects"].items():
        names = list(next(iter(scored.values())))
        yield f"| effects in {design} | {' | '.join(scored)} |"
        yield "|---" * (1 + len(scored)) + "|"
        for name in names:
            yield f"| {name} | {' | '.join(told(row[name]) for row in scored.values())} |"
        yield ""


def told(figure: Mapping[str, Any] | float) -> str:
    """Return a figure of the ledger as the ledger's page and all prose write it."""
    if not isinstance(figure, Mapping):
        return number(figure)
    interval = f"[{number(figure['low'])}, {number(figure['high'])}]"
    spread = "" if figure["spread"] is None else f" ± {number(figure['spread'])}"
    return f"{number(figure['value'])}{spread} {interval}"


def number(value: float | None) -> str:
    """Return a number with three decimals below 10, one from there, and none for whole ones."""
    if value is None:
        return "–"
    if isinstance(value, int):
        return f"{value:,}"
    if value and abs(value) < 0.0005:
        return f"{value:.0e}".replace("-", "−", 1 if value < 0 else 0)
    return f"{value:,.{3 if abs(value) < 10 else 1}f}".replace("-", "−")


def summary(ledger: Ledger) -> str:
    """Return the few lines that the README shows: how many claims have which verdict."""
    rows = ["| | " + " | ".join(VERDICTS) + " |", "|---" * (1 + len(VERDICTS)) + "|"]
    names = {"always": "needs no training", "quick": "in miniature", "full": "at full size"}
    for profile in ("always", *BOTH):
        found = Counter(
            claim["results"][profile]["verdict"]
            for claim in ledger["claims"]
            if profile in claim["results"]
        )
        rows.append(f"| {names[profile]} | " + " | ".join(str(found[v]) for v in VERDICTS) + " |")
    return "\n".join(rows)


def with_summary(text: str, ledger: Ledger) -> str:
    """Return a page with what stands between its two marks made anew; without marks, as it is."""
    if BEGIN not in text or END not in text:
        return text
    before, rest = text.split(BEGIN, 1)
    return f"{before}{BEGIN}\n{summary(ledger)}\n{END}{rest.split(END, 1)[1]}"


def misquoted(text: str, ledger: Ledger) -> list[str]:
    """Return the numbers in `text` that the ledger does not hold, with what they refer to.

    Prose quotes a number as a link to its claim, `[0.512](../figures/results/ledger.md#key)`, or
    to a design's table, `#quick-abi2024`. All numbers in the link's text have to be figures there,
    as `told` writes them.
    """
    known = {claim["key"]: list(_figures(claim["results"])) for claim in ledger["claims"]}
    for profile, found in ledger["profiles"].items():
        for design, scores in found["scores"].items():
            rest = found["effects"].get(design, {})
            known[anchor(profile, design)] = [*_figures(scores), *_figures(rest)]
    wrong = []
    for quoted, key in QUOTE.findall(text):
        if key not in known:
            wrong.append(f"{quoted}: the ledger has no {key}")
            continue
        there = set(NUMBER.findall(" ".join(known[key])))
        wrong += [f"{n}: no figure of {key}" for n in NUMBER.findall(quoted) if n not in there]
    return wrong


def _figures(part: Any) -> Iterator[str]:
    """Yield all figures within a part of the ledger, as they are written."""
    if isinstance(part, (int, float)) or (isinstance(part, Mapping) and "spread" in part):
        yield told(part)
    elif isinstance(part, Mapping):
        for inner in part.values():
            yield from _figures(inner)


def anchor(profile: str, design: str) -> str:
    """Return the name under which a design's table is linked to."""
    return f"{profile}-{design}".replace(" ", "-")
