"""How good a model is on a set of images: scores with intervals, by class, and image by image."""

import json
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from segkit import metrics
from segkit.data.dataset import SegmentationDataset
from segkit.data.transforms import Pipeline
from segkit.errors import DataError
from segkit.metrics import Calibration, Counts, Interval
from segkit.model_file import ModelMetadata
from segkit.train import predict_batches


@dataclass(frozen=True)
class Evaluation:
    """What a model got right and wrong: counts of each image, on the CPU."""

    metadata: ModelMetadata
    data: SegmentationDataset
    counts: Counts
    boundary: Counts  # near the contours
    calibration: Calibration
    sweep: Counts | None  # at each of `metrics.THRESHOLDS`; None for several channels

    @property
    def binary(self) -> bool:
        """Whether there is one channel."""
        return self.metadata.classes == 1

    def warnings(self) -> list[str]:
        """Return a sentence about images that training, or the choice of the model, has used."""
        found, said = list(zip(self.data.digests(), self.data.names, strict=True)), []
        for known, purpose, how in (
            (self.metadata.trained_on, "train the model", "far"),
            (self.metadata.chosen_on, "choose its epoch or threshold", "somewhat"),
        ):
            if seen := [name for image, name in found if image in known]:
                shown = ", ".join(seen[:5]) + (" …" if len(seen) > 5 else "")
                said.append(
                    f"{len(seen)} of these {len(self.data)} images ({shown}) were used to {purpose}"
                    f": the scores may be {how} better than on new images"
                )
        return said


def evaluate(
    model: nn.Module, metadata: ModelMetadata, data: SegmentationDataset, batch_size: int = 16
) -> Evaluation:
    """Evaluate `model` on `data`, normalised as the metadata say, not augmented.

    Raises:
        DataError: the data have other classes, channels or another size than the model's.
    """
    for name, trained, found in (
        ("class names", metadata.class_names, tuple(data.class_names)),
        ("channels", metadata.in_channels, data.channels),
        ("size", metadata.size, data.masks.shape[1:]),
        ("intensity", metadata.intensity, data.info.get("intensity")),
    ):
        if trained != found:
            raise DataError(f"the model was trained for {name} {trained}, the data have {found}")
    data = data.with_transform(Pipeline([], metadata.in_channels, metadata.mean, metadata.std))
    pixels, boundary, calibration, sweep = [], [], [], []
    for logits, masks in predict_batches(model, data, batch_size):
        logits, masks = logits.cpu(), masks.cpu()
        pixels.append(metrics.counts(logits, masks, metadata.threshold))
        boundary.append(metrics.boundary_counts(logits, masks, metadata.threshold))
        calibration.append(metrics.calibration(logits, masks))
        if metadata.classes == 1:
            sweep.append(metrics.sweep(logits, masks))
    calibration = sum(calibration[1:], calibration[0])
    sweep = Counts.cat(sweep) if sweep else None
    return Evaluation(metadata, data, Counts.cat(pixels), Counts.cat(boundary), calibration, sweep)


def scores(evaluation: Evaluation, resamples: int = 2000) -> dict[str, Interval]:
    """Return the scores by name, each with its 95 % bootstrap interval over images.

    Means over classes leave out the background, unless the name says otherwise.
    """
    one = {"include_background": evaluation.binary}
    if evaluation.binary:
        wanted = {
            "IoU": lambda c: c.iou(),
            "IoU, mean over images": lambda c: c.iou("micro-imagewise"),
            "Dice": lambda c: c.dice(),
            "Dice, mean over images": lambda c: c.dice("micro-imagewise"),
        }
    else:
        wanted = {
            "mean IoU": lambda c: c.iou("macro", **one),
            "mean IoU, with background": lambda c: c.iou("macro"),
            "mean IoU, mean over images": lambda c: c.iou("macro-imagewise", **one),
            "mean Dice": lambda c: c.dice("macro", **one),
            "pixel accuracy": lambda c: c.accuracy(),
        }
    wanted["precision"] = lambda c: c.precision("macro", **one)
    wanted["recall"] = lambda c: c.recall("macro", **one)
    wanted["boundary IoU"] = lambda c: c.iou("macro", **one)
    data = dict.fromkeys(wanted, evaluation.counts) | {"boundary IoU": evaluation.boundary}
    if len(evaluation.data) == 1:  # a score, but nothing to say how far it varies
        return {k: Interval(float(f(data[k])), math.nan, math.nan) for k, f in wanted.items()}
    return {k: metrics.bootstrap(f, data[k], resamples=resamples) for k, f in wanted.items()}


def summary(evaluation: Evaluation) -> dict[str, Any]:
    """Return the numbers of an evaluation, ready for JSON: None stands for NaN."""
    numbers = {
        "images": len(evaluation.data),
        "warnings": evaluation.warnings(),
        "threshold": evaluation.metadata.threshold if evaluation.binary else None,
        "scores": {name: score._asdict() for name, score in scores(evaluation).items()},
        "classes": _by_class(evaluation),
        "calibration error": float(evaluation.calibration.error()),
    }
    return json.loads(json.dumps(numbers), parse_constant=lambda nan: None)


def _by_class(evaluation: Evaluation) -> list[dict]:
    """Return a row per class: IoU, Dice, precision, recall, share of the pixels, images with it."""
    counted = evaluation.counts
    if evaluation.binary:  # the background's true positives are the true negatives, and so on
        cells = counted.stacked()
        counted = Counts(*torch.cat([cells.flip(0), cells], dim=-1))
    total = counted.total()
    target = total.tp + total.fn
    columns = {"class": evaluation.metadata.class_names}
    for name in ("IoU", "Dice", "precision", "recall"):
        columns[name] = getattr(total, name.lower())("none")[0].tolist()
    columns["pixels"] = (target / target.sum())[0].tolist()
    columns["images"] = (counted.tp + counted.fn > 0).sum(dim=0).tolist()
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def by_image(evaluation: Evaluation) -> Tensor:
    """Return each image's IoU, float64 (images,): the mean over its classes but the background.

    NaN where neither target nor prediction holds any of them.
    """
    return evaluation.counts.iou("none", include_background=False).nanmean(dim=1)


def best_and_worst(evaluation: Evaluation, n: int) -> tuple[list[int], list[int]]:
    """Return the indices of the `n` images with the best IoU, best first, and of the worst.

    No image is in both; images whose IoU is NaN are in neither.
    """
    ious = by_image(evaluation)
    order = [i for i in ious.argsort(stable=True).tolist() if not ious[i].isnan()]
    n = min(n, len(order) // 2)
    return order[::-1][:n], order[:n]
