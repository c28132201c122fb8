"""The pictures of the course: samples, overlays, predictions, curves.

Colours are those of Okabe and Ito (https://jfly.uni-koeln.de/color/), which people with any
colour vision can tell apart. Every picture stands on white, so that it reads in dark mode too.
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

from segkit.data.dataset import IGNORE, SegmentationDataset

PALETTE = np.array(
    [
        (40, 40, 48),  # background
        (230, 159, 0),
        (86, 180, 233),
        (0, 158, 115),
        (240, 228, 66),
        (0, 114, 178),
        (213, 94, 0),
        (204, 121, 167),
    ],
    np.uint8,
)
IGNORE_COLOUR = np.array((190, 190, 190), np.uint8)
STYLE = {
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
plt.rcParams.update(STYLE)


def colours(mask: np.ndarray) -> np.ndarray:
    """Colour a mask of class ids `(H, W)` for the eye: uint8 `(H, W, 3)`, "ignore" is grey."""
    picture = PALETTE[np.asarray(mask) % len(PALETTE)]
    picture[np.asarray(mask) == IGNORE] = IGNORE_COLOUR
    return picture


def rgb(image: np.ndarray) -> np.ndarray:
    """Return a uint8 image as `(H, W, 3)`, whether it is grey or in colour."""
    return np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image


def overlay(image: np.ndarray, mask: np.ndarray, alpha: float = 0.55) -> np.ndarray:
    """Lay the classes of `mask` over the image, uint8 `(H, W, 3)`; the background stays clear."""
    picture = rgb(image).astype(np.float32)
    marked = np.asarray(mask) != 0
    picture[marked] = (1 - alpha) * picture[marked] + alpha * colours(mask)[marked]
    return picture.round().astype(np.uint8)


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
    patches = [
        Patch(color=PALETTE[i % len(PALETTE)] / 255, label=name)
        for i, name in enumerate(class_names)
    ]
    if ignore:
        patches.append(Patch(color=IGNORE_COLOUR / 255, label="ignored"))
    where = "outside lower center" if isinstance(ax, Figure) else "upper left"
    ax.legend(handles=patches, loc=where, ncols=len(patches), frameon=False, fontsize=8)


def samples(
    dataset: SegmentationDataset, n: int = 6, indices: Sequence[int] | None = None
) -> Figure:
    """Draw `n` items of a data set (or those at `indices`): image, mask, both together."""
    indices = list(range(min(n, len(dataset)))) if indices is None else list(indices)
    fig, axes = grid(3, len(indices), row_titles=["image", "mask", "overlay"])
    ignored = False
    for column, i in zip(axes.T, indices, strict=True):
        image, mask = dataset.raw(i)
        ignored |= bool((mask == IGNORE).any())
        for ax, picture in zip(column, (rgb(image), colours(mask), overlay(image, mask)),
                               strict=True):  # fmt: skip
            ax.imshow(picture, interpolation="nearest")
        column[0].set_title(dataset.names[i], fontsize=8, loc="center")
    legend(fig, dataset.class_names, ignored)
    return fig


@torch.no_grad()
def predict_masks(
    model: torch.nn.Module, dataset: SegmentationDataset, indices: Sequence[int]
) -> np.ndarray:
    """Return the class ids `(n, H, W)` that `model` sees in the items at `indices`."""
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    logits = model(torch.stack([dataset[i][0] for i in indices]).to(device))
    model.train(was_training)
    ids = logits.argmax(1) if logits.shape[1] > 1 else (logits[:, 0] > 0).long()
    return ids.cpu().numpy().astype(np.uint8)


def predictions(
    model: torch.nn.Module,
    dataset: SegmentationDataset,
    n: int = 6,
    indices: Sequence[int] | None = None,
) -> Figure:
    """Draw image, truth, prediction and error for `n` items; wrong pixels are red, right ones dim.

    The pixels that the truth ignores are grey in truth and error.
    """
    indices = list(range(min(n, len(dataset)))) if indices is None else list(indices)
    predicted = predict_masks(model, dataset, indices)
    fig, axes = grid(4, len(indices), row_titles=["image", "truth", "prediction", "error"])
    ignored = False
    for column, i, guess in zip(axes.T, indices, predicted, strict=True):
        image, mask = dataset.raw(i)
        ignored |= bool((mask == IGNORE).any())
        error = (rgb(image) * 0.35).astype(np.uint8)
        error[(guess != mask)] = (213, 94, 0)
        error[mask == IGNORE] = IGNORE_COLOUR
        pictures = (rgb(image), colours(mask), colours(guess), error)
        for ax, picture in zip(column, pictures, strict=True):
            ax.imshow(picture, interpolation="nearest")
        column[0].set_title(dataset.names[i], fontsize=8, loc="center")
    legend(fig, dataset.class_names, ignored)
    return fig


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
        raise ValueError("say in alt what the picture shows, for those who do not see it")
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
