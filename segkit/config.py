"""Training from a file: what it says is checked first, then trained, and a model file is left.

The file is YAML or JSON, with these parts, of which `data` and `model` must be there:

    data: {name: toy-pets, border: ignore, size: 64}    # arguments of `segkit.data.load`
    model: {name: unet, width: 8}                       # a network and its options
    fit: {epochs: 20, lr: 0.001, out: runs/pets}        # arguments of `segkit.train.fit`
    threshold: validation                               # chosen there; or a number

`data.count` is that of the training set, `data.val_count` that of the validation set; the set to
test on is always whole. `data.transform` augments the training set alone. `fit.loss` is a name
(`dice`), or `{bce: {}, focal: {gamma: 3}}`, a sum of losses with their options; `fit.schedule` is
a name, or `{name: cosine, warmup: 2}` with the schedule's own options.
"""

import difflib
import inspect
import json
from collections.abc import Callable, Collection
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

import yaml
from torch import nn

from segkit import data, losses, models
from segkit.data.dataset import SegmentationDataset
from segkit.data.folder import SPLITS
from segkit.errors import SegkitError
from segkit.files import write_text
from segkit.model_file import ModelFacts, save_model
from segkit.predict import choose_threshold
from segkit.train import History, Schedule, checkpoint, distributed, fit, schedules

MODEL, CONFIG = "model.safetensors", "train.yaml"  # what a run folder holds, beside fit's files
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
KINDS = {int: "an integer", float: "a number", str: "text", bool: "true or false", NoneType: "null"}
PLAIN = set(KINDS)  # other types cannot be told from a file alone

Config = dict[str, Any]


class ConfigError(SegkitError, ValueError):
    """A config that asks for something that does not exist; the message says what does."""


@dataclass(frozen=True)
class Trained:
    """What training from a config gives.

    facts: of the model; process 0 alone has them. file: the model file, in a run folder.
    """

    model: nn.Module
    history: History
    facts: ModelFacts | None = None
    file: Path | None = None


def read(path: str | Path) -> Config:
    """Return what a config file says, unchecked. Raises ConfigError where it says nothing."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        config = json.loads(text) if path.suffix.lower() == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        told = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise ConfigError(f"{path}: cannot be read as a config ({told})") from error
    if not isinstance(config, dict):
        raise ConfigError(f"{path}: a config has the parts {', '.join(PARTS)}; this has none")
    return config


def from_config(config: Config, log: Callable[[str], object] | None = print) -> Trained:
    """Load the data, build the network, train it and, into `fit.out`, write the model file.

    Where torchrun started several processes, each calls this, and process 0 alone writes and
    logs. An interrupted run leaves the model as it then is. Raises ConfigError before anything
    is loaded, and what `load`, `build` and `fit` raise.
    """
    config = checked(config)
    options = fit_arguments(config["fit"])
    with distributed.process_group():
        out = Path(options["out"]) if options.get("out") and distributed.rank() == 0 else None
        train, val = (open_split(config["data"], split) for split in ("train", "val"))
        model = models.build(in_channels=train.channels, classes=train.classes, **config["model"])
        if out and not (out / checkpoint.LAST).exists():
            _write(out, config)  # already now: a run that is killed can be gone on with
        history = fit(model, train, val, log=log, **options)
        if distributed.rank() > 0:
            return Trained(model, history)
        threshold, why = _threshold(config["threshold"], model, val)
        of_network = {k: v for k, v in config["model"].items() if k not in ("name", "seed")}
        notes = {"threshold chosen": why, "training": _last_words(history)}
        name = config["model"]["name"]
        facts = ModelFacts.of(train, name, threshold=threshold, notes=notes, **of_network)
        if not out:
            return Trained(model, history, facts)
        _write(out, config)
        save_model(out / MODEL, model, facts)
        return Trained(model, history, facts, out / MODEL)


def fit_arguments(part: Config) -> dict[str, Any]:
    """Return arguments of `fit` in which the loss and the schedule, described, have been made."""
    options = dict(part)
    if isinstance(options.get("schedule"), dict):
        options["schedule"] = Schedule(**options["schedule"])
    if options.get("loss"):
        made = [LOSSES[name](**(its or {})) for name, its in options["loss"].items()]
        options["loss"] = made[0] if len(made) == 1 else losses.Combined(dict.fromkeys(made, 1.0))
    return options


def open_split(source: Config, split: str, count: int | None = None) -> SegmentationDataset:
    """Return one split of what a config's `data` part names; the training set augmented.

    count: in place of the one in `source`.
    """
    if split not in SPLITS:
        raise ConfigError(
            f"there is no split {split!r}{_hint(split, SPLITS)}; choose one of {', '.join(SPLITS)}"
        )
    options = dict(source)
    counts = {"train": options.pop("count", None), "val": options.pop("val_count", None)}
    augment = options.pop("transform", "evaluation")
    transform = augment if split == "train" else "evaluation"
    count = count or counts.get(split)
    return data.load(split=split, count=count, transform=transform, **options)


def source(text: str) -> Config:
    """Return the `data` part for a data set's name, for a folder, or of a config file."""
    place = Path(text)
    if text in data.names():
        return {"name": text}
    if place.is_dir():
        labelme = any(any((place / part).glob("[!.]*.json")) for part in ("", *SPLITS))
        return {"name": "labelme" if labelme else "folder", "data_dir": text}
    if place.is_file():
        part = read(place).get("data")
        if not isinstance(part, dict):
            raise ConfigError(f"{place}: has no part data, so it names no data set")
        return part
    close = _hint(text, data.names())
    raise ConfigError(
        f"{text!r} is neither a folder, nor a config file, nor a data set{close}; there are: "
        f"{', '.join(data.names())}"
    )


