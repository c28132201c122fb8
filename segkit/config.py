"""Configs: training described in a file, from the data to the model file that is left.

The file is YAML or JSON with these parts, of which `data` and `model` are required:

    data: {name: toy-pets, border: ignore, size: 64}    # arguments of `segkit.data.load`
    model: {name: unet, width: 8}                       # a network and its options
    fit: {epochs: 20, lr: 0.001, out: runs/pets}        # arguments of `segkit.train.fit`
    threshold: validation                               # chosen on validation images; or a number

`data.count`, `data.val_count` and `data.test_count` limit the number of images of a split.
`data.transform` augments the training set alone. `fit.loss` is a name (`dice`), or
`{bce: {}, focal: {gamma: 3}}`, a sum of losses with their options. `fit.schedule` is a name, or
`{name: cosine, floor: 1e-5}` with the schedule's own options.
"""

import json
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as short_repr  # a config of aliases can be too large to be printed
from types import NoneType
from typing import Any, get_args, get_type_hints

import torch
import yaml
from torch import nn

from segkit import data, losses, models
from segkit.data.dataset import SegmentationDataset
from segkit.data.folder import SPLITS
from segkit.errors import ArgumentError, SegkitError, one_of
from segkit.files import write_text
from segkit.model_file import ModelMetadata, save_model
from segkit.predict import choose_threshold
from segkit.train import History, Schedule, checkpoint, distributed, fit

MODEL, CONFIG = "model.safetensors", "train.yaml"  # files of a run folder, beside those of fit
PARTS = ("data", "model", "fit", "threshold")
LOSSES: dict[str, type[nn.Module]] = {
    "bce": losses.BCELoss,
    "cross_entropy": losses.CrossEntropyLoss,
    "dice": losses.DiceLoss,
    "focal": losses.FocalLoss,
    "jaccard": losses.JaccardLoss,
    "lovasz": losses.LovaszLoss,
    "tversky": losses.TverskyLoss,
}
TYPES = {int: "an integer", float: "a number", str: "text", bool: "true or false", NoneType: "null"}

Config = dict[str, Any]


class ConfigError(SegkitError, ValueError):
    """A config with an entry that does not exist or cannot be used; the message lists what can."""


@dataclass(frozen=True)
class Trained:
    """The result of `from_config`; in all processes but the first without metadata.

    file: the model file, if the config names a run folder.
    """

    model: nn.Module
    history: History
    metadata: ModelMetadata | None = None
    file: Path | None = None


def read(path: str | Path) -> Config:
    """Return the content of a config file, unchecked.

    Raises:
        ConfigError: the file cannot be read, or has a key twice.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        json_file = path.suffix.lower() == ".json"
        config = json.loads(text) if json_file else yaml.load(text, _Loader)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise ConfigError(f"{path}: cannot be read as a config ({reason})") from error
    if not isinstance(config, dict):
        raise ConfigError(f"{path}: a config has the parts {', '.join(PARTS)}; this has none")
    return config


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, but for a key that stands twice in a part, which it refuses."""

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if twice := [key for key, times in Counter(keys).items() if times > 1]:
            raise ValueError(f"{', '.join(twice)} stands twice in one part")
        return node


def from_config(config: Config, log: Callable[[str], object] | None = print) -> Trained:
    """Load the data, build the network, train it and write the model file into `fit.out`.

    With several processes of torchrun, each calls this, and the first alone writes and logs. An
    interrupted run saves the model as it is then.

    Args:
        config: as `read` returns it.
        log: called with one line per epoch; None is silent.

    Raises:
        ConfigError: before anything is loaded; later, whatever `load`, `build` and `fit` raise.
    """
    config = checked(config)
    options = fit_arguments(config["fit"])
    with distributed.process_group():
        out = Path(options["out"]) if options.get("out") and distributed.rank() == 0 else None
        train, val = (open_split(config["data"], split) for split in ("train", "val"))
        model = build_model(config["model"], train.channels, train.classes)
        if out and not (out / checkpoint.LAST).exists():
            _write(out, config)  # before training, so that a run that is killed can be resumed
        history = fit(model, train, val, log=log, **options)
        if distributed.rank() > 0:
            return Trained(model, history)
        threshold, reason = config["threshold"], "as asked"
        if threshold == "validation":
            threshold, reason = 0.5, "none: the largest logit decides"
            if val.classes == 1:
                found = choose_threshold(model, val)
                reason = f"best IoU, {found.score:.4f}, of {len(val)} validation images"
                threshold = found.value
        training = {"epochs": len(history), "stopped": history.stopped or "at the end"}
        training |= {"best": history.best} if len(history) else {}
        metadata = ModelMetadata.of(
            train,
            config["model"]["name"],
            threshold=threshold,
            notes={"threshold chosen": reason, "training": training},
            **{k: v for k, v in config["model"].items() if k not in ("name", "seed")},
        )
        if not out:
            return Trained(model, history, metadata)
        _write(out, config)
        save_model(out / MODEL, model, metadata)
        return Trained(model, history, metadata, out / MODEL)


