"""The two sizes at which every lesson runs."""

from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Profile:
    """How large a lesson runs: the sizes it reads instead of writing numbers of its own.

    size: side of the square images, in pixels. width: channels of a network's first level.
    train, val, test: number of images of a procedural data set. batch: images per step.
    """

    name: str
    size: int
    width: int
    train: int
    val: int
    test: int
    batch: int

    def pick(self, *, quick: T, full: T) -> T:
        """Return `quick` or `full`, whichever this profile is: for the numbers of one lesson."""
        return quick if self.name == "quick" else full


PROFILES = {
    "quick": Profile("quick", size=64, width=8, train=192, val=64, test=64, batch=16),
    "full": Profile("full", size=256, width=64, train=4000, val=500, test=1000, batch=32),
}


def profile(name: str) -> Profile:
    """Return the profile called `name`: "quick" (a CPU, a minute) or "full" (the real thing).

    Raises ValueError with the names there are when `name` is not one of them.
    """
    if name not in PROFILES:
        raise ValueError(f"no profile {name!r}; there are: {', '.join(PROFILES)}")
    return PROFILES[name]
