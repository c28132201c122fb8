"""From a trained model and an image to a mask: whole or in windows, one file or a folder."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image
from torch import nn

from segkit import image_ops
from segkit.data.dataset import SegmentationDataset
from segkit.data.folder import SUFFIXES, pictures
from segkit.errors import ArgumentError
from segkit.files import atomic_file
from segkit.image_ops import Network, RowChunks
from segkit.metrics import THRESHOLDS, Counts, sweep
from segkit.model_file import ModelMetadata, load_model, read_metadata
from segkit.onnx_predictor import OnnxNetwork
from segkit.train import predict_batches
from segkit.train.distributed import pick_device

_FLIPS = {"": [()], "h": [(), (2,)], "v": [(), (1,)], "hv": [(), (1,), (2,), (1, 2)]}


@dataclass
class Predictor:
    """A network, its metadata, and how it is applied to an image.

    Args:
        network: returns logits for images; `as_network` makes one of a model.
        window: side of a window that slides over the image at its own resolution; None predicts
            the whole image, resized to the training size.
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
        self._augmented = test_time_augmentation(self.network, self.flips, self.scales)
        if self.window is not None:  # refuse impossible values before a picture is read
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
        return cls(as_network(model.to(pick_device(device)), metadata), metadata, **options)

    def _chunks(self, image: np.ndarray) -> RowChunks:
        image_ops.check_pixels(image, self.metadata.intensity)
        if self.window is None:
            return image_ops.predict_resized(self._augmented, image, self.metadata.size)
        options = self.window, self.overlap, self.batch_size
        return image_ops.sliding_window(self._augmented, image, *options)

    def logits(self, image: np.ndarray) -> np.ndarray:
        """Return the logits (K, H, W) for an image (H, W[, C]), as `image_ops.read_image` reads."""
        return np.concatenate([logits for _, logits in self._chunks(image)], axis=1)

    def mask(self, image: np.ndarray) -> np.ndarray:
        """Return class ids, uint8 (H, W), for an image (H, W[, C])."""
        mask = image_ops.stitch(self._chunks(image), self.metadata.threshold)
        return remove_small_components(mask, self.min_size)


def as_network(model: nn.Module, metadata: ModelMetadata) -> Network:
    """Return `model`, on the device it is on, as a function from images to logits."""
    model.to(memory_format=torch.channels_last)  # the faster layout

    @torch.inference_mode()
    def run(images: np.ndarray) -> np.ndarray:
        model.eval()
        weights = next(model.parameters(), torch.empty(0))  # a network may have none
        batch = torch.from_numpy(image_ops.normalise(images, metadata.mean, metadata.std))
        batch = batch.to(weights.device, weights.dtype, memory_format=torch.channels_last)
        return model(batch).float().cpu().numpy()

    return run


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
    if versions == [(1, ())]:
        return network

    def run(images: np.ndarray) -> np.ndarray:
        size, total = images.shape[1:3], 0.0
        for scale, axes in versions:
            scaled = tuple(max(1, round(side * scale)) for side in size)
            inputs = np.stack([image_ops.resize(image, scaled) for image in images])
            logits = image_ops.network_logits(network, np.flip(inputs, axes))
            logits = np.flip(logits, [axis + 1 for axis in axes])
            planes = [image_ops.resize(plane, size) for image in logits for plane in image]
            total = total + np.reshape(planes, (*logits.shape[:2], *size)).astype(float)
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


class _Threshold(NamedTuple):
    """A threshold of probability, the score it gives, and the scores of all that were tried."""

    value: float
    score: float
    thresholds: tuple[float, ...]
    scores: tuple[float, ...]


