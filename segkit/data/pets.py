"""Oxford-IIIT Pet: 37 breeds of cats and dogs with trimaps, over torchvision's class.

Parkhi, Vedaldi, Zisserman, Jawahar: Cats and Dogs, CVPR 2012,
https://www.robots.ox.ac.uk/~vgg/data/pets/. 7,349 images: 3,680 for training and validation, 3,669
for testing, by the official lists. A trimap is a mask with a border where the annotator was unsure.
"""

from http.client import HTTPException
from pathlib import Path
from tarfile import TarError

import numpy as np

from segkit.data import read, splits
from segkit.data.cache import arrays, digests, key
from segkit.data.dataset import IGNORE, DataError, NoDataError, Pair, SegmentationDataset
from segkit.errors import one_of
from segkit.paths import data_dir

FOLDER = "oxford-iiit-pet"
VALIDATION = 0.2  # of the official training part, which brings no validation of its own

# border rule: the class ids of pet, background and border, and the names of the classes
RULES = {
    "ignore": ((1, 0, IGNORE), ("background", "pet")),
    "pet": ((1, 0, 1), ("background", "pet")),
    "background": ((1, 0, 0), ("background", "pet")),
    "class": ((1, 0, 2), ("background", "pet", "border")),
}


def from_trimap(trimap: np.ndarray, border: str) -> np.ndarray:
    """Turn a trimap (1 pet, 2 background, 3 border) into class ids, uint8 of the same shape.

    The pet becomes 1 and the background 0.

    Args:
        trimap: integers of any shape.
        border: what the border becomes: "ignore" 255, which losses and metrics leave out; "pet" or
            "background" that class; "class" a class 2 of its own.

    Raises:
        DataError: a value that is not of a trimap.
    """
    (pet, background, edge), _ = RULES[one_of("border rule", border, RULES)]
    unknown = sorted(set(np.unique(trimap).tolist()) - {1, 2, 3})
    if unknown:
        raise DataError(
            f"a trimap holds 1 (pet), 2 (background) and 3 (border), this one also {unknown}: "
            "was it resized with interpolation, or is it no trimap?"
        )
    return np.array([0, pet, background, edge], np.uint8)[trimap]


def trimap_classes(border: str) -> tuple[str, ...]:
    """Return the names of the classes that `from_trimap` makes under this border rule."""
    return RULES[one_of("border rule", border, RULES)][1]


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

    Images are read as torchvision reads them, converted to RGB.

    Args:
        root: the folder `oxford-iiit-pet` or the one it is in; by default `paths.data_dir()`.
        split: "test" is the official one; "val" is a fifth of the official training part, the same
            share of each breed, chosen by `seed`; "train" is the rest.
        size: pixels, one number or (height, width).
        border: what a trimap's border becomes, see `from_trimap`.
        seed: of the validation part and of `count`.
        count: a choice of so many, in proportion to the breeds; by default all.
        download: whether to fetch and unpack what is missing (800 MB).
        cache: whether to keep the resized images on disk.

    Raises:
        NoDataError: something is missing; the message says how to get it.
        DataError: a file is damaged.
    """
    size, class_names = read.as_size(size), trimap_classes(border)
    root = Path(root or data_dir())
    one_of("split", split, ("train", "val", "test"))
    official = _official(root, "test" if split == "test" else "trainval", download)
    files = list(zip(official._images, official._segs, strict=True))
    breeds = np.array([image.stem.rsplit("_", 1)[0] for image, _ in files])
    chosen = np.arange(len(files))
    if split != "test":
        train, val = splits.stratified_split(breeds, (1 - VALIDATION, VALIDATION), seed)
        chosen = train if split == "train" else val
    if count is not None:
        chosen = chosen[splits.sample(len(chosen), count, seed, breeds[chosen])]

    def read_pair(i: int) -> Pair:
        return _read_pair(*files[chosen[i]], size, border)

    contents = digests(file for i in chosen for file in files[i])
    name = key(contents.values(), size=size, border=border)
    return SegmentationDataset(
        *arrays(name, read_pair, len(chosen), (*size, 3), cache),
        class_names,
        [files[i][0].stem for i in chosen],
        breeds[chosen].tolist(),
        info={"source": "oxford-pet", "root": str(root), "split": split, "border": border},
    )


def _read_pair(image_file: Path, trimap_file: Path, size: tuple[int, int], border: str) -> Pair:
    with read.opened(image_file) as picture:
        image = picture.convert("RGB")
    with read.opened(trimap_file) as picture:
        trimap = picture.copy()
    if trimap.mode != "L" or trimap.size != image.size:
        raise DataError(
            f"{trimap_file}: is a {trimap.mode} picture of {trimap.size}, not a grey one of "
            f"{image.size} as its image: get the annotations again"
        )
    try:
        mask = from_trimap(np.array(read.resize_mask(trimap, size)), border)
    except DataError as error:
        raise DataError(f"{trimap_file}: {error}") from error
    return np.array(read.resize_image(image, size)), mask


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
        f"remove {FOLDER}/annotations before.\n"
        "Without, fetch these two elsewhere, put them in that folder, and ask with download=True, "
        f"which checks and unpacks them (into images/ and annotations/):\n{archives}"
    )
