"""The record of lesson 16: the library's U-Net against ours at equal epochs, and an ablation.

`python figures/results/record_library.py`. Toy embryos, 64 pixels, every network from random
weights, three seeds each, evaluated once on test images after the last epoch. A longer training is
a run of its own with its own one-cycle schedule. "Ablation" rows change one thing of the library's
decoder at a time. Seconds are processor time; run it on one thread (OMP_NUM_THREADS=1). Each row is
saved to figures/results/lesson16_library.json when it is there, so the script may be stopped and
started again.
"""

import json
import time
from collections.abc import Callable
from functools import cache, partial

import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from made_with import made_with
from torch import Tensor, nn

from segkit import data, losses, models, paths
from segkit.files import write_text
from segkit.models import inspect
from segkit.models.blocks import conv3x3, double_conv
from segkit.train import evaluate, fit

SIZE, SEEDS, EPOCHS, ABLATION_EPOCHS = 64, (0, 1, 2), (3, 6, 12, 24), (6, 12)
SETTINGS = {"batch_size": 4, "schedule": "one-cycle", "precision": "fp32"}
FILE = paths.root() / "figures" / "results" / "lesson16_library.json"


class Block(nn.Module):
    """One level of the library's decoder; each option is one change.

    Args:
        mode: how the feature map is enlarged; the library's is "nearest".
        add: add the skip connection instead of concatenating it.
        convolutions: 2 in the library.
    """

    def __init__(
        self,
        below: int,
        skip: int,
        out: int,
        mode: str = "nearest",
        add: bool = False,
        convolutions: int = 2,
    ) -> None:
        super().__init__()
        self.mode, self.add = mode, add
        if add:  # both are brought to `out` channels first
            self.narrow = nn.Conv2d(below, out, kernel_size=1)
            self.skip = nn.Conv2d(skip, out, kernel_size=1) if skip else None
        first = out if add else below + skip
        inputs = [first] + [out] * (convolutions - 1)
        self.conv = nn.Sequential(*(conv3x3(channels, out) for channels in inputs))

    def forward(
        self, feature_map: Tensor, height: int, width: int, skip_connection: Tensor | None = None
    ) -> Tensor:
        """Return the feature map at `height` × `width`, joined with the skip connection."""
        x = self.narrow(feature_map) if self.add else feature_map
        x = F.interpolate(x, size=(height, width), mode=self.mode)
        if skip_connection is not None and self.add:
            x = x + self.skip(skip_connection)
        elif skip_connection is not None:
            x = torch.cat([x, skip_connection], dim=1)
        return self.conv(x)


class FullResolution(nn.Module):
    """The library's decoder, and beside it two convolutions on the image at full resolution."""

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder
        self.branch = double_conv(1, 16)
        self.join = double_conv(16 + 16, 16)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Return 16 feature maps at full resolution."""
        return self.join(torch.cat([self.decoder(features), self.branch(features[0])], dim=1))


def library(full_resolution: bool = False, **changes: str | bool | int) -> nn.Module:
    """Return the library's U-Net with these changes of its decoder."""
    net = smp.Unet("resnet18", encoder_weights=None, in_channels=1)
    if changes:
        below, skips, out = [512, 256, 128, 64, 32], [256, 128, 64, 64, 0], [256, 128, 64, 32, 16]
        net.decoder.blocks = nn.ModuleList(map(partial(Block, **changes), below, skips, out))
    if full_resolution:
        net.decoder = FullResolution(net.decoder)
    return net


LEAN = {"mode": "bilinear", "add": True, "convolutions": 1}
NETWORKS: dict[str, tuple[Callable[[], nn.Module], float]] = {  # and the learning rate
    "library: Unet resnet18": (library, 2e-3),
    "ours: U-Net, width 8": (partial(models.UNet, 1, width=8), 5e-3),
    "ours: ResNet34-UNet, width 16": (partial(models.ResNet34UNet, 1, width=16), 3e-3),
}
ABLATION: dict[str, Callable[[], nn.Module]] = {
    "bilinear for nearest": partial(library, mode="bilinear"),
    "add for concatenate": partial(library, add=True),
    "one convolution for two": partial(library, convolutions=1),
    "all three": partial(library, **LEAN),
    "full-resolution branch": partial(library, full_resolution=True),
    "all three and the branch": partial(library, full_resolution=True, **LEAN),
}


@cache
def load(split: str) -> data.SegmentationDataset:
    """Return the lesson's training images, or 96 test images."""
    return data.load("toy-embryo", split, SIZE, count={"train": 64, "test": 96}[split])


def measure(build: Callable[[], nn.Module], lr: float, epochs: int, seed: int) -> dict:
    """Train one network once; return what came out."""
    torch.manual_seed(seed)
    model = build()
    start = time.process_time()
    history = fit(
        model,
        load("train"),
        loss=losses.DiceLoss(),
        epochs=epochs,
        lr=lr,
        seed=seed,
        log=None,
        **SETTINGS,
    )
    seconds = time.process_time() - start
    _, counts = evaluate(model, load("test"), precision="fp32")
    return {
        "epochs": epochs,
        "lr": lr,
        "seed": seed,
        "train_loss": round(history.last["train_loss"], 4),
        "test_iou": round(counts.iou().item(), 4),
        "seconds": round(seconds, 1),
    }


def conditions() -> dict:
    """Return what the rows were measured with."""
    builders = {name: build for name, (build, _) in NETWORKS.items()} | ABLATION
    built = {name: build() for name, build in builders.items()}
    return {
        "command": "python figures/results/record_library.py",
        "data": "toy embryos, procedural: 64 to train on, 96 to test on",
        "size": SIZE,
        "settings": {**SETTINGS, "loss": "Dice", "augmentation": "none", "weights": "random"},
        "networks": {
            name: {
                "parameters": inspect.parameters(model),
                "mflop": round(inspect.summary(model, SIZE).total("flops") / 1e6, 1),
            }
            for name, model in built.items()
        },
        **made_with("segkit", "torch", "segmentation-models-pytorch", "timm", "numpy"),
    }


def main() -> None:
    """Measure what is missing."""
    record = json.loads(FILE.read_text()) if FILE.exists() else {**conditions(), "rows": []}
    done = {(row["network"], row["epochs"], row["seed"]) for row in record["rows"]}
    recipes = {name: (*recipe, EPOCHS) for name, recipe in NETWORKS.items()}
    recipes |= {name: (build, 2e-3, ABLATION_EPOCHS) for name, build in ABLATION.items()}
    for seed in SEEDS:
        for name, (build, lr, lengths) in recipes.items():
            for epochs in (n for n in lengths if (name, n, seed) not in done):
                record["rows"].append({"network": name, **measure(build, lr, epochs, seed)})
                write_text(FILE, json.dumps(record, indent=1) + "\n")
                print(record["rows"][-1], flush=True)


if __name__ == "__main__":
    main()
