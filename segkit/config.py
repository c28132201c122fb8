"""Configs: training described in a YAML or JSON file, of which only the part `data` is required.

    data: {name: toy-pets, border: ignore, size: 64}    # arguments of `segkit.data.load`
    model: {name: unet, width: 8}                       # a network and its options
    fit: {epochs: 20, lr: 0.001, out: runs/pets}        # arguments of `segkit.train.fit`
    threshold: validation                               # chosen on validation images; or a number

`data.count`, `data.val_count` and `data.test_count` limit the images of a split, `data.transform`
augments the training set alone. `fit.loss` and `fit.schedule` are names, or with options
`{bce: {}, focal: {gamma: 3}}`, a sum of losses, and `{name: cosine, floor: 1e-5}`.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from reprlib import repr as short_repr  # a config of aliases can be too large to be printed
from types import NoneType
from typing import Any, NamedTuple, get_args, get_type_hints

import torch
import yaml
from torch import nn

from segkit import data, losses, models
from segkit.data.dataset import SegmentationDataset
from segkit.data.labelme import is_labelme
from segkit.errors import ArgumentError, one_of
from segkit.files import write_text
from segkit.model_file import ModelMetadata, save_model
from segkit.predict import choose_threshold
from segkit.train import History, Schedule, checkpoint, distributed, fit

Config = dict[str, Any]
_PARTS = ("data", "model", "fit", "threshold")
_COUNTS = {"train": "count", "val": "val_count", "test": "test_count"}
_LOSSES = {"bce": losses.BCELoss, "cross_entropy": losses.CrossEntropyLoss, "dice": losses.DiceLoss}
_LOSSES |= {"focal": losses.FocalLoss, "jaccard": losses.JaccardLoss}
_LOSSES |= {"lovasz": losses.LovaszLoss, "tversky": losses.TverskyLoss}
_TYPES = {int: "an integer", float: "a number", str: "text", bool: "true or false"}
_TYPES |= {dict: "a set of keys and values", NoneType: "null"}


class Trained(NamedTuple):
    """The result of `from_config`; in all processes but the first without metadata and file."""

    model: nn.Module
    history: History
    metadata: ModelMetadata | None = None
    file: Path | None = None  # the model file, if the config names a run folder


def read(path: str | Path) -> Config:
    """Return the content of a config file, unchecked; JSON is YAML too."""
    try:
        config = yaml.load(Path(path).read_text(encoding="utf-8"), _Loader)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise ArgumentError(f"{path}: cannot be read as a config ({reason})") from error
    if not isinstance(config, dict):
        raise ArgumentError(f"{path}: a config has the parts {', '.join(_PARTS)}; this has none")
    return config


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, but for a key that stands twice in a part, which it refuses."""

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if twice := {key for key in keys if keys.count(key) > 1}:
            raise ValueError(f"{', '.join(twice)} stands twice in one part")
        return node


