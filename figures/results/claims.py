"""What has been claimed about segmentation networks, and how each claim is tested here.

`CLAIMS` lists the claims; `decide` gives the verdict of one from the records of its runs. A check
is a function of a design and its records, here with the arguments that make it this claim's. Only a
test at full size says "holds" or "does not hold"; a miniature has words of its own.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import mean
from typing import NamedTuple

import cv2
import numpy as np
import torch

from segkit import data, experiments, models
from segkit.experiments import SCORES, Design, Estimate, Record, Records, contrast, table
from segkit.metrics import Counts, counts
from segkit.models.inspect import parameters, receptive_field

designs = experiments.load("designs")

HOLDS, FAILS, OPEN = "holds", "does not hold", "undecided"
UNTESTABLE, UNMEASURED = "not testable", "not yet measured"
VERDICTS = (HOLDS, FAILS, OPEN, UNTESTABLE, UNMEASURED)
# what a test on procedural images with narrow networks can show in their place
MINIATURE = {HOLDS: "same direction", FAILS: "opposite direction", OPEN: "not separable"}


class Finding(NamedTuple):
    """A verdict, its reason in a few words, and the figures behind it."""

    verdict: str
    why: str
    figures: Mapping[str, Estimate | float] = {}


@dataclass(frozen=True)
class Claim:
    """A sentence that somebody published, and how it is tested."""

    key: str  # its name in links
    who: str
    what: str
    conditions: str  # those of the source
    test: str  # what is measured here
    check: Callable[[Design | None, Records], Finding]
    design: str = ""  # the name of the design whose runs are used, if any
    profiles: tuple[str, ...] = ("quick", "full")  # sizes of the test; "always" needs no runs
    identity: bool = False  # of numbers that any images show: true or false in a miniature too


def decide(claim: Claim, profile: str, records: Records) -> Finding:
    """Return the verdict of a claim by the records of one profile's designs."""
    if profile not in claim.profiles:
        return Finding(UNTESTABLE, "it takes the claim's own images, sizes or machine")
    group = {design.name: design for design in designs.GROUPS.get(profile, tuple)()}
    design = group[claim.design] if claim.design else None
    if design and (lacking := experiments.missing(design, records)):
        return Finding(UNMEASURED, f"{lacking} runs are missing")
    found = claim.check(design, records)
    if profile != "quick" or claim.identity:
        return found
    return found._replace(verdict=MINIATURE[found.verdict])


# ---------------------------------------------------------------- checks of records


def epochs_to(record: Record, target: float) -> int:
    """Return the first epoch with a validation IoU of `target`; one more than there are if none."""
    curve = record["history"]["val_iou"]
    return next((i for i, iou in enumerate(curve, start=1) if iou >= target), len(curve) + 1)


EPOCHS = "epochs to the target"
# What is read from a record and not counted on images. The fastest epoch is the one that other
# work on the machine slowed down least.
RUN_SCORES: dict[str, Callable[[Record], float]] = {
    "last training loss": lambda run: run["history"]["train_loss"][-1],
    "seconds of the fastest epoch": lambda run: min(run["history"]["seconds"]),
    "MiB added by training": lambda run: (run["memory"]["peak"] - run["memory"]["start"]) / 2**20,
}


