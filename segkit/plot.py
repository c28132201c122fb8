"""The pictures of the course: samples, overlays, predictions, curves, on white in any mode.

Classes have the colours of `image_ops.PALETTE`. Importing this module sets the style for all of
matplotlib, so that a lesson's own plots match.
"""

import base64
import io
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image
from torch import nn

from segkit import image_ops
from segkit.data.dataset import IGNORE, SegmentationDataset
from segkit.errors import ArgumentError
from segkit.image_ops import IGNORE_COLOUR, PALETTE, colours, logits_to_mask, overlay, rgb
from segkit.train import predict_batches

_CYCLE = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
plt.rc("figure", facecolor="white")
plt.rc("axes", prop_cycle=plt.cycler(color=_CYCLE), grid=True)
plt.rc("axes", titlelocation="left", titlesize=10, labelsize=9)
plt.rc("axes.spines", top=False, right=False)
plt.rc("grid", alpha=0.25)
plt.rc("legend", frameon=False, fontsize=8)
plt.rc(("xtick", "ytick"), labelsize=8)


def grid(
    rows: int, columns: int, cell: float = 1.5, row_titles: Sequence[str] = ()
) -> tuple[Figure, np.ndarray]:
    """Return a figure of `rows` x `columns` bare axes, `cell` inches each, for pictures."""
    room = 0.9 if row_titles else 0
    size = (columns * cell + room, rows * (cell + 0.1) + 0.25)
    fig, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
        ax.grid(False)
        ax.spines[:].set_visible(False)
    for ax, title in zip(axes[:, 0], row_titles, strict=False):
        ax.set_ylabel(title, rotation=0, ha="right", va="center")
    return fig, axes


def figure(width: float = 6.0, height: float = 3.0, **options) -> tuple[Figure, Axes]:
    """Return a figure and its axes in the course's style; options are those of plt.subplots."""
    return plt.subplots(figsize=(width, height), layout="constrained", **options)


def error_map(
    image: np.ndarray, target: np.ndarray, pred: np.ndarray, binary: bool = False
) -> np.ndarray:
    """Mark wrong pixels on a darkened image, uint8 `(H, W, 3)`: red, grey where ignored.

    binary: whether foreground that was missed (false negatives) is blue instead.
    """
    picture = (rgb(image) * 0.35).astype(np.uint8)
    picture[pred != target] = image_ops.FALSE_POSITIVE
    if binary:
        picture[(pred == 0) & (target == 1)] = image_ops.FALSE_NEGATIVE
    picture[target == IGNORE] = IGNORE_COLOUR
    return picture


def strip(panels: Sequence[np.ndarray], side: int, gap: int = 6) -> Image.Image:
    """Return pictures of one size, uint8 `(H, W, 3)` each, beside each other on white.

    side: pixels of the longer side of each in the result. gap: pixels between them.
    """
    height, width = panels[0].shape[:2]
    scale = side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    resample = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BILINEAR
    picture = Image.new("RGB", (len(panels) * (size[0] + gap) - gap, size[1]), "white")
    for k, panel in enumerate(panels):
        picture.paste(Image.fromarray(panel).resize(size, resample), (k * (size[0] + gap), 0))
    return picture


def _columns(
    dataset: SegmentationDataset, indices: Sequence[int], pictures: Sequence[dict[str, np.ndarray]]
) -> Figure:
    """Draw a column for each item; `pictures` maps the titles of the rows to its pictures."""
    fig, axes = grid(len(pictures[0]), len(indices), row_titles=list(pictures[0]))
    for column, i, named in zip(axes.T, indices, pictures, strict=True):
        for ax, picture in zip(column, named.values(), strict=True):
            ax.imshow(picture, interpolation="nearest")
        column[0].set_title(dataset.names[i], fontsize=8, loc="center", parse_math=False)
    patches = [Patch(color=PALETTE[k] / 255, label=n) for k, n in enumerate(dataset.class_names)]
    if any((dataset.raw(i)[1] == IGNORE).any() for i in indices):
        patches.append(Patch(color=IGNORE_COLOUR / 255, label="ignored"))
    legend = fig.legend(handles=patches, loc="outside lower center", ncols=len(patches))
    for text in legend.get_texts():
        text.set_parse_math(False)  # a name with two $ is no formula
    return fig