def open_split(source: Config, split: str, count: int | None = None) -> SegmentationDataset:
    """Return one split of the data set that a config's `data` part describes.

    Args:
        source: the `data` part.
        split: "train" (augmented by `transform`), "val" or "test".
        count: the number of images, in place of the one in `source`.
    """
    _known("data", "split", split, SPLITS)
    options = dict(source)
    keys = {"train": "count", "val": "val_count", "test": "test_count"}
    counts = {split: options.pop(key, None) for split, key in keys.items()}
    augment = options.pop("transform", "evaluation")
    transform = augment if split == "train" else "evaluation"
    return data.load(split=split, count=count or counts[split], transform=transform, **options)


def build_model(spec: Config, channels: int, classes: int) -> nn.Module:
    """Return the network that a config's `model` part describes.

    Args:
        spec: name, options and `seed` (of the weights, 0) of a network of `segkit.models`, or of
            a class of segmentation-models-pytorch, as "smp.Unet".
        channels: of an image.
        classes: channels of the logits.
    """
    spec = {"in_channels": channels, "classes": classes, "seed": 0} | spec
    if not spec["name"].startswith("smp."):
        return models.build(**spec)
    import segmentation_models_pytorch as smp  # of the extra "library"

    name, seed = spec.pop("name").removeprefix("smp."), spec.pop("seed")
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        return getattr(smp, name)(**spec)


def fit_arguments(part: Config) -> dict[str, Any]:
    """Return the arguments of `fit` for a config's `fit` part: loss and schedule are built."""
    options = dict(part)
    if loss := options.get("loss"):
        built = []
        for name, given in (loss if isinstance(loss, dict) else {loss: {}}).items():
            kind = LOSSES[_known("fit.loss", "loss", name, LOSSES)]
            hints = get_type_hints(kind.__init__)
            built.append(kind(**_checked("fit.loss", given or {}, hints, f" {name}")))
        options["loss"] = losses.Combined(dict.fromkeys(built, 1.0)) if built[1:] else built[0]
    if isinstance(options.get("schedule"), dict):
        types = dict.fromkeys(options["schedule"], int | float | None) | {"name": str}
        options["schedule"] = _schedule(_checked("fit.schedule", options["schedule"], types))
    elif options.get("schedule"):
        _schedule({"name": options["schedule"]})
    return options


def _schedule(settings: Config) -> Schedule:
    try:
        return Schedule(**settings)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"fit.schedule: {error}") from error


def source(text: str) -> Config:
    """Return the `data` part for the name of a data set, for a folder, or of a config file."""
    place, known = Path(text), data.names()
    if place.is_dir() and text not in known:
        labelme = any(any((place / part).glob("[!.]*.json")) for part in ("", *SPLITS))
        return {"name": "labelme" if labelme else "folder", "data_dir": text}
    if place.is_file() and text not in known:
        part = read(place).get("data")
        if not isinstance(part, dict):
            raise ConfigError(f"{place}: has no part data, so it names no data set")
        return part
    where = f"{text} is neither a folder nor a config file"
    return {"name": _known(where, "data set", text, known)}


def of_run(model: Path) -> Config:
    """Return the `data` part that a model was trained on, from train.yaml beside its file."""
    file = model.with_name(CONFIG)
    if not file.is_file():
        raise ConfigError(f"there is no {file}: give the data to evaluate {model.name} on, --data")
    return source(str(file))


def apply_overrides(config: Mapping[str, Any], *overrides: Mapping[str, Any]) -> Config:
    """Return a copy of a config with entries set by dotted names, as `{"fit.lr": 0.01}`.

    Args:
        config: is left as it is.
        overrides: entries; the later ones count.
    """
    config = deepcopy(dict(config))
    for dotted, value in (entry for entries in overrides for entry in entries.items()):
        *parents, last = dotted.split(".")
        part = config
        for parent in parents:
            if part.get(parent) is None:
                part[parent] = {}
            part = part[parent]
            if not isinstance(part, dict):
                raise ConfigError(f"{dotted}: {parent} is {short_repr(part)}, which has no entries")
        part[last] = deepcopy(value)
    return config


