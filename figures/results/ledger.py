"""The ledger: every claim with its verdict and figures, as JSON, as Markdown and as pictures."""

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch

from segkit import experiments, paths
from segkit.experiments import SCORES, Design, Estimate, Records, by_hash, config_hash, contrast
from segkit.files import csv_text, write_text
from segkit.metrics import Counts

claims, designs = experiments.load("claims"), experiments.load("designs")

MADE = "<!-- made by `segkit reproduce`: edit nothing here -->"
SUMMARISED = {
    "always": "about networks and scores: no training is needed",
    "quick": "about training: small networks on drawn images, three seeds",
}
BEGIN, END = "<!-- results: made by `segkit reproduce` -->", "<!-- end of results -->"
MADE_WITH = "{device}, torch {torch}, Python {python}, {precision}"
HOW_TO_READ = (
    "A figure is a mean over seeds ± their standard deviation, with Student's 95 % t-interval over "
    "the seeds in brackets: what other seeds would give on the same images. With three seeds it is "
    'wide, as it has to be. Behind "images" stands a 95 % bootstrap interval over the test images, '
    "with the runs as they are. A verdict goes by the t-interval: a claim about a difference "
    "holds if all of it lies on the claimed side of zero, does not hold if it lies on the other, "
    "and is undecided otherwise. Each verdict stands for itself: of twenty intervals of 95 % one "
    "misses on average. `full` is a claim's own size, and only there, or where nothing is "
    "trained, does a claim hold or not. `quick` is a miniature on procedural images with narrow "
    "networks, and its verdicts are about the miniature: same direction, opposite direction, or "
    "not separable."
)
SHOWN = [score for score in SCORES if score.startswith("test") or score == "val accuracy"]

Ledger = dict[str, Any]


def build(records: Records) -> Ledger:
    """Return the ledger, ready for JSON: what the records show about all claims."""
    return {
        "claims": [_entry(claim, records) for claim in claims.CLAIMS],
        "profiles": {name: _profile(group(), records) for name, group in designs.GROUPS.items()},
    }


def _entry(claim: Any, records: Records) -> Ledger:
    results = {}
    for profile in ("quick", "full") if "full" in claim.profiles else claim.profiles:
        finding = claims.decide(claim, profile, records)
        figures = {name: _figure(value) for name, value in finding.figures.items()}
        results[profile] = {"verdict": finding.verdict, "why": finding.why, "figures": figures}
    fields = ("key", "who", "what", "conditions", "test", "design")
    return {name: getattr(claim, name) for name in fields} | {"results": results}


def _figure(value: Estimate | float) -> dict[str, Any] | float:
    if not isinstance(value, Estimate):
        return _short(value)
    numbers = {"value": value.value, "spread": value.std, "low": value.low, "high": value.high}
    shown = {name: _short(number) for name, number in numbers.items()}
    for name in ("seeds", "images"):
        shown[name] = [_short(number) for number in getattr(value, name)]
    return shown


def _short(value: float) -> float | int | None:
    """Return a number with five digits; None for NaN."""
    if isinstance(value, int):
        return value
    return None if math.isnan(value) else float(f"{value:.5g}")


def _profile(group: Sequence[Design], records: Records) -> dict[str, Any]:
    """Return scores and effects of the finished designs of one profile, and their cost."""
    missing = {design.name: experiments.missing(design, records) for design in group}
    done = [design for design in group if not missing[design.name]]
    runs = [records[name] for name in by_hash(c for design in done for c in design.configs())]
    return {
        "runs": len(runs),
        "missing": sum(missing.values()),
        "still_rising": sum(_still_rising(run) for run in runs),
        "seconds": _short(sum(run["seconds"] for run in runs) + 0.0),
        "cpu_seconds": _short(sum(run["cpu_seconds"] for run in runs) + 0.0),
        "made_with": sorted({MADE_WITH.format(**run["made_with"]) for run in runs}),
        "scores": {design.name: _scores(design, records) for design in done},
        "effects": {d.name: _effects(d, records) for d in done if len(d.factors) > 1},
    }


def _still_rising(run: Mapping[str, Any]) -> bool:
    """Whether the best epoch is among the last fifth: longer training might have changed it."""
    return run["selected_epoch"] > 0.8 * len(run["history"]["val_iou"])


def _effects(design: Design, records: Records) -> dict[str, Any]:
    scored = {}
    for score in ("test IoU", "test accuracy", "test boundary IoU"):
        found = experiments.effects(design, records, score)
        scored[score] = {" × ".join(names): _figure(effect) for names, effect in found.items()}
    return scored


def _scores(design: Design, records: Records) -> dict[str, Any]:
    tested = all(run["test"] for row in experiments.table(design, records) for run in row)
    shown = [score for score in SHOWN if score.startswith("test") == tested]
    cells, found = design.labels(), {}
    for cell in cells:
        chosen = [c == cell for c in cells]
        found[cell] = {s: _figure(contrast(design, records, chosen, s)) for s in shown}
    return found


def run_rows(records: Records) -> Iterator[dict[str, Any]]:
    """Yield a row of runs.csv for each run that is done: design, factors, seed, costs, scores."""
    everything = [design for group in designs.GROUPS.values() for design in group()]
    for design in everything:
        for cell, seed in product(design.cells(), design.seeds):
            if run := records.get(config_hash(design.config(cell, seed))):
                costs = {name: run[name] for name in ("selected_epoch", "parameters", "seconds")}
                scores = {
                    name: f"{function(Counts(*torch.tensor(run[part]))).item():.5f}"
                    for name, (part, function) in SCORES.items()
                    if run[part]
                }
                row = {"design": design.name, **cell, "seed": seed, "run": run["name"]}
                yield row | costs | scores


