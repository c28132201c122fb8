"""The report card of a model: one call, one HTML page that needs no other file."""

import io
import math
from html import escape
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor, nn

from segkit import environment, judge, plot
from segkit.data.dataset import IGNORE, SegmentationDataset
from segkit.files import write_text
from segkit.judge import Judgement
from segkit.metrics import THRESHOLDS, Counts, Interval
from segkit.model_file import ModelMetadata
from segkit.onnx_predictor import decide
from segkit.page import Raw, page, picture, table

CELL = 150  # pixels of a picture's longer side, in the cases
GAP = 6
FALSE_ALARM, MISSED = (213, 94, 0), (86, 180, 233)
STYLE = """
.head { border-left: .4rem solid var(--accent); font-size: 1.15rem; padding: .2rem 1rem; }
.head b { font-size: 1.6rem; }
svg.interval { display: block; height: 1.2rem; width: 18rem; }
.cases { display: grid; gap: 1.2rem;
  grid-template-columns: repeat(auto-fill, minmax(min(26rem, 100%), 1fr)); }
.cases img { display: block; width: 100%; }
@media (max-width: 45rem) { svg.interval { width: 6rem; } }
.key { border-radius: 3px; display: inline-block; height: .8em; width: .8em; }
"""


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
    """Write the report card of `model` on `data` to the file `out`; return its numbers.

    data: images that neither training nor the choice of threshold has seen. validation: those on
    which the threshold was chosen, to draw their curve too. cases: how many of the worst and of
    the best images to show. The numbers are those of `segkit.judge.summary`.
    Raises DataError for data that do not fit the model.
    """
    judged = judge.judge(model, metadata, data, batch_size)
    earlier = (
        judge.judge(model, metadata, validation, batch_size) if validation is not None else None
    )
    scores = judge.scores(judged)
    parts = [
        _head(judged, scores),
        _scores(scores),
        _classes(judge.by_class(judged)),
        _curves(judged, earlier),
        _cases(model, judged, cases),
        _metadata(model, judged),
    ]
    html = page(title or f"Report card: {metadata.network}", "\n".join(parts), STYLE)
    write_text(out, html)
    return judge.summary(judged, scores)


def _head(judged: Judgement, scores: dict[str, Interval]) -> str:
    name, score = next(iter(scores.items()))
    height, width = judged.metadata.size
    rule = f", at the threshold {judged.metadata.threshold:g}" if judged.binary else ""
    few = " Few images: the true interval is wider." if len(judged.data) < 20 else ""
    return (
        f'<p class="head"><b>{name} {_number(score.value)}</b> '
        f"(95 % of resamples: {_number(score.low)} to {_number(score.high)}) "
        f"on {len(judged.data)} images of {width}×{height} pixels{rule}.{few}</p>"
    )


def _scores(scores: dict[str, Interval]) -> str:
    rows = [
        (name, _number(s.value), f"{_number(s.low)} to {_number(s.high)}", _bar(s))
        for name, s in scores.items()
    ]
    note = (
        "IoU, Dice, precision and recall pool the pixels of all images unless they say "
        "otherwise; boundary IoU counts only near the contours. Intervals are bootstrapped over "
        "images: they are too narrow where several images show one patient or animal."
    )
    caption = "Scores with 95 % intervals; the line runs from 0 to 1"
    columns = ("Score", "Value", "95 % interval", "0 … 1")
    return f'<h2>Scores</h2>{table(caption, columns, rows)}<p class="quiet">{note}</p>'


def _bar(score: Interval) -> Raw:
    """Draw an interval on a line from 0 to 1, in the colours of the page."""
    if not all(math.isfinite(value) for value in score):
        return Raw("")
    low, high, value = (100 * x for x in (score.low, score.high, score.value))
    return Raw(
        '<svg class="interval" viewBox="-1 0 102 6" aria-hidden="true">'
        '<path d="M0 3H100" stroke="var(--line)" stroke-width=".5"/>'
        f'<path d="M{low:.1f} 3H{high:.1f}" stroke="var(--accent)" stroke-width="2"/>'
        f'<path d="M{value:.1f} 0V6" stroke="var(--accent)"/></svg>'
    )


