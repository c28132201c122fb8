"""From a trained model and a picture to a mask: whole or through a window, one file or a folder."""

import itertools
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from segkit.data import read
from segkit.data.dataset import DataError, SegmentationDataset, loader
from segkit.data.folder import SUFFIXES
from segkit.files import atomic_file
from segkit.metrics import THRESHOLDS, sweep
from segkit.model_file import ModelMetadata, load_model, read_metadata
from segkit.onnx_predictor import (
    ORIENTATION,
    Bands,
    Network,
    OnnxNetwork,
    assemble,
    normalise,
    resize,
    resize_logits,
    sliding_window,
    starts,
    whole_image,
    write_mask,
)
from segkit.train.distributed import pick_device

MIRRORS = {"": [()], "h": [(), (2,)], "v": [(), (1,)], "hv": [(), (1,), (2,), (1, 2)]}
OVERLAY = 2048  # pixels of an overlay's longer side, at most


@dataclass
class Predictor:
    """A network, its metadata, and how it is to look at an image.

    window: None shows it the whole image, resized as the images it was trained on. A number
    slides a window of that many pixels over the image at its own resolution: for networks
    trained at that resolution. overlap, batch_size: see `sliding_window`.
    flips, scales: see `averaged`. min_size: see `without_small`.
    """

    network: Network
    metadata: ModelMetadata
    window: int | None = None
    overlap: float = 0.25
    batch_size: int = 4
    flips: str = ""
    scales: Sequence[float] = (1.0,)
    min_size: int = 0

    def __post_init__(self) -> None:
        averaged(self.network, self.flips, self.scales)  # these refuse what cannot be: now, and
        if self.window is not None:  # not when the first picture has been read
            starts(self.window, self.window, self.overlap)

    @classmethod
    def load(cls, path: str | Path, device: str | None = None, **how) -> "Predictor":
        """Return the predictor of a model file, or of a network exported as `.onnx`.

        device: by default the best there is. how: the fields from `window` on.
        """
        if Path(path).suffix.lower() == ".onnx":
            network = OnnxNetwork(path)
            return cls(network, read_metadata(path, network.metadata), **how)
        model, metadata = load_model(path)
        return cls(as_network(model.to(pick_device(device)), metadata), metadata, **how)

    def bands(self, image: np.ndarray) -> Bands:
        """Yield (first row, logits (K, rows, W)) from the top of a uint8 image to its bottom."""
        network = averaged(self.network, self.flips, self.scales)
        if self.window is None:
            return whole_image(network, image, self.metadata.size)
        return sliding_window(network, image, self.window, self.overlap, self.batch_size)

    def logits(self, image: np.ndarray) -> np.ndarray:
        """Return the logits (K, H, W) for a uint8 image (H, W[, 3])."""
        return np.concatenate([logits for _, logits in self.bands(image)], axis=1)

    def mask(self, image: np.ndarray) -> np.ndarray:
        """Return class ids, uint8 (H, W), for a uint8 image (H, W[, 3]).

        Memory, beside image and mask: one row of windows, and while small parts are removed
        four bytes a pixel.
        """
        mask = assemble(self.bands(image), image.shape[:2], self.metadata.threshold)
        return without_small(mask, self.min_size)


def as_network(model: nn.Module, metadata: ModelMetadata) -> Network:
    """Return `model`, on the device it is on, as a function from uint8 images to logits."""

    @torch.inference_mode()
    def run(images: np.ndarray) -> np.ndarray:
        model.eval()
        batch = torch.from_numpy(normalise(images, metadata.mean, metadata.std))
        return model(batch.to(next(model.parameters()).device)).float().cpu().numpy()

    return run


