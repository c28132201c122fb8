"""The grids of runs behind the ledger: in miniature, at full size, and a comparison with smp.

Every run sets its precision: "auto" would depend on the machine, and then one name would stand
for two different runs.
"""

from collections.abc import Mapping, Sequence

from segkit.config import Config, apply_overrides
from segkit.errors import one_of
from segkit.experiments import Design

Overrides = Mapping[str, object]
Levels = dict[str, Overrides]

# abi2024, https://github.com/abi2024/UNet-Segmentation: its three choices, and the four
# combinations of them that it tried, validated on the last of the sorted names
DOWN: Levels = {"maxpool": {"model.down": "maxpool"}, "strided": {"model.down": "strided"}}
UP: Levels = {"transposed": {"model.up": "transposed"}, "nearest": {"model.up": "nearest"}}
BCE, DICE = {"fit.loss": {"bce": {"pos_weight": 3.0}}}, {"fit.loss": {"dice": {}}}
LOSS: Levels = {"bce": BCE, "dice": DICE}
FACTORS = {"down": DOWN, "up": UP, "loss": LOSS}
SORTED: Overrides = {"data.rule": "sorted"}
FOUR: Levels = {
    "1": {**DOWN["maxpool"], **UP["transposed"], **BCE, **SORTED},
    "2": {**DOWN["maxpool"], **UP["transposed"], **DICE, **SORTED},
    "3": {**DOWN["strided"], **UP["transposed"], **BCE, **SORTED},
    "4": {**DOWN["strided"], **UP["nearest"], **DICE, **SORTED},
}
OPTIMIZER: Levels = {"adam": {}, "sgd": {"fit.optimizer": "sgd", "fit.lr": 0.01}}
PRECISION: Levels = {"full": {"fit.precision": "fp32"}, "mixed": {"fit.precision": "fp16"}}
# the NYCU lab report: light augmentation, plain BCE
LAB: Overrides = {"data.border": "ignore", "data.transform": "light", "fit.loss": {"bce": {}}}

# segmentation-models-pytorch, examples/binary_segmentation_intro.ipynb
NOTEBOOK: Overrides = {
    "data.border": "pet",
    "fit.optimizer": "adam",
    "fit.lr": 2e-4,
    "fit.schedule": {"name": "cosine", "floor": 1e-5},
    "fit.loss": {"dice": {}},
    "fit.precision": "fp32",
}
OURS: Overrides = {
    "data.transform": "medium",
    "fit.optimizer": "adamw",
    "fit.lr": 1e-3,
    "fit.schedule": "one-cycle",
    "fit.loss": {"bce": {}, "dice": {}},
    "fit.clip": 1.0,
}


def quick() -> list[Design]:
    """Return the miniature: procedural data, 48 or 64 pixels, networks an eighth as wide."""
    pets = {
        "data": _toy("toy-pets", 48, 192) | {"border": "background"},
        "model": {"name": "unet", "width": 8, "bias": True},
        "fit": _adam(epochs=15, batch_size=16, precision="fp32"),
    }
    small = {"data": _toy("toy-xray", 64, 96), "fit.batch_size": 8}
    return _designs(pets, LAB, small, eighth=8)