def compare(
    design: Design,
    records: Records,
    score: str,
    pairs: Sequence[tuple[str, str]] = (),
    factor: str = "",
    more: bool = True,
) -> Finding:
    """Test that differences lie above zero (below it, unless `more`), all of them.

    Args:
        score: one of `SCORES` or `RUN_SCORES`, or `EPOCHS`.
        pairs: labels of cells, of which the first has the higher score by the claim.
        factor: in place of pairs: its second level has the higher score, over all other factors.
    """
    scored = RUN_SCORES.get(score, score)
    if score == EPOCHS:
        runs = [run for row in table(design, records) for run in row]
        target = 0.9 * mean(max(run["history"]["val_iou"]) for run in runs)
        scored = partial(epochs_to, target=target)
    cells = design.labels()
    rows = {f"{a} − {b}": [(cell == a) - (cell == b) for cell in cells] for a, b in pairs}
    if factor:
        first, second = design.factors[factor]
        rows[f"{second} − {first}"] = experiments.effect_weights(design, [factor])
    gaps = {
        f"{name}, {score}": contrast(design, records, row, scored) for name, row in rows.items()
    }
    means = {}
    if score not in SCORES:  # of those, the ledger has a table for each design
        rows = dict(zip(cells, np.eye(len(cells)), strict=True))
        means = {f"{c}, {score}": contrast(design, records, row, scored) for c, row in rows.items()}
    reason = "by the t-interval of the difference over seeds"
    if len(gaps) > 1:
        reason = "all the differences have to lie on that side"
    return Finding(verdict(list(gaps.values()), more), reason, gaps | means)


def verdict(gaps: Sequence[Estimate], more: bool = True) -> str:
    """Return the verdict on the claim that differences lie above zero, or else below it.

    It holds if every interval lies on that side, and does not hold if one lies on the other.
    """
    sides = [(gap.low, gap.high) if more else (-gap.high, -gap.low) for gap in gaps]
    if any(high < 0 for _, high in sides):
        return FAILS
    return HOLDS if all(low > 0 for low, _ in sides) else OPEN


def reaches(
    design: Design, records: Records, score: str, cell: str, low: float, high: float = 1.0
) -> Finding:
    """Test that the interval of a cell's mean score lies from `low` to `high`, or outside."""
    found = contrast(design, records, [label == cell for label in design.labels()], score)
    inside = low <= found.low and found.high <= high
    outside = found.high < low or found.low > high
    why = f"by the t-interval over seeds, against {low:g} to {high:g}"
    return Finding(
        HOLDS if inside else FAILS if outside else OPEN, why, {f"{cell}, {score}": found}
    )


def differ(
    design: Design, records: Records, score: str, pair: tuple[str, str], least: float
) -> Finding:
    """Test that the mean scores of two cells differ by `least` or more, in either direction."""
    figures = compare(design, records, score, [pair]).figures
    (gap,) = figures.values()
    separate = max(gap.low, -gap.high) >= least
    near = max(abs(gap.low), abs(gap.high)) < least
    why = f"by the t-interval over seeds, against {least:g} either way"
    return Finding(HOLDS if separate else FAILS if near else OPEN, why, figures)


def dice_is_f1(design: Design, records: Records) -> Finding:
    """Compare Dice to the harmonic mean of precision and recall, on every test image."""
    c = _test_counts(design, records)
    precision, recall = c.precision("none"), c.recall("none")
    gap = (c.dice("none") - 2 * precision * recall / (precision + recall)).abs().nan_to_num()
    figures = {"images": len(c), "largest gap": gap.max().item()}
    return _static(figures["largest gap"] < 1e-12, "image by image", **figures)


def iou_near_dice(design: Design, records: Records) -> Finding:
    """Measure how far IoU lies from Dice; "slightly" is taken to be 0.05."""
    c = _test_counts(design, records)
    gap = c.dice("none") - c.iou("none")
    figures = {"mean gap": gap.nanmean().item(), "largest gap": gap.nan_to_num().max().item()}
    why = "the order of two masks is the same, the figure is not: the gap may be 3 − 2√2 = 0.17"
    return _static(figures["largest gap"] < 0.05, why, **figures)


def _test_counts(design: Design, records: Records) -> Counts:
    runs = [torch.tensor(run["test"]) for row in table(design, records) for run in row]
    return Counts(*torch.cat(runs, dim=1))


# ---------------------------------------------------------------- checks without any training


def _static(holds: bool, why: str, **figures: float) -> Finding:
    return Finding(HOLDS if holds else FAILS, why, figures)


def _network(name: str, **options: object) -> torch.nn.Module:
    with torch.device("meta"):  # shapes only
        return models.build(name, seed=None, **options)


