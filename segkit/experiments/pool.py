"""Many runs: those that are missing, several at a time, with the time that is left."""

import multiprocessing
import sys
import time
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tqdm import tqdm

from segkit import environment
from segkit.experiments.grid import Config
from segkit.experiments.run import Unfinished, run

MEMORY = 2 * 2**30  # bytes for one run of a quick grid, with torch in it
PRELOADED = ["segkit.experiments.run", "segkit.data.toy", "segkit.data.pets"]


@dataclass
class Outcome:
    """What became of a grid: names of runs that are done, left for later, or failed, and why."""

    done: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


def run_all(
    configs: Mapping[str, Config],
    folder: Path,
    data_dir: Path | None = None,
    jobs: int | None = None,
    minutes: float | None = None,
) -> Outcome:
    """Do the runs whose records `folder` lacks; `configs` are by name, in order of importance.

    jobs: runs at a time, each in a process and with one thread of its own, so that the numbers
    are the same for any `jobs` (default: see `room`). minutes: after that nothing starts, and
    what is under way stops at its next step and goes on with the next call. An error of one run
    does not stop the others. Ctrl-C leaves every run so that it can go on.
    """
    end = None if minutes is None else time.monotonic() + 60 * minutes
    outcome = Outcome()
    missing = {}
    for name, config in configs.items():
        if (folder / f"{name}.json").exists():
            outcome.done.append(name)
        else:
            missing[name] = config
    if missing:
        with _bar(missing) as bar:
            _work(missing, folder, data_dir, jobs or room(), end, outcome, bar)
    return outcome


def room() -> int:
    """Return how many runs fit at a time: one on a GPU, else one a core as far as memory goes."""
    import psutil

    if torch.cuda.is_available():
        return 1
    return max(1, min(environment.cores(), psutil.virtual_memory().available // MEMORY))


def cost(config: Config) -> float:
    """Return about how long a run takes, in no unit: pixels seen. For the time left."""
    source, options = config["data"], config.get("fit") or {}
    images = (source.get("count") or 192) + (source.get("val_count") or 64) / 3
    return options.get("epochs", 10) * images * source.get("size", 64) ** 2


def _work(
    missing: Mapping[str, Config],
    folder: Path,
    data_dir: Path | None,
    jobs: int,
    end: float | None,
    outcome: Outcome,
    bar: tqdm,
) -> None:
    """Keep `jobs` processes busy until all is done or the time is up."""
    waiting, running = list(missing), {}
    with ProcessPoolExecutor(jobs, _context(), _start, max_tasks_per_child=1) as pool:
        try:
            while waiting or running:
                while waiting and len(running) < jobs and (end is None or time.monotonic() < end):
                    name = waiting.pop(0)
                    left = None if end is None else end - time.monotonic()
                    try:
                        running[pool.submit(run, missing[name], folder, data_dir, left)] = name
                    except BrokenProcessPool:  # a process was killed, and took the pool with it
                        outcome.left += [name, *waiting]
                        waiting.clear()
                if not running:
                    break
                for task in wait(running, return_when=FIRST_COMPLETED).done:
                    name = running.pop(task)
                    _note(task, name, outcome)
                    bar.update(cost(missing[name]))
                    bar.set_postfix_str(f"{len(outcome.done)} done, {len(waiting)} to come")
        except KeyboardInterrupt:
            wait(running)  # the same Ctrl-C has reached them: they save and end
            raise
        outcome.left += waiting


def _note(task: Future, name: str, outcome: Outcome) -> None:
    error = task.exception()
    if error is None:
        outcome.done.append(name)
    elif isinstance(error, Unfinished):
        outcome.left.append(name)
    elif isinstance(error, BrokenProcessPool):
        outcome.failed[name] = "its process was killed: was the memory enough? Try --jobs 1"
    else:
        outcome.failed[name] = f"{type(error).__name__}: {error}"


def _context() -> multiprocessing.context.BaseContext:
    """Return how processes start: forked off one that has loaded torch, where that is possible."""
    if "forkserver" not in multiprocessing.get_all_start_methods() or torch.cuda.is_available():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def _start() -> None:
    if not torch.cuda.is_available():
        torch.set_num_threads(1)


def _bar(missing: Mapping[str, Config]) -> tqdm:
    """Return the one line on standard error: share of the work, time gone, time left."""
    return tqdm(
        total=sum(map(cost, missing.values())),
        bar_format="{percentage:3.0f}% |{bar:20}| {elapsed} gone, {remaining} left {postfix}",
        mininterval=0.5 if sys.stderr.isatty() else 30,
        file=sys.stderr,
    )