def averaged(network: Network, flips: str = "", scales: Sequence[float] = (1.0,)) -> Network:
    """Return a network that looks several times and averages its logits (test-time augmentation).

    flips: "h" adds the mirror image, "v" the one upside down, "hv" these and both at once.
    scales: sizes at which it looks, each with all flips. Costs as many times as it looks.
    """
    if flips not in MIRRORS or not scales or min(scales) <= 0:
        raise ValueError(
            f'flips={flips!r}, scales={scales!r}: choose flips "", "h", "v" or "hv", and at '
            "least one scale, all above 0"
        )
    looks = list(itertools.product(scales, MIRRORS[flips]))
    if looks == [(1.0, ())]:
        return network

    def run(images: np.ndarray) -> np.ndarray:
        size = images.shape[1:3]
        total: np.ndarray | float = 0.0
        for scale, axes in looks:
            scaled = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
            seen = images
            if scaled != size:
                seen = np.stack([resize(image, scaled) for image in images])
            logits = np.flip(network(np.flip(seen, axes)), [axis + 1 for axis in axes])
            total = total + (logits if scaled == size else resize_logits(logits, size)).astype(
                float
            )
        return (total / len(looks)).astype(np.float32)

    return run


def without_small(mask: np.ndarray, min_size: int) -> np.ndarray:
    """Return the mask with its small parts made background.

    A part is a connected patch of one class, corners included; small is under `min_size` pixels.
    """
    if min_size <= 1:
        return mask
    mask = mask.copy()
    for label in range(1, mask.max() + 1):
        _, parts, stats, _ = cv2.connectedComponentsWithStats((mask == label).view(np.uint8))
        small = stats[:, cv2.CC_STAT_AREA] < min_size
        small[0] = False  # all that is not of this class
        mask[small[parts]] = 0
    return mask


class Threshold(NamedTuple):
    """A threshold of probability, the score it gives, and the scores of all that were tried."""

    value: float
    score: float
    thresholds: tuple[float, ...]
    scores: tuple[float, ...]


def choose_threshold(
    model: nn.Module,
    validation: SegmentationDataset,
    metric: str = "iou",
    reduction: str = "micro",
    batch_size: int = 16,
) -> Threshold:
    """Return the threshold with the best score on the validation set; of equals, that nearest 0.5.

    metric: a score of `Counts`, as "iou" or "dice"; reduction: its average. For one channel only.
    Chosen on the images that a score is then reported for, it would flatter that score.
    """
    parts = [sweep(logits, masks) for logits, masks in logits_of(model, validation, batch_size)]
    scores = getattr(sum(parts[1:], parts[0]), metric)(reduction).nan_to_num(0).tolist()
    best = max(range(len(scores)), key=lambda k: (scores[k], -abs(THRESHOLDS[k] - 0.5)))
    return Threshold(THRESHOLDS[best], scores[best], THRESHOLDS, tuple(scores))


