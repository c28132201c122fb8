"""Checkpoints: what training needs to go on as if nothing had happened.

A file is safetensors: tensors, and JSON for all else. Reading one runs no code, whoever wrote it.
It is written beside its place and then moved there, so there is always a whole one or none.
Format: https://github.com/huggingface/safetensors
"""

import json
import os
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from segkit.errors import CheckpointError
from segkit.train import distributed
from segkit.train.loop import Run
from segkit.train.tracking import History

LAST, BEST = "last.safetensors", "best.safetensors"
CURE = "put a copy in its place, or delete it and train anew"
# What may differ between a run and its continuation without changing the numbers.
FREE = {"epochs", "workers", "patience", "monitor", "keep", "model"}


@dataclass
class Place:
    """How far training has come: epochs finished, and what there is of the one under way.

    batch: batches done. totals: see `train_epoch`. random: the state of every process's
    generators; None at the start of an epoch, which sets them anew.
    """

    epoch: int = 0
    batch: int = 0
    seconds: float = 0.0
    totals: Tensor = field(default_factory=lambda: torch.zeros(2))
    random: list[dict] | None = None


def start(out: Path | None, resume: bool, run: Run, history: History) -> Place:
    """Return where training begins: at nothing, or where the checkpoint in `out` was saved.

    Raises CheckpointError rather than train over a run that is not to be resumed.
    """
    if out is None or not (out / LAST).exists():
        return Place()
    if resume:
        return restore(out / LAST, run, history)
    raise CheckpointError(
        f"{out} already holds a run: go on with resume=True, choose another folder, or delete it"
    )


def save(path: Path, run: Run, place: Place, history: History) -> None:
    """Write everything training needs to `path`, but only what is finite, and from process 0."""
    run.guard.look()
    if distributed.rank() > 0:
        return
    state = {
        "model": run.plain.state_dict(),
        "average": run.average.state_dict() if run.average else None,
        "optimizer": run.optimizer.state_dict(),
        "course": run.course.state_dict(),
        "scaler": run.machine.precision.scaler.state_dict(),
        "place": vars(place),
        "rows": history.rows,
    }
    write(path, state, {"kind": "training", "config": history.config})


def restore(path: Path, run: Run, history: History) -> Place:
    """Bring `run` and `history` to where `path` was saved. Raises CheckpointError."""
    state, about = read(path)
    if about.get("kind") != "training":
        raise CheckpointError(f"{path} holds weights alone: training goes on from {LAST} only")
    fits(path, run.plain, state["model"], about)
    try:
        differs(path, about["config"]["settings"], history.config["settings"], run)
        return _restore(state, run, history)
    except CheckpointError:
        raise
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise CheckpointError(
            f"{path} does not hold a whole training ({error!r}): {CURE}"
        ) from error


def _restore(state: dict, run: Run, history: History) -> Place:
    run.plain.load_state_dict(state["model"])
    if run.average:
        run.average.load_state_dict(state["average"])
    run.course.load_state_dict(state["course"])  # sets rates; the optimizer's own come after it
    run.optimizer.load_state_dict(state["optimizer"])
    same_layout(run.optimizer)
    if state["scaler"]:
        run.machine.precision.scaler.load_state_dict(state["scaler"])
    history.rows = [dict(row) for row in state["rows"]]
    return Place(**state["place"])


def save_weights(path: str | Path, model: nn.Module, about: dict | None = None) -> None:
    """Write the weights of `model` to `path`, with facts about them (JSON) to read them by."""
    write(Path(path), {"model": model.state_dict()}, {"kind": "weights", **(about or {})})


def load_weights(path: str | Path, model: nn.Module) -> dict:
    """Load the weights in `path` into `model`; return the facts saved with them.

    Takes both kinds of checkpoint; of a training one, what was judged: the average if kept.
    Raises CheckpointError if the file is missing, damaged, or another network's.
    """
    state, about = read(Path(path))
    weights = state["model"]
    if state.get("average"):
        weights = {k[7:]: v for k, v in state["average"].items() if k.startswith("module.")}
    fits(path, model, weights, about)
    model.load_state_dict(weights)
    return about


