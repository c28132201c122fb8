"""Where examples come from: the three layouts that the doctor looks at, each with its readers."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from segkit.data import folder, labelme, read
from segkit.data.cache import in_threads
from segkit.data.dataset import IGNORE, DataError
from segkit.data.doctor.report import Example
from segkit.data.pets import FOLDER as PETS
from segkit.data.pets import from_trimap, trimap_classes


class Fault(NamedTuple):
    """A fault of one file. detail: what was seen there. text: "what: cure", from a reader."""

    code: str
    file: Path
    detail: str = ""
    text: str = ""


class Folder:
    """Images and masks, paired by name."""

    layout = "folder"

    def __init__(self, root: Path) -> None:
        self.root = root
        self.examples: list[Example] = []
        self.faults: list[Fault] = []

    def find(self) -> None:
        """Fill in the examples, and the faults of pairing."""
        for split, place in folder.places(self.root).items():
            found = folder.match(place)
            twins = {*found.twins(found.images), *found.twins(found.masks)}
            self.faults += [Fault("same-stem", file) for file in sorted(twins)]
            self.faults += [Fault("missing-mask", file) for file in found.alone]
            self.faults += [Fault("missing-image", file) for file in found.surplus]
            pairs = [(item.name, item.image, item.mask) for item in found.items]
            pairs += [(file.stem, file, None) for file in found.alone]
            self.examples += [Example(name, split, *files) for name, *files in pairs]

    def read(self, example: Example) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Return image and mask at full size, None where one is missing or refused."""
        image = self.attempt(self.image, example.image)
        mask = self.attempt(self.mask, example.mask)
        if image is not None and mask is not None and image.shape[:2] != mask.shape:
            told = f"{mask.shape[1]}×{mask.shape[0]}, image {image.shape[1]}×{image.shape[0]}"
            self.faults.append(Fault("size-mismatch", example.mask, told))
        return image, mask

    def attempt(self, reader: Callable[[Any], Any], file: Path | None, at: Path | None = None):
        """Return `reader(file)`; what it refuses becomes a fault of the file `at`."""
        try:
            return None if file is None else reader(file)
        except DataError as error:
            place = at or file
            text = str(error).removeprefix(f"{place}: ")
            self.faults.append(Fault(error.code or self.layout, place, *_halves(text)))

    def image(self, file: Path) -> np.ndarray:
        """Return the image as the loader reads it."""
        return read.image(file)

    def mask(self, file: Path) -> np.ndarray:
        """Return the mask as the loader reads it."""
        return read.mask(file)


class Pets(Folder):
    """Oxford-IIIT Pet; its trimaps become ids, the border a class."""

    layout = "oxford-pet"
    class_names = trimap_classes("class")

    def find(self) -> None:
        """Fill in the examples of the official lists, and the files that are missing."""
        from torchvision.datasets import OxfordIIITPet

        for split in ("trainval", "test"):
            official = OxfordIIITPet(self.root.parent, split, "segmentation")
            for files in zip(official._images, official._segs, strict=True):
                image, mask = (file if file.is_file() else None for file in files)
                if image and mask:
                    self.examples.append(Example(image.stem, split, image, mask))
                elif image:
                    self.faults.append(Fault("missing-mask", image))
                else:
                    self.faults.append(Fault("missing-image", files[1]))

    def image(self, file: Path) -> np.ndarray:
        """Return the image as torchvision does: RGB, whatever is stored."""
        with read.opened(file) as picture:
            return np.array(picture.convert("RGB"))

    def mask(self, file: Path) -> np.ndarray:
        """Return the trimap as class ids."""
        try:
            return from_trimap(read.mask(file), "class")
        except DataError as error:
            raise DataError(str(error), error.code or "unknown-ids") from error


class LabelMe(Folder):
    """LabelMe's JSON files; an example's mask is its JSON file, and so may be its image."""

    layout = "labelme"

    def __init__(self, root: Path, class_names: Sequence[str]) -> None:
        super().__init__(root)
        self.class_names = tuple(class_names)
        self.records: dict[Path, labelme.Record] = {}

    def find(self) -> None:
        """Fill in the examples, and the faults of files that cannot be used."""
        for split, place in labelme.places(self.root).items():
            self.faults += [Fault("missing-mask", file) for file in labelme.unannotated(place)]
            files = labelme.json_files(place)
            for file, found in zip(files, in_threads(labelme.look, files), strict=True):
                if isinstance(found, str):
                    text = found.removeprefix(f"{file}: ")
                    self.faults.append(Fault("labelme", file, *_halves(text)))
                else:
                    self.records[file] = found
                    self.examples.append(Example(file.stem, split, found.image or file, file))
        self.ids = self.attempt(self.label_ids, self.root)
        if self.ids and not self.class_names:
            of_id = {i: name for name, i in reversed(self.ids.items()) if i != IGNORE}
            self.class_names = tuple(of_id[i] for i in sorted(of_id))

    def label_ids(self, _: Path) -> dict[str, int]:
        """Return the id of each label."""
        return labelme.label_ids(list(self.records.values()), self.class_names)

    def read(self, example: Example) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Return image and mask at full size, None where one is refused."""
        record = self.records[example.mask]
        if self.ids is None:
            return None, None
        pair = self.attempt(lambda r: labelme.read_record(r, self.ids), record, example.mask)
        return pair or (None, None)


def source(root: Path, class_names: Sequence[str]) -> Folder:
    """Return the layout in `root`. Raises FileNotFoundError where there is none."""
    for place in (root, root / PETS):
        if (place / "annotations" / "trimaps").is_dir():
            return Pets(place)
    for place in (root, *(root / split for split in folder.SPLITS)):
        if labelme.json_files(place) and not (place / "images").is_dir():
            return LabelMe(root, class_names)
    return Folder(root)


def _halves(text: str) -> tuple[str, str]:
    """Return what a reader saw, for one file, and its whole text."""
    return text.rpartition(": ")[0], text
