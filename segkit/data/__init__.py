"""Data sets by name: `load` opens one, `loader` feeds it to a network."""

import inspect
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

from segkit.data import transforms
from segkit.data.dataset import IGNORE, DataError, SeededSampler, SegmentationDataset, loader

# name: where the function that opens it lives. Imported when asked for, so that a lesson on
# procedural data does not wait for the packages that real data needs.
SOURCES = {
    "toy-pets": "toy:open_toy_pets",
    "toy-xray": "toy:open_toy_xray",
    "toy-embryo": "toy:open_toy_embryo",
    "oxford-pet": "pets:open_pets",
    "folder": "folder:open_folder",
    "labelme": "annotations:open_labelme",
}

OF_LOAD = {"root", "split", "size", "border", "count", "seed"}  # that `load` names itself

__all__ = [
    "IGNORE",
    "DataError",
    "SeededSampler",
    "SegmentationDataset",
    "load",
    "loader",
    "names",
    "options",
    "transforms",
]


def names() -> list[str]:
    """Return the names of the data sets that `load` opens."""
    return list(SOURCES)


def options(name: str) -> list[str]:
    """Return the names of all that `load` takes for the data set `name`, but for `name` itself."""
    known = _parameters(_opener(name))
    general = set(inspect.signature(load).parameters) - {"name", "options"}
    unused = {"border"} - set(known) | ({"data_dir"} if "root" not in known else set())
    return sorted(general - unused | set(known) - {"root"})


def load(
    name: str,
    split: str = "train",
    size: int = 64,
    *,
    border: str | None = None,
    count: int | None = None,
    seed: int = 0,
    data_dir: str | Path | None = None,
    transform: str | Callable | None = "evaluation",
    **options,
) -> SegmentationDataset:
    """Open the data set `name`, its images resized to `size` x `size` pixels.

    split: "train", "val" or "test". border: what the border of a trimap becomes, "ignore",
    "pet", "background" or "class"; trimap sets (toy-pets, oxford-pet) demand it, the others
    have no border and pay no heed to it. count: only so many items (default: all; for a toy
    set 192, 64 and 64). data_dir: where a real data set lies. transform: a pipeline's name
    (see `transforms.build`), a callable `(image, mask, seed) -> tensors`, or None to only scale
    to 0..1. Further options are those of the set, such as `bones=2` of toy-xray.

    Raises ValueError for a name or option that does not exist, and DataError for bad data.
    """
    opener = _opener(name)
    known = _parameters(opener)
    surplus = sorted(set(options) - set(known))
    if surplus:
        own = ", ".join(sorted(set(known) - OF_LOAD)) or "none"
        raise ValueError(f"{name} has no option {', '.join(surplus)}; it has: {own}")
    if "border" in known:
        if border is None:
            raise ValueError(
                f"{name} marks a border around each pet: say what it becomes with "
                'border="ignore", "pet", "background" or "class"'
            )
        options["border"] = border
    if known.get("root") is inspect.Parameter.empty and not data_dir:
        raise ValueError(f'{name} reads your own files: say where they are with data_dir="..."')
    where = [data_dir] if "root" in known else []
    dataset = opener(*where, split, size, count=count, seed=seed, **options)
    if isinstance(transform, str):
        transform = transforms.build(transform, dataset.channels)
    dataset.transform, dataset.seed = transform, seed
    return dataset


def _opener(name: str) -> Callable[..., SegmentationDataset]:
    if name not in SOURCES:
        raise ValueError(f"no data set {name!r}; there are: {', '.join(SOURCES)}")
    module, function = SOURCES[name].split(":")
    return getattr(import_module(f"segkit.data.{module}"), function)


def _parameters(opener: Callable) -> dict[str, Any]:
    """Return the parameters of an opener and their defaults; of those in its `Choice`, None."""
    found: dict[str, Any] = {}
    for p in inspect.signature(opener).parameters.values():
        if p.kind is p.VAR_KEYWORD:
            found |= dict.fromkeys(get_args(p.annotation)[0].__annotations__)
        else:
            found[p.name] = p.default
    return found
