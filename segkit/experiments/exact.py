"""Checks of what no training changes: weights that are counted, scores, resizing."""

import cv2
import numpy as np
import torch

from segkit import data, models
from segkit.experiments.analysis import table
from segkit.experiments.evidence import FAILS, HOLDS, UNTESTABLE, Evidence, Finding
from segkit.metrics import Counts, counts
from segkit.models.inspect import parameters, receptive_fields


def _weights(name: str, **options: object) -> int:
    with torch.device("meta"):
        return parameters(models.build(name, seed=None, **options))


def _told(true: bool, why: str, **figures: float) -> Finding:
    return Finding(HOLDS if true else FAILS, why, figures)


def fewer_weights(_: Evidence) -> Finding:
    """PDR-UNet against U-Net and FusionNet, one grey channel, as their papers have them."""
    one = {
        name: _weights(name, in_channels=1, classes=1) for name in ("pdr_unet", "unet", "fusionnet")
    }
    smallest = min(one, key=one.__getitem__)
    return _told(smallest == "pdr_unet", "parameters, counted", **one)


def paper_weights(_: Evidence) -> Finding:
    """The 0.36 million of the PDR-UNet paper."""
    found = _weights("pdr_unet", in_channels=1, classes=2, norm=False)
    return _told(round(found / 1e6, 2) == 0.36, "parameters, counted", pdr_unet=found)


def paper_view(_: Evidence) -> Finding:
    """The receptive fields in the PDR-UNet paper's table: 5, 13, … 509 after blocks 1 to 8."""
    seen = receptive_fields(models.build("pdr_unet", filters=1))  # the view knows no width
    blocks = [seen[f"blocks.{i}"] for i in range(8)]
    agrees = blocks == [5, 13, 29, 61, 125, 253, 381, 509]
    return _told(agrees, "followed tap by tap", **{"block 8": blocks[-1], "output": seen["out"]})


def strided_adds(_: Evidence) -> Finding:
    """Whether strided convolutions cost parameters."""
    one = {down: _weights("unet", bias=True, down=down) for down in ("maxpool", "strided")}
    return _told(one["strided"] > one["maxpool"], "parameters, counted", **one)


def encoder_weights(_: Evidence) -> Finding:
    """The encoders of the NYCU lab's two networks, each down to its lowest level."""
    with torch.device("meta"):
        plain = models.build("unet", seed=None, bias=True, up="bilinear")
        residual = models.build("resnet34_unet", seed=None, projection="always")
    one = {
        "unet": parameters(plain.encoder) + parameters(plain.bottleneck),
        "resnet34_unet": parameters(residual.encoder),
    }
    return _told(one["resnet34_unet"] > one["unet"], "parameters, counted", **one)


def paper_size(_: Evidence) -> Finding:
    """572 pixels in, 388 out, without padding."""
    side = models.unet.valid_size(572)
    return _told(side == 388, "computed", side=side)


def dice_is_f1(evidence: Evidence) -> Finding:
    """Dice against the harmonic mean of precision and recall, on every test image."""
    c = _all_tests(evidence)
    precision, recall = c.precision("none"), c.recall("none")
    gap = (c.dice("none") - 2 * precision * recall / (precision + recall)).abs().nan_to_num()
    return _told(
        bool(gap.max() < 1e-12),
        "image by image",
        images=len(c),
        **{"largest gap": gap.max().item()},
    )


def iou_near_dice(evidence: Evidence) -> Finding:
    """How far IoU lies from Dice; "slightly" is taken to be 0.05."""
    c = _all_tests(evidence)
    gap = c.dice("none") - c.iou("none")
    figures = {"mean gap": gap.nanmean().item(), "largest gap": gap.nan_to_num().max().item()}
    why = "the order of two masks is the same, the figure is not: the gap may be 3 − 2√2 = 0.17"
    return _told(figures["largest gap"] < 0.05, why, **figures)


def _all_tests(evidence: Evidence) -> Counts:
    rows = table(evidence.designs["abi2024"], evidence.records)
    found = [torch.tensor(run["test"]) for row in rows for run in row]
    return Counts(*torch.cat(found, dim=1))


def _resized(interpolation: int) -> tuple[np.ndarray, np.ndarray]:
    """Return 64 toy masks of 0 and 255, and the same at half the size."""
    masks = data.load("toy-pets", "train", 64, border="background", count=64).masks * 255
    return masks, np.stack([cv2.resize(m, (32, 32), interpolation=interpolation) for m in masks])


def bilinear_invents(_: Evidence) -> Finding:
    """Values in masks of 0 and 255 after resizing."""
    found = {
        "bilinear": len(np.unique(_resized(cv2.INTER_LINEAR)[1])),
        "nearest": len(np.unique(_resized(cv2.INTER_NEAREST)[1])),
    }
    true = found["nearest"] == 2 < found["bilinear"]
    return _told(true, "different values in 64 masks", **found)


def override_restores(_: Evidence) -> Finding:
    """The foreground's share after a bilinear resize and `mask[mask != 0] = 255`."""
    before, after = _resized(cv2.INTER_LINEAR)
    shares = {"before": float((before > 0).mean()), "after": float((after != 0).mean())}
    same = abs(shares["after"] / shares["before"] - 1) < 0.01
    return _told(same, "the values are restored, the objects grow", **shares)


def blind_dice(_: Evidence) -> Finding:
    """What a score without false positives gives to a mask that calls everything foreground."""
    masks = data.load("toy-pets", "test", 32, border="background").masks
    everything = torch.ones(len(masks), 1, 32, 32)
    found = counts(everything, torch.from_numpy(masks.astype(np.int64)))
    return Finding(
        UNTESTABLE,
        "its Dice leaves out false positives: a mask of ones scores 1",
        {"without false positives": found.recall().item(), "Dice": found.dice().item()},
    )