def samples(
    dataset: SegmentationDataset, n: int = 6, indices: Sequence[int] | None = None
) -> Figure:
    """Draw `n` items of a data set (or those at `indices`): image, mask, both together."""
    indices = range(min(n, len(dataset))) if indices is None else indices
    pictures = [
        {"image": rgb(image), "mask": colours(mask), "overlay": overlay(image, mask)}
        for image, mask in map(dataset.raw, indices)
    ]
    return _columns(dataset, indices, pictures)


def predict_masks(
    model: nn.Module, dataset: SegmentationDataset, indices: Sequence[int], threshold: float = 0.5
) -> np.ndarray:
    """Return the class ids, uint8 `(n, H, W)`, that `model` predicts for the items at `indices`."""
    was_training = model.training
    batches = predict_batches(model, dataset.subset(indices), batch_size=len(indices))
    masks = [logits_to_mask(logits.cpu().numpy(), threshold) for logits, _ in batches]
    model.train(was_training)
    return np.concatenate(masks)


def predictions(
    model: nn.Module,
    dataset: SegmentationDataset,
    n: int = 6,
    indices: Sequence[int] | None = None,
    threshold: float = 0.5,
) -> Figure:
    """Draw image, ground truth, prediction and errors (see `error_map`) for `n` items."""
    indices = range(min(n, len(dataset))) if indices is None else indices
    pictures = []
    for i, pred in zip(indices, predict_masks(model, dataset, indices, threshold), strict=True):
        image, target = dataset.raw(i)
        row = {"image": rgb(image), "ground truth": colours(target), "prediction": colours(pred)}
        pictures.append(row | {"error": error_map(image, target, pred)})
    return _columns(dataset, indices, pictures)


def curves(histories, metric: str = "val_iou") -> Figure:
    """Draw loss and `metric` over the epochs of one history, or of several: {name: history}."""
    if not isinstance(histories, dict):
        histories = {"": histories}
    fig, (left, right) = figure(7.5, 2.8, ncols=2)
    for name, history in histories.items():
        epochs = history["epoch"]
        (line,) = left.plot(epochs, history["train_loss"], label=f"{name} train".strip())
        if None not in history["val_loss"]:
            style = {"color": line.get_color()}
            left.plot(epochs, history["val_loss"], "--", label=f"{name} val".strip(), **style)
            right.plot(epochs, history[metric], label=name or None, **style)
    left.set(xlabel="epoch", ylabel="loss", title="Loss: lower is better")
    label = metric.replace("val_", "").replace("iou", "IoU").replace("dice", "Dice")
    title = f"Validation {label}: higher is better"
    right.set(xlabel="epoch", ylabel=label, title=title, ylim=(0, 1))
    left.legend()
    if any(histories):
        right.legend()
    return fig


def show(fig: Figure, alt: str, dpi: int = 100) -> None:
    """Show a figure in a notebook with its alternative text, and close it."""
    if not alt.strip():
        raise ArgumentError("alt is empty: describe the picture for those who do not see it")
    from IPython.display import display  # only notebooks show pictures

    drawn, picture = io.BytesIO(), io.BytesIO()
    fig.savefig(drawn, format="png", dpi=dpi)
    plt.close(fig)
    # 256 colours, chosen for this picture, look the same and take a third of the room
    few = Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    few.save(picture, format="png", optimize=True)
    content = {"image/png": base64.b64encode(picture.getvalue()).decode(), "text/plain": alt}
    display(content, metadata={"image/png": {"alt": alt}}, raw=True)
