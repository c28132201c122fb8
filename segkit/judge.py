"""How good a model is on a set of images: scores with intervals, by class, and image by image."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from segkit.data.dataset import DataError, SegmentationDataset
from segkit.data.transforms import Pipeline
from segkit.metrics import (
    Calibration,
    Counts,
    Interval,
    bootstrap,
    boundary_counts,
    calibration,
    counts,
    sweep,
)
from segkit.model_file import ModelMetadata
from segkit.predict import logits_of


@dataclass(frozen=True)
class Judgement:
    """What a model got right and wrong: counts of each image, on the CPU.

    boundary: counts near the contours. sweep: counts at each of `metrics.THRESHOLDS`, and None
    where there are several channels, which have no threshold.
    """

    metadata: ModelMetadata
    data: SegmentationDataset
    counts: Counts
    boundary: Counts
    calibration: Calibration
    sweep: Counts | None

    @property
    def binary(self) -> bool:
        """Whether there is one channel."""
        return self.metadata.classes == 1


def judge(
    model: nn.Module, metadata: ModelMetadata, data: SegmentationDataset, batch_size: int = 16
) -> Judgement:
    """Return the judgement of `model` on `data`, normalised as the metadata says, not augmented.

    Raises DataError for data of other classes, channels or size than the model's.
    """
    data = prepared(metadata, data)
    parts = []
    for logits, masks in logits_of(model, data, batch_size):
        logits, masks = logits.cpu(), masks.cpu()
        parts.append(
            (
                counts(logits, masks, metadata.threshold),
                boundary_counts(logits, masks, metadata.threshold),
                calibration(logits, masks),
                sweep(logits, masks) if metadata.classes == 1 else None,
            )
        )
    columns = zip(*parts, strict=True)
    joined = [sum(rest, first) if first is not None else None for first, *rest in columns]
    return Judgement(metadata, data, *joined)


def prepared(metadata: ModelMetadata, data: SegmentationDataset) -> SegmentationDataset:
    """Return the data as the model is to see them. Raises DataError where they do not fit."""
    mine = (metadata.class_names, metadata.in_channels, metadata.size)
    theirs = (tuple(data.class_names), data.channels, tuple(data.masks.shape[1:]))
    for name, own, other in zip(("class names", "channels", "size"), mine, theirs, strict=True):
        if own != other:
            raise DataError(
                f"the model was trained for {name} {own}, the data have {other}: load them alike"
            )
    return data.with_transform(Pipeline([], metadata.in_channels, metadata.mean, metadata.std))


def scores(judgement: Judgement, resamples: int = 2000, seed: int = 0) -> dict[str, Interval]:
    """Return the scores by name, each with its 95 % bootstrap interval over images.

    Binary: of the foreground. Several classes: means over the classes but the background, and
    where the name says so, over all.
    """
    found, contours = judgement.counts, judgement.boundary
    if judgement.binary:
        one = {"include_background": True}
        wanted = {
            "IoU": (found, lambda c: c.iou()),
            "IoU, mean over images": (found, lambda c: c.iou("micro-imagewise")),
            "Dice": (found, lambda c: c.dice()),
            "Dice, mean over images": (found, lambda c: c.dice("micro-imagewise")),
        }
    else:
        one = {"include_background": False}
        wanted = {
            "mean IoU": (found, lambda c: c.iou("macro", **one)),
            "mean IoU, with background": (found, lambda c: c.iou("macro")),
            "mean IoU, mean over images": (found, lambda c: c.iou("macro-imagewise", **one)),
            "mean Dice": (found, lambda c: c.dice("macro", **one)),
            "pixel accuracy": (found, lambda c: c.accuracy()),
        }
    wanted |= {
        "precision": (found, lambda c: c.precision("macro", **one)),
        "recall": (found, lambda c: c.recall("macro", **one)),
        "boundary IoU": (contours, lambda c: c.iou("macro", **one)),
    }
    return {
        name: bootstrap(score, data, resamples=resamples, seed=seed)
        for name, (data, score) in wanted.items()
    }


def summary(judgement: Judgement, found: dict[str, Interval] | None = None) -> dict[str, Any]:
    """Return the numbers of a judgement, ready for JSON, None where there is none.

    "images", "threshold", "scores" (value, low, high), "classes", "calibration error". found: the
    scores, if they have been made already.
    """
    numbers = {
        "images": len(judgement.data),
        "threshold": judgement.metadata.threshold if judgement.binary else None,
        "scores": {k: v._asdict() for k, v in (found or scores(judgement)).items()},
        "classes": by_class(judgement),
        "calibration error": float(judgement.calibration.error()),
    }
    return _without_nan(numbers)


def _without_nan(value: Any) -> Any:
    """Return the value with None for NaN, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def by_class(judgement: Judgement) -> list[dict]:
    """Return a row per class: IoU, Dice, precision, recall, share of the pixels, images with it."""
    found = judgement.counts
    if judgement.binary:  # what is not foreground is background, with the roles exchanged
        tp, fp, fn, tn = found.stacked()
        swapped = torch.stack([tn, fn, fp, tp])
        found = Counts(*torch.cat([swapped, found.stacked()], dim=-1))
    total = found.total()
    true = total.tp + total.fn
    columns = {
        "class": judgement.metadata.class_names,
        "IoU": total.iou("none")[0].tolist(),
        "Dice": total.dice("none")[0].tolist(),
        "precision": total.precision("none")[0].tolist(),
        "recall": total.recall("none")[0].tolist(),
        "pixels": (true / true.sum())[0].tolist(),
        "images": (found.tp + found.fn > 0).sum(dim=0).tolist(),
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def by_image(judgement: Judgement) -> Tensor:
    """Return each image's IoU, float64 (images,): the mean over its classes but the background.

    NaN where nothing is to be found and nothing was.
    """
    return judgement.counts.iou("none", include_background=False).nanmean(dim=1)


def extremes(judgement: Judgement, n: int) -> tuple[list[int], list[int]]:
    """Return the indices of the `n` worst images, worst first, and of the best, best first.

    No image is in both; images with nothing to find, where nothing was found, are in neither.
    """
    ious = by_image(judgement)
    order = [i for i in ious.argsort(stable=True).tolist() if not ious[i].isnan()]
    n = min(n, len(order) // 2)
    return order[:n], order[::-1][:n]
