"""Training from a file: `python -m segkit.train config.yaml`.

On several processes: `torchrun --nproc_per_node=2 -m segkit.train config.yaml`.
The file, YAML or JSON, has three parts: `data` (arguments of `segkit.data.load`), `model`
(`name` and the network's options) and `fit` (arguments of `segkit.train.fit`).
"""

import sys
from pathlib import Path
from typing import Any

import yaml

from segkit import data, models
from segkit.train import History, Schedule, distributed, fit

PARTS = {"data", "model", "fit"}


def from_config(config: dict[str, Any]) -> History:
    """Load the data, build the network, train; `config` is as the file described above.

    `data.count` is that of the training set; `data.val_count` of the validation set. `fit.schedule`
    may be a name or `{name: …, warmup: …, …}`. Raises ValueError for a part that does not exist.
    """
    surplus = set(config) - PARTS
    if surplus or PARTS - {"fit"} - set(config):
        raise ValueError(f"a config has the parts {', '.join(sorted(PARTS))}; got {list(config)}")
    source, options = dict(config["data"]), dict(config.get("fit") or {})
    val_count, augment = source.pop("val_count", None), source.pop("transform", "evaluation")
    train = data.load(split="train", transform=augment, **source)
    val = data.load(split="val", **(source | {"count": val_count}))
    model = models.build(
        **({"in_channels": train.channels, "classes": train.classes} | dict(config["model"]))
    )
    if isinstance(options.get("schedule"), dict):
        options["schedule"] = Schedule(**options["schedule"])
    return fit(model, train, val, **options)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    from_config(yaml.safe_load(Path(sys.argv[1]).read_text()))
    distributed.leave()
