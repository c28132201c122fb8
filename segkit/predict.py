"""From a trained model and an image to a mask: whole or in windows, one file or a folder."""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from segkit import image_ops
from segkit.data.dataset import SegmentationDataset, loader
from segkit.data.folder import SUFFIXES
from segkit.errors import ArgumentError
from segkit.files import atomic_file
from segkit.image_ops import ImageError, Network, RowChunks
from segkit.metrics import THRESHOLDS, Counts, sweep
from segkit.model_file import ModelMetadata, load_model, read_metadata
from segkit.onnx_predictor import OnnxNetwork
from segkit.train.distributed import pick_device

_FLIPS = {"": [()], "h": [(), (2,)], "v": [(), (1,)], "hv": [(), (1,), (2,), (1, 2)]}
_OVERLAY = 2048  # pixels of an overlay's longer side, at most


@dataclass
class Predictor:
    """A network, its metadata, and how it is applied to an image.

    Args:
        network: returns logits for uint8 images; `as_network` makes one of a model.
        metadata: class names, training size, threshold.
        window: pixels of a window that slides over the image at its own resolution; None
            predicts the whole image, resized to the training size.
        overlap, batch_size: see `image_ops.sliding_window`.
        flips, scales: see `test_time_augmentation`.
        min_size: see `remove_small_components`.
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
        # refuses impossible values now, and not when the first picture has been read
        test_time_augmentation(self.network, self.flips, self.scales)
        if self.window is not None:
            image_ops.tile_starts(self.window, self.window, self.overlap)

    @classmethod
    def load(cls, path: str | Path, device: str | None = None, **options) -> "Predictor":
        """Open a model file, on the best device by default, or a network exported as `.onnx`.

        options: the arguments from `window` on.
        """
        if Path(path).suffix.lower() == ".onnx":
            network = OnnxNetwork(path)
            return cls(network, read_metadata(path, network.metadata), **options)
        model, metadata = load_model(path)
        model.to(pick_device(device), memory_format=torch.channels_last)
        return cls(as_network(model, metadata), metadata, **options)

    def _chunks(self, image: np.ndarray) -> RowChunks:
        network = test_time_augmentation(self.network, self.flips, self.scales)
        if self.window is None:
            return image_ops.predict_resized(network, image, self.metadata.size)
        return image_ops.sliding_window(network, image, self.window, self.overlap, self.batch_size)

    def logits(self, image: np.ndarray) -> np.ndarray:
        """Return the logits (K, H, W) for a uint8 image (H, W[, 3])."""
        return np.concatenate([logits for _, logits in self._chunks(image)], axis=1)

    def mask(self, image: np.ndarray) -> np.ndarray:
        """Return class ids, uint8 (H, W), for a uint8 image (H, W[, 3])."""
        mask = image_ops.stitch(self._chunks(image), image.shape[:2], self.metadata.threshold)
        return remove_small_components(mask, self.min_size)


def as_network(model: nn.Module, metadata: ModelMetadata) -> Network:
    """Return `model`, on the device it is on, as a function from uint8 images to logits."""

    @torch.inference_mode()
    def run(images: np.ndarray) -> np.ndarray:
        model.eval()
        batch = torch.from_numpy(image_ops.normalise(images, metadata.mean, metadata.std))
        return model(_like_weights(batch, model)).float().cpu().numpy()

    return run


def _like_weights(images: Tensor, model: nn.Module) -> Tensor:
    """Return images on the device and in the type of the weights; channels_last is faster."""
    weights = next(model.parameters())
    return images.to(weights.device, weights.dtype, memory_format=torch.channels_last)


def test_time_augmentation(
    network: Network, flips: str = "", scales: Sequence[float] = (1.0,)
) -> Network:
    """Return a network that averages the logits of several versions of each image.

    Args:
        network: predicts each version; the cost grows with their number.
        flips: "h" adds the image mirrored left to right, "v" upside down, "hv" these and both.
        scales: sizes, relative to the image; each is predicted with all flips.
    """
    if flips not in _FLIPS:
        raise ArgumentError(f'flips={flips!r}: choose "", "h", "v" or "hv"')
    if not scales or min(scales) <= 0:
        raise ArgumentError(f"scales={scales!r}: give at least one scale, all above 0")
    versions = list(itertools.product(scales, _FLIPS[flips]))
    if versions == [(1.0, ())]:
        return network

    def run(images: np.ndarray) -> np.ndarray:
        size, total = images.shape[1:3], 0.0
        for scale, axes in versions:
            scaled = tuple(max(1, round(side * scale)) for side in size)
            inputs = images
            if scaled != size:
                inputs = np.stack([image_ops.resize(image, scaled) for image in images])
            logits = np.flip(network(np.flip(inputs, axes)), [axis + 1 for axis in axes])
            if scaled != size:
                planes = [image_ops.resize(plane, size) for image in logits for plane in image]
                logits = np.reshape(planes, (*logits.shape[:2], *size))
            total = total + logits.astype(float)
        return (total / len(versions)).astype(np.float32)

    return run


def remove_small_components(mask: np.ndarray, min_size: int) -> np.ndarray:
    """Return a mask, uint8 (H, W), whose components below `min_size` pixels are background.

    A component is a connected region of one class; pixels that touch at a corner are connected.
    """
    if min_size <= 1:
        return mask
    mask = mask.copy()
    for label in range(1, int(mask.max()) + 1):
        binary = (mask == label).view(np.uint8)
        _, components, statistics, _ = cv2.connectedComponentsWithStats(binary)
        small = statistics[:, cv2.CC_STAT_AREA] < min_size
        small[0] = False  # component 0: the pixels that are not of this class
        mask[small[components]] = 0
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
    """Return the threshold with the best score on the validation set; of equals, nearest 0.5.

    On the images it was chosen on, that score is optimistically biased: report another set's.

    Args:
        model: has one output channel.
        validation: images that are not used for the final score.
        metric: a score of `Counts`, as "iou" or "dice".
        reduction: the average of that score.
        batch_size: images at a time.
    """
    batches = [sweep(*batch).stacked() for batch in logits_of(model, validation, batch_size)]
    counts = Counts(*torch.cat(batches, dim=-2))
    scores = getattr(counts, metric)(reduction).nan_to_num(0).tolist()
    best = max(range(len(scores)), key=lambda k: (scores[k], -abs(THRESHOLDS[k] - 0.5)))
    return Threshold(THRESHOLDS[best], scores[best], THRESHOLDS, tuple(scores))


@torch.inference_mode()
def logits_of(
    model: nn.Module, data: SegmentationDataset, batch_size: int = 16
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield float32 logits (N, K, H, W) and masks (N, H, W) of a data set, in its order."""
    model.eval()
    for images, masks in loader(data, batch_size):
        images = _like_weights(images, model)
        yield model(images).float(), masks.to(images.device)


