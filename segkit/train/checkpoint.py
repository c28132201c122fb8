"""Checkpoints: what training needs to continue as if nothing had happened.

`torch.load(weights_only=True)` reads a file without running code from it.
https://docs.pytorch.org/docs/stable/notes/serialization.html
"""

import json
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segkit.errors import CheckpointError
from segkit.files import atomic_file, write_text
from segkit.train import distributed
from segkit.train.history import History

LAST, BEST = "last.pt", "best.pt"


@dataclass
class Progress:
    """How far training has come."""

    epoch: int = 0  # epochs finished; the rest is about the one under way
    batch: int = 0  # batches done
    seconds: float = 0.0
    totals: Tensor = field(default_factory=lambda: torch.zeros(2))  # losses, images of a process
    random: list[dict[str, Tensor]] | None = None  # None: seeded anew as the epoch starts


def save(out: Path | None, parts: dict[str, Any], progress: Progress, history: History) -> None:
    """Write last.pt, history.csv and, after the best epoch, best.pt into `out`, from process 0.

    `parts`: network, average, optimizer, scheduler and scaler, or None.
    """
    if out is None or distributed.rank() > 0:
        return
    if progress.batch == 0 and history.best is history.last:
        best = parts["average"].module if parts["average"] else parts["model"]
        save_weights(out / BEST, best, {"config": history.config, "row": history.last})
    state = {name: part.state_dict() for name, part in parts.items() if part is not None}
    state |= {"progress": vars(progress), "rows": history.rows}
    _write(out / LAST, "training", state, {"config": history.config})
    write_text(out / "history.csv", history.to_csv())


def begin(
    out: Path | None, resume: bool, parts: dict[str, Any], history: History, epochs_free: bool
) -> Progress:
    """Begin a run or, if there is one in `out`, load it into `parts` and `history`.

    `epochs_free`: their number may have changed. Raises CheckpointError if the run in `out` cannot
    be continued, or `resume` is False.
    """
    progress = Progress()
    if out is None:
        return progress
    if (out / LAST).exists():
        if not resume:
            remedy = "continue it with resume=True, choose another out=FOLDER, or delete it"
            raise CheckpointError(f"{out} already holds a run: {remedy}")
        progress = _restore(out / LAST, parts, history, epochs_free)
    if distributed.rank() == 0:
        write_text(out / "config.json", json.dumps(history.config, indent=1) + "\n")
        write_text(out / "history.csv", history.to_csv())
    return progress


def _restore(path: Path, parts: dict[str, Any], history: History, epochs_free: bool) -> Progress:
    state, metadata = _read(path)
    if state["kind"] != "training":
        raise CheckpointError(f"{path} holds weights alone: training continues from {LAST} only")
    _check_same_network(path, parts["model"], state["model"], metadata)
    free = {"workers", "patience", "keep", "model"} | ({"epochs"} if epochs_free else set())
    try:
        before, now = metadata["config"]["settings"], history.config["settings"]
        changed = [key for key in now if key not in free and before.get(key) != now[key]]
        if not changed:
            for name in ("model", "average", "scheduler", "optimizer", "scaler"):  # in this order
                if parts[name] is not None and state[name] != {}:
                    parts[name].load_state_dict(state[name])
            history.rows = [dict(row) for row in state["rows"]]
            return Progress(**state["progress"])
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise CheckpointError(f"{path} does not hold a whole training run ({error!r})") from error
    old, new = (", ".join(f"{k}={x.get(k)!r}" for k in changed) for x in (before, now))
    remedy = "Resume with the same settings, or train into another folder"
    raise CheckpointError(f"{path} was trained with {old}; this run has {new}. {remedy}")


def save_weights(path: str | Path, model: nn.Module, metadata: dict | None = None) -> None:
    """Write the weights of `model` to `path`, and `metadata` that JSON can hold."""
    _write(Path(path), "weights", {"model": model.state_dict()}, metadata or {})


def load_weights(path: str | Path, model: nn.Module) -> dict:
    """Load the weights in `path` into `model`; return the metadata stored with them.

    Of a training checkpoint they are those that were evaluated: the moving average if there is one.

    Raises:
        CheckpointError: the file is missing, damaged, or holds another network.
    """
    weights, metadata = read_weights(path)
    _check_same_network(path, model, weights, metadata)
    model.load_state_dict(weights)
    return metadata


def read_weights(path: str | Path) -> tuple[dict[str, Tensor], dict]:
    """Return the weights in `path`, as `load_weights` loads them, and the metadata."""
    state, metadata = _read(Path(path))
    if "average" not in state:
        return state["model"], metadata
    average = state["average"].items()
    return {k.removeprefix("module."): v for k, v in average if k != "n_averaged"}, metadata


def _write(path: Path, kind: str, state: dict[str, Any], metadata: dict) -> None:
    with atomic_file(path) as part, open(part, "wb") as file:
        torch.save({"kind": kind, "metadata": json.dumps(metadata)} | state, file)


def _read(path: Path) -> tuple[dict[str, Any], dict]:
    """Return the state and the metadata in `path`, on the CPU."""
    if not path.exists():
        raise CheckpointError(f"no checkpoint at {path}")
    try:
        with zipfile.ZipFile(path) as file:
            damaged = file.testzip()
        if damaged:
            raise ValueError(f"the checksum of {damaged} is wrong")
        state = torch.load(path, map_location="cpu", weights_only=True)
        metadata = json.loads(state["metadata"])
        tensors = [*state["model"].values(), *state.get("average", {}).values()]
        if not isinstance(metadata, dict) or not all(map(torch.is_tensor, tensors)):
            raise TypeError("it holds something else")
        return state, metadata
    except Exception as error:  # a damaged file may fail in any of the libraries that read it
        raise CheckpointError(
            f"{path} is damaged or no checkpoint of segkit ({type(error).__name__}: {error}): put "
            "a copy in its place, or delete it and train anew"
        ) from error


def _check_same_network(
    path: str | Path, model: nn.Module, weights: dict[str, Tensor], metadata: dict
) -> None:
    here = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    there = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    for name in here | there:
        if here.get(name) != there.get(name):
            shapes = [found.get(name, "absent") for found in (there, here)]
            network = metadata.get("config", {}).get("settings", {}).get("model", "other weights")
            raise CheckpointError(
                f"{path} holds {network}, not this {type(model).__name__}: {name} is {shapes[0]} "
                f"in the file and {shapes[1]} in the network. Build it as it was trained"
            )
