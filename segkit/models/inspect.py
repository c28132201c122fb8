"""Look inside a network: what each stage costs, its receptive field, and how it is wired.

A stage is one named part of a network: a child module or, where a child is a list or returns
several feature maps (an encoder), each of its parts. Networks from elsewhere work as well.
"""

import copy
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from segkit.errors import ArgumentError
from segkit.files import text_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BLUE, _ORANGE, _DARK = "#0072b2", "#d55e00", "#303038"  # distinct with any colour vision


@dataclass(frozen=True)
class _Stage:
    """One stage of a network, for one image."""

    name: str
    shape: tuple[int, ...]  # of its output: (channels, height, width)
    parameters: int
    flops: int  # of the forward pass: two for a multiply-add, convolutions only
    activation_bytes: int  # float32 kept for the backward pass, counted where it is first kept
    receptive_field: int  # of its output, in pixels of the image
    stride: int  # between two neighbours of its output, in pixels of the image
    sources: tuple[str, ...]  # the stages whose outputs it reads; "image" is the input
    join: str  # how several sources are joined: "concat" or "sum"


@dataclass(frozen=True)
class _Summary:
    """The stages of a network in the order of execution; `print` shows a table with totals."""

    stages: list[_Stage]

    def total(self, column: str) -> int:
        """Return the sum of "parameters", "flops" or "activation_bytes" over all stages."""
        return sum(getattr(stage, column) for stage in self.stages)

    def __str__(self) -> str:
        columns = ["stage", "output", "parameters", "MFLOP", "activation MiB", "field", "stride"]
        rows = [
            [s.name, "×".join(map(str, s.shape)), s.parameters, s.flops, s.activation_bytes]
            + [s.receptive_field, s.stride]
            for s in self.stages
        ]
        totals = map(self.total, ("parameters", "flops", "activation_bytes"))
        rows.append(["total", "", *totals, "", ""])
        for row in rows:
            row[2:5] = f"{row[2]:,}", f"{row[3] / 1e6:,.1f}", f"{row[4] / 2**20:,.2f}"
        return text_table(columns, rows, left=2)


def parameters(module: nn.Module) -> int:
    """Return how many numbers `module` learns."""
    return sum(p.numel() for p in module.parameters())


def summary(model: nn.Module, size: int | tuple[int, int] = 256) -> _Summary:
    """Return what each stage of `model` costs for one image, and its receptive field.

    Costs are counted on shapes only, so a large network and image take little memory and time.

    Args:
        size: height and width of the image in pixels, or one number for both.

    Raises:
        ArgumentError: a stage is called twice, so it would stand in two rows.
    """
    height, width = (size, size) if isinstance(size, int) else size
    batch = 2  # in training, batch normalisation needs more than one value per channel
    meta = copy.deepcopy(model).to("meta").train()
    image = torch.empty(batch, _in_channels(meta), height, width, device="meta")
    storages = {s._cdata: s for s in (p.untyped_storage() for p in meta.parameters())}
    saved, calls = Counter(), Counter()
    outputs: dict[str, tuple[tuple[int, ...], Any]] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in storages:
            storages[storage._cdata] = storage
            saved.update(dict.fromkeys(counter.mod_tracker.parents, storage.nbytes()))
        return tensor

    def after(name: str, module: nn.Module, args: tuple, output: Any) -> None:
        calls[name] += 1
        if isinstance(output, Tensor):
            outputs[name] = tuple(output.shape[1:]), output.grad_fn

    for name, module in meta.named_modules():
        module.register_forward_hook(partial(after, name))
    keeping = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with FlopCounterMode(display=False) as counter, keeping:
        meta(image.requires_grad_())

    outputs.pop("", None)  # the network itself
    parts = tuple(f"{name}." for name in outputs)
    names = [name for name in outputs if not name.startswith(parts)]
    if twice := [name for name in names if calls[name] > 1]:
        raise ArgumentError(f"{twice[0]} is called twice: give each call a module of its own")
    fields = _measure_fields(model, names)
    nodes: dict[Any, str] = {}  # of the autograd graph, each where the output of a stage is made
    stages = []
    for name in names:
        shape, node = outputs[name]
        sources, join = _sources(node, nodes, image)
        nodes[node] = name
        key = f"{type(meta).__name__}.{name}"
        costs = sum(counter.flop_counts[key].values()) // batch, saved[key] // batch
        count = parameters(meta.get_submodule(name))
        stages.append(_Stage(name, shape, count, *costs, *fields[name], sources, join))
    return _Summary(stages)


