"""A grid of training runs, declared: one base, factors that vary it, seeds."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import product
from typing import Any

Config = dict[str, Any]
Patch = Mapping[str, Any]


@dataclass(frozen=True)
class Design:
    """Every combination of the levels of `factors`, for every seed.

    name: what the claims call it. base: a config with the parts data, model and fit, as
    `segkit.train.config.from_config` takes it, with `test_count` and `split` beside `val_count`
    in data (see `segkit.experiments.run`). factors: `{factor: {level: patch}}`; a patch sets
    entries of the config by dotted names, as `{"model.down": "strided"}`. seeds: each is that of
    weights, order and augmentation; the data keep their own, so that all runs of a design are
    judged on the same images.
    """

    name: str
    base: Mapping[str, Any]
    factors: Mapping[str, Mapping[str, Patch]] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0, 1, 2)

    def cells(self) -> list[dict[str, str]]:
        """Return the combinations, each as `{factor: level}`, the last factor fastest."""
        names = list(self.factors)
        return [dict(zip(names, levels, strict=True)) for levels in product(*self.factors.values())]

    def config(self, cell: Mapping[str, str], seed: int) -> Config:
        """Return the config of one run."""
        levels = [self.factors[factor][level] for factor, level in cell.items()]
        return merged(self.base, *levels, {"model.seed": seed, "fit.seed": seed})

    def configs(self) -> Iterator[Config]:
        """Yield all configs, seed by seed: what is cut short has compared all cells at least."""
        for seed in self.seeds:
            for cell in self.cells():
                yield self.config(cell, seed)


def merged(base: Mapping[str, Any], *patches: Patch) -> Config:
    """Return a copy of `base` with the entries of `patches` set, the later ones last."""
    config = deepcopy(dict(base))
    for patch in patches:
        for dotted, value in patch.items():
            *parents, last = dotted.split(".")
            place = config
            for parent in parents:
                place = place.setdefault(parent, {})
            place[last] = deepcopy(value)
    return config


def name_of(config: Config) -> str:
    """Return a run's name: 12 hex digits of the hash of its config, in whatever order it stands."""
    text = json.dumps(config, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


def named(configs: Iterator[Config]) -> dict[str, Config]:
    """Return configs by their names; those that several designs share are there once."""
    return {name_of(config): config for config in configs}
