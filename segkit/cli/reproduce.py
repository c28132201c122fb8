"""`segkit reproduce`: run the experiments that are missing, and rewrite the ledger of claims."""

import sys
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from segkit.cli.frame import stoppable


def reproduce(
    profile: Annotated[
        str, typer.Option(help="quick (a CPU, procedural data) or full (a GPU, real data).")
    ] = "quick",
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="DESIGN", help="One design alone, as abi2024; repeat it for more."),
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            envvar="SEGKIT_REAL_DATA", help="Folder with oxford-iiit-pet, teeth-xray, nuclei."
        ),
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0, help="Stop after so many; the next call resumes.")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", min=1, help="Runs at a time. Default: by cores.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of records and ledger. Default: figures/results.")
    ] = None,
) -> None:
    """Run the experiments that are missing and rewrite the ledger of claims.

    A run whose record lies in OUT/records is not repeated: give a new --out to repeat all.
    The design "quality", real pets at 128 pixels, belongs to no profile and has to be named.
    Exit code 1: not all runs are done, because some failed or the time was up.
    """
    from segkit import experiments

    designs, ledger = experiments.load("designs"), experiments.load("ledger")
    chosen = designs.select(profile, only or [])
    out = out or ledger.results()
    configs = experiments.by_hash(config for design in chosen for config in design.configs())
    with stoppable():
        outcome = experiments.run_all(configs, out / "records", data_dir, jobs, minutes)
        ledger.publish(out)
    print(f"{len(outcome.done)} of {len(configs)} runs are done. Ledger: {out / 'ledger.md'}")
    for error, times in Counter(outcome.failed.values()).items():
        print(f"{times} failed: {error}", file=sys.stderr)
    if outcome.left:
        print(f"{len(outcome.left)} are left: call again to resume", file=sys.stderr)
    raise typer.Exit(1 if outcome.failed or outcome.left else 0)