def _classes(rows: list[dict]) -> str:
    ratios = ("IoU", "Dice", "precision", "recall")
    cells = [
        (
            row["class"],
            *(_number(row[name]) for name in ratios),
            f"{100 * row['pixels']:.1f} %",
            str(row["images"]),
        )
        for row in rows
    ]
    columns = ("Class", *ratios, "true pixels", "images with it")
    return "<h2>Classes</h2>" + table("Each class against the rest", columns, cells)


def _curves(judged: Judgement, earlier: Judgement | None) -> str:
    figures = [_picture(*_images_figure(judged)), _picture(*_reliability_figure(judged))]
    if judged.binary:
        figures.insert(0, _picture(*_threshold_figure(judged, earlier)))
    return f'<h2>Behaviour</h2><div class="side">{"".join(figures)}</div>'


def _picture(fig: Figure, caption: str) -> str:
    content = io.BytesIO()
    fig.savefig(content, format="png", dpi=200)
    plt.close(fig)
    title = fig.axes[0].get_title(loc="left")
    drawn = picture(content.getvalue(), "png", f"{title}. {caption}", 460)
    return f"<figure>{drawn}<figcaption>{caption}</figcaption></figure>"


def _threshold_figure(judged: Judgement, earlier: Judgement | None) -> tuple[Figure, str]:
    fig, ax = plot.figure(4.6, 3)
    curves = {"IoU": judged.sweep.iou, "precision": judged.sweep.precision}
    for name, score in (curves | {"recall": judged.sweep.recall}).items():
        ax.plot(THRESHOLDS, score(), label=name, lw=2 if name == "IoU" else 1)
    if earlier:
        ax.plot(THRESHOLDS, earlier.sweep.iou(), "--", color="#0072B2", label="IoU, validation")
    chosen = judged.metadata.threshold
    ax.axvline(chosen, color="black", lw=1, ls=":")
    ax.set(xlabel="threshold", ylim=(0, 1.02), title="Scores by threshold")
    ax.legend()
    ious = judged.sweep.iou().nan_to_num(0)
    low, high = (float(ious[THRESHOLDS.index(t)]) for t in (0.25, 0.75))
    told = f"The dotted line is the threshold in use, {chosen:g}."
    return fig, f"{told} IoU is {low:.3f} at 0.25 and {high:.3f} at 0.75."


def _reliability_figure(judged: Judgement) -> tuple[Figure, str]:
    claimed, right = (side.numpy() for side in judged.calibration.curve())
    pixels = judged.calibration.pixels.numpy()
    fig, ax = plot.figure(4.6, 3)
    bins = len(pixels)
    middles = (np.arange(bins) + 0.5) / bins
    ax.bar(middles, pixels / pixels.sum(), width=0.9 / bins, color="#c8ccd0", label="pixels")
    ax.plot([0, 1], [0, 1], "--", color="black", lw=1, label="as it claims")
    ax.plot(claimed, right, "o-", ms=3, label="found")
    what = "said to be foreground" if judged.binary else "of the winning class"
    ax.set(xlabel=f"probability {what}", ylabel="share that is right", title="Reliability")
    ax.legend()
    error = float(judged.calibration.error())
    return fig, (
        f"Expected calibration error {error:.3f}: on average its probabilities are that far from "
        "how often it is right. Bars: share of the pixels."
    )


def _images_figure(judged: Judgement) -> tuple[Figure, str]:
    ious = judge.by_image(judged)
    ious = ious[~ious.isnan()]
    fig, ax = plot.figure(4.6, 3)
    ax.hist(ious.numpy(), bins=np.linspace(0, 1, 21), color="#56B4E9", edgecolor="white")
    ax.set(xlabel="IoU of an image", ylabel="images", title="Image by image")
    if not len(ious):
        return fig, "No image has anything to find."
    low, middle = (float(ious.quantile(q)) for q in (0.1, 0.5))
    return fig, f"Half of the images are above {middle:.3f}, nine tenths above {low:.3f}."


def _cases(model: nn.Module, judged: Judgement, n: int) -> str:
    worst, best = judge.extremes(judged, n)
    keys = {"false alarm": FALSE_ALARM, "missed": MISSED, "ignored": tuple(plot.IGNORE_COLOUR)}
    if not judged.binary:
        keys = {"wrong": FALSE_ALARM, "ignored": tuple(plot.IGNORE_COLOUR)}
    key = " ".join(
        f'<span class="key" style="background: rgb{tuple(map(int, colour))}"></span> {name}'
        for name, colour in keys.items()
    )
    read = f'<p class="quiet">From left: image, truth, prediction, errors ({key}).</p>'
    parts = []
    for word, indices in (("Worst", worst), ("Best", best)):
        strips = "".join(_case(model, judged, i) for i in indices)
        parts.append(f'<h2>{word} cases</h2>{read}<div class="cases">{strips}</div>')
    return "".join(parts)