def from_config(config: Config, log: Callable[[str], object] | None = print) -> Trained:
    """Load the data, build the network, train it and write the model file into `fit.out`.

    With several processes of torchrun, each calls this, and the first alone writes and logs. An
    interrupted run saves the model as it is then. Data are loaded once the config is checked.
    """
    config = checked(config)
    options = fit_arguments(config["fit"])
    out = Path(options["out"]) if options.get("out") else None
    written = apply_overrides(config, {"fit.out": out and str(out)})
    written["fit"].pop("resume", None)
    if folder := written["data"].get("data_dir"):  # has to hold in any other folder too
        written["data"]["data_dir"] = str(Path(folder).expanduser().absolute())
    text = yaml.safe_dump(written, sort_keys=False, allow_unicode=True) if out else ""
    with distributed.process_group(options.get("device")) as device:
        first = distributed.rank() == 0
        train, val = (open_split(config["data"], split) for split in ("train", "val"))
        if log and first and (folders := train.info.get("folders")):
            log(f"Read as {folders}")
        model = build_model(config["model"], train.channels, train.classes)
        if hasattr(model, "mean"):  # what its pretrained weights expect
            train, val = (part.normalised(model.mean, model.std) for part in (train, val))
        if out and first and not (out / checkpoint.LAST).exists():
            write_text(out / "train.yaml", text)  # so that a run that is killed can be resumed
        history = fit(model, train, val, log=log, **options)
        if not first:
            return Trained(model, history)
        threshold, reason = config["threshold"], "as asked"
        if threshold == "validation" and val.classes == 1:
            with distributed.on_device(device, model):
                found = choose_threshold(model, val)
            threshold = found.value
            reason = f"best IoU, {found.score:.4f}, of {len(val)} validation images"
        elif threshold == "validation":
            threshold, reason = 0.5, "none: the largest logit decides"
        training = {"epochs": len(history), "stopped": history.stopped or "at the end"}
        training |= {"best": history.best} if len(history) else {}
        notes = {"threshold chosen": reason, "training": training}
        spec = {key: value for key, value in config["model"].items() if key != "seed"}
        name = spec.pop("name")
        metadata = ModelMetadata.of(
            train, name, validation=val, threshold=threshold, notes=notes, **spec
        )
        if not out:
            return Trained(model, history, metadata)
        write_text(out / "train.yaml", text)
        save_model(out / "model.safetensors", model, metadata)
        return Trained(model, history, metadata, out / "model.safetensors")


def open_split(source: Config, split: str, count: int | None = None) -> SegmentationDataset:
    """Return "train", "val" or "test" of the data set that a config's `data` part describes.

    `count`, if given, is the number of images in place of the one in `source`.
    """
    options = {key: value for key, value in source.items() if key not in _COUNTS.values()}
    if split != "train":
        options["transform"] = "evaluation"
    return data.load(split=split, count=count or source.get(_COUNTS.get(split)), **options)


