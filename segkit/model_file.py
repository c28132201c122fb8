"""Model files: a network's weights and all it takes to use them, in one file.

The format is safetensors, with the metadata and a checksum in its header: reading one runs no
code, and damage is noticed. https://github.com/huggingface/safetensors
"""

import json
import math
import re
import zlib
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch
from torch import Tensor, nn

from segkit import models
from segkit.errors import ArgumentError, CheckpointError
from segkit.files import atomic_file
from segkit.image_ops import Intensity, as_pairs
from segkit.paths import CourseMissingError, root

if TYPE_CHECKING:
    from segkit.data.dataset import SegmentationDataset


@dataclass(frozen=True)
class ModelMetadata:
    """What a network is and how its images are made."""

    network: str  # a name that segkit.models.build knows
    class_names: tuple[str, ...]  # one per class id, the background first; two if binary
    mean: tuple[float, ...]  # per channel, of pixels in 0..1, as the images are normalised
    std: tuple[float, ...]
    size: tuple[int, int]  # (height, width) of the images it was trained on, in pixels
    in_channels: int = 3
    classes: int = 1  # channels of the logits, 1 to 255
    options: dict[str, Any] = field(default_factory=dict)  # the network's own, as build takes them
    threshold: float = 0.5  # of probability, where `classes` is 1
    notes: dict[str, Any] = field(default_factory=dict)  # data, scores, settings, for JSON
    trained_on: dict[str, str] = field(default_factory=dict)  # names of images by their digests
    chosen_on: dict[str, str] = field(default_factory=dict)  # that chose epoch and threshold
    encoder_weights: str = "stored"  # or "imagenet": pretrained, and not in the file
    intensity: Intensity | None = None  # of images that are not of 8 bits, see `image_ops.rescale`

    def __post_init__(self) -> None:
        texts = {name for name in self.class_names if isinstance(name, str)}
        channels = len(self.mean) == len(self.std) == self.in_channels
        ends = self.intensity is None or len(self.intensity) in (1, self.in_channels)
        finite = all(map(math.isfinite, (*self.mean, *self.std))) and min(self.std, default=0) > 0
        sides = len(self.size) == 2 and all(side in range(1, 2**16) for side in self.size)
        small = all(v <= 4096 for v in self.options.values() if isinstance(v, int | float))
        demands = {
            f"network is one of {', '.join(models.names())}": self.network in models.names(),
            "classes is between 1 and 255": self.classes in range(1, 256),
            "each class has a name, one channel 2": len(self.class_names) == max(2, self.classes),
            "class names are different texts": len(texts) == len(self.class_names),
            "mean and std have a number per channel": channels,
            "intensity has a pair for all channels or one for each": ends,
            "mean and std are finite, and std is above 0": finite,
            "size is (height, width) in pixels, up to 65,535": sides,
            "threshold is between 0 and 1": 0 < self.threshold < 1,
            "options are at most 4,096": small,
            "options are without weights": not {"pretrained", "weights"} & set(self.options),
            "encoder_weights is stored, or imagenet for pretrained_unet": self.encoder_weights
            in ("stored", *["imagenet"] * (self.network == "pretrained_unet")),
        }
        if unmet := [demand for demand, met in demands.items() if not met]:
            raise ArgumentError(f"this metadata fits no model: see that {unmet[0]}")

    @classmethod
    def of(
        cls,
        dataset: "SegmentationDataset",
        network: str,
        *,
        validation: "SegmentationDataset | None" = None,
        threshold: float = 0.5,
        notes: dict[str, Any] | None = None,
        encoder_weights: str = "stored",
        **options: Any,
    ) -> "ModelMetadata":
        """Return the metadata of the network called `network`, trained on `dataset`.

        Args:
            validation: the images that chose the epoch or the threshold.
            threshold: of probability, where the network is binary.
            notes: data, scores, settings, for JSON.
            encoder_weights: "imagenet" for a frozen encoder that the file need not hold.
            options: those given to `build`; `classes` among them only if not the data set's.
        """
        transform, channels = dataset.transform, dataset.channels
        mean = getattr(transform, "mean", None if transform else [0.0] * channels)
        std = getattr(transform, "std", None if transform else [1.0] * channels)
        if mean is None or std is None:
            raise ArgumentError(
                f"the data set's transform, {transform!r}, has no mean and std: make "
                "ModelMetadata(...) with those it normalises by"
            )
        options = {k: v for k, v in options.items() if k not in ("pretrained", "weights")}
        classes, names = options.pop("classes", dataset.classes), tuple(dataset.class_names)
        about = (
            names,
            tuple(mean),
            tuple(std),
            tuple(dataset.masks.shape[1:]),
            channels,
            classes,
            options,
        )
        parts = (dataset, validation)
        used = [dict(zip(x.digests(), x.names, strict=True)) if x else {} for x in parts]
        intensity = dataset.info.get("intensity")
        notes = {"data": dataset.info} | (notes or {})
        return cls(network, *about, threshold, notes, *used, encoder_weights, intensity)

    def build(self, weights: str | None = None) -> nn.Module:
        """Return the network, untrained; `weights`: of its encoder, if it can be pretrained."""
        pretrained = {"weights": weights} if "weights" in models.options(self.network) else {}
        options = self.options | pretrained
        return models.build(self.network, self.in_channels, self.classes, **options)

    def to_export(self) -> str:
        """Return as JSON what another program needs: all but the names of the images."""
        return replace(self, trained_on={}, chosen_on={}, encoder_weights="stored").to_json()

    def to_json(self) -> str:
        """Return the metadata as JSON. Raises ArgumentError for notes that JSON cannot hold."""
        try:
            return json.dumps(asdict(self))
        except TypeError as error:
            raise ArgumentError(f"the metadata cannot be written as JSON: {error}") from error


