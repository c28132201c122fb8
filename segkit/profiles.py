"""The two sizes at which every lesson runs."""

from dataclasses import dataclass
from typing import TypeVar

from segkit.errors import one_of

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

    def pick(self, *, quick: _T, full: _T) -> _T:
        """Return `quick` or `full`, whichever this profile is: for the numbers of one lesson."""
        return quick if self.name == "quick" else full


PROFILES = {
    "quick": Profile("quick", size=64, width=8, train=192, val=64, test=64, batch=16),
    "full": Profile("full", size=256, width=64, train=4000, val=500, test=1000, batch=32),
}


def profile(name: str) -> Profile:
    """Return the profile called `name`: "quick" (a CPU, a minute) or "full" (the real thing)."""
    return PROFILES[one_of("profile", name, PROFILES)]
