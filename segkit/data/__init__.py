"""Data sets by name: `load` opens one, `loader` feeds it to a network."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from segkit.data import transforms
from segkit.data.dataset import (
    IGNORE,
    DataError,
    SeededSampler,
    SegmentationDataset,
    check_seed,
    loader,
)
from segkit.errors import ArgumentError, one_of

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


@dataclass(frozen=True)
class _Source:
    """How `load` opens a data set: the function, imported when asked for, and what it takes."""

    opener: str  # module:function of segkit.data
    options: tuple[str, ...] = ()  # beside split, size, count and seed
    files: str = ""  # whether it reads data_dir: "own" files, which must be named, or "known" ones


_OWN_FILES = ("channels", "class_names", "fractions", "group_by", "cache")

_SOURCES = {
    "toy-pets": _Source("toy:open_toy_pets", ("border",)),
    "toy-xray": _Source("toy:open_toy_xray", ("bones",)),
    "toy-embryo": _Source("toy:open_toy_embryo"),
    "oxford-pet": _Source("pets:open_pets", ("border", "download", "cache"), "known"),
    "folder": _Source("folder:open_folder", (*_OWN_FILES, "values"), "own"),
    "labelme": _Source("annotations:open_labelme", _OWN_FILES, "own"),
}


def names() -> list[str]:
    """Return the names of the data sets that `load` opens."""
    return list(_SOURCES)


def options(name: str) -> list[str]:
    """Return the names of all that `load` takes for the data set `name`, but for `name` itself."""
    source = _SOURCES[one_of("data set", name, _SOURCES)]
    where = ["data_dir"] if source.files else []
    return sorted(["split", "size", "count", "seed", "transform", *where, *source.options])


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
    """Open the data set `name`.

    Args:
        name: one of `names()`.
        split: "train", "val" or "test".
        size: images are resized to `size` x `size` pixels; real data sets take (height, width) too.
        border: what the border of a trimap becomes, "ignore", "pet", "background" or "class";
            required by toy-pets and oxford-pet, unused by the others.
        count: only so many items; by default all, of a toy set 192, 64 and 64.
        seed: of the pictures, of splits and choices, and of the augmentation.
        data_dir: where a real data set lies.
        transform: a pipeline's name (see `transforms.build`), a callable
            `(image, mask, seed) -> tensors`, or None to only scale to 0..1.
        options: those of the data set, such as `bones=2` of toy-xray.

    Raises:
        ArgumentError: a name or option that does not exist.
        DataError: data that would train a wrong model.
    """
    source = _SOURCES[one_of("data set", name, _SOURCES)]
    unknown = sorted(set(options) - set(source.options))
    if unknown:
        own = ", ".join(sorted({*source.options} - {"border"})) or "none"
        raise ArgumentError(f"{name} has no option {', '.join(unknown)}; it has: {own}")
    if "border" in source.options:
        if border is None:
            raise ArgumentError(
                f"{name} marks a border around each pet: choose what it becomes with "
                'border="ignore", "pet", "background" or "class"'
            )
        options["border"] = border
    if source.files == "own" and not data_dir:
        raise ArgumentError(
            f'{name} reads your own files: give their folder with data_dir="..."'
        )
    folder = [Path(data_dir).expanduser() if data_dir else None] if source.files else []
    module, function = source.opener.split(":")
    opener = getattr(import_module(f"segkit.data.{module}"), function)
    dataset = opener(*folder, split, size, count=count, seed=check_seed(seed), **options)
    if isinstance(transform, str):
        transform = transforms.build(transform, dataset.channels)
    dataset.transform, dataset.seed = transform, seed
    return dataset
