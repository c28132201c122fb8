"""Train in child processes that are killed, and go on in the next: `python kill.py FOLDER CASE`.

Prints JSON: how many children died, and whether the end is that of an unbroken run, bit for bit.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
import torch._dynamo  # optimizers load it at their first step: once here, not in each child
from nets import jitter, net, numbers, quick, toy

from segkit.train import History, Schedule

COMMON = {
    "data": toy(44, transform=jitter),
    "val": toy(8, seed=1),
    "epochs": 4,
    "batch_size": 4,
    "lr": 0.02,
    "save_every": 1,
    "resume": True,
}
CASES = {
    "everything": COMMON
    | {"schedule": Schedule("one-cycle", warmup=0.7), "accumulate": 2, "ema": 0.8, "clip": 0.5},
    "fp16": COMMON | {"precision": "fp16", "schedule": "plateau", "optimizer": "sgd", "workers": 1},
}
MOMENTS = ("half written", "before sync", "before move", "after move")


def go(out: Path, case: str):
    return quick(net(dropout=0.3), out=out, **CASES[case])[1]


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def arm(moment: str, countdown: int) -> None:
    """Kill this process when it is the `countdown`-th time at `moment` of a save."""
    fsync, replace = os.fsync, os.replace
    left = dict.fromkeys(MOMENTS, countdown)

    def reached(here: str) -> bool:
        left[here] -= 1
        return here == moment and left[here] <= 0

    def sync(handle):
        if reached("half written"):
            os.ftruncate(handle, os.fstat(handle).st_size // 2)
            die()
        if reached("before sync"):
            die()
        fsync(handle)

    def move(source, target):
        if reached("before move"):
            die()
        replace(source, target)
        if reached("after move"):
            die()

    os.fsync, os.replace = sync, move


def child(out: Path, case: str, moment: str | None = None, countdown: int = 0) -> int:
    """Start a child that trains; with a moment, one that dies there."""
    pid = os.fork()
    if pid:
        return pid
    if moment:
        arm(moment, countdown)
    go(out, case)
    os._exit(0)


def killed(pid: int) -> bool:
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


def planted(out: Path, case: str, rng: random.Random) -> int:
    """Die twice at each moment of a save, then finish."""
    deaths = [killed(child(out, case, moment, rng.randint(1, 4))) for moment in MOMENTS * 2]
    assert not killed(child(out, case))
    return sum(deaths)


def anytime(out: Path, case: str, rng: random.Random, took: float) -> int:
    """Die six times at any instant, then finish. took: seconds of an unbroken run."""
    deaths = 0
    for _ in range(6):
        pid = child(out, case)
        time.sleep(rng.uniform(0.02, 0.25) * took)
        os.kill(pid, signal.SIGKILL)
        deaths += killed(pid)
    assert not killed(child(out, case))
    return deaths


def main(folder: Path, case: str) -> dict:
    rng = random.Random(case)
    started = time.perf_counter()
    assert not killed(child(folder / "whole", case))
    took = time.perf_counter() - started
    return {
        "planted deaths": planted(folder / "planted", case, rng),
        "deaths at any time": anytime(folder / "anytime", case, rng, took),
        "planted": agree(folder / "whole", folder / "planted"),
        "anytime": agree(folder / "whole", folder / "anytime"),
    }


def agree(whole: Path, broken: Path) -> dict[str, bool]:
    """Return which parts of two folders' checkpoints are the same to the last bit."""
    a, b = (torch.load(out / "last.pt") for out in (whole, broken))
    rows = [numbers(History(state.pop("rows"))) for state in (a, b)]
    best = [torch.load(out / "best.pt")["model"] for out in (whole, broken)]
    parts = {key: equal(a[key], b[key]) for key in a if key != "metadata"}
    return parts | {"rows": rows[0] == rows[1], "best": equal(*best)}


def equal(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(main(Path(sys.argv[1]), sys.argv[2])))