def fewer_parameters(*_: object) -> Finding:
    """Compare PDR-UNet to U-Net and FusionNet on one grey channel, as their papers have them."""
    names = ("pdr_unet", "unet", "fusionnet")
    found = {name: parameters(_network(name, in_channels=1, classes=1)) for name in names}
    return _static(min(found, key=found.get) == "pdr_unet", "parameters, counted", **found)


def published_parameters(*_: object) -> Finding:
    """Compare the parameters of PDR-UNet to the 0.36 million of its paper."""
    found = parameters(_network("pdr_unet", in_channels=1, classes=2, norm=False))
    return _static(round(found / 1e6, 2) == 0.36, "parameters, counted", pdr_unet=found)


def published_fields(*_: object) -> Finding:
    """Compare receptive fields to the PDR-UNet paper's: 5, 13, … 509 after blocks 1 to 8."""
    network = models.build("pdr_unet", filters=1)  # the receptive field does not depend on it
    fields = [receptive_field(network, f"blocks.{i}") for i in range(8)]
    figures = {"block 8": fields[-1], "output": receptive_field(network)}
    agrees = fields == [5, 13, 29, 61, 125, 253, 381, 509]
    return _static(agrees, "followed tap by tap", **figures)


def strided_adds(*_: object) -> Finding:
    """Compare the parameters of strided convolutions to those of max-pooling."""
    kinds = ("maxpool", "strided")
    found = {down: parameters(_network("unet", bias=True, down=down)) for down in kinds}
    return _static(found["strided"] > found["maxpool"], "parameters, counted", **found)


def encoder_parameters(*_: object) -> Finding:
    """Compare the encoders of the NYCU lab's two networks, each down to its lowest level."""
    bilinear = _network("unet", bias=True, up="bilinear")
    unet = parameters(bilinear.encoder) + parameters(bilinear.bottleneck)
    resnet = parameters(_network("resnet34_unet", block="nycu").encoder)
    return _static(resnet > unet, "parameters, counted", unet=unet, resnet34_unet=resnet)


def valid_size(*_: object) -> Finding:
    """Compute the output size of the unpadded U-Net for 572 pixels."""
    side = models.unet.valid_size(572)
    return _static(side == 388, "computed", side=side)


def _halved(interpolation: int) -> tuple[np.ndarray, np.ndarray]:
    """Return 64 toy masks of 0 and 255, and the same at half the size."""
    masks = data.load("toy-pets", "train", 64, border="background", count=64).masks * 255
    return masks, np.stack([cv2.resize(m, (32, 32), interpolation=interpolation) for m in masks])


def bilinear_alters(*_: object) -> Finding:
    """Count the values in masks of 0 and 255 after resizing."""
    kinds = {"bilinear": cv2.INTER_LINEAR, "nearest": cv2.INTER_NEAREST}
    found = {name: len(np.unique(_halved(kind)[1])) for name, kind in kinds.items()}
    altered = found["nearest"] == 2 < found["bilinear"]
    return _static(altered, "different values in 64 masks", **found)


def override_restores(*_: object) -> Finding:
    """Compare the foreground's share after a bilinear resize and `mask[mask != 0] = 255`."""
    before, after = _halved(cv2.INTER_LINEAR)
    shares = {"before": float((before > 0).mean()), "after": float((after != 0).mean())}
    same = abs(shares["after"] / shares["before"] - 1) < 0.01
    return _static(same, "the values are restored, the objects grow", **shares)


def blind_dice(*_: object) -> Finding:
    """Compute a score without false positives for masks that are foreground everywhere."""
    masks = data.load("toy-pets", "test", 32, border="background").masks
    found = counts(torch.ones(len(masks), 1, 32, 32), torch.from_numpy(masks.astype(np.int64)))
    figures = {"without false positives": found.recall().item(), "Dice": found.dice().item()}
    why = "its score leaves out false positives, so it is no Dice: a mask of ones scores 1"
    return _static(figures["without false positives"] < 1, why, **figures)


