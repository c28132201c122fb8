"""The two sizes at which every lesson runs."""

import os
from dataclasses import dataclass
from typing import Any, TypeVar

from segkit.errors import ArgumentError, one_of

_T = TypeVar("_T")


@dataclass(frozen=True)
class Profile:
    """How large a lesson runs: the sizes it reads instead of writing numbers of its own."""

    name: str
    size: int  # side of the square images, in pixels
    width: int  # channels of a network's first level
    train: int  # number of images of a procedural data set
    val: int
    test: int
    batch: int  # images per step
    scale: float = 1.0  # of "full": 0 has the sizes of "quick"

    def pick(self, *, quick: _T, full: _T) -> _T:
        """Return `quick` or `full`, whichever this profile is: for the numbers of one lesson.

        "full" at a scale below 1 returns numbers between the two, also in tuples and dicts, and
        `quick` where `full` is `None`, which means all.
        """
        return quick if self.name == "quick" else _between(quick, full, self.scale)


PROFILES = {
    "quick": Profile("quick", size=64, width=8, train=192, val=64, test=64, batch=16),
    "full": Profile("full", size=256, width=64, train=4000, val=500, test=1000, batch=32),
}


def profile(name: str) -> Profile:
    """Return the profile called `name`: "quick" (a CPU, a minute) or "full" (the real thing).

    "full" is meant for a GPU of 80 GB: for a batch of 32, a U-Net of width 64 keeps 10 GiB of
    float32 activations at 256 pixels. The environment variable `SEGKIT_FULL_SCALE`, from 0 to 1,
    shrinks its sizes, counts and epochs towards those of "quick" and nothing else: 0.5 (160 pixels,
    width 36, batches of 24: 1.7 GiB) is for a GPU of 8 GB, 0 runs its code on a CPU.
    """
    found = PROFILES[one_of("profile", name, PROFILES)]
    text = os.environ.get("SEGKIT_FULL_SCALE", "1")
    try:
        scale = float(text)
    except ValueError:
        scale = -1.0
    if not 0 <= scale <= 1:
        raise ArgumentError(f"SEGKIT_FULL_SCALE={text!r}: give a number from 0 to 1")
    if found.name == "quick":
        return found
    sizes = _between(vars(PROFILES["quick"]), vars(found), scale)
    return Profile(**sizes | {"size": 32 * round(sizes["size"] / 32), "scale": scale})


def _between(quick: Any, full: Any, scale: float) -> Any:
    """Return what lies at `scale` between the two; `full` itself at 1 and if it is no number."""
    if scale == 1:
        return full
    if full is None:
        return quick
    if isinstance(full, dict):
        return {key: _between(quick[key], value, scale) for key, value in full.items()}
    if isinstance(full, tuple):
        return tuple(_between(a, b, scale) for a, b in zip(quick, full, strict=True))
    if isinstance(full, bool | str):
        return full
    value = quick + scale * (full - quick)
    return value if isinstance(full, float) else round(value)
