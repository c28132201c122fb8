"""Model files: a network's weights and all it takes to use them, in one file.

The format is that of checkpoints: reading one runs no code, whoever wrote it, it is written whole
or not at all, and a checksum tells a damaged file from a good one.
"""

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from segkit import models
from segkit.data.dataset import SegmentationDataset
from segkit.errors import CheckpointError
from segkit.train import model_format as checkpoint

KIND = "model"
LARGEST = 4096  # an option, such as a width, that is larger is a damaged file's
PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


@dataclass(frozen=True)
class ModelMetadata:
    """What a network is and how its images are to be made.

    network, in_channels, classes, options: what `segkit.models.build` needs. class_names: one
    per id, the background first. mean, std: per channel, of pixels in 0..1. size: (H, W) of the
    images it was trained on. threshold: of probability, where there is one channel.
    notes: whatever else is worth keeping, ready for JSON: data, scores, settings.
    Raises ValueError for metadata that contradicts itself.
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
        for name in ("class_names", "mean", "std", "size"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        trained_from = {k: v for k, v in self.options.items() if k != "pretrained"}
        object.__setattr__(self, "options", trained_from)  # the weights are in the file
        numbers = [v for v in self.options.values() if isinstance(v, (int, float))]
        channels = len(self.mean) == len(self.std) == self.in_channels and min(self.std) > 0
        demands = [
            (self.network in models.names(), f"network is one of {', '.join(models.names())}"),
            (len(self.class_names) == max(2, self.classes), "each class has a name, one channel 2"),
            (channels, "mean and std have a number per channel, those of std above 0"),
            (len(self.size) == 2 and min(self.size) >= 1, "size is (height, width) in pixels"),
            (0 < self.threshold < 1, "threshold is between 0 and 1"),
            (all(abs(number) <= LARGEST for number in numbers), f"no option exceeds {LARGEST}"),
        ]
        for met, demand in demands:
            if not met:
                raise ValueError(f"these metadata describe no model: see that {demand} ({self})")

    @classmethod
    def of(
        cls,
        dataset: SegmentationDataset,
        network: str,
        *,
        threshold: float = 0.5,
        notes: dict[str, Any] | None = None,
        **options: Any,
    ) -> "ModelMetadata":
        """Return the metadata of the network called `network`, trained on `dataset`.

        options: those given to `build`; `classes` among them only if not the data set's.
        """
        plain = dataset.transform is None
        mean = (0.0,) * dataset.channels if plain else getattr(dataset.transform, "mean", None)
        std = (1.0,) * dataset.channels if plain else getattr(dataset.transform, "std", None)
        if mean is None or std is None:
            raise ValueError(
                f"the data set's transform, {dataset.transform!r}, has no mean and std: "
                "make ModelMetadata(...) with those it normalises by"
            )
        return cls(
            network,
            dataset.class_names,
            mean,
            std,
            dataset.masks.shape[1:],
            dataset.channels,
            options.pop("classes", dataset.classes),
            options,
            threshold,
            {"data": dataset.info} | (notes or {}),
        )

    def build(self) -> nn.Module:
        """Return the network with weights not yet trained."""
        return models.build(self.network, self.in_channels, self.classes, **self.options)


def save_model(path: str | Path, model: nn.Module, metadata: ModelMetadata) -> None:
    """Write `model` and its metadata to `path`.

    Raises CheckpointError if the metadata does not build this network.
    """
    weights = model.state_dict()
    checkpoint.fits("the metadata given", _skeleton(metadata), weights, {})
    checkpoint.write(Path(path), {"model": weights}, {"kind": KIND, "metadata": asdict(metadata)})


def load_model(path: str | Path) -> tuple[nn.Module, ModelMetadata]:
    """Return the network in `path`, on the CPU and in evaluation mode, and its metadata.

    Raises CheckpointError for a file that is missing, damaged or no model file of segkit.
    """
    path = Path(path)
    _refuse_foreign(path)
    try:
        state, about = checkpoint.read(path)
        weights, kind = dict(state["model"]), about.get("kind")
        metadata = read_metadata(path, about["metadata"]) if kind == KIND else None
    except CheckpointError:
        raise
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} is not a model file of segkit, or is damaged") from error
    if metadata is None:
        raise CheckpointError(
            f"{path} is a checkpoint without metadata of its network: build the network, "
            "segkit.train.load_weights into it, and segkit.model_file.save_model it"
        )
    try:
        model = _skeleton(metadata)
    except (TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path} describes a network that cannot be: {error}") from error
    checkpoint.fits(path, model, weights, {})
    model.load_state_dict({name: t.clone() for name, t in weights.items()}, assign=True)
    return model.eval(), metadata


def _skeleton(metadata: ModelMetadata) -> nn.Module:
    """Return the network without memory for its weights: they will be those of the file."""
    with torch.device("meta"):
        return metadata.build()


def read_metadata(path: str | Path, stored: Any) -> ModelMetadata:
    """Return the metadata in a file; what a later segkit may have added is left out.

    Raises CheckpointError for metadata that describes no network.
    """
    known = {f.name for f in fields(ModelMetadata)}
    try:
        return ModelMetadata(**{k: v for k, v in stored.items() if k in known})
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is damaged, or no model of segkit: {error}") from error


def _refuse_foreign(path: Path) -> None:
    """Say what a file is that is clearly something else."""
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such file")
    with path.open("rb") as file:
        start = file.read(4)
    if start.startswith(PICKLES):
        raise CheckpointError(
            f"{path} is a pickle (torch.save), which may run code when it is opened, so it is not. "
            "If you trust it, torch.load(path, weights_only=True) and save it with save_model"
        )