def for_model(part: Config, metadata: ModelMetadata) -> Config:
    """Return a `data` part with the size, channels, class names and border of a model."""
    height, width = metadata.size
    border = metadata.notes.get("data", {}).get("border")
    demands = {
        "size": height if height == width else (height, width),
        "channels": metadata.in_channels,
        "class_names": list(metadata.class_names),
    }
    wanted = {"border": border} | _checked_data(part) | demands
    known = _data_hints(part["name"])
    return {key: value for key, value in wanted.items() if key in known}


def checked(config: Config) -> Config:
    """Return the config with all four parts, and `1e-3`, which YAML reads as text, as a number.

    Raises:
        ConfigError: a part, key or name does not exist, or a value has another type.
    """
    for name in config:
        _known("a config", "part", name, PARTS)
    parts = {name: config.get(name) or {} for name in PARTS[:3]}
    for name, part in parts.items():
        if not isinstance(part, dict):
            raise ConfigError(f"{name}: {short_repr(part)} is not a set of keys and values")
    threshold = _typed("threshold", config.get("threshold", "validation"), float | str)
    if threshold != "validation" and not (isinstance(threshold, float) and 0 < threshold < 1):
        raise ConfigError(
            f'threshold: {short_repr(threshold)} is neither "validation" nor between 0 and 1'
        )
    name = _known("model", "network", parts["model"].get("name"), models.names())
    defaults = {"name": name, "seed": 0} | models.options(name)
    options = {k: type(v) if type(v) in (int, float) else None for k, v in defaults.items()}
    of_fit = get_type_hints(fit)
    training = {k: of_fit[k] for k in of_fit if k not in ("model", "train", "val", "log", "return")}
    found = {
        "data": _checked_data(parts["data"]),
        "model": _checked("model", parts["model"], options, f" {name}"),
        "fit": _checked("fit", parts["fit"], training),
        "threshold": threshold,
    }
    if isinstance(found["fit"].get("loss"), str):
        found["fit"]["loss"] = {found["fit"]["loss"]: {}}
    fit_arguments(found["fit"])
    return found


def _checked_data(part: Config) -> Config:
    name = _known("data", "data set", part.get("name"), data.names())
    return _checked("data", part, _data_hints(name), f" {name}")


def _data_hints(name: str) -> dict[str, Any]:
    """Return the keys that a `data` part may have, with the types of those of `load`."""
    of_load = get_type_hints(data.load) | {"size": None}  # a number, or height and width
    counts = dict.fromkeys(("val_count", "test_count"), of_load["count"])
    options = {key: of_load.get(key) for key in data.options(name) if key != "split"}
    return {"name": None} | counts | options


def _checked(where: str, part: Config, hints: Mapping[str, Any], of: str = "") -> Config:
    """Return a part whose keys are all in `hints`, and whose values have the types there."""
    for key in part:
        _known(where + of, "key", key, hints)
    return {key: _typed(f"{where}.{key}", value, hints[key]) for key, value in part.items()}


def _known(where: str, kind: str, value: object, known: Collection[str]) -> str:
    if value is None:
        raise ConfigError(f"{where}: has no name; there are: {', '.join(known)}")
    try:
        return one_of(kind, value if isinstance(value, str) else short_repr(value), known)
    except ArgumentError as error:
        raise ConfigError(f"{where}: {error}") from None


def _typed(where: str, value: Any, hint: Any) -> Any:
    """Return the value, as a number where one is due. Raises ConfigError for another type."""
    kinds = set(get_args(hint)) or {hint}
    if not kinds <= set(TYPES):
        return value  # a type that the function that gets the value has to check
    if float in kinds and type(value) in ({str} if int in kinds else {int, str}):
        with suppress(ValueError):
            value = float(value)
    if type(value) not in kinds:
        text = " or ".join(sorted(TYPES[kind] for kind in kinds))
        raise ConfigError(f"{where}: {short_repr(value)} is not {text}")
    return value


def _write(out: Path, config: Config) -> None:
    """Write the config into the run folder, with paths that hold in any other folder too."""
    source = dict(config["data"])
    if source.get("data_dir"):
        source["data_dir"] = str(Path(source["data_dir"]).absolute())
    options = {k: v for k, v in config["fit"].items() if k != "resume"} | {"out": str(out)}
    written = config | {"data": source, "fit": options}
    write_text(out / CONFIG, yaml.safe_dump(written, sort_keys=False, allow_unicode=True))
