"""The pictures of the course: samples, overlays, predictions, curves.

Classes have the colours of `image_ops.PALETTE`. Every picture stands on white, so that it reads
in dark mode too.
Importing this module sets the style for all of matplotlib, so that a lesson's own plots match.
"""

import base64
import io
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image

from segkit import image_ops
from segkit.data.dataset import IGNORE, SegmentationDataset
from segkit.errors import ArgumentError
from segkit.image_ops import IGNORE_COLOUR, PALETTE, colours, overlay, rgb

_STYLE = {
    "figure.facecolor": "white",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "axes.prop_cycle": plt.cycler(
        color=["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
    ),
}
plt.rcParams.update(_STYLE)


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
        for spine in ax.spines.values():
            spine.set_visible(False)
    for ax, title in zip(axes[:, 0], row_titles, strict=False):
        ax.set_ylabel(title, rotation=0, ha="right", va="center")
    return fig, axes


def figure(width: float = 6.0, height: float = 3.0, **options) -> tuple[Figure, Axes]:
    """Return a figure and its axes in the course's style; options are those of plt.subplots."""
    return plt.subplots(figsize=(width, height), layout="constrained", **options)


def legend(ax: Axes | Figure, class_names: Sequence[str], ignore: bool = False) -> None:
    """Name the colours of the classes below a figure or beside an axes."""
    patches = [Patch(color=PALETTE[i] / 255, label=name) for i, name in enumerate(class_names)]
    if ignore:
        patches.append(Patch(color=IGNORE_COLOUR / 255, label="ignored"))
    loc = "outside lower center" if isinstance(ax, Figure) else "upper left"
    drawn = ax.legend(handles=patches, loc=loc, ncols=len(patches), frameon=False, fontsize=8)
    for text in drawn.get_texts():
        text.set_parse_math(False)  # a name with two $ is no formula


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
    """Return pictures of one size beside each other, on white.

    Args:
        panels: uint8 `(H, W, 3)` each.
        side: pixels of the longer side of each panel in the result.
        gap: pixels between them.
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
    legend(fig, dataset.class_names, any((dataset.raw(i)[1] == IGNORE).any() for i in indices))
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


@torch.no_grad()
def predict_masks(
    model: torch.nn.Module,
    dataset: SegmentationDataset,
    indices: Sequence[int],
    threshold: float = 0.5,
) -> np.ndarray:
    """Return the class ids, uint8 `(n, H, W)`, that `model` predicts for the items at `indices`.

    threshold: probability above which a pixel is foreground, for one channel.
    """
    was_training = model.training
    model.eval()
    weights = next(model.parameters())
    images = torch.stack([dataset[i][0] for i in indices])
    logits = model(images.to(weights.device, weights.dtype))
    model.train(was_training)
    return image_ops.logits_to_mask(logits.float().cpu().numpy(), threshold)


def predictions(
    model: torch.nn.Module,
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
        line = left.plot(epochs, history["train_loss"], label=f"{name} train".strip())[0]
        has_val = not any(value is None for value in history["val_loss"])
        if has_val:
            left.plot(epochs, history["val_loss"], "--", color=line.get_color(),
                      label=f"{name} val".strip())  # fmt: skip
            right.plot(epochs, history[metric], color=line.get_color(), label=name or None)
    left.set(xlabel="epoch", ylabel="loss", title="Loss: lower is better")
    label = metric.replace("val_", "").replace("iou", "IoU").replace("dice", "Dice")
    right.set(xlabel="epoch", ylabel=label, title=f"Validation {label}: higher is better")
    right.set_ylim(0, 1)
    left.legend()
    if any(histories):
        right.legend()
    return fig


def show(fig: Figure, alt: str, dpi: int = 100) -> None:
    """Show a figure in a notebook with its alternative text, and close it.

    alt: one or two sentences for those who do not see the picture; it must not be empty.
    """
    if not alt.strip():
        raise ArgumentError("alt is empty: describe the picture for those who do not see it")
    from IPython.display import display  # only notebooks show pictures

    drawn, picture = io.BytesIO(), io.BytesIO()
    fig.savefig(drawn, format="png", dpi=dpi)
    plt.close(fig)
    # 256 colours, chosen for this picture, look the same and take a third of the room
    few = Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    few.save(picture, format="png", optimize=True)
    display(
        {"image/png": base64.b64encode(picture.getvalue()).decode(), "text/plain": alt},
        metadata={"image/png": {"alt": alt}},
        raw=True,
    )
