"""Look inside a network: what it costs, stage by stage, how far it sees, and how it is wired.

A stage is one named part of a network: a child module or, where a child is a list or returns
several maps (an encoder), each of its parts. Networks from elsewhere work as well.
"""

import copy
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .trace import Costs, MeanForMax, Walk, in_channels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MIB = 2**20
CANVAS = 4096
"""Pixels: the side of the image, made of shapes only, on which receptive fields are measured."""


@dataclass(frozen=True)
class Stage:
    """One stage: what it makes of an image, what that costs, and what it sees.

    shape: `(channels, height, width)` of its output. flops: of the forward pass, two for a
    multiply-add, convolutions only (torch's counter). saved: bytes of float32 activations that
    the backward pass will need, counted where they are first kept. field: receptive field at its
    output, stride: distance of two neighbours there, both in pixels of the image. sources: the
    stages whose maps it reads (`"image"` is the input); join: how several are joined, "concat"
    or "sum".
    """

    name: str
    shape: tuple[int, ...]
    parameters: int
    flops: int
    saved: int
    field: int
    stride: int
    sources: tuple[str, ...]
    join: str


@dataclass(frozen=True)
class Summary:
    """The stages of a network in the order of execution; `print` shows a table with totals."""

    stages: list[Stage]

    def total(self, column: str) -> int:
        """Return the sum of "parameters", "flops" or "saved" over all stages."""
        return sum(getattr(stage, column) for stage in self.stages)

    def __str__(self) -> str:
        lines = [("stage", "output", "parameters", "MFLOP", "saved MiB", "field", "stride")]
        for s in self.stages:
            shape = "×".join(map(str, s.shape))
            lines.append((s.name, shape, *_costs(s), str(s.field), str(s.stride)))
        lines.append(("total", "", *_costs(self), "", ""))
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(
            "  ".join(
                f"{cell:<{width}}" if i < 2 else f"{cell:>{width}}"
                for i, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        )


def _costs(of: Stage | Summary) -> tuple[str, str, str]:
    def get(column: str) -> int:
        return of.total(column) if isinstance(of, Summary) else getattr(of, column)

    return f"{get('parameters'):,}", f"{get('flops') / 1e6:,.1f}", f"{get('saved') / MIB:,.2f}"


def parameters(module: nn.Module) -> int:
    """Return how many numbers `module` learns."""
    return sum(p.numel() for p in module.parameters())


def summary(model: nn.Module, size: int | tuple[int, int] = 256) -> Summary:
    """Return what each stage of `model` costs for one image of `size` pixels, and what it sees.

    It runs on shapes only, so a large network and image take no memory and little time.
    """
    costs, walk = Costs(model, size), Walk(model, CANVAS)
    return Summary(
        [
            Stage(
                name=name,
                shape=costs.shapes[name],
                parameters=parameters(model.get_submodule(name)),
                flops=costs.flops[name],
                saved=costs.saved[name],
                field=walk.field(seen),
                stride=round(CANVAS / len(seen.first)),
                sources=walk.sources[name],
                join=walk.joins[name],
            )
            for name, seen in walk.outputs.items()
        ]
    )


def receptive_field(model: nn.Module, stage: str | None = None) -> int:
    """Return how many pixels of the image, along one axis, one output pixel can depend on.

    Every operation is followed, tap by tap, back to the image, so the answer is exact, whatever
    the wiring. For layers in a row that keep or lower the resolution it is the textbook's rule:
    start with a field and a jump of 1; a layer with kernel `k`, stride `s` and dilation `d` adds
    `(k - 1) · d · jump` to the field and multiplies the jump by `s`. After upsampling, neighbours
    see differently far; then this is the field of the one that sees most.
    stage: at the output of that stage, instead of the network's.
    Source of the rule: Araujo, Norris, Sim 2019, https://doi.org/10.23915/distill.00021
    """
    walk = Walk(model, CANVAS)
    return walk.field(walk.outputs[stage] if stage else walk.result)


def receptive_fields(model: nn.Module) -> dict[str, int]:
    """Return the receptive field at the output of each stage, in the order of execution."""
    walk = Walk(model, CANVAS)
    return {name: walk.field(seen) for name, seen in walk.outputs.items()}


def gradient_support(
    model: nn.Module, size: int, stage: str | None = None, pixel: tuple[int, int] | None = None
) -> Tensor:
    """Return `(size, size)`: the gradient of one output pixel with respect to each image pixel.

    It is non-zero exactly where the pixel can depend on the image, for nothing closes a path
    and no two paths cancel: weights are made positive, maxima become means, and batch
    normalisation does nothing. No formula is involved, so this checks `receptive_field`.
    It computes in float64; take a narrow network, the width does not change what is seen.
    pixel: row and column at the output of `stage` (or the network), by default the central ones.
    """
    model = copy.deepcopy(model).cpu().double().eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.abs_().clamp_(min=1e-3)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
    outputs: list[Tensor] = []
    part = model.get_submodule(stage) if stage else model
    part.register_forward_hook(lambda module, args, output: outputs.append(output))
    image = torch.ones(1, in_channels(model), size, size, dtype=torch.float64, requires_grad=True)
    with MeanForMax():
        model(image)
    row, column = pixel or (n // 2 for n in outputs[0].shape[-2:])
    (gradient,) = torch.autograd.grad(outputs[0][..., row, column].sum(), image)
    return gradient[0].sum(0)


def extent(support: Tensor) -> tuple[int, int]:
    """Return height and width of the smallest box around the non-zero part of `(H, W)`."""
    rows, columns = support.ne(0).any(1).nonzero(), support.ne(0).any(0).nonzero()
    return int(rows[-1] - rows[0]) + 1, int(columns[-1] - columns[0]) + 1


BLUE, ORANGE, DARK = "#0072b2", "#d55e00", "#303038"  # told apart with any colour vision


def plot_receptive_field(
    model: nn.Module, size: int | None = None, stage: str | None = None, ax: "Axes | None" = None
) -> "Axes":
    """Draw what the central output pixel sees: the gradient's support and, dashed, the formula's.

    The colour is each image pixel's share of the gradient, on a logarithmic scale: most of the
    weight is in the middle, however wide the field. size: of the image, by default a third wider
    than the field. It computes (`gradient_support`), so take a narrow network.
    """
    import matplotlib.pyplot as plt

    size = size or receptive_field(model, stage) * 4 // 3
    walk = Walk(model, size)
    seen = walk.outputs[stage] if stage else walk.result
    centre = len(seen.first) // 2
    first, last = int(seen.first[centre]), int(seen.last[centre])
    share = gradient_support(model, size, stage)
    height, width = extent(share)
    share = (share / share.max()).log10()
    if ax is None:
        _, ax = plt.subplots(figsize=(4.6, 3.8), layout="constrained", facecolor="white")
    image = ax.imshow(share.where(share.isfinite(), torch.nan).numpy(), cmap="viridis")
    side = last - first + 1
    corner = (first - 0.5, first - 0.5)
    ax.add_patch(plt.Rectangle(corner, side, side, fill=False, ec=ORANGE, lw=2, ls="--"))
    ax.set_title(
        f"one pixel sees {width}×{height}\n(dashed: the formula, {side}×{side})", loc="left"
    )
    ax.set(xlabel="column of the image", ylabel="row of the image", facecolor="white")
    ax.grid(False)
    ax.figure.colorbar(image, ax=ax, label="share of the gradient, 10 to the power of")
    return ax


def diagram(
    model: nn.Module, size: int | tuple[int, int] = 256, ax: "Axes | None" = None
) -> "Axes":
    """Draw the stages and the maps that flow between them, as the module really runs.

    A box is the output of a stage: the lower, the coarser, the wider, the more channels (their
    number is in it). Grey arrows lead to the next stage, skip connections leave and enter at
    the top: solid blue where maps are concatenated, dashed orange where they are summed.
    """
    import matplotlib.pyplot as plt

    rows = summary(model, size).stages
    place = {row.name: (i, -math.log2(row.stride)) for i, row in enumerate(rows)}
    bottom = min(y for _, y in place.values())
    if ax is None:
        shape = (max(4.0, 0.62 * len(rows) + 0.6), 2.2 - 0.75 * bottom)
        _, ax = plt.subplots(figsize=shape, layout="constrained", facecolor="white")
    half = {row.name: 0.24 + 0.014 * math.log2(row.shape[0]) for row in rows}
    for row in rows:
        x, y = place[row.name]
        box = plt.Rectangle((x - half[row.name], y - 0.2), 2 * half[row.name], 0.4)
        box.set(facecolor="#dbe9f4", edgecolor=DARK)
        ax.add_patch(box)
        ax.text(x, y, row.shape[0], ha="center", va="center", fontsize=7, color=DARK)
        name = row.name.replace(".", "\n")
        ax.text(x, y - 0.26, name, ha="center", va="top", fontsize=7, color=DARK)
    lanes = _draw_flow(ax, rows, place, half)
    levels = {y: row.shape[1:] for row, (_, y) in zip(rows, place.values(), strict=True)}
    ax.set_yticks(list(levels), [f"{h}×{w}" for h, w in levels.values()])
    ax.set_xticks([])
    ax.set(xlim=(-0.7, len(rows) - 0.3), ylim=(bottom - 0.75, 0.35 + 0.14 * lanes))
    ax.set_facecolor("white")
    ax.grid(False)
    ax.spines[:].set_visible(False)
    return ax


def _draw_flow(ax: "Axes", rows: list[Stage], place: dict, half: dict) -> int:
    """Draw the arrows; return how many lanes of skip connections lie above the highest boxes."""
    arrow = {"arrowstyle": "-|>", "shrinkA": 0, "shrinkB": 0, "mutation_scale": 7}
    before = {row.name: rows[i - 1].name for i, row in enumerate(rows) if i}
    skips = []
    for row in rows:
        for source in row.sources:
            if source == before.get(row.name):
                start, end = place[source], place[row.name]
                tips = {"xytext": (start[0] + half[source], start[1])}
                tips["xy"] = (end[0] - half[row.name], end[1])
                ax.annotate("", **tips, arrowprops={**arrow, "color": "#707070"})
            elif source in place:
                skips.append((place[source], place[row.name], row.join))
    taken: list[tuple[float, float, float, int]] = []  # top, left, right, lane
    for (x1, y1), (x2, y2), join in sorted(skips, key=lambda skip: skip[1][0] - skip[0][0]):
        top = max(y1, y2)
        over = [lane for y, a, b, lane in taken if y == top and a < x2 and x1 < b]
        lane = max(over, default=0) + 1
        taken.append((top, x1, x2, lane))
        arrived = sum(1 for _, _, b, _ in taken[:-1] if b == x2)
        height = top + 0.2 + 0.14 * lane
        x1, x2 = x1 + 0.1, x2 - 0.1 + 0.08 * arrived
        colour, line = (BLUE, "-") if join == "concat" else (ORANGE, "--")
        ax.plot([x1, x1, x2, x2], [y1 + 0.2, height, height, y2 + 0.3], line, color=colour, lw=1.2)
        tips = {"xytext": (x2, y2 + 0.31), "xy": (x2, y2 + 0.2)}
        ax.annotate("", **tips, arrowprops={**arrow, "color": colour})
    for label, style in {"concatenated": (BLUE, "-"), "summed": (ORANGE, "--")}.items():
        if any((join == "concat") == (label == "concatenated") for *_, join in skips):
            ax.plot([], [], style[1], color=style[0], lw=1.2, label=label)
    if skips:
        ax.legend(loc="lower left", fontsize=7, frameon=False)
    return max((lane for top, *_, lane in taken if top == 0), default=0)
