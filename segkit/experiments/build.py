"""What a run's config describes in plain words, made: its data and its network."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from segkit import data, models
from segkit.data import SegmentationDataset, splits

Part = Mapping[str, Any]  # of a config: its data, or its model
Split = SegmentationDataset

RULES = ("official", "sorted")
OWN = ("count", "val_count", "test_count", "rule", "transform", "place")  # not those of `load`


def training_data(source: Part, data_dir: Path | None = None) -> tuple[Split, Split]:
    """Return the training set, augmented as `transform` says, and the validation set.

    source: arguments of `segkit.data.load`, and `val_count`, `test_count`, `transform`, `rule`,
    and `place`, a folder in `data_dir`.
    rule: "official" takes the splits of the data set. "sorted" puts all images of all splits in
    the order of their names and validates on the last fifth, as abi2024's repository does; that
    leaves nothing to test on.
    """
    rule = source.get("rule", "official")
    if rule not in RULES:
        raise ValueError(f"data.rule={rule!r}; there are: {', '.join(RULES)}")
    train, val = (_load(split, source, data_dir) for split in ("train", "val"))
    if rule == "sorted":
        train, val = _by_name([train, val, _load("test", source, data_dir)])
    augment = data.transforms.build(source.get("transform", "evaluation"), train.channels)
    return train.with_transform(augment), val


def test_data(source: Part, data_dir: Path | None = None) -> Split | None:
    """Return the test set, or None where the rule of the split leaves none."""
    return None if source.get("rule") == "sorted" else _load("test", source, data_dir)


def _load(split: str, source: Part, data_dir: Path | None) -> Split:
    options = {name: value for name, value in source.items() if name not in OWN}
    count = source.get("count" if split == "train" else f"{split}_count")
    if "place" in source and data_dir is None:
        raise ValueError(f"where is the folder {source['place']}? Give --data-dir")
    data_dir = data_dir / source["place"] if "place" in source else data_dir
    return data.load(split=split, count=count, data_dir=data_dir, **options)


def _by_name(parts: list[Split]) -> list[Split]:
    pool = SegmentationDataset(
        np.concatenate([part.images for part in parts]),
        np.concatenate([part.masks for part in parts]),
        parts[0].class_names,
        [name for part in parts for name in part.names],
        transform=parts[0].transform,
        seed=parts[0].seed,
    )
    pool = pool.subset(sorted(range(len(pool)), key=pool.names.__getitem__))
    return [pool.subset(part) for part in splits.sorted_split(len(pool), (0.8, 0.2))]


def network(spec: Part, channels: int, classes: int) -> nn.Module:
    """Return the network that `spec` describes.

    name: one of `segkit.models.names()`, or a class of segmentation-models-pytorch, such as
    "smp.Unet". The rest are its options; `seed` (0) is of the weights.
    """
    spec = {"in_channels": channels, "classes": classes, "seed": 0} | dict(spec)
    if not spec["name"].startswith("smp."):
        return models.build(**spec)
    import segmentation_models_pytorch as smp  # of the extra "library"

    name, seed = spec.pop("name").removeprefix("smp."), spec.pop("seed")
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        return getattr(smp, name)(**spec)