def full() -> list[Design]:
    """Return the real thing: Oxford-IIIT Pet at 128 and 256 pixels, networks at full width.

    The folder of the data holds `oxford-iiit-pet`, `teeth-xray` and `nuclei`, the latter two with
    `images` and `masks`: they stand in for bone X-rays and grey embryos.
    """
    pets = {
        "data": {"name": "oxford-pet", "size": 128, "border": "background"},
        "model": {"name": "unet", "width": 64, "bias": True},
        "fit": _adam(epochs=15, batch_size=32, precision="fp16"),
    }
    large = {"data.size": 256, "fit.epochs": 30, "fit.precision": "bf16"}
    nuclei = {"data": _folder("nuclei"), "model": _resnet18("imagenet"), "fit.epochs": 24}
    teeth = {"data": _folder("teeth-xray"), "fit.lr": 1e-4, "fit.batch_size": 4}
    amp = {"data.size": 256, "fit.epochs": 3}
    fpn = {"name": "smp.FPN", "encoder_name": "resnet34", "encoder_weights": "imagenet"}
    published = {"data.size": 256, "fit.epochs": 10, "model": fpn, **NOTEBOOK}
    imagenet = {"model": {"name": "resnet34_unet", "pretrained": True}, **large, **LAB}
    return [
        *_designs(pets, large | LAB, teeth | {"fit.precision": "bf16"}, eighth=64),
        Design("deb", apply_overrides(pets, nuclei | DICE)),
        Design("amp", apply_overrides(pets, amp), {"precision": PRECISION}),
        Design("nycu imagenet", apply_overrides(pets, imagenet)),
        Design("smp notebook", apply_overrides(pets, published)),
    ]  # fmt: skip


def quality() -> list[Design]:
    """Return the comparison with smp's notebook: real pets at 128 pixels, from scratch.

    All have ten epochs, as in the notebook, and batches of 16: with those of 32 in the notebook,
    a few hundred images would give its recipe half the steps.
    """
    base = {
        "data": {"name": "oxford-pet", "size": 128, "border": "pet"},
        "fit": {"epochs": 10, "batch_size": 16, "precision": "fp32"},
    }
    theirs = {"name": "smp.Unet", "encoder_name": "resnet34", "encoder_weights": None}
    recipes = {
        "smp unet": {**NOTEBOOK, "model": theirs},
        "unet": {**OURS, "model": {"name": "unet", "width": 16}},
        "resnet34_unet": {**OURS, "model": {"name": "resnet34_unet", "width": 32}},
    }
    return [Design("quality", base, {"network": recipes})]


GROUPS = {"quick": quick, "full": full, "quality": quality}
PROFILES = ("quick", "full")  # those that can be run as a whole


def _designs(pets: Config, lab: Overrides, bones: Overrides, eighth: int) -> list[Design]:
    """Return what both profiles measure, at the sizes of one."""
    unet = {"name": "unet", "width": eighth}
    bilinear = {"model": unet | {"bias": True, "up": "bilinear"}}
    residual = {"model": {"name": "resnet34_unet", "width": eighth, "block": "nycu"}}
    networks = {"unet": bilinear, "resnet34_unet": residual}
    grey = {
        "pdr_unet": {"model": {"name": "pdr_unet", "filters": 40 * eighth // 64}},
        "unet": {"model": unet},
        "fusionnet": {"model": {"name": "fusionnet", "width": eighth}},
    }
    return [
        Design("abi2024 own", pets, {"experiment": FOUR}),
        Design("abi2024", pets, FACTORS),
        Design(
            "optimizer",
            apply_overrides(pets, DOWN["maxpool"], UP["transposed"], DICE),
            {"optimizer": OPTIMIZER},
        ),
        Design("nycu", apply_overrides(pets, lab), {"network": networks}),
        Design("pdr-unet", apply_overrides(pets, bones, DICE), {"network": grey}),
    ]


def _toy(name: str, size: int, count: int) -> Config:
    return {"name": name, "size": size, "count": count, "val_count": 64, "test_count": 64}


def _folder(place: str) -> Config:
    return {"name": "folder", "place": place, "size": 256, "channels": 1}


def _adam(**options: object) -> Config:
    return {"optimizer": "adam", "lr": 1e-3, **options}


def _resnet18(weights: str | None) -> Config:
    return {"name": "smp.Unet", "encoder_name": "resnet18", "encoder_weights": weights}


def select(profile: str, only: Sequence[str] = ()) -> list[Design]:
    """Return the designs of a profile, or those named in `only`, of it or of "quality"."""
    one_of("profile", profile, PROFILES)
    known = {design.name: design for group in (profile, "quality") for design in GROUPS[group]()}
    return [known[one_of("design", name, known)] for name in only] or GROUPS[profile]()