@dataclass(frozen=True)
class Outcome:
    """What became of one file: its mask (and overlay), or the error.

    shares: fraction of the pixels, by class. seconds: with reading and writing.
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

    A picture that cannot be used has an outcome with `error`, and the rest is done.

    Args:
        predictor: predicts the masks.
        source: a folder, a picture, or several of either.
        out: a folder that holds none of the pictures.
        form: "palette" or "ids", see `image_ops.write_mask`.
        overlays: whether to write NAME_overlay.jpg too, upright and of at most 2048 pixels.
        overwrite: whether a file that exists already may be replaced.
        watch: is called with each outcome.

    Raises:
        ArgumentError: there is no picture, or masks would be written among the pictures, have
            one name, or replace what they must not; nothing is written then.
    """
    sources = [source] if isinstance(source, (str, Path)) else source
    files = list(dict.fromkeys(file for place in sources for file in find_pictures(place)))
    masks = image_ops.mask_files(files, out)
    targets = [(mask, mask.with_name(f"{mask.stem}_overlay.jpg")) for mask in masks]
    if not overwrite:
        for file in (file for pair in targets for file in pair[: 1 + overlays] if file.exists()):
            raise ArgumentError(f"{file} is there already: give another folder, or overwrite")
    outcomes = []
    for file, (mask, overlay) in zip(files, targets, strict=True):
        outcome = _predict_file(predictor, file, mask, overlay if overlays else None, form)
        outcomes.append(outcome)
        if watch:
            watch(outcome)
    return outcomes


def find_pictures(source: str | Path) -> list[Path]:
    """Return the pictures in a folder, in order of their names, or the one file."""
    source = Path(source)
    if source.is_file():
        return [source]
    names = (f for f in source.glob("[!.]*") if f.suffix.lower() in SUFFIXES)
    files = sorted(f for f in names if f.is_file())  # neither a folder nor a pipe
    if not files:
        kinds = ", ".join(sorted(SUFFIXES))
        raise ArgumentError(f"{source}: neither a picture nor a folder with pictures ({kinds})")
    return files


def _predict_file(
    predictor: Predictor, file: Path, target: Path, overlay: Path | None, form: str
) -> Outcome:
    start = time.perf_counter()
    metadata = predictor.metadata
    try:
        image, orientation = image_ops.read_image(file, metadata.in_channels)
        mask = predictor.mask(image)
    except ImageError as error:
        return Outcome(file, error=str(error), seconds=time.perf_counter() - start)
    except Exception as error:  # torch, OpenCV and onnxruntime have no MemoryError
        if not isinstance(error, MemoryError) and "memory" not in str(error).lower():
            raise
        text = f"{file}: too large for the memory; predict it in windows ({error})"
        return Outcome(file, error=text, seconds=time.perf_counter() - start)
    image_ops.write_mask(target, mask, orientation, form)
    if overlay:
        small = Image.fromarray(image)
        small.thumbnail((_OVERLAY, _OVERLAY), Image.Resampling.BILINEAR)
        ids = Image.fromarray(mask).resize(small.size, Image.Resampling.NEAREST)
        drawn = Image.fromarray(image_ops.overlay(np.array(small), np.array(ids)))
        with atomic_file(overlay) as part:
            drawn.save(part, "JPEG", quality=90, subsampling=0)
    shares = {
        name: np.count_nonzero(mask == label) / mask.size
        for label, name in enumerate(metadata.class_names)
    }
    return Outcome(file, target, overlay, shares, time.perf_counter() - start)
