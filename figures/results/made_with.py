"""What the records of this folder say of the machine and the code that measured them."""

from typing import Any

import torch

from segkit import environment, paths
from segkit.train.distributed import device_name


def made_with(*packages: str) -> dict[str, Any]:
    """Return hardware, versions of these packages and git revision, for a record's head."""
    machine = environment.report()
    known = ("device", "cores", "threads", "memory", "precision")
    return {
        "hardware": {
            **{name: machine[name] for name in known},
            "cpu": device_name(torch.device("cpu")),
        },
        "versions": {name: environment.version(name) for name in packages},
        "git": paths.git_revision(),
    }