def read_metadata(path: str | Path, stored: Any) -> ModelMetadata:
    """Return the metadata stored in a file (as JSON, or read from it), less what it does not know.

    Raises:
        CheckpointError: it describes no network.
    """
    try:
        stored = json.loads(stored) if isinstance(stored, str) else stored
        given = {f.name: stored[f.name] for f in fields(ModelMetadata) if f.name in stored}
        tuples = {key: tuple(given[key]) for key in ("class_names", "mean", "std", "size")}
        if given.get("intensity") is not None:
            tuples["intensity"] = as_pairs(given["intensity"])
        return ModelMetadata(**given | tuples)
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        raise CheckpointError(f"{path} is damaged, or no model of segkit: {error!r}") from error


def save_model(path: str | Path, model: nn.Module, metadata: ModelMetadata) -> None:
    """Write the weights of `model`, in float32, and its metadata to `path`, whole or not at all.

    With `encoder_weights="imagenet"` in the metadata the file is small: the encoder, which has to
    be the pretrained one (frozen in training), is left out, and the rest is rounded to float16.

    Raises:
        CheckpointError: the metadata does not build this network, or its encoder is another.
    """
    weights = _as_stored(model.state_dict())
    text = metadata.to_json()
    _build_for("the metadata given", weights, metadata)
    if metadata.encoder_weights == "imagenet":
        for name, tensor in _pretrained(metadata).items():
            if not torch.equal(weights.pop(name), tensor):
                remedy = 'leave out encoder_weights="imagenet"'
                raise CheckpointError(f"{name} differs from the pretrained weights: {remedy}")
        largest = torch.finfo(torch.float16).max
        for name, tensor in weights.items():
            if tensor.is_floating_point() and tensor.abs().max() <= largest:
                weights[name] = tensor.half()
    header = {"segkit": text, "checksum": _checksum(text, weights)}
    with atomic_file(path) as part:
        safetensors.torch.save_file(weights, part, header)


def import_weights(path: str | Path, metadata: ModelMetadata) -> nn.Module:
    """Return the network that `metadata` describes with the weights in a file of `torch.save`.

    The file holds a state dict, alone or under "state_dict", "model_state_dict" or "model". It is
    read by `torch.load(weights_only=True)`, so no code in it runs.

    Raises:
        CheckpointError: the file holds no state dict, or one that does not fit in all names and
            shapes; the message lists what differs.
    """
    if not Path(path).is_file():
        raise CheckpointError(f"{path}: there is no such file")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        for key in ("state_dict", "model_state_dict", "model"):
            state = state[key] if isinstance(state.get(key), dict) else state
        if not state or not all(map(torch.is_tensor, state.values())):
            raise TypeError("it holds no state dict")
        weights = _as_stored(state)
        if len(weights) < len(state):
            raise ValueError("a name stands in it with a prefix and without")
    except Exception as error:  # a foreign file may fail in any of the libraries that read it
        raise CheckpointError(
            f"{path}: no weights can be read from it without running code that it may hold "
            f"({type(error).__name__}): where it was made, torch.save(model.state_dict(), path)"
        ) from error
    model = _build_for(path, weights, metadata)
    model.load_state_dict(weights, assign=True)
    return model.eval()


