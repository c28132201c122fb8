"""This machine: versions, device, threads, precision, and the packages that are missing."""

import os
import platform
import shutil
import sys
from importlib import metadata
from typing import Any

from packaging.requirements import Requirement

from segkit import paths

_MAIN = ("torch", "torchvision", "numpy", "albumentations", "matplotlib", "jupyterlab", "papermill")


def report() -> dict[str, Any]:
    """Return versions, hardware and missing packages, ready for JSON.

    The hardware is left out while a required package is missing: torch may be the one.
    """
    required, extras = requirements()
    missing = [name for name in required if version(name) is None]
    place = paths.data_dir()
    there = next(parent for parent in (place, *place.parents) if parent.exists())
    room = f"{place}, {shutil.disk_usage(there).free / 2**30:.0f} GiB free"
    if not os.access(there, os.W_OK):
        room = f"{place}: not writable; set SEGKIT_DATA to a folder that is"
    return {
        "segkit": version("segkit"),
        "python": f"{platform.python_version()} at {sys.executable}",
        "system": f"{platform.system()} {platform.machine()}",
        "packages": {name: version(name) for name in _MAIN},
        **({} if missing else _hardware()),
        "extras": {extra: lacks(names) for extra, names in extras.items()},
        "data folder": room,
        "missing": missing,
    }


def _hardware() -> dict[str, Any]:
    import psutil
    import torch

    from segkit.train import precision
    from segkit.train.distributed import pick_device

    device = pick_device(None).type
    gpu = torch.cuda.get_device_properties(0) if device == "cuda" else None
    return {
        "device": f"cuda: {gpu.name}, {gpu.total_memory / 2**30:.0f} GiB" if gpu else device,
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "memory": f"{psutil.virtual_memory().total / 2**30:.1f} GiB",
        "precision": str(precision.choose("auto", device)),
    }


def requirements() -> tuple[list[str], dict[str, list[str]]]:
    """Return the names of the packages segkit requires, and those of each extra."""
    declared = [Requirement(line) for line in metadata.requires("segkit")]
    extras = {x: [] for x in metadata.metadata("segkit").get_all("Provides-Extra")}
    for extra, names in extras.items():
        names += [r.name for r in declared if r.marker and r.marker.evaluate({"extra": extra})]
    return [r.name for r in declared if not r.marker], extras


def version(name: str) -> str | None:
    """Return the version of an installed package, or None. Does not import it."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def lacks(names: list[str]) -> str:
    """Return "installed", or which of the packages are not."""
    absent = [name for name in names if version(name) is None]
    return "lacks " + ", ".join(absent) if absent else "installed"


def cores() -> int:
    """Return the number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