def of_run(model: Path) -> Config:
    """Return the `data` part that the model was trained by: of the train.yaml beside its file."""
    file = model.with_name(CONFIG)
    if not file.is_file():
        raise ConfigError(f"there is no {file}, so say what to judge {model.name} on: --data …")
    return source(str(file))


def with_entries(config: Config, entries: dict[str, Any]) -> Config:
    """Return the config with entries set by dotted names, as `{"fit.lr": 0.01}`."""
    config = deepcopy(config)
    for dotted, value in entries.items():
        *parents, last = dotted.split(".")
        place = config
        for parent in parents:
            if place.get(parent) is None:
                place[parent] = {}
            place = place[parent]
            if not isinstance(place, dict):
                raise ConfigError(f"{dotted}: {parent} is {place!r}, which has no entries")
        place[last] = value
    return config


def with_defaults(config: Config) -> Config:
    """Return the config with a U-Net and the run folder `runs/DATA-NETWORK` where it names none."""
    network = (config.get("model") or {}).get("name", "unet")
    config = with_entries(config, {"model.name": network})
    if (config.get("fit") or {}).get("out") is None:
        place = Path("runs", f"{(config.get('data') or {}).get('name')}-{network}")
        config = with_entries(config, {"fit.out": str(place)})
    return config


def for_model(part: Config, facts: ModelFacts) -> Config:
    """Return a `data` part as the model demands it: size, channels, class names, border rule."""
    height, width = facts.size
    border = facts.notes.get("data", {}).get("border")
    demands = {
        "size": height if height == width else (height, width),
        "channels": facts.in_channels,
        "class_names": list(facts.class_names),
    }
    wanted = {"border": border} | _checked_data(part) | demands
    known = _keys_of_data(part["name"])
    return {key: value for key, value in wanted.items() if key in known}


def checked(config: Config) -> Config:
    """Return the config with every part in it, and `1e-3`, a text to YAML, as the number it is.

    Raises ConfigError for a part, key, name or kind of value that does not exist.
    """
    _refuse_unknown("a config", config, PARTS)
    parts = {name: config.get(name) or {} for name in PARTS[:3]}
    for name, part in parts.items():
        if not isinstance(part, dict):
            raise ConfigError(f"{name}: {part!r} is not a set of keys and values")
    threshold = _typed("threshold", config.get("threshold", "validation"), float | str)
    if threshold != "validation" and not (isinstance(threshold, float) and 0 < threshold < 1):
        raise ConfigError(f'threshold: {threshold!r} is neither "validation" nor between 0 and 1')
    return {
        "data": _checked_data(parts["data"]),
        "model": _checked_model(parts["model"]),
        "fit": _checked_fit(parts["fit"]),
        "threshold": threshold,
    }


def _checked_data(part: Config) -> Config:
    name = _name("data", part, data.names())
    _refuse_unknown("data", part, _keys_of_data(name), f" of {name}")
    of_load = get_type_hints(data.load)
    hints = {key: of_load[key] for key in ("border", "count", "seed")} | {"val_count": int | None}
    return {key: _typed(f"data.{key}", value, hints.get(key)) for key, value in part.items()}