@torch.inference_mode()
def logits_of(
    model: nn.Module, data: SegmentationDataset, batch_size: int = 16
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield float32 logits (N, K, H, W) and masks (N, H, W) of a data set, in its order."""
    model.eval()
    device = next(model.parameters()).device
    for images, masks in loader(data, batch_size):
        yield model(images.to(device)).float(), masks.to(device)


@dataclass(frozen=True)
class Outcome:
    """What became of one file: its mask (and overlay), or why there is none.

    shares: of the pixels, by class. seconds: with reading and writing.
    """

    file: Path
    mask: Path | None = None
    overlay: Path | None = None
    shares: dict[str, float] | None = None
    seconds: float = 0.0
    error: str = ""


def predict_folder(
    predictor: Predictor,
    source: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    form: str = "palette",
    overlays: bool = False,
    overwrite: bool = True,
    watch: Callable[[Outcome], object] | None = None,
) -> list[Outcome]:
    """Write the mask of each picture in `source` to `out`/NAME.png.

    source: a folder, a picture, or several of either. form: "palette" or "ids", see `write_mask`.
    overlays: write the picture with the mask over it, NAME_overlay.jpg, beside it, upright and
    reduced to 2048 pixels. overwrite: whether a file that is there already may be replaced.
    watch: is told of each outcome. A picture that cannot be used has an outcome with `error`, and
    the rest is done.
    Raises DataError before anything is written: if there is no picture, if masks would be written
    among the pictures, would have the same name, or would replace what they must not.
    """
    sources = [source] if isinstance(source, (str, Path)) else source
    files = list(dict.fromkeys(file for one in sources for file in find_pictures(one)))
    out = Path(out)
    if out.resolve() in {file.parent.resolve() for file in files}:
        raise DataError(f"{out} holds the pictures themselves: give another folder for the masks")
    stems = Counter(file.stem for file in files)
    names = [file.stem if stems[file.stem] == 1 else file.name for file in files]
    times = Counter(names)
    twins = [file for file, name in zip(files, names, strict=True) if times[name] > 1]
    if twins:
        raise DataError(f"{twins[0]} and {twins[1]} have one name: predict their folders apart")
    targets = [out / f"{name}.png" for name in names]
    written = [file for target in targets for file in _written(target, overlays)]
    there = [file for file in written if file.exists()]
    if there and not overwrite:
        raise DataError(f"{there[0]} is there already: give another folder, or ask to overwrite")
    outcomes = []
    for file, target in zip(files, targets, strict=True):
        outcome = predict_file(predictor, file, target, form=form, overlay=overlays)
        outcomes.append(outcome)
        if watch:
            watch(outcome)
    return outcomes


def _written(target: Path, overlays: bool) -> list[Path]:
    """Return the files that stand for one picture: its mask, and its overlay if there is one."""
    return [target, target.with_name(f"{target.stem}_overlay.jpg")][: 1 + overlays]


def find_pictures(source: str | Path) -> list[Path]:
    """Return the pictures in a folder, in order of their names, or the one file."""
    source = Path(source)
    if source.is_file():
        return [source]
    files = sorted(source.iterdir()) if source.is_dir() else []
    files = [f for f in files if f.suffix.lower() in SUFFIXES and not f.name.startswith(".")]
    if not files:
        kinds = ", ".join(sorted(SUFFIXES))
        raise DataError(f"{source}: neither a picture nor a folder with pictures ({kinds})")
    return files


def predict_file(
    predictor: Predictor, file: Path, target: Path, form: str = "palette", overlay: bool = False
) -> Outcome:
    """Write the mask of one picture to `target`; the outcome says so, or why it could not be."""
    began = time.perf_counter()
    try:
        with warnings.catch_warnings():  # a picture of 100 million pixels is welcome here
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with read.opened(file) as picture:
                orientation = picture.getexif().get(ORIENTATION, 1)
            image = read.image(file, predictor.metadata.in_channels, exif="apply")
    except DataError as error:
        return Outcome(file, error=str(error), seconds=time.perf_counter() - began)
    mask = predictor.mask(image)
    write_mask(target, mask, orientation, form)
    beside = _written(target, overlay)[1] if overlay else None
    if beside:
        write_overlay(beside, image, mask)
    shares = {
        name: float(np.count_nonzero(mask == label) / mask.size)
        for label, name in enumerate(predictor.metadata.class_names)
    }
    return Outcome(file, target, beside, shares, time.perf_counter() - began)


def write_overlay(path: Path, image: np.ndarray, mask: np.ndarray) -> None:
    """Write a JPEG of the image with its classes laid over it."""
    from segkit.plot import overlay  # matplotlib takes a second to import

    scale = min(1.0, OVERLAY / max(mask.shape))
    size = tuple(max(1, round(side * scale)) for side in mask.shape)
    small = read.resize_mask(Image.fromarray(mask), size)
    with atomic_file(path) as part:
        picture = Image.fromarray(overlay(resize(image, size), np.array(small)))
        picture.save(part, "JPEG", quality=90, subsampling=0)
