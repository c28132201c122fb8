"""Data sets by name: `load` opens one, `loader` feeds it to a network."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from segkit.data import transforms
from segkit.data.dataset import IGNORE, SegmentationDataset, check_seed, loader
from segkit.errors import ArgumentError, DataError, one_of

__all__ = ["IGNORE", "DataError", "SegmentationDataset", "load", "loader", "names", "options",
           "transforms"]  # fmt: skip


class _Source(NamedTuple):
    """How `load` opens a data set: the function, imported when asked for, and what it takes."""

    opener: str
    options: tuple[str, ...] = ()  # beside split, size, count, seed and transform


_OWN_FILES = ("data_dir", "channels", "class_names", "fractions", "group_by", "cache")
_FOLDER = (*_OWN_FILES, "intensity", "values", "image_suffix", "mask_suffix")
_SOURCES = {
    "toy-pets": _Source("data.toy:open_toy_pets", ("border",)),
    "toy-xray": _Source("data.toy:open_toy_xray", ("bones",)),
    "toy-embryo": _Source("data.toy:open_toy_embryo"),
    "oxford-pet": _Source("data.pets:open_pets", ("data_dir", "border", "download", "cache")),
    "folder": _Source("data.folder:open_folder", _FOLDER),
}
_ANNOTATED = _Source(
    "data.annotations:open_annotated",
    (*_OWN_FILES, "images", "others", "line_width", "skip"),
)
_FORMATS = ("labelme", "coco", "labelstudio", "voc", "camvid", "cityscapes")
_SOURCES |= dict.fromkeys(_FORMATS, _ANNOTATED)


def names() -> list[str]:
    """Return the names of the data sets that `load` opens."""
    return list(_SOURCES)


def options(name: str) -> list[str]:
    """Return the names of all that `load` takes for the data set `name`, but for `name` itself."""
    own = _SOURCES[one_of("data set", name, _SOURCES)].options
    return sorted(["split", "size", "count", "seed", "transform", *own])


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
    """Open the data set `name`, one of `names()`.

    Args:
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
    """
    source = _SOURCES[one_of("data set", name, _SOURCES)]
    if unknown := sorted(options.keys() - {*source.options}):
        own = ", ".join(sorted({*source.options} - {"border", "data_dir"})) or "none"
        raise ArgumentError(f"{name} has no option {', '.join(unknown)}; it has: {own}")
    if "border" in source.options:
        if border is None:
            raise ArgumentError(
                f"{name} marks a border around each pet: choose what it becomes with "
                'border="ignore", "pet", "background" or "class"'
            )
        options["border"] = border
    if source is _ANNOTATED:
        options["form"] = name
    if "data_dir" in source.options:
        if not data_dir and name != "oxford-pet":
            raise ArgumentError(f'{name} reads your own files: name their folder, data_dir="..."')
        options["root"] = Path(data_dir).expanduser() if data_dir else None
    module, function = source.opener.split(":")
    opener = getattr(import_module(f"segkit.{module}"), function)
    dataset = opener(split=split, size=size, count=count, seed=check_seed(seed), **options)
    if isinstance(transform, str):
        transform = transforms.build(transform, dataset.channels)
    dataset.transform, dataset.seed = transform, seed
    return dataset
