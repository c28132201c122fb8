"""This machine: versions, device, threads, precision, and the packages that are missing."""

import os
import platform
import shutil
import sys
from importlib import metadata
from typing import Any

from packaging.requirements import Requirement

from segkit import paths

SHOWN = ("torch", "torchvision", "numpy", "albumentations", "matplotlib", "jupyterlab", "papermill")
USES = {  # extra: what it is for
    "tracking": "TensorBoard and Weights & Biases",
    "library": "segmentation-models-pytorch, lesson 16",
    "export": "ONNX, lesson 18",
    "site": "Sphinx, for `make site`",
    "dev": "tests and editing",
}


def report() -> dict[str, Any]:
    """Return versions, hardware and missing packages, ready for JSON.

    The hardware is left out while a required package is missing: torch may be the one.
    """
    required, extras = requirements()
    missing = [name for name in required if version(name) is None]
    return {
        "segkit": version("segkit"),
        "python": f"{platform.python_version()} at {sys.executable}",
        "system": f"{platform.system()} {platform.machine()}",
        "packages": {name: version(name) for name in SHOWN},
        **({} if missing else hardware()),
        "extras": {f"{x} ({USES.get(x, 'optional')})": lacks(names) for x, names in extras.items()},
        "data folder": folder(),
        "missing": missing,
    }


def requirements() -> tuple[list[str], dict[str, list[str]]]:
    """Return the names of the packages segkit requires, and those of each extra."""
    declared = [Requirement(line) for line in metadata.requires("segkit") or []]
    extras = metadata.metadata("segkit").get_all("Provides-Extra") or []
    return [r.name for r in declared if not r.marker], {
        x: [r.name for r in declared if r.marker and r.marker.evaluate({"extra": x})]
        for x in extras
    }


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


def hardware() -> dict[str, Any]:
    """Return device, cores, threads, memory and the precision that suits the device."""
    import psutil
    import torch

    from segkit.train import precision
    from segkit.train.distributed import pick_device

    device = name = pick_device(None).type
    if device == "cuda":
        gpu = torch.cuda.get_device_properties(0)
        name = f"cuda: {gpu.name}, {gpu.total_memory / 2**30:.0f} GiB"
    return {
        "device": name,
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "memory": f"{psutil.virtual_memory().total / 2**30:.1f} GiB",
        "precision": str(precision.choose("auto", device)),
    }


def cores() -> int:
    """Return the number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def folder() -> str:
    """Return where data go, with the free space there, or why they cannot."""
    place = paths.data_dir()
    there = next(parent for parent in (place, *place.parents) if parent.exists())
    if not os.access(there, os.W_OK):
        return f"{place}: not writable; set SEGKIT_DATA to a folder that is"
    return f"{place}, {shutil.disk_usage(there).free / 2**30:.0f} GiB free"