def load_model(path: str | Path) -> tuple[nn.Module, ModelMetadata]:
    """Return the network in `path`, on the CPU and in evaluation mode, and its metadata.

    Args:
        path: a file, or the name of a model that comes with the course, such as "pets".

    Raises:
        CheckpointError: the file is missing, damaged or no model file of segkit.
    """
    path = _find(Path(path))
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            weights = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is damaged, or no model file of segkit: {error}. If it was made by "
            "torch.save, import it: segkit import-weights"
        ) from error
    if not {"segkit", "checksum"} <= set(header):
        raise CheckpointError(
            f"{path} holds weights without metadata of their network: build the network, load the "
            "weights into it, and save it with segkit.model_file.save_model"
        )
    if header["checksum"] != _checksum(header["segkit"], weights):
        raise CheckpointError(f"{path} is damaged: its checksum is wrong")
    metadata = read_metadata(path, header["segkit"])
    if metadata.encoder_weights == "imagenet":
        floats = {k: v.float() for k, v in weights.items() if v.is_floating_point()}
        weights = weights | floats | _pretrained(metadata)
    model = _build_for(path, weights, metadata)
    model.load_state_dict(weights, assign=True)
    if "weights" in models.options(metadata.network):  # what they need, if trained further
        model.mean, model.std = metadata.mean, metadata.std
    return model.eval(), metadata


def _find(path: Path) -> Path:
    """Return the file at `path`, else the model of that name that comes with the course."""
    if path.is_file():
        return path
    shipped = {}
    with suppress(CourseMissingError):  # segkit is installed without the course
        shipped = {file.stem: file for file in (root() / "data" / "models").glob("*.safetensors")}
    if path.is_dir() and (str(path) not in shipped or (path / "model.safetensors").exists()):
        raise CheckpointError(f"{path} is a folder: name the model file in it")
    if str(path) not in shipped:
        known = f"; models that come with the course: {', '.join(shipped)}" if shipped else ""
        raise CheckpointError(f"{path}: there is no such file{known}")
    return shipped[str(path)]


def _pretrained(metadata: ModelMetadata) -> dict[str, Tensor]:
    """Return the pretrained weights of the encoder, named as in the network."""
    narrow = replace(metadata, options=metadata.options | {"width": 1})  # the encoder alone counts
    try:
        state = narrow.build("imagenet").state_dict()
    except ArgumentError as error:
        raise CheckpointError(f"the encoder of this model cannot be had: {error}") from error
    return {name: tensor for name, tensor in state.items() if name.startswith("encoder.")}


def _as_stored(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return weights in float32, without the prefixes of DDP, torch.compile and Lightning."""
    weights = {}
    for name, tensor in state.items():
        tensor = tensor.float() if tensor.is_floating_point() else tensor
        weights[re.sub(r"^(module\.|_orig_mod\.|model\.)+", "", name)] = tensor.cpu().contiguous()
    return weights


def _build_for(
    source: str | Path, weights: dict[str, Tensor], metadata: ModelMetadata
) -> nn.Module:
    """Return the network on the meta device, if the given weights are those it needs."""
    try:
        with torch.device("meta"):
            model = metadata.build()
    except (TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{source} describes a network that cannot be: {error}") from error
    given = {name: (*t.shape, t.dtype) for name, t in weights.items()}
    needed = {name: (*t.shape, t.dtype) for name, t in model.state_dict().items()}
    differ = [name for name in given | needed if given.get(name) != needed.get(name)]
    kinds = {"missing": [n for n in differ if n not in given]}
    kinds["unexpected"] = [n for n in differ if n not in needed]
    both = [n for n in differ if n in given and n in needed]
    kinds["of another shape or type"] = [f"{n} {given[n]} for {needed[n]}" for n in both]
    if differ:
        lists = [
            f"{len(found)} {kind}: {', '.join(found[:8])}{', …' if len(found) > 8 else ''}"
            for kind, found in kinds.items()
            if found
        ]
        raise CheckpointError(
            f"{source} and the weights disagree: of {len(needed)} tensors in the "
            f"{type(model).__name__} {len(needed.keys() & given.keys()) - len(both)} match; "
            f"{'; '.join(lists)}"
        )
    return model


def _checksum(text: str, weights: dict[str, Tensor]) -> str:
    """Return a CRC of all that a file holds: safetensors itself does not see a flipped bit."""
    found = zlib.crc32(text.encode())
    for name, tensor in sorted(weights.items()):
        found = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), found)
        found = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy(), found)
    return f"{found:08x}"
