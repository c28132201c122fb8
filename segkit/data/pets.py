"""Oxford-IIIT Pet: 37 breeds of cats and dogs with trimaps, over torchvision's class.

Parkhi, Vedaldi, Zisserman, Jawahar: Cats and Dogs, CVPR 2012,
https://www.robots.ox.ac.uk/~vgg/data/pets/. 3,680 images to train and validate, 3,669 to test.
"""

from http.client import HTTPException
from pathlib import Path
from tarfile import TarError

import numpy as np

from segkit.data import splits
from segkit.data.cache import arrays, digests
from segkit.data.dataset import IGNORE, Pair, SegmentationDataset
from segkit.data.read import as_size, resize_mask
from segkit.errors import DataError, NoDataError, one_of
from segkit.image_ops import opened, resize
from segkit.paths import data_dir

FOLDER = "oxford-iiit-pet"
_BORDER_IDS = {"ignore": IGNORE, "pet": 1, "background": 0, "class": 2}


def from_trimap(trimap: np.ndarray, border: str) -> np.ndarray:
    """Turn a trimap (1 pet, 2 background, 3 border) into class ids: 1 pet, 0 background.

    Args:
        trimap: integers of any shape.
        border: what the border becomes: "ignore" 255, which losses and metrics leave out; "pet" or
            "background" that class; "class" a class 2 of its own.
    """
    edge = _BORDER_IDS[one_of("border rule", border, _BORDER_IDS)]
    if unknown := sorted({*np.unique(trimap).tolist()} - {1, 2, 3}):
        raise DataError(
            f"a trimap holds 1 (pet), 2 (background) and 3 (border), this one also {unknown}: "
            "was it interpolated?"
        )
    return np.array([0, 1, 0, edge], np.uint8)[trimap]


def trimap_classes(border: str) -> tuple[str, ...]:
    """Return the names of the classes that `from_trimap` makes under this border rule."""
    own = one_of("border rule", border, _BORDER_IDS) == "class"
    return ("background", "pet", "border") if own else ("background", "pet")


def open_pets(
    root: str | Path | None = None,
    split: str = "train",
    size: int | tuple[int, int] = 64,
    *,
    border: str,
    seed: int = 0,
    count: int | None = None,
    download: bool = False,
    cache: bool = True,
) -> SegmentationDataset:
    """Return one split of the pets, everything resized to `size`; the breeds are the groups.

    Args:
        root: the folder `oxford-iiit-pet` or the one it is in; by default `paths.data_dir()`.
        split: "test" is the official one; "val" is a fifth of the official training part, the same
            share of each breed, chosen by `seed`; "train" is the rest.
        count: a choice of so many, in proportion to the breeds; by default all.
        download: whether to fetch and unpack what is missing (800 MB).
    """
    size, class_names = as_size(size), trimap_classes(border)
    root = Path(root or data_dir())
    one_of("split", split, ("train", "val", "test"))
    official = _official(root, "test" if split == "test" else "trainval", download)
    files = list(zip(official._images, official._segs, strict=True))
    breeds = np.array([image.stem.rsplit("_", 1)[0] for image, _ in files])
    chosen = np.arange(len(files))
    if split != "test":
        chosen = splits.stratified_split(breeds, (0.8, 0.2), seed)[split == "val"]
    if count is not None:
        chosen = chosen[splits.sample(len(chosen), count, seed, breeds[chosen])]

    def read_pair(i: int) -> Pair:
        image_file, trimap_file = files[chosen[i]]
        with opened(image_file) as picture:
            image = np.array(picture.convert("RGB"))
        with opened(trimap_file) as picture:
            trimap = np.array(picture)
        if trimap.shape != image.shape[:2]:
            raise DataError(f"{trimap_file}: is no grey picture of its image's size: get it again")
        try:
            mask = from_trimap(resize_mask(trimap, size), border)
        except DataError as error:
            raise DataError(f"{trimap_file}: {error}") from error
        return resize(image, size), mask

    contents = digests(file for i in chosen for file in files[i])
    return SegmentationDataset(
        *arrays([*contents.values(), size, border], read_pair, len(chosen), (*size, 3), cache),
        class_names,
        [files[i][0].stem for i in chosen],
        breeds[chosen].tolist(),
        info={"source": "oxford-pet", "root": str(root), "split": split, "border": border},
    )


def _official(root: Path, part: str, download: bool):
    """Return torchvision's data set, complete on disk."""
    from torchvision.datasets import OxfordIIITPet  # takes seconds, and toy data need it not

    parent = root.parent if root.name == FOLDER else root
    try:
        official = OxfordIIITPet(parent, part, "segmentation", download=download)
        missing = [f for f in (*official._images, *official._segs) if not f.is_file()]
        if not missing:
            return official
        reason = f"{len(missing)} listed files are missing, the first is {missing[0]}"
    except (OSError, RuntimeError, ValueError, EOFError, HTTPException, TarError) as error:
        reason = str(error)
    archives = "\n".join(f"  {url}" for url, _ in OxfordIIITPet._RESOURCES)
    raise NoDataError(
        f"Oxford-IIIT Pet is not complete in {(parent / FOLDER).absolute()}: {reason}.\n"
        "With a network, ask with download=True (800 MB, checked by MD5); if a download broke off, "
        f"remove {FOLDER}/annotations before.\nWithout, put these two in that folder, and "
        f"download=True checks and unpacks them:\n{archives}"
    )
