"""The format of model files, until `segkit.model_file` has its own."""

import json
import os
import zlib
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from segkit.errors import CheckpointError

CURE = "put a copy in its place, or delete it and train anew"


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