# ---------------------------------------------------------------- claims

ABI = "[abi2024](https://github.com/abi2024/UNet-Segmentation)"
AJAY = "[ajaystar8](https://github.com/ajaystar8/PDRUNet-PyTorch)"
DEB = "[Mayukh Deb](https://mayukhdeb.github.io/blog/)"
GREY = "[greysweater42](https://greysweater42.github.io/unet)"
NYCU = "NYCU deep-learning lab report"
PDR = "[Shen et al. 2021](https://doi.org/10.3934/ipi.2020057)"
RONNEBERGER = "[Ronneberger et al. 2015](https://arxiv.org/abs/1505.04597)"
SMP = "[segmentation-models-pytorch](https://github.com/qubvel-org/segmentation_models.pytorch)"

FULL, ALWAYS, RACE = ("full",), ("always",), ("quality",)
ABI_OWN = "Oxford-IIIT Pet, 128 px, 15 epochs, Adam 1e-3, border is background, last names validate"
ABI_ALL = "its three choices in all eight combinations, official split, test set"
ABI_ORDER = [("1", "3"), ("2", "3"), ("3", "4")]
ABI_CORNERS = [
    ("maxpool + transposed + bce", "strided + transposed + bce"),
    ("maxpool + transposed + dice", "strided + transposed + bce"),
    ("strided + transposed + bce", "strided + nearest + dice"),
]
LAB = "Oxford-IIIT Pet, 256 px, Adam, BCE, one run each"
LAB_TEST = "test Dice, plain networks from scratch, three seeds"
LAB_ORDER = [("resnet34_unet", "unet")]
BONES = "X-rays of femur and tibia; its data are not public"
BONES_ORDER = [("pdr_unet", "unet"), ("pdr_unet", "fusionnet")]
EMBRYOS = "grey embryo images"
GPU = "a GPU; no figure given"
SMP_OWN = "Oxford-IIIT Pet, 256 px, border is pet, ImageNet weights, 10 epochs"
RECIPES = "714-pet subset, 128 px, border is pet, from scratch, the same epochs"
RECIPES_TEST = "test IoU of our recipe less that of its Unet(resnet34) with its notebook's"
HALF = [("mixed", "full")]

