"""`segkit reproduce`: do the runs that are missing, and write the ledger anew."""

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer


class ExperimentError(ValueError):
    """What was asked for does not exist; the message says what does."""


def reproduce(
    profile: Annotated[
        str, typer.Option(help="quick (a CPU, procedural data) or full (a GPU, real data).")
    ] = "quick",
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DESIGN", help="This design alone, as abi2024 or quality; again for more."
        ),
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder with oxford-iiit-pet, teeth-xray, nuclei.")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0.1, help="Stop after so many; the next call goes on.")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", min=1, help="Runs at a time (default: by cores).")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the records and the ledger [figures/results].")
    ] = None,
) -> None:
    """Run what is missing of the experiments and write the ledger of claims anew.

    A run whose record lies in OUT/records is not done again: give a new --out to repeat all.
    Exit code 1: a run failed; 3: runs are left, because the time was up.
    """
    from segkit import paths
    from segkit.experiments import ledger
    from segkit.experiments.grid import named
    from segkit.experiments.pool import run_all

    designs = chosen(profile, only or [])
    out = out or paths.root() / "figures" / "results"
    configs = named(config for design in designs for config in design.configs())
    outcome = run_all(configs, out / "records", data_dir, jobs, minutes)
    ledger.publish(out)
    print(f"{len(outcome.done)} of {len(configs)} runs are done. Ledger: {out / 'ledger.md'}")
    for error, times in Counter(outcome.failed.values()).items():
        print(f"{times} runs failed: {error}", file=sys.stderr)
    if outcome.left:
        print(f"{len(outcome.left)} runs are left: call again to go on", file=sys.stderr)
    raise typer.Exit(1 if outcome.failed else 3 if outcome.left else 0)


def chosen(profile: str, only: Sequence[str]) -> list:
    """Return the designs asked for; "quality" belongs to no profile and has to be named."""
    from segkit.experiments.designs import GROUPS

    if profile not in ("quick", "full"):
        raise ExperimentError(f"no profile {profile!r}; there are: quick, full")
    there = {design.name: design for group in (profile, "quality") for design in GROUPS[group]()}
    wrong = [name for name in only if name not in there]
    if wrong:
        raise ExperimentError(f"no design {', '.join(wrong)}; there are: {', '.join(there)}")
    return [there[name] for name in only] if only else GROUPS[profile]()