def _case(model: nn.Module, judged: Judgement, i: int) -> str:
    image, truth = judged.data.raw(i)
    device = next(model.parameters()).device
    with torch.inference_mode():
        logits = model(judged.data[i][0][None].to(device))[0].float().cpu().numpy()
    guess = decide(logits, judged.metadata.threshold)
    name, iou = judged.data.names[i], float(judge.by_image(judged)[i])
    told = f"{name}: IoU {_number(iou)}, {_what_went_wrong(judged.counts[i : i + 1])}"
    strip, content = _strip(image, truth, guess, judged.binary), io.BytesIO()
    strip.save(content, "JPEG", quality=88, subsampling=0)
    alt = f"{name}: image, truth, prediction, errors"
    drawn = picture(content.getvalue(), "jpeg", alt, strip.width)
    return f"<figure>{drawn}<figcaption>{escape(told)}</figcaption></figure>"


def _what_went_wrong(counts: Counts) -> str:
    options = {"include_background": False}
    precision = float(counts.precision("macro", **options))
    recall = float(counts.recall("macro", **options))
    return f"precision {_number(precision)}, recall {_number(recall)}"


def _strip(image: np.ndarray, truth: np.ndarray, guess: np.ndarray, binary: bool) -> Image.Image:
    """Return image, truth, prediction and errors side by side."""
    errors = (plot.rgb(image) * 0.35).astype(np.uint8)
    errors[guess != truth] = FALSE_ALARM
    if binary:
        errors[(guess == 0) & (truth == 1)] = MISSED
    errors[truth == IGNORE] = plot.IGNORE_COLOUR
    panels = [plot.rgb(image), plot.overlay(image, truth), plot.overlay(image, guess), errors]
    scale = CELL / max(truth.shape)
    size = (round(truth.shape[1] * scale), round(truth.shape[0] * scale))
    how = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BILINEAR
    strip = Image.new("RGB", (4 * size[0] + 3 * GAP, size[1]), "white")
    for k, panel in enumerate(panels):
        strip.paste(Image.fromarray(panel).resize(size, how), (k * (size[0] + GAP), 0))
    return strip


def _metadata(model: nn.Module, judged: Judgement) -> str:
    metadata, data = judged.metadata, judged.data
    about_model = {
        "network": metadata.network,
        "options": metadata.options or "as built",
        "parameters": f"{sum(p.numel() for p in model.parameters()):,}",
        "input": f"{metadata.in_channels} channels, {metadata.size[1]}×{metadata.size[0]} pixels",
        "classes": ", ".join(metadata.class_names),
        "mean": metadata.mean,
        "standard deviation": metadata.std,
        "threshold": metadata.threshold if judged.binary else "none: the largest logit decides",
        **metadata.notes,
    }
    masks = np.asarray(data.masks)
    about_data = {
        **data.info,
        "images": len(data),
        "groups": len(set(data.groups)) if any(data.groups) else "none known",
        "images with background only": int((~masks.any(axis=(1, 2))).sum()),
        "pixels ignored": f"{100 * np.count_nonzero(masks == IGNORE) / masks.size:.1f} %",
    }
    shown = ("segkit", "python", "system", "packages", "device", "cores", "threads", "memory")
    machine = {name: value for name, value in environment.report().items() if name in shown}
    machine["python"] = machine["python"].split(" at ")[0]  # not whose folders it lies in
    blocks = {
        ("Model", "How it is built and used"): about_model,
        ("Data", "What it was judged on"): about_data,
        ("Environment", "Where it was judged"): machine,
    }
    return "".join(
        f"<h2>{name}</h2>{table(caption, (), _lines(block), numbers=False)}"
        for (name, caption), block in blocks.items()
    )


def _lines(block: dict[str, Any]) -> list[tuple[str, str]]:
    return [(str(name), _told(value)) for name, value in block.items() if value not in ({}, ())]


def _told(value: Any) -> str:
    """Return a fact as text."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {_told(inner)}" for name, inner in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_told, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _number(value: float | Tensor) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"