def _in_channels(model: nn.Module) -> int:
    return next(m.in_channels for m in model.modules() if isinstance(m, nn.Conv2d))


def _sources(node: Any, nodes: dict[Any, str], image: Tensor) -> tuple[tuple[str, ...], str]:
    """Return the stages that a node of the autograd graph reads, and how they are joined."""
    if node in nodes:
        return (nodes[node],), ""
    if getattr(node, "variable", None) is image:
        return ("image",), ""
    read = [_sources(earlier, nodes, image) for earlier, _ in node.next_functions if earlier]
    most, join = max(read, key=lambda found: len(found[0]), default=((), ""))
    sources = tuple(dict.fromkeys(name for names, _ in read for name in names))
    if len(sources) > len(most):
        join = "concat" if node.name().startswith("Cat") else "sum"
    return sources, join


def receptive_field(model: nn.Module, stage: str | None = None) -> int:
    """Return how many pixels of the image, along one axis, one output pixel can depend on.

    It is measured: where the gradient of the output pixel with respect to the image is not zero.
    For layers in a row that keep or lower the resolution it is the textbook's rule: a layer with
    kernel `k`, stride `s` and dilation `d` adds `(k - 1) · d · jump` to the field and multiplies
    the jump by `s`, both of which start at 1 (https://doi.org/10.23915/distill.00021). After
    upsampling, neighbours have fields of different sizes; then this is the largest.

    Args:
        stage: the name of a module, for its output instead of the network's.
    """
    name = stage or ""
    return _measure_fields(model, [name])[name][0]