def build_model(spec: Config, channels: int, classes: int) -> nn.Module:
    """Return the network of a config's `model` part; `seed`, by default 0, is that of its weights.

    The name "smp.Unet" stands for that class of segmentation-models-pytorch.
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
        named = {loss: {}} if isinstance(loss, str) else _typed("fit.loss", loss, dict)
        for name, given in named.items():
            kind = _LOSSES[one_of("loss", name, _LOSSES)]
            types = get_type_hints(kind.__init__)
            types.pop("return", None)
            built.append(kind(**_checked(f"fit.loss.{name}", f"{name} option", given, types)))
        options["loss"] = losses.Combined(dict.fromkeys(built, 1.0)) if built[1:] else built[0]
    if schedule := options.get("schedule"):
        named = {"name": schedule} if isinstance(schedule, str) else schedule
        types = dict.fromkeys(map(str, _typed("fit.schedule", named, dict)), int | float)
        types["name"] = str
        options["schedule"] = Schedule(**_checked("fit.schedule", "option", named, types))
    return options


def source(text: str) -> Config:
    """Return the `data` part for the name of a data set, for a folder, or of a config file."""
    place, known = Path(text), data.names()
    if place.is_dir() and text not in known:
        return {"name": "labelme" if is_labelme(place) else "folder", "data_dir": text}
    if place.is_file() and text not in known:
        part = read(place).get("data")
        if not isinstance(part, dict):
            raise ArgumentError(f"{place}: has no part data, so it names no data set")
        return part
    return {"name": one_of("folder, config file or data set", text, known)}


def of_run(model: Path) -> Config:
    """Return the `data` part that a model was trained on, from train.yaml beside its file."""
    file = model.with_name("train.yaml")
    if not (model.is_file() and file.is_file()):  # a model of the course has no data beside it
        raise ArgumentError(f"no train.yaml lies beside {model}: give the data with --data")
    return source(str(file))


def apply_overrides(config: Mapping[str, Any], *overrides: Mapping[str, Any]) -> Config:
    """Return a copy of a config with entries set in turn by dotted names: `{"fit.lr": 0.01}`."""
    config = deepcopy(dict(config))
    for dotted, value in (entry for entries in overrides for entry in entries.items()):
        *parents, last = dotted.split(".")
        part = config
        for parent in parents:
            part[parent] = _typed(dotted, part.get(parent) or {}, dict)
            part = part[parent]
        part[last] = deepcopy(value)
    return config


def for_model(part: Config, metadata: ModelMetadata, asked: Config | None = None) -> Config:
    """Return a `data` part with the size, channels, class names and border of a model.

    asked: what was set by hand, and must not be what the model decides.
    """
    part, (height, width) = _checked_data(part), metadata.size
    demands = {
        "size": height if height == width else (height, width),
        "channels": metadata.in_channels,
        "class_names": list(metadata.class_names),
        "border": part.get("border", metadata.notes.get("data", {}).get("border")),
    }
    if metadata.intensity is not None:
        demands["intensity"] = metadata.intensity
    if fixed := [key for key in asked or {} if key in demands and key != "border"]:
        raise ArgumentError(f"{fixed[0]} is that of the model, {demands[fixed[0]]}: leave it out")
    known = data.options(part["name"])
    return part | {key: value for key, value in demands.items() if key in known}


def checked(config: Config) -> Config:
    """Return the config with all four parts, and `1e-3`, which YAML reads as text, as a number."""
    for name in config:
        one_of("config part", name, _PARTS)
    threshold = _typed("threshold", config.get("threshold", "validation"), float | str)
    if threshold != "validation" and not (isinstance(threshold, float) and 0 < threshold < 1):
        raise ArgumentError(f"threshold: {short_repr(threshold)} is neither validation nor 0 to 1")
    model = {"name": "unet"} | _typed("model", config.get("model") or {}, dict)
    network = one_of("network", _typed("model.name", model["name"], str), models.names())
    defaults = {"name": network, "seed": 0} | models.options(network)
    of_model = {k: type(v) if type(v) in (int, float) else None for k, v in defaults.items()}
    others = ("model", "train", "val", "log", "return")
    of_fit = {name: hint for name, hint in get_type_hints(fit).items() if name not in others}
    training = _checked("fit", "fit option", config.get("fit"), of_fit)
    if isinstance(training.get("loss"), str):
        training["loss"] = {training["loss"]: {}}
    return {
        "data": _checked_data(config.get("data")),
        "model": _checked("model", f"{network} option", model, of_model),
        "fit": training,
        "threshold": threshold,
    }


def _checked_data(part: Config | None) -> Config:
    part = _typed("data", part or {}, dict)
    name = one_of("data set", _typed("data.name", part.get("name", ""), str), data.names())
    of_load = get_type_hints(data.load) | {"size": None}  # a number, or height and width
    types = {key: of_load.get(key) for key in ("name", *data.options(name)) if key != "split"}
    types |= dict.fromkeys(_COUNTS.values(), of_load["count"])
    return _checked("data", f"{name} option", part, types)


def _checked(place: str, kind: str, part: Config | None, types: Mapping[str, Any]) -> Config:
    """Return a part whose keys are all in `types`, and whose values have the types there."""
    part = _typed(place, part or {}, dict)
    return {k: _typed(f"{place}.{k}", v, types[one_of(kind, k, types)]) for k, v in part.items()}


def _typed(place: str, value: Any, hint: Any) -> Any:
    """Return the value, as a number where one is due."""
    kinds = set(get_args(hint)) or {hint}
    if Path in kinds:  # a file has it as text
        kinds, value = kinds - {Path}, str(value) if isinstance(value, Path) else value
    if not kinds <= set(_TYPES):
        return value  # a type that the function that gets the value has to check
    if float in kinds and type(value) in ({str} if int in kinds else {int, str}):
        with suppress(ValueError):
            value = float(value)
    if type(value) not in kinds:
        text = " or ".join(sorted(_TYPES[kind] for kind in kinds))
        raise ArgumentError(f"{place}: {short_repr(value)} is not {text}")
    return value
