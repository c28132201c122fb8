"""Train in child processes that are killed, and resume in the next: `python kill.py FOLDER CASE`.

Prints JSON: how many children died, and whether the end is that of an unbroken run, bit for bit.
"""

import json
import os
import random
import signal
import sys
from pathlib import Path

import torch
import torch._dynamo  # optimizers load it at their first step: once here, not in each child
from nets import jitter, net, numbers, quick, toy

from segkit.train import History, Schedule

COMMON = {"data": toy(44, transform=jitter), "val": toy(8, seed=1), "epochs": 4, "batch_size": 4}
COMMON |= {"lr": 0.02, "save_every": 1, "resume": True}
CASES = {
    "everything": COMMON
    | {"schedule": Schedule("one-cycle", warmup=0.7), "accumulate": 2, "ema": 0.8, "clip": 0.5},
    "fp16": COMMON | {"precision": "fp16", "schedule": "plateau", "optimizer": "sgd", "workers": 1},
}
MOMENTS = ("half written", "before sync", "before move", "after move")


def die_at(moment: str, countdown: int) -> None:
    """Kill this process when it is the `countdown`-th time at `moment` of writing a file."""
    fsync, replace, left = os.fsync, os.replace, [countdown]

    def reached(here: str, then=lambda: None) -> None:
        left[0] -= here == moment
        if here == moment and left[0] <= 0:
            then()
            os.kill(os.getpid(), signal.SIGKILL)

    def sync(handle):
        reached(MOMENTS[0], lambda: os.ftruncate(handle, os.fstat(handle).st_size // 2))
        reached(MOMENTS[1])
        fsync(handle)

    def move(source, target):
        reached(MOMENTS[2])
        replace(source, target)
        reached(MOMENTS[3])

    os.fsync, os.replace = sync, move


def child(out: Path, case: str, moment: str = "", countdown: int = 0) -> bool:
    """Train in a child that dies at a moment; return whether it did."""
    pid = os.fork()
    if not pid:
        die_at(moment, countdown)
        quick(net(dropout=0.3), out=out, **CASES[case])
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


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


def main(folder: Path, case: str) -> dict:
    rng, whole, broken = random.Random(case), folder / "whole", folder / "broken"
    assert not child(whole, case)
    deaths = sum(child(broken, case, moment, rng.randint(1, 4)) for moment in MOMENTS * 2)
    assert not child(broken, case)
    return {"deaths": deaths} | agree(whole, broken)


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(main(Path(sys.argv[1]), sys.argv[2])))