def gradient_support(model: nn.Module, size: int, stage: str | None = None) -> Tensor:
    """Return `(size, size)`: the gradient of the central output pixel for each image pixel.

    It is non-zero exactly where the output pixel can depend on the image: weights are positive
    and equal, maxima become means, and normalisation does nothing, so no two paths cancel.

    Args:
        size: height and width of the image, in pixels.
        stage: the name of a module, for its output instead of the network's.
    """
    image, outputs = _run_one_channel(model, size, size)
    output = outputs[stage or ""]
    row, column = (n // 2 for n in output.shape[-2:])
    (gradient,) = torch.autograd.grad(output[..., row, column].sum(), image)
    return gradient.sum((0, 1))


def _measure_fields(model: nn.Module, names: list[str]) -> dict[str, tuple[int, int]]:
    """Return receptive field and stride at the outputs of the modules called `names`."""
    for height in (1, 32, 256):  # 32: pooling that rounds down; 256: convolutions without padding
        for width in (512, 2048, 4096):
            try:
                image, outputs = _run_one_channel(model, height, width)
            except (RuntimeError, ValueError):
                if height == 256:
                    raise
                break
            if fields := _fields_of_columns(image, outputs, names):
                return fields
        else:
            raise ArgumentError("the receptive field does not fit into an image of 4096 pixels")


def _fields_of_columns(
    image: Tensor, outputs: dict[str, Tensor], names: list[str]
) -> dict[str, tuple[int, int]]:
    """Return the largest field and the distance of the middle columns; {} if a border cuts one."""
    fields, last_pixel, narrowest = {}, image.shape[-1] - 1, image.shape[-1]
    for name, output in outputs.items():
        columns = output.sum((0, 1, 2))
        narrowest = min(narrowest, len(columns))
        if name not in names:
            continue
        count = 32 if len(columns) > narrowest else 1  # upsampled: neighbours are no longer alike
        middle = columns[(len(columns) - count) // 2 :][: count + 1]
        each = torch.eye(len(middle), dtype=middle.dtype)
        (gradients,) = torch.autograd.grad(
            middle, image, each, retain_graph=True, is_grads_batched=True
        )
        read = gradients.sum((1, 2, 3)).ne(0).int()
        first, last = read.argmax(1), last_pixel - read.flip(1).argmax(1)
        if first.min() == 0 or last.max() == last_pixel:
            return {}
        fields[name] = int((last - first).max()) + 1, round(int(first[-1] - first[0]) / count)
    return fields


def _run_one_channel(model: nn.Module, height: int, width: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Return an image of ones and, for it, the output of every module of a one-channel copy.

    The copy reads the same pixels with positive weights, and the border for what lies beyond it.
    """
    image = torch.ones(1, _in_channels(model), height, width, dtype=torch.float64)
    model = copy.deepcopy(model).to_empty(device="cpu").eval()
    outputs: dict[str, Tensor] = {}

    def after(name: str, module: nn.Module, args: tuple, output: Any) -> None:
        if isinstance(output, Tensor):
            outputs[name] = output.clone()  # before an operation in place can change it

    for name, module in model.named_modules():
        module.register_forward_hook(partial(after, name))
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            kernel = torch.full((1, 1, *module.kernel_size), 1 / math.prod(module.kernel_size))
            module.weight, module.bias, module.groups = nn.Parameter(kernel), None, 1
            module.register_forward_pre_hook(lambda m, args: (args[0].mean(1, keepdim=True),))
        if isinstance(module, nn.Conv2d):
            module.padding_mode = "replicate"
        elif isinstance(module, nn.BatchNorm2d | nn.InstanceNorm2d | nn.GroupNorm):
            module.forward = lambda x: x
    with _MeanForMax():
        model.double()(image.requires_grad_())
    return image, outputs


class _MeanForMax(TorchFunctionMode):
    """Replaces max-pooling by average pooling: a maximum lets the gradient of one input through."""

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func.__name__ == "max_pool2d":
            func = F.avg_pool2d
            for name in ("dilation", "return_indices"):
                kwargs.pop(name, None)
        return func(*args, **kwargs)


def bounding_box(support: Tensor) -> tuple[int, int]:
    """Return height and width of the smallest box around the non-zero part of `(H, W)`."""
    rows, columns = support.ne(0).any(1).nonzero(), support.ne(0).any(0).nonzero()
    return int(rows[-1] - rows[0]) + 1, int(columns[-1] - columns[0]) + 1


def plot_receptive_field(model: nn.Module, size: int | None = None) -> "Axes":
    """Draw the receptive field of the central output pixel, with a dashed box around it.

    The colour is each image pixel's share of the gradient (`gradient_support`), on a logarithmic
    scale: most of the weight is in the middle, however wide the field.

    Args:
        size: of the image in pixels, by default a third wider than the receptive field.
    """
    import matplotlib.pyplot as plt

    share = gradient_support(model, size or receptive_field(model) * 4 // 3)
    height, width = bounding_box(share)
    top, left = share.nonzero().amin(0).tolist()
    share = (share / share.max()).log10()
    _, ax = plt.subplots(figsize=(4.6, 3.8), layout="constrained", facecolor="white")
    image = ax.imshow(share.where(share.isfinite(), torch.nan).numpy(), cmap="viridis")
    box = {"fill": False, "linestyle": "--", "linewidth": 2, "edgecolor": _ORANGE}
    ax.add_patch(plt.Rectangle((left - 0.5, top - 0.5), width, height, **box))
    ax.set_title(f"receptive field of the central pixel: {width}×{height}", loc="left")
    ax.set(xlabel="column of the image", ylabel="row of the image", facecolor="white")
    ax.grid(False)
    ax.figure.colorbar(image, ax=ax, label="share of the gradient, 10 to the power of")
    return ax


def diagram(model: nn.Module, size: int | tuple[int, int] = 256) -> "Axes":
    """Draw the stages and the feature maps that flow between them, as the module really runs.

    A box is the output of a stage: the lower, the coarser, the wider, the more channels (their
    number is in it). Grey arrows lead to the next stage; skip connections leave and enter at the
    top: solid blue where feature maps are concatenated, dashed orange where they are summed.
    """
    import matplotlib.pyplot as plt

    rows = summary(model, size).stages
    place = {row.name: (i, -math.log2(row.stride)) for i, row in enumerate(rows)}
    half = [0.24 + 0.014 * math.log2(row.shape[0]) for row in rows]  # widths of the boxes
    bottom = min(y for _, y in place.values())
    shape = (max(4.0, 0.62 * len(rows) + 0.6), 2.2 - 0.75 * bottom)
    _, ax = plt.subplots(figsize=shape, layout="constrained", facecolor="white")
    arrow = {"arrowstyle": "-|>", "shrinkA": 0, "shrinkB": 0, "mutation_scale": 7}
    text, skips = {"ha": "center", "fontsize": 7, "color": _DARK}, []
    for i, row in enumerate(rows):
        y = place[row.name][1]
        box = plt.Rectangle((i - half[i], y - 0.2), 2 * half[i], 0.4, fc="#dbe9f4", ec=_DARK)
        ax.add_patch(box)
        ax.text(i, y, row.shape[0], va="center", **text)
        ax.text(i, y - 0.26, row.name.replace(".", "\n"), va="top", **text)
        for left, low in (place[source] for source in row.sources if source in place):
            if left == i - 1:
                tips = {"xytext": (left + half[left], low), "xy": (i - half[i], y)}
                ax.annotate("", **tips, arrowprops=arrow | {"color": "#707070"})
            else:
                skips.append((i - left, left, low, i, y, row.join))
    taken: list[tuple[float, int, int, int]] = []  # top, left, right, lane: short skips lie lowest
    for _, left, low, right, high, join in sorted(skips):
        top = max(low, high)
        lane = 1 + max(
            (n for y, a, b, n in taken if y == top and a < right and left < b), default=0
        )
        x1, x2 = left + 0.1, right - 0.1 + 0.08 * sum(b == right for _, _, b, _ in taken)
        taken.append((top, left, right, lane))
        height = top + 0.2 + 0.14 * lane
        colour, line, label = (
            (_BLUE, "-", "concatenated") if join == "concat" else (_ORANGE, "--", "summed")
        )
        xs, ys = [x1, x1, x2, x2], [low + 0.2, height, height, high + 0.3]
        ax.plot(xs, ys, line, color=colour, lw=1.2, label=label)
        tips = {"xytext": (x2, high + 0.31), "xy": (x2, high + 0.2)}
        ax.annotate("", **tips, arrowprops=arrow | {"color": colour})
    if skips:
        handles, labels = ax.get_legend_handles_labels()
        legend = dict(zip(labels, handles, strict=True))  # each label once
        ax.legend(legend.values(), legend, loc="lower left", fontsize=7, frameon=False)
    levels = {place[row.name][1]: "{}×{}".format(*row.shape[1:]) for row in rows}
    ax.set_yticks(list(levels), levels.values())
    lanes = max((lane for top, *_, lane in taken if top == 0), default=0)
    ax.set_xticks([])
    ax.set(xlim=(-0.7, len(rows) - 0.3), ylim=(bottom - 0.75, 0.35 + 0.14 * lanes))
    ax.set_facecolor("white")
    ax.grid(False)
    ax.spines[:].set_visible(False)
    return ax