def choose_threshold(
    model: nn.Module, validation: SegmentationDataset, batch_size: int = 16
) -> _Threshold:
    """Return the threshold with the best IoU on the validation set; of equals, nearest 0.5.

    On the images it was chosen on, that score is optimistically biased: report another set's.
    Dice is largest at the same threshold. `model` has one output channel.
    """
    counts = Counts.cat(sweep(*pair) for pair in predict_batches(model, validation, batch_size))
    scores = counts.iou().nan_to_num(0).tolist()
    best = max(range(len(scores)), key=lambda k: (scores[k], -abs(THRESHOLDS[k] - 0.5)))
    return _Threshold(THRESHOLDS[best], scores[best], THRESHOLDS, tuple(scores))


@dataclass(frozen=True)
class Outcome:
    """What became of one file: its mask, overlay and share of pixels by class, or the error."""

    file: Path
    mask: Path | None = None
    overlay: Path | None = None
    shares: dict[str, float] | None = None
    error: str = ""


def predict_folder(
    predictor: Predictor,
    source: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    form: str = "palette",
    overlays: bool = False,
    overwrite: bool = True,
    watch: Callable[[Outcome], object] = lambda _: None,
) -> list[Outcome]:
    """Write the mask of each picture in `source` to `out`/NAME.png.

    A picture that cannot be used has an outcome with `error`, and the rest is done.

    Args:
        source: a folder, a picture, or several of either.
        form: see `image_ops.write_mask`.
        overlays: whether to write NAME_overlay.jpg too, upright and of at most 2048 pixels.
        overwrite: whether a file that exists already may be replaced.
        watch: is called with each outcome.

    Raises:
        ArgumentError: there is no picture, or masks would be written among the pictures, have
            one name, or replace what they must not; nothing is written then.
    """
    files = find_pictures(source)
    masks = image_ops.mask_files(files, out)
    drawn = [m.with_name(f"{m.stem}_overlay.jpg") if overlays else None for m in masks]
    existing = [file for file in (*masks, *filter(None, drawn)) if file.exists()]
    if existing and not overwrite:
        raise ArgumentError(f"{existing[0]} is there already: give another folder, or overwrite")
    outcomes = []
    for places in zip(files, masks, drawn, strict=True):
        outcomes.append(_predict_file(predictor, *places, form))
        watch(outcomes[-1])
    return outcomes


def find_pictures(source: str | Path | Sequence[str | Path]) -> list[Path]:
    """Return the pictures in a folder, by name, or the one file; of several sources, each once."""
    if not isinstance(source, (str, Path)):
        return list(dict.fromkeys(file for place in source for file in find_pictures(place)))
    if (source := Path(source)).is_file():
        return [source]
    if files := sorted(file for same in pictures(source).values() for file in same):
        return files
    kinds = ", ".join(sorted(SUFFIXES))
    raise ArgumentError(f"{source}: neither a picture nor a folder with pictures ({kinds})")


def _predict_file(
    predictor: Predictor, file: Path, target: Path, overlay: Path | None, form: str
) -> Outcome:
    names = predictor.metadata.class_names
    try:
        about = predictor.metadata
        image, orientation = image_ops.read_image(
            file, about.in_channels, intensity=about.intensity
        )
        mask = predictor.mask(image)
    except image_ops.ImageError as error:
        return Outcome(file, error=str(error))
    except Exception as error:  # torch, OpenCV and onnxruntime have no MemoryError
        if "memory" not in f"{type(error).__name__} {error}".lower():
            raise
        return Outcome(file, error=f"{file}: too large for the memory; use windows ({error})")
    image_ops.write_mask(target, mask, orientation, form)
    if overlay:
        small = Image.fromarray(image_ops.rgb(image))
        small.thumbnail((2048, 2048), Image.Resampling.BILINEAR)
        ids = Image.fromarray(mask).resize(small.size, Image.Resampling.NEAREST)
        with atomic_file(overlay) as part:
            drawn = Image.fromarray(image_ops.overlay(np.array(small), np.array(ids)))
            drawn.save(part, "JPEG", quality=90, subsampling=0)
    pixels = sum(np.bincount(row, minlength=len(names)) for row in mask)  # in int64: not at once
    shares = pixels / mask.size
    return Outcome(file, target, overlay, dict(zip(names, shares.tolist(), strict=True)))