def write(path: Path, state: Any, about: dict) -> None:
    """Write a nest of dicts, lists, tensors and plain values to `path`, whole or not at all."""
    tensors: dict[str, Tensor] = {}
    header = {"tree": json.dumps(pack(state, tensors)), "about": json.dumps(about)}
    header["sum"] = checksum(header, tensors)
    beside = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(beside, "wb") as file:
            file.write(safetensors.torch.save(tensors, header))
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise CheckpointError(
            f"cannot write {path}: {error.strerror}. What stood there before is still there; "
            "make room or choose another folder, then go on with resume=True"
        ) from error


def read(path: Path) -> tuple[Any, dict]:
    """Return the state and the facts in `path`. Raises CheckpointError."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise CheckpointError(f"no checkpoint at {path}") from error
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged or cut short ({error}): {CURE}") from error
    if not {"tree", "about", "sum"} <= set(header):
        raise CheckpointError(f"{path} is not a checkpoint of segkit")
    if header["sum"] != checksum(header, tensors):
        raise CheckpointError(f"{path} is damaged: its checksum is wrong; {CURE}")
    try:
        state, about = unpack(json.loads(header["tree"]), tensors), json.loads(header["about"])
        weights = [state["model"], state.get("average") or {}]
        sound = isinstance(about, dict) and all(
            isinstance(tensor, Tensor) for its in weights for tensor in its.values()
        )
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        sound = False
    if not sound:
        raise CheckpointError(f"{path} is not a checkpoint of segkit: it holds something else")
    return state, about


def checksum(header: dict[str, str], tensors: dict[str, Tensor]) -> str:
    """Return a CRC over all that a file holds: safetensors itself would not see a flipped bit."""
    found = zlib.crc32((header["tree"] + header["about"]).encode())
    for name, tensor in sorted(tensors.items()):
        found = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), found)
        found = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy(), found)
    return f"{found:08x}"


def pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Return `value` as JSON can hold it; its tensors go into `tensors` under a number."""
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().to("cpu", copy=True).contiguous()
        return {"tensor": name}
    if isinstance(value, dict):
        return {"dict": [[key, pack(inner, tensors)] for key, inner in value.items()]}
    if isinstance(value, (list, tuple)):
        return [pack(inner, tensors) for inner in value]
    return value


def unpack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Undo `pack`."""
    if isinstance(value, list):
        return [unpack(inner, tensors) for inner in value]
    if isinstance(value, dict):
        if "tensor" in value:
            return tensors[value["tensor"]]
        return {key: unpack(inner, tensors) for key, inner in value["dict"]}
    return value


def fits(path: str | Path, model: nn.Module, weights: dict[str, Tensor], about: dict) -> None:
    """Raise CheckpointError unless `weights` are those of a network built as `model` is."""
    mine = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    theirs = {name: tuple(t.shape) for name, t in weights.items()}
    if mine == theirs:
        return
    name = next(n for n in [*mine, *theirs] if mine.get(n) != theirs.get(n))
    try:
        was = about.get("config", about)["settings"]["model"]
    except (KeyError, TypeError):
        was = "another network"
    raise CheckpointError(
        f"{path} holds {was}, not this {type(model).__name__}: {name} is "
        f"{theirs.get(name, 'absent')} in the file and {mine.get(name, 'absent')} in the network. "
        "Build the network with the options it was trained with"
    )


def differs(path: Path, then: dict, now: dict, run: Run) -> None:
    """Raise CheckpointError if going on with these settings would be another training."""
    free = FREE - ({"epochs"} if run.course.schedule.kind.ends else set())
    changed = [key for key in now if key not in free and then.get(key) != now[key]]
    if changed:
        was = ", ".join(f"{key}={then.get(key)!r}" for key in changed)
        new = ", ".join(f"{key}={now[key]!r}" for key in changed)
        raise CheckpointError(
            f"{path} was trained with {was}; this run has {new}. Resume with the same, or train "
            "into another folder"
        )


def same_layout(optimizer: torch.optim.Optimizer) -> None:
    """Lay the optimizer's tensors out as their weights: fused kernels go by memory order."""
    for weight, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == weight.shape:
                state[name] = torch.empty_like(weight).copy_(value)


def random_state(device: torch.device) -> dict[str, Tensor | None]:
    """Return the state of the generators that dropout draws from."""
    own = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return {"cpu": torch.get_rng_state(), "device": own}


def set_random_state(device: torch.device, state: dict[str, Tensor | None]) -> None:
    """Undo `random_state`."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and state["device"] is not None:
        torch.cuda.set_rng_state(state["device"], device)
