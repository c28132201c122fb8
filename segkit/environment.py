"""What this machine offers: versions, device, threads, precision, and what is missing."""

import os
import platform
import re
import shutil
import sys
from importlib import metadata
from typing import Any

from segkit import paths

SHOWN = ("torch", "torchvision", "numpy", "albumentations", "matplotlib", "jupyterlab", "papermill")
USES = {
    "tracking": "TensorBoard and Weights & Biases",
    "library": "segmentation-models-pytorch, lesson 16",
    "export": "ONNX, lesson 18",
    "site": "Sphinx, for `make site`",
    "dev": "tests and editing",
}


def report() -> dict[str, Any]:
    """Return facts about this machine, ready for JSON.

    `missing` lists packages that every lesson needs; `extras` says, for each optional part,
    which packages it lacks. The hardware is left out while something is missing: asking takes
    torch.
    """
    required, extras = requirements()
    missing = [name for name in required if version(name) is None]
    return {
        "segkit": version("segkit"),
        "python": f"{platform.python_version()} at {sys.executable}",
        "system": f"{platform.system()} {platform.machine()}",
        "packages": {name: version(name) for name in SHOWN},
        **({} if missing else hardware()),
        "extras": {
            f"{extra} ({USES.get(extra, 'optional')})": lacks(names)
            for extra, names in extras.items()
        },
        "data folder": folder(),
        "missing": missing,
    }


def requirements() -> tuple[list[str], dict[str, list[str]]]:
    """Return the names of the packages segkit requires, and those of each extra."""
    required: list[str] = []
    extras: dict[str, list[str]] = {}
    for line in metadata.requires("segkit") or []:
        name = re.match(r"[\w.-]+", line)[0]
        extra = re.search(r"extra == ['\"]([\w-]+)['\"]", line)
        (extras.setdefault(extra[1], []) if extra else required).append(name)
    return required, extras


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

    device, name = "cpu", "cpu"
    if torch.cuda.is_available():
        gpu = torch.cuda.get_device_properties(0)
        device, name = "cuda", f"cuda: {gpu.name}, {gpu.total_memory / 2**30:.0f} GiB"
    elif torch.backends.mps.is_available():
        device, name = "mps", "mps"
    return {
        "device": name,
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "memory": f"{psutil.virtual_memory().total / 2**30:.1f} GiB",
        "precision": str(precision.choose("auto", device)),
    }


def cores() -> int:
    """Return the number of cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def folder() -> str:
    """Return where data go, with the free space there, or why they cannot."""
    place = paths.data_dir()
    there = next(parent for parent in (place, *place.parents) if parent.exists())
    if not os.access(there, os.W_OK):
        return f"{place}: not writable; set SEGKIT_DATA to a folder that is"
    return f"{place}, {shutil.disk_usage(there).free / 2**30:.0f} GiB free"
