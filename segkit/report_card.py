"""The report card of a model: one call, one HTML page that needs no other file."""

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from torch import nn

from segkit import environment, plot
from segkit.data.dataset import IGNORE, SegmentationDataset
from segkit.evaluate import Evaluation, best_and_worst, by_image, evaluate, summary
from segkit.files import write_text
from segkit.image_ops import FALSE_NEGATIVE, FALSE_POSITIVE, IGNORE_COLOUR
from segkit.metrics import THRESHOLDS
from segkit.model_file import ModelMetadata
from segkit.page import picture, render


def report_card(
    out: str | Path,
    model: nn.Module,
    metadata: ModelMetadata,
    data: SegmentationDataset,
    *,
    validation: SegmentationDataset | None = None,
    cases: int = 6,
    batch_size: int = 16,
    title: str = "",
) -> dict[str, Any]:
    """Write the report card of `model` on `data` to the HTML file `out`; return its numbers.

    Args:
        data: images that neither training nor the choice of threshold has used.
        validation: those on which the threshold was chosen, to draw their curve too.
        cases: how many of the worst and of the best images to show.
    """
    found = evaluate(model, metadata, data, batch_size)
    numbers, figures = summary(found), [_images_figure(found), _reliability_figure(found)]
    colours = {"wrong": FALSE_POSITIVE}
    if found.binary:
        chosen_on = validation and evaluate(model, metadata, validation, batch_size)
        figures.insert(0, _threshold_figure(found, chosen_on))
        colours = {"false positive": FALSE_POSITIVE, "false negative": FALSE_NEGATIVE}
    best, worst = best_and_worst(found, cases)
    values = {"title": title or f"Report card: {metadata.network}", "metadata": metadata}
    values |= {"numbers": numbers, "figures": figures, "tables": _tables(model, found)}
    values |= {"colours": colours | {"ignored": IGNORE_COLOUR}}
    values |= {"cases": {"Worst": _cases(model, found, worst), "Best": _cases(model, found, best)}}
    write_text(out, render("report_card.html", **values))
    return numbers


def _threshold_figure(found: Evaluation, chosen_on: Evaluation | None) -> tuple[Markup, str]:
    fig, ax = plot.figure(4.6, 3)
    iou, threshold = found.sweep.iou(), found.metadata.threshold
    ax.plot(THRESHOLDS, iou, label="IoU", lw=2)
    for name in ("precision", "recall"):
        ax.plot(THRESHOLDS, getattr(found.sweep, name)(), label=name, lw=1)
    if chosen_on:
        ax.plot(THRESHOLDS, chosen_on.sweep.iou(), "--", color="#0072B2", label="IoU, validation")
    ax.axvline(threshold, color="black", lw=1, ls=":")
    ax.set(xlabel="threshold", ylabel="score", ylim=(0, 1.02), title="Scores by threshold")
    ax.legend()
    low, high = (float(iou.nan_to_num(0)[THRESHOLDS.index(t)]) for t in (0.25, 0.75))
    caption = f"The dotted line is the threshold in use, {threshold:g}."
    return _image(fig, f"{caption} IoU is {low:.3f} at 0.25 and {high:.3f} at 0.75.")


def _reliability_figure(found: Evaluation) -> tuple[Markup, str]:
    confidence, frequency = (side.numpy() for side in found.calibration.curve())
    pixels = found.calibration.pixels.numpy()
    fig, ax = plot.figure(4.6, 3)
    middles = (np.arange(len(pixels)) + 0.5) / len(pixels)
    ax.bar(middles, pixels / pixels.sum(), 0.9 / len(pixels), color="#c8ccd0", label="pixels")
    ax.plot([0, 1], [0, 1], "--", color="black", lw=1, label="perfectly calibrated")
    ax.plot(confidence, frequency, "o-", ms=3, label="measured")
    kind = "the foreground" if found.binary else "the predicted class"
    ax.set(xlabel=f"probability of {kind}", ylabel="observed frequency", title="Reliability")
    ax.legend()
    error = f"Expected calibration error {float(found.calibration.error()):.3f}"
    meaning = "the mean distance of the probability from the observed frequency"
    return _image(fig, f"{error}: {meaning}. Bars: share of the pixels.")