CLAIMS = [
    Claim("abi-order-own", ABI,
          "Experiments 1 and 2 (93.45 %, 93.32 %) beat 3 (91.60 %), and 3 beats 4 (90.42 %).",
          ABI_OWN, "validation accuracy under the same rules, three seeds",
          partial(compare, score="val accuracy", pairs=ABI_ORDER), "abi2024 own"),
    Claim("abi-pair", ABI, "Experiment 1 beats 3: max-pool against strided, all else equal.",
          ABI_OWN, "validation accuracy under the same rules, three seeds",
          partial(compare, score="val accuracy", pairs=[("1", "3")]), "abi2024 own"),
    Claim("abi-order-clean", ABI, "The same order of the four experiments.", ABI_OWN, ABI_ALL,
          partial(compare, score="test accuracy", pairs=ABI_CORNERS), "abi2024"),
    Claim("abi-figure", ABI, "Experiment 1 reaches 93.45 % validation accuracy.", ABI_OWN,
          "the same, with three seeds, within half a point",
          partial(reaches, score="val accuracy", cell="1", low=0.9295, high=0.9395),
          "abi2024 own", FULL),
    Claim("abi-dice-loss", ABI, "Dice loss is best, for its validation loss is the lowest.",
          ABI_OWN, "nothing",
          lambda *_: Finding(UNTESTABLE, "values of different losses have no common scale"),
          profiles=ALWAYS),
    Claim("abi-dice-overlap", ABI, "Dice loss serves overlap better than weighted BCE.",
          ABI_OWN, f"IoU at the threshold 0.5: {ABI_ALL}",
          partial(compare, score="test IoU", factor="loss"), "abi2024"),
    Claim("abi-dice-boundary", ABI, "Dice loss gives sharper boundaries than weighted BCE.",
          ABI_OWN, f"boundary IoU at the threshold 0.5: {ABI_ALL}",
          partial(compare, score="test boundary IoU", factor="loss"), "abi2024"),
    Claim("abi-dice-speed", ABI, "Dice loss converges faster than weighted BCE.", ABI_OWN,
          "epochs to 90 % of the design's mean best validation IoU, all eight combinations",
          partial(compare, score=EPOCHS, factor="loss", more=False), "abi2024"),
    Claim("abi-maxpool", ABI, "Max-pooling beats strided convolution.", ABI_OWN,
          f"accuracy: {ABI_ALL}",
          partial(compare, score="test accuracy", factor="down", more=False), "abi2024"),
    Claim("abi-maxpool-iou", ABI, "Max-pooling beats strided convolution.", ABI_OWN,
          f"IoU: {ABI_ALL}", partial(compare, score="test IoU", factor="down", more=False),
          "abi2024"),
    Claim("abi-strided-weights", ABI, "Strided convolutions add parameters.", ABI_OWN,
          "parameters of both at full width", strided_adds, profiles=ALWAYS),
    Claim("abi-transposed", ABI,
          "Transposed convolution gives smoother edges than nearest upsampling.", ABI_OWN,
          f"boundary IoU: {ABI_ALL}",
          partial(compare, score="test boundary IoU", factor="up", more=False), "abi2024"),
    Claim("nycu-order-train", NYCU,
          "ResNet34-UNet ends with a higher training Dice than U-Net (0.90, 0.86).", LAB,
          "Dice on the training images", partial(compare, score="train Dice", pairs=LAB_ORDER),
          "nycu"),
    Claim("nycu-order-loss", NYCU,
          "ResNet34-UNet ends with a lower training loss than U-Net (0.25, 0.30).", LAB,
          "loss of the last epoch",
          partial(compare, score="last training loss", pairs=LAB_ORDER, more=False), "nycu"),
    Claim("nycu-order-test", NYCU, "ResNet34-UNet performs better than U-Net.", LAB,
          "Dice on the test set", partial(compare, score="test Dice", pairs=LAB_ORDER), "nycu"),
    Claim("nycu-encoder", NYCU, "ResNet34-UNet has more parameters in its encoder.", LAB,
          "parameters of both encoders", encoder_parameters, profiles=ALWAYS),
    Claim("nycu-range-unet", "other reports of that lab (no public link)",
          "U-Net: test Dice 0.88 to 0.915.", LAB,
          LAB_TEST, partial(reaches, score="test Dice", cell="unet", low=0.88, high=0.915),
          "nycu", FULL),
    Claim("nycu-range-resnet", "other reports of that lab (no public link)",
          "ResNet34-UNet: test Dice 0.89 to 0.917.", LAB, LAB_TEST,
          partial(reaches, score="test Dice", cell="resnet34_unet", low=0.89, high=0.917),
          "nycu", FULL),
    Claim("nycu-imagenet", "another report of that lab (no public link)",
          "ImageNet weights, attention and flips: test Dice 0.927.", LAB,
          "the same without attention, 0.917 or more",
          partial(reaches, score="test Dice", cell="nycu imagenet", low=0.917), "nycu imagenet",
          FULL),
    Claim("nycu-blind", "another report of that lab (no public link)", "Test Dice 0.95.", LAB,
          "its score for a mask of ones", blind_dice, profiles=ALWAYS),
    Claim("deb-iou", DEB, "A ResNet18 encoder reaches an IoU just above 0.7 in 24 epochs.",
          f"{EMBRYOS}, ImageNet weights, Dice loss",
          "test IoU on nuclei, with ImageNet weights",
          partial(reaches, score="test IoU", cell="deb", low=0.7), "deb", FULL),
    Claim("deb-bilinear", DEB, "Bilinear resizing alters the values of a mask, nearest not.",
          EMBRYOS, "values of 64 toy masks at half the size", bilinear_alters, profiles=ALWAYS),
    Claim("deb-override", DEB, "Setting all but 0 to 255 afterwards makes the mask as before.",
          f"{EMBRYOS}; he found himself that it was not enough",
          "the foreground's share of 64 toy masks", override_restores, profiles=ALWAYS),
    Claim("pdr-weights", PDR, "PDR-UNet has fewer parameters than U-Net and FusionNet.", BONES,
          "parameters at full width", fewer_parameters, profiles=ALWAYS),
    Claim("pdr-accuracy", PDR, "PDR-UNet is more accurate than U-Net and FusionNet.", BONES,
          "test Dice; in miniature toy X-rays, else dental X-rays",
          partial(compare, score="test Dice", pairs=BONES_ORDER), "pdr-unet"),
    Claim("pdr-speed", PDR, "PDR-UNet converges faster than U-Net and FusionNet.", BONES,
          "epochs to 90 % of the design's mean best validation IoU, the same data",
          partial(compare, score=EPOCHS, pairs=BONES_ORDER, more=False), "pdr-unet"),
    Claim("pdr-size", PDR, "PDR-UNet has 0.36 million parameters.", BONES,
          "parameters, 1 channel and 2 classes", published_parameters, profiles=ALWAYS),
    Claim("pdr-view", PDR, "Its first eight blocks see 5, 13, … 509 pixels.", BONES,
          "receptive fields of our network", published_fields, profiles=ALWAYS),
    Claim("ajay-optimizer", AJAY, "The choice of the optimizer can matter hugely.",
          "a subset of MURA; no figure given",
          "Adam 1e-3 against SGD 1e-2 (momentum 0.9), test IoU; hugely is 0.05",
          partial(differ, score="test IoU", pair=("adam", "sgd"), least=0.05), "optimizer"),
    Claim("grey-f1", GREY, "Dice is the same as F1.", "none",
          "both, on every test image of the eight combinations", dice_is_f1, "abi2024",
          identity=True),
    Claim("grey-iou", GREY, "IoU differs only slightly from Dice.", "none",
          "both, on the same images; slightly is 0.05", iou_near_dice, "abi2024", identity=True),
    Claim("grey-amp-fast", GREY, "Mixed precision makes training faster (usually).", GPU,
          "time of the fastest epoch, fp16 on a GPU",
          partial(compare, score="seconds of the fastest epoch", pairs=HALF, more=False), "amp",
          FULL),
    Claim("grey-amp-light", GREY, "Mixed precision makes training lighter (usually).", GPU,
          "memory that training adds, the same runs",
          partial(compare, score="MiB added by training", pairs=HALF, more=False), "amp", FULL),
    Claim("unet-size", RONNEBERGER, "Unpadded, 572 pixels become 388.", "the paper's figure 1",
          "size of our network's output", valid_size, profiles=ALWAYS),
    Claim("smp-dataset", SMP, "Its pets notebook: test IoU 0.9144 over the data set.", SMP_OWN,
          "the same, three seeds, within a point",
          partial(reaches, score="test IoU", cell="smp notebook", low=0.9044, high=0.9244),
          "smp notebook", FULL),
    Claim("smp-image", SMP, "Its pets notebook: test IoU 0.9075 per image.", SMP_OWN,
          "the same, three seeds, within a point",
          partial(reaches, score="test IoU per image", cell="smp notebook", low=0.8975,
                  high=0.9175),
          "smp notebook", FULL),
    *(
        Claim(f"quality-{name}-{short}", "segkit", f"Our {name} recipe beats smp's, {how}.",
              RECIPES, f"{RECIPES_TEST}, {how}",
              partial(compare, score=score, pairs=[(cell, "smp unet")]), "quality", RACE)
        for name, cell in (("U-Net", "unet"), ("ResNet34-UNet", "resnet34_unet"))
        for short, how, score in (
            ("dataset", "over the data set", "test IoU"),
            ("image", "per image", "test IoU per image"),
        )
    ),
]  # fmt: skip
