"""Oxford-IIIT Pet: 37 breeds of cats and dogs with trimaps, over torchvision's class.

Parkhi, Vedaldi, Zisserman, Jawahar: Cats and Dogs, CVPR 2012,
https://www.robots.ox.ac.uk/~vgg/data/pets/. 7,349 images: 3,680 for training and validation, 3,669
for testing, by the official lists.
"""

from http.client import HTTPException
from pathlib import Path
from tarfile import TarError

import numpy as np
from torchvision.datasets import OxfordIIITPet

from segkit.data import read, splits
from segkit.data.cache import arrays, digests, key
from segkit.data.dataset import DataError, Pair, SegmentationDataset
from segkit.data.trimap import from_trimap, trimap_classes
from segkit.paths import data_dir

FOLDER = "oxford-iiit-pet"
VALIDATION = 0.2  # of the official training part, which brings no validation of its own


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
    """Return one split ("train", "val", "test") of the pets, everything resized to `size`.

    root: the folder `oxford-iiit-pet` or the one it is in (default: `segkit.paths.data_dir()`).
    border: what a trimap's border becomes, see `segkit.data.trimap`. "test" is the official one;
    "val" is a fifth of the official training part, the same share of each breed, chosen by `seed`.
    count: a seeded choice of so many, in proportion to the breeds, which are the groups. Images
    are read as torchvision does: converted to RGB, whatever they are.
    Raises FileNotFoundError with the way to get what is missing, DataError for a damaged file.
    """
    size, class_names = read.as_size(size), trimap_classes(border)
    root = Path(root or data_dir())
    if split not in ("train", "val", "test"):
        raise ValueError(f"split={split!r}: choose one of train, val, test")
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


def _official(root: Path, part: str, download: bool) -> OxfordIIITPet:
    """Return torchvision's data set, complete on disk."""
    parent = root.parent if root.name == FOLDER else root
    try:
        official = OxfordIIITPet(parent, part, "segmentation", download=download)
    except (OSError, RuntimeError, ValueError, EOFError, HTTPException, TarError) as error:
        raise FileNotFoundError(_how_to_get(parent / FOLDER, str(error))) from None
    missing = [f for f in (*official._images, *official._segs) if not f.is_file()]
    if missing:
        what = f"{len(missing)} listed files are missing, the first is {missing[0]}"
        raise FileNotFoundError(_how_to_get(parent / FOLDER, what))
    return official


def _how_to_get(folder: Path, reason: str) -> str:
    archives = "\n".join(f"  {url}" for url, _ in OxfordIIITPet._RESOURCES)
    return (
        f"Oxford-IIIT Pet is not complete in {folder.absolute()}: {reason}.\n"
        "With a network, ask with download=True (800 MB, checked by MD5); if a download broke off, "
        f"remove {folder.name}/annotations before.\n"
        "Without, fetch these two elsewhere, put them in that folder, and ask with download=True, "
        f"which checks and unpacks them (into images/ and annotations/):\n{archives}"
    )
