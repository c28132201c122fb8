"""Model files: a network's weights and all it takes to use them, in one file.

The format is safetensors, with the metadata and a checksum in its header: reading one runs no
code, and damage is noticed. https://github.com/huggingface/safetensors
"""

import json
import math
import re
import zlib
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch
from torch import Tensor, nn

from segkit import models
from segkit.errors import ArgumentError, CheckpointError
from segkit.files import atomic_file

if TYPE_CHECKING:
    from segkit.data.dataset import SegmentationDataset

_PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


@dataclass(frozen=True)
class ModelMetadata:
    """What a network is and how its images are made.

    Args:
        network: a name that `segkit.models.build` knows.
        class_names: one per class id, the background first; two for a binary network.
        mean: per channel, of pixels in 0..1, as the images are normalised.
        std: standard deviation per channel, likewise.
        size: (height, width) of the images it was trained on, in pixels.
        in_channels: of the images.
        classes: channels of the logits, 1 to 255.
        options: the network's own, as `segkit.models.build` takes them.
        threshold: of probability, between 0 and 1, where `classes` is 1.
        notes: anything else worth keeping that JSON can hold: data, scores, settings.

    Raises:
        ArgumentError: a value is impossible or contradicts another.
    """

    network: str
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: tuple[int, int]
    in_channels: int = 3
    classes: int = 1
    options: dict[str, Any] = field(default_factory=dict)
    threshold: float = 0.5
    notes: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names, pixels = self.class_names, (*self.mean, *self.std)
        demands = {
            f"network is one of {', '.join(models.names())}": self.network in models.names(),
            "classes is between 1 and 255": self.classes in range(1, 256),
            "each class has a name, one channel 2": len(names) == max(2, self.classes),
            "class names are different texts": len(set(names)) == len(names)
            and all(isinstance(name, str) for name in names),
            "mean and std have a finite number per channel, those of std above 0": (
                len(self.mean) == len(self.std) == self.in_channels
                and all(map(math.isfinite, pixels))
                and min(self.std) > 0
            ),
            "size is (height, width) in pixels, up to 65,535": len(self.size) == 2
            and all(side in range(1, 2**16) for side in self.size),
            "threshold is between 0 and 1": 0 < self.threshold < 1,
        }
        for demand, met in demands.items():
            if not met:
                raise ArgumentError(f"this metadata fits no model: see that {demand} ({self})")

    @classmethod
    def of(
        cls,
        dataset: "SegmentationDataset",
        network: str,
        *,
        threshold: float = 0.5,
        notes: dict[str, Any] | None = None,
        **options: Any,
    ) -> "ModelMetadata":
        """Return the metadata of the network called `network`, trained on `dataset`.

        options: those given to `build`; `classes` among them only if not the data set's.
        """
        mean, std = (0.0,) * dataset.channels, (1.0,) * dataset.channels
        if dataset.transform is not None:
            try:
                mean, std = dataset.transform.mean, dataset.transform.std
            except AttributeError:
                raise ArgumentError(
                    f"the data set's transform, {dataset.transform!r}, has no mean and std: "
                    "make ModelMetadata(...) with those it normalises by"
                ) from None
        options.pop("pretrained", None)  # the weights will be in the file
        classes = options.pop("classes", dataset.classes)
        about = {"in_channels": dataset.channels, "classes": classes, "options": options}
        notes = {"data": dataset.info} | (notes or {})
        names, size = tuple(dataset.class_names), dataset.masks.shape[1:]
        normalised = {"mean": tuple(mean), "std": tuple(std), "threshold": threshold}
        return cls(network, names, size=size, **normalised, **about, notes=notes)

    def build(self) -> nn.Module:
        """Return the network with weights not yet trained."""
        return models.build(self.network, self.in_channels, self.classes, **self.options)

    def to_json(self) -> str:
        """Return the metadata as JSON. Raises ArgumentError for notes that JSON cannot hold."""
        try:
            return json.dumps(asdict(self))
        except TypeError as error:
            raise ArgumentError(f"the metadata cannot be written as JSON: {error}") from error


def read_metadata(path: str | Path, stored: Any) -> ModelMetadata:
    """Return the metadata in a file, without what a later segkit may have added to it.

    Raises:
        CheckpointError: it describes no network.
    """
    known = {f.name for f in fields(ModelMetadata)}
    try:
        given = {key: value for key, value in stored.items() if key in known}
        tuples = {key: tuple(given[key]) for key in ("class_names", "mean", "std", "size")}
        return ModelMetadata(**given | tuples)
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise CheckpointError(f"{path} is damaged, or no model of segkit: {error!r}") from error


def save_model(path: str | Path, model: nn.Module, metadata: ModelMetadata) -> None:
    """Write the weights of `model`, in float32, and its metadata to `path`, whole or not at all.

    Raises:
        CheckpointError: the metadata does not build this network.
    """
    weights = {}
    for name, tensor in model.state_dict().items():
        name = re.sub(r"^(module\.|_orig_mod\.)+", "", name)  # of DDP and torch.compile
        tensor = tensor.float() if tensor.is_floating_point() else tensor
        weights[name] = tensor.cpu().contiguous()
    with torch.device("meta"):  # without memory: its weights are the given ones
        _check_fit("the metadata given", weights, metadata.build())
    text = metadata.to_json()
    header = {"segkit": text, "checksum": _checksum(text, weights)}
    with atomic_file(path) as part:
        safetensors.torch.save_file(weights, part, header)


def load_model(path: str | Path) -> tuple[nn.Module, ModelMetadata]:
    """Return the network in `path`, on the CPU and in evaluation mode, and its metadata.

    Raises:
        CheckpointError: the file is missing, damaged or no model file of segkit.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such file")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            weights = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as error:
        problem = f"is damaged, or no model file of segkit: {error}"
        if path.read_bytes()[:4].startswith(_PICKLES):
            problem = (
                "is a pickle (torch.save), which may run code when it is opened, so it is not. "
                "If you trust it, torch.load(path, weights_only=True) and save it with save_model"
            )
        raise CheckpointError(f"{path} {problem}") from error
    if not {"segkit", "checksum"} <= set(header):
        raise CheckpointError(
            f"{path} holds weights without metadata of their network: build the network, load the "
            "weights into it, and save it with segkit.model_file.save_model"
        )
    if header["checksum"] != _checksum(header["segkit"], weights):
        raise CheckpointError(f"{path} is damaged: its checksum is wrong")
    metadata = read_metadata(path, json.loads(header["segkit"]))
    try:
        with torch.device("meta"):  # without memory: its weights will be those of the file
            model = metadata.build()
    except (TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path} describes a network that cannot be: {error}") from error
    _check_fit(path, weights, model)
    model.load_state_dict(weights, assign=True)
    return model.eval(), metadata


def _check_fit(source: str | Path, weights: dict[str, Tensor], model: nn.Module) -> None:
    given = {name: (*t.shape, t.dtype) for name, t in weights.items()}
    needed = {name: (*t.shape, t.dtype) for name, t in model.state_dict().items()}
    for name in given | needed:
        if given.get(name) != needed.get(name):
            raise CheckpointError(
                f"{source} and the weights disagree: {name} is {given.get(name, 'absent')} among "
                f"the weights and {needed.get(name, 'absent')} in the {type(model).__name__}"
            )


def _checksum(text: str, weights: dict[str, Tensor]) -> str:
    """Return a CRC of all that a file holds: safetensors itself does not see a flipped bit."""
    found = zlib.crc32(text.encode())
    for name, tensor in sorted(weights.items()):
        found = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), found)
        found = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy(), found)
    return f"{found:08x}"