def results() -> Path:
    """Return the folder of the committed records and the committed ledger."""
    return paths.root() / "figures" / "results"


def publish(folder: Path) -> Ledger:
    """Write claims.json, ledger.md, runs.csv and the pictures from the records in `folder`.

    If it is the folder of the repository, the README's table of verdicts is renewed too.
    """
    records = experiments.read_records(folder / "records")
    ledger = build(records)
    write_text(folder / "claims.json", json.dumps(ledger, indent=1, ensure_ascii=False) + "\n")
    write_text(folder / "ledger.md", markdown(ledger))
    rows = list(run_rows(records))
    last = ["seed", "run", "selected_epoch", "parameters", "seconds", *SCORES]
    factors = dict.fromkeys(name for row in rows for name in row if name not in last)
    write_text(folder / "runs.csv", csv_text([*factors, *last], rows))
    for profile, group in designs.GROUPS.items():
        for design in group():
            if len(design.factors) > 1 and not experiments.missing(design, records):
                for name in ("effects", "interactions"):
                    fig = getattr(experiments, f"plot_{name}")(design, records)
                    fig.savefig(folder / f"{name}-{profile}.png", dpi=100)
    if folder.resolve() == results():
        readme = paths.root() / "README.md"
        write_text(readme, with_summary(readme.read_text(encoding="utf-8"), ledger))
    return ledger


def read(folder: Path | None = None) -> Ledger:
    """Return the ledger in `folder`, by default the committed one: what lessons print from."""
    return json.loads(((folder or results()) / "claims.json").read_text(encoding="utf-8"))


def markdown(ledger: Ledger) -> str:
    """Return the ledger as a page: the claims, then what each design measured, then the effects."""
    lines = [MADE, "", "# What is claimed, and what was measured", "", HOW_TO_READ, ""]
    lines += ["## Claims", ""]
    for claim in ledger["claims"]:
        lines += [f'<a id="{claim["key"]}"></a>', f"**{claim['who']}**: {claim['what']}  "]
        lines += [f"Conditions there: {claim['conditions']}.  ", f"Test here: {claim['test']}.", ""]
        for profile, result in claim["results"].items():
            prefix = "" if profile == "always" else f"{profile}: "
            lines.append(f"- {prefix}**{result['verdict']}** ({result['why']})")
            lines += [f"  - {name}: {figure_text(x)}" for name, x in result["figures"].items()]
        lines.append("")
    for profile, found in ledger["profiles"].items():
        lines += _profile_page(profile, found)
    return "\n".join(lines).rstrip() + "\n"


def _profile_page(profile: str, found: Mapping[str, Any]) -> Iterator[str]:
    command = "--only quality" if profile not in designs.PROFILES else f"--profile {profile}"
    clock, processor = (f"{(found[k] or 0) / 60:.1f} min" for k in ("seconds", "cpu_seconds"))
    yield (
        f"## {profile}\n\n`segkit reproduce {command}`: {found['runs']} runs in finished designs, "
        f"{found['missing']} runs missing; {clock} of training by the clock, {processor} of "
        f"processor time in all. In {found['still_rising']} of them the best epoch is among the "
        "last fifth: what is compared there is also how fast the networks learn."
    )
    for made in found["made_with"]:
        yield f"- {made}"
    yield ""
    for design, cells in found["scores"].items():
        scores = list(next(iter(cells.values())))
        rows = {cell: [figure_text(row[score]) for score in scores] for cell, row in cells.items()}
        yield f'<a id="{anchor(profile, design)}"></a>\n\n{_table(design, scores, rows)}\n'
    for design, scored in found["effects"].items():
        names = list(next(iter(scored.values())))
        rows = {name: [figure_text(row[name]) for row in scored.values()] for name in names}
        yield f"{_table(f'effects in {design}', list(scored), rows)}\n"


def _table(corner: str, columns: Sequence[str], rows: Mapping[str, Sequence[str]]) -> str:
    lines = [[corner, *columns], *([name, *cells] for name, cells in rows.items())]
    head, *body = (f"| {' | '.join(cells)} |".replace("|  |", "| |") for cells in lines)
    return "\n".join([head, "|---" * (1 + len(columns)) + "|", *body])


def figure_text(figure: Mapping[str, Any] | float) -> str:
    """Return a figure of the ledger as its page, and prose that quotes it, write it."""
    if not isinstance(figure, Mapping):
        return number(figure)
    interval = f"[{number(figure['low'])}, {number(figure['high'])}]"
    if figure["spread"] is None:
        return number(figure["value"])
    low, high = figure["images"]
    of_images = "" if low is None else f", images [{number(low)}, {number(high)}]"
    return f"{number(figure['value'])} ± {number(figure['spread'])} {interval}{of_images}"


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
    """Return the README's table: how many claims have which verdict, less those at full size."""
    rows = {}
    for profile, name in SUMMARISED.items():
        results = [c["results"][profile] for c in ledger["claims"] if profile in c["results"]]
        found = Counter(result["verdict"] for result in results)
        rows[name] = [str(len(results)), ", ".join(f"{n} {v}" for v, n in found.most_common())]
    return _table("claims of the sources", ["tested", "verdicts"], rows)


def with_summary(text: str, ledger: Ledger) -> str:
    """Return a page with what stands between its two marks made anew; without marks, as it is."""
    if BEGIN not in text or END not in text:
        return text
    before, rest = text.split(BEGIN, 1)
    return f"{before}{BEGIN}\n{summary(ledger)}\n{END}{rest.split(END, 1)[1]}"


def anchor(profile: str, design: str) -> str:
    """Return the name under which a design's table is linked to."""
    return f"{profile}-{design}".replace(" ", "-")