def _checked_model(part: Config) -> Config:
    name = _name("model", part, models.names())
    defaults = {"name": name, "seed": 0} | models.options(name)
    _refuse_unknown("model", part, list(defaults), f" of {name}")
    hints = {key: type(value) for key, value in defaults.items() if type(value) in (int, float)}
    return {key: _typed(f"model.{key}", value, hints.get(key)) for key, value in part.items()}


def _checked_fit(part: Config) -> Config:
    hints = get_type_hints(fit)
    known = [key for key in hints if key not in ("model", "train", "val", "log", "return")]
    _refuse_unknown("fit", part, known)
    part = {key: _typed(f"fit.{key}", value, hints[key]) for key, value in part.items()}
    loss, schedule = part.get("loss"), part.get("schedule")
    if loss is not None:
        part["loss"] = loss if isinstance(loss, dict) else {loss: {}}
        for name, options in part["loss"].items():
            _name("fit.loss", {"name": name}, list(LOSSES))
            known = list(inspect.signature(LOSSES[name]).parameters)
            _refuse_unknown("fit.loss", options or {}, known, f" of {name}")
    if schedule is not None:
        asked = schedule if isinstance(schedule, dict) else {"name": schedule}
        name = _name("fit.schedule", asked, list(schedules.OPTIONS))
        options = schedules.OPTIONS[name]
        _refuse_unknown("fit.schedule", asked, ["name", "warmup", *options], f" of {name}")
    return part


def _keys_of_data(name: str) -> list[str]:
    return ["name", "val_count", *(key for key in data.options(name) if key != "split")]


def _name(where: str, part: Config, known: Collection[str]) -> str:
    """Return the name in a part. Raises ConfigError unless it is one of those known."""
    name = part.get("name")
    if not isinstance(name, str) or name not in known:
        wrong = f"there is no {name!r}{_hint(name, known)}" if name else "has no name"
        raise ConfigError(f"{where}: {wrong}; choose one of {', '.join(known)}")
    return name


def _refuse_unknown(where: str, part: Config, known: Collection[str], of: str = "") -> None:
    for key in part:
        if key not in known:
            raise ConfigError(
                f"{where}: no key {key!r}{of}{_hint(key, known)}; there are: {', '.join(known)}"
            )


def _hint(word: object, known: Collection[str]) -> str:
    close = difflib.get_close_matches(str(word), known, 1)
    return f" (did you mean {close[0]}?)" if close else ""


def _typed(where: str, value: Any, hint: Any) -> Any:
    """Return the value, as a number where one is due. Raises ConfigError for another type."""
    kinds = set(get_args(hint)) or {hint}
    if not kinds <= PLAIN:
        return value  # a type that has to be looked at by whoever uses it
    if float in kinds and type(value) in (int, str):
        with suppress(ValueError):
            value = float(value)
    if type(value) not in kinds:
        told = " or ".join(sorted(KINDS[kind] for kind in kinds))
        raise ConfigError(f"{where}: {value!r} is not {told}")
    return value


def _threshold(
    wanted: str | float, model: nn.Module, val: SegmentationDataset
) -> tuple[float, str]:
    """Return the threshold of probability, and how it was come by."""
    if isinstance(wanted, float):
        return wanted, "as asked"
    if val.classes > 1:
        return 0.5, "none: the largest logit decides"
    found = choose_threshold(model, val)
    return found.value, f"best IoU, {found.score:.4f}, of {len(val)} validation images"


def _last_words(history: History) -> dict[str, Any]:
    """Return what the model file says of its training."""
    told = {"epochs": len(history), "stopped": history.stopped or "at the end"}
    return told | ({"best": history.best} if len(history) else {})


def _write(out: Path, config: Config) -> None:
    """Write the config into the run folder, so that it works from any other."""
    source = dict(config["data"])
    if source.get("data_dir"):
        source["data_dir"] = str(Path(source["data_dir"]).absolute())
    options = {k: v for k, v in config["fit"].items() if k != "resume"} | {"out": str(out)}
    kept = config | {"data": source, "fit": options}
    write_text(out / CONFIG, yaml.safe_dump(kept, sort_keys=False, allow_unicode=True))