def _images_figure(found: Evaluation) -> tuple[Markup, str]:
    ious = by_image(found)
    ious = ious[~ious.isnan()]
    fig, ax = plot.figure(4.6, 3)
    ax.hist(ious.numpy(), bins=np.linspace(0, 1, 21), color="#56B4E9", edgecolor="white")
    ax.set(xlabel="IoU of an image", ylabel="images", title="Image by image")
    if not len(ious):
        return _image(fig, "No image has any foreground.")
    median, tenth = (f"{float(ious.quantile(q)):.3f}" for q in (0.5, 0.1))
    return _image(fig, f"Half of the images are above {median}, nine tenths above {tenth}.")


def _image(fig: Figure, caption: str) -> tuple[Markup, str]:
    content = io.BytesIO()
    fig.savefig(content, format="png", dpi=200)
    plt.close(fig)
    title = fig.axes[0].get_title(loc="left")
    return picture(content.getvalue(), "png", f"{title}. {caption}", 460), caption


def _cases(model: nn.Module, found: Evaluation, indices: Sequence[int]) -> list[dict[str, Any]]:
    """Return the picture and the scores of each image at `indices`."""
    cases, ious = [], by_image(found)
    for i in indices:
        image, target = found.data.raw(i)
        (pred,) = plot.predict_masks(model, found.data, [i], found.metadata.threshold)
        errors = plot.error_map(image, target, pred, found.binary)
        overlays = [plot.overlay(image, mask) for mask in (target, pred)]
        strip, content = plot.strip([plot.rgb(image), *overlays, errors], side=150), io.BytesIO()
        strip.save(content, "JPEG", quality=88, subsampling=0)
        case = {"name": found.data.names[i], "iou": float(ious[i])}
        for ratio in ("precision", "recall"):
            value = float(getattr(found.counts[i], ratio)("macro", include_background=False))
            case[ratio] = None if math.isnan(value) else value
        alt = f"{case['name']}: image, ground truth, prediction, errors"
        case["image"] = picture(content.getvalue(), "jpeg", alt, strip.width)
        cases.append(case)
    return cases


def _tables(model: nn.Module, found: Evaluation) -> list[tuple[str, str, list]]:
    """Return name, caption and rows: what the model, the data and the machine are."""
    metadata, data, masks = found.metadata, found.data, np.asarray(found.data.masks)
    about_model = {
        "network": metadata.network,
        "options": metadata.options or "as built",
        "parameters": f"{sum(p.numel() for p in model.parameters()):,}",
        "input": f"{metadata.in_channels} channels, {metadata.size[1]}×{metadata.size[0]} pixels",
        "classes": ", ".join(metadata.class_names),
        "mean": metadata.mean,
        "standard deviation": metadata.std,
        "threshold": metadata.threshold if found.binary else "none: the largest logit decides",
        **metadata.notes,
    }
    about_data = {
        **data.info,
        "images": len(data),
        "groups": len(set(data.groups)) if any(data.groups) else "none known",
        "images with background only": int((~masks.any(axis=(1, 2))).sum()),
        "pixels ignored": f"{100 * np.count_nonzero(masks == IGNORE) / masks.size:.1f} %",
    }
    shown = ("segkit", "python", "system", "packages", "device", "cores", "threads", "memory")
    machine = {name: value for name, value in environment.report().items() if name in shown}
    machine["python"] = machine["python"].split(" at ")[0]  # without the path of someone's folder
    tables = {
        ("Model", "How it is built and used"): about_model,
        ("Data", "What it was evaluated on"): about_data,
        ("Environment", "Where it was evaluated"): machine,
    }
    return [
        (*names, [(str(k), _text(v)) for k, v in rows.items() if v not in ({}, ())])
        for names, rows in tables.items()
    ]


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text(inner)}" for name, inner in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_text, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
