"""Which stored numbers become the darkest and the brightest that a network sees.

Images of 16 bits, floats, or other channels than grey and colour are read as uint16, whose ends
are two stored numbers for each channel (see `segkit.image_ops.rescale`). They are chosen once, on
the training images, and kept with the model.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from segkit import image_ops
from segkit.errors import ArgumentError, DataError
from segkit.image_ops import Intensity

Rule = str | Sequence  # "dtype", "percentile", (low, high), or a pair for each channel
PERCENTILES = (0.1, 99.9)  # what lies outside is often a dead pixel or a reflection
_SAMPLE = 2048  # pixels of each image


def sample(image: np.ndarray) -> np.ndarray:
    """Return the numbers of pixels spread evenly over an image (H, W, C), as (n, C)."""
    pixels = image.reshape(-1, image.shape[2])
    return pixels[:: -(-len(pixels) // _SAMPLE)].copy()


def fit(rule: Rule, samples: Sequence[np.ndarray], channels: int) -> Intensity:
    """Return (low, high) of each channel, or one pair for all.

    Args:
        rule: "dtype": 0 and the highest whole number of the files' type, for floats 0 and 1.
            "percentile": the 0.1th and the 99.9th percentile of each channel. A pair, or one for
            each channel, is taken as it is.
        samples: of the training images, see `sample`.
        channels: that the network sees.

    Raises:
        ArgumentError: the rule is none of these.
        DataError: the images are of several types, floats outside 0 to 1, or have no contrast.
    """
    if not isinstance(rule, str):
        return image_ops.as_pairs(rule)
    if rule not in ("dtype", "percentile"):
        raise ArgumentError(f"intensity={rule!r}: choose dtype, percentile, or give (low, high)")
    if not samples:
        raise DataError(f"no training images to find the {rule} of: give (low, high) as intensity")
    types = sorted({str(one.dtype) for one in samples})
    if len(types) > 1:
        raise DataError(f"images of {' and '.join(types)}: give (low, high) as intensity")
    rows = [image_ops.with_channels(one[:, None], channels, "an image") for one in samples]
    pixels = np.concatenate(rows)
    if rule == "percentile":
        return image_ops.as_pairs(np.percentile(pixels, PERCENTILES, axis=(0, 1)).T.tolist())
    if np.dtype(types[0]).kind != "f":
        return image_ops.as_pairs((0, int(np.iinfo(types[0]).max)))
    if pixels.min() < 0 or pixels.max() > 1:
        found = f"from {pixels.min():g} to {pixels.max():g}"
        what = f"images of {types[0]}, {found}, not 0 to 1"
        raise DataError(f"{what}: choose percentile, or give (low, high) as intensity")
    return image_ops.as_pairs((0, 1))


def describe(samples: Sequence[np.ndarray]) -> list[dict[str, float]]:
    """Return of each channel its lowest and highest number, the percentiles, and shares of both.

    A large share of the highest number is saturation: what was brighter is lost. Of samples with
    several numbers of channels, those of the most frequent count.
    """
    counts = Counter(one.shape[1] for one in samples).most_common(1)
    found = []
    for channel in range(counts[0][0] if counts else 0):
        numbers = np.concatenate([s[:, channel] for s in samples if s.shape[1] == counts[0][0]])
        low, below, above, high = np.percentile(numbers, (0, *PERCENTILES, 100)).tolist()
        share = {"lowest": (numbers == low).mean(), "highest": (numbers == high).mean()}
        found.append({
            "lowest": low, "percentile_0_1": below, "percentile_99_9": above, "highest": high,
            **{f"share_{end}": float(value) for end, value in share.items()},
        })  # fmt: skip
    return found
