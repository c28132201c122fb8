"""segkit: semantic image segmentation, small enough to read and tested enough to trust."""

import os

# albumentations asks the network for a newer release when it is imported; a lesson must not.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

from segkit.profiles import Profile, profile

__version__ = "0.1.0"
__all__ = ["Profile", "__version__", "profile"]
