"""Run a copy of a network on shapes alone and note what each stage costs and sees.

`segkit.models.inspect` shows the results. The copy lives on torch's "meta" device, which knows
shapes but holds no numbers, so even an image of 4096×4096 pixels costs nothing.
"""

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode


def in_channels(model: nn.Module) -> int:
    """Return how many channels the first convolution of `model` takes."""
    return next(m.in_channels for m in model.modules() if isinstance(m, nn.Conv2d))


def stages(model: nn.Module) -> dict[str, nn.Module]:
    """Return the stages of `model`, which is on the meta device, in the order of definition.

    A stage is a child module or, where a child is a list or returns several maps, one of its parts.
    """
    several: set[nn.Module] = set()

    def note(module: nn.Module, args: Any, output: Any) -> None:
        if not isinstance(output, Tensor):
            several.add(module)

    def split(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
        for name, child in module.named_children():
            if isinstance(child, nn.ModuleList) or child in several:
                yield from split(child, f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}", child

    with _hooks(module.register_forward_hook(note) for module in model.modules()):
        model(torch.empty(2, in_channels(model), 256, 256, device="meta"))
    return dict(split(model, ""))


@contextmanager
def _hooks(handles: Iterable) -> Iterator[None]:
    handles = list(handles)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _watch(model: nn.Module, before: Callable, after: Callable) -> Iterator:
    """Have `before(name, args)` and `after(name, args, output)` called around every stage.

    Raises ValueError when a stage is called twice: it would stand in two places of the table.
    """
    called: set[str] = set()

    def start(name: str, args: Any) -> None:
        if name in called:
            raise ValueError(f"{name} is called twice: give each call a module of its own")
        called.add(name)
        before(name, args)

    for name, module in stages(model).items():
        yield module.register_forward_pre_hook(lambda m, args, n=name: start(n, args))
        yield module.register_forward_hook(lambda m, args, out, n=name: after(n, args, out))


class Costs:
    """Shape, FLOPs and saved bytes of each stage, for one image, in the order of execution."""

    def __init__(self, model: nn.Module, size: int | tuple[int, int]) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.flops: dict[str, int] = {}
        self.saved: dict[str, int] = {}
        self._counter = FlopCounterMode(display=False)
        self._storages: dict[int, torch.UntypedStorage] = {}
        model = copy.deepcopy(model).to("meta").train()
        self._weights = {p.untyped_storage()._cdata for p in model.parameters()}
        height, width = (size, size) if isinstance(size, int) else size
        self._batch = 2  # in training, batch normalisation needs more than one value per channel
        image = torch.empty(self._batch, in_channels(model), height, width, device="meta")
        keep = torch.autograd.graph.saved_tensors_hooks(self._keep, lambda tensor: tensor)
        with _hooks(_watch(model, self._before, self._after)), self._counter, keep:
            model(image)

    def _keep(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._weights:
            self._storages[storage._cdata] = storage
        return tensor

    def _totals(self) -> tuple[int, int]:
        saved = sum(storage.nbytes() for storage in self._storages.values())
        return self._counter.get_total_flops() // self._batch, saved // self._batch

    def _before(self, name: str, args: Any) -> None:
        self.flops[name], self.saved[name] = self._totals()

    def _after(self, name: str, args: Any, output: Tensor) -> None:
        flops, saved = self._totals()
        self.shapes[name] = tuple(output.shape[1:])
        self.flops[name] = flops - self.flops[name]
        self.saved[name] = saved - self.saved[name]


@dataclass
class Seen:
    """What a map depends on: for each of its columns, the first and last column of the image.

    sources: the stages it was made by; join: how several became one, "concat" or "sum".
    """

    first: Tensor
    last: Tensor
    sources: tuple[str, ...]
    join: str = ""


class Walk(TorchFunctionMode):
    """Follows, through every operation, what each column of each stage's output sees.

    outputs: by stage. sources, joins: of each stage's input, as in `Seen`; a stage that takes
    several maps has joined none of them yet. result: of the network itself.
    """

    def __init__(self, model: nn.Module, size: int) -> None:
        super().__init__()
        self.size = size
        self.sources: dict[str, tuple[str, ...]] = {}
        self.joins: dict[str, str] = {}
        self.outputs: dict[str, Seen] = {}
        model = copy.deepcopy(model).to("meta").eval()
        image = torch.empty(1, in_channels(model), size, size, device="meta")
        columns = torch.arange(size)
        # Each tensor is kept beside what it sees: the id of one that is gone may be given again.
        self._seen = {id(image): (image, Seen(columns, columns, ("image",)))}
        with _hooks(_watch(model, self._before, self._after)), torch.no_grad(), self:
            output = model(image)
        self.result = self._of(output)

    def field(self, seen: Seen) -> int:
        """Return the largest receptive field among the columns that no border cuts short."""
        whole = (seen.first > 0) & (seen.last < self.size - 1)
        if not whole.any():
            raise ValueError(f"the receptive field is larger than {self.size} pixels")
        return int((seen.last - seen.first + 1)[whole].max())

    def _of(self, tensor: Tensor) -> Seen:
        return self._seen[id(tensor)][1]

    def _among(self, args: tuple) -> list[Seen]:
        """Return what the maps among `args`, alone or in a list, see."""
        listed = [a for arg in args for a in (arg if isinstance(arg, list | tuple) else [arg])]
        return [self._of(a) for a in listed if id(a) in self._seen]

    def _before(self, name: str, args: tuple) -> None:
        maps = self._among(args)
        self.sources[name] = tuple(dict.fromkeys(s for seen in maps for s in seen.sources))
        self.joins[name] = maps[0].join if len(maps) == 1 else ""

    def _after(self, name: str, args: Any, output: Tensor) -> None:
        seen = self.outputs[name] = self._of(output)
        self._seen[id(output)] = (output, Seen(seen.first, seen.last, (name,)))

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        maps = self._among(args)
        if maps and isinstance(output, Tensor):
            seen, columns = _merge(maps, func.__name__), output.shape[-1]
            if func.__name__ in _TAPS:
                taps = _TAPS[func.__name__](len(seen.first), columns, *args[1:], **kwargs)
                seen = _through(seen, taps)
            elif len(seen.first) != columns:
                raise NotImplementedError(f"no rule says what {func.__name__} sees")
            self._seen[id(output)] = (output, seen)
        return output


def _merge(maps: list[Seen], operation: str) -> Seen:
    """Return what a map sees that is made of several, pixel by pixel."""
    first, last, join = maps[0].first, maps[0].last, maps[0].join
    for other in maps[1:]:
        first, last = torch.minimum(first, other.first), torch.maximum(last, other.last)
    sources = tuple(dict.fromkeys(source for seen in maps for source in seen.sources))
    if len(sources) > len(maps[0].sources):
        join = "concat" if operation == "cat" else "sum"
    return Seen(first, last, sources, join)


def _through(seen: Seen, taps: Tensor) -> Seen:
    """Return what the output sees when its column `q` reads columns `taps[q]` of the input.

    Taps outside of the map read padding, which sees nothing.
    """
    inside = (taps >= 0) & (taps < len(seen.first))
    taps = taps.clamp(0, len(seen.first) - 1)
    first = seen.first[taps].masked_fill(~inside, torch.iinfo(torch.int64).max).amin(1)
    last = seen.last[taps].masked_fill(~inside, -1).amax(1)
    return Seen(first, last, seen.sources, seen.join)


# Which columns of its input an operation reads, `(columns out, taps)`, given the columns that
# come in and go out and the operation's own arguments.


def _last(value: Any) -> Any:
    return value[-1] if isinstance(value, list | tuple) else value


def _window(out: int, kernel: int, stride: int, padding: int, dilation: int) -> Tensor:
    return torch.arange(out)[:, None] * stride - padding + dilation * torch.arange(kernel)


def _conv2d(n, out, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    kernel, dilation = weight.shape[-1], _last(dilation)
    if isinstance(padding, str):
        padding = (kernel - 1) * dilation // 2 if padding == "same" else 0
    return _window(out, kernel, _last(stride), _last(padding), dilation)


def _conv_transpose2d(
    n, out, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1
):
    stride = _last(stride)
    reached_by = _window(out, weight.shape[-1], 1, -_last(padding), -_last(dilation))
    return torch.where(reached_by % stride == 0, reached_by // stride, -1)


def _pool2d(n, out, kernel_size, stride=None, padding=0, dilation=1, **_):
    stride = kernel_size if stride is None else stride
    return _window(out, _last(kernel_size), _last(stride), _last(padding), _last(dilation))


def _avg_pool2d(n, out, kernel_size, stride=None, padding=0, *_, **__):
    # nn.AvgPool2d passes ceil_mode by position where max_pool2d has its dilation
    return _pool2d(n, out, kernel_size, stride, padding)


def _interpolate(n, out, size=None, scale_factor=None, mode="nearest", align_corners=None, **_):
    columns = torch.arange(out)
    if mode == "nearest":
        return (columns * n // out)[:, None]
    if mode != "bilinear":
        raise NotImplementedError(f'no rule says what interpolate(mode="{mode}") sees')
    # The position in the input is a fraction; in integers, what lies on a pixel is exactly there.
    if align_corners:
        above, below = columns * (n - 1), max(out - 1, 1)
    else:
        above, below = ((2 * columns + 1) * n - out).clamp(min=0), 2 * out
    return torch.stack([above // below, (-(-above // below)).clamp(max=n - 1)], dim=1)


def _getitem(n, out, key):
    columns = key[-1] if isinstance(key, tuple) else slice(None)
    return torch.arange(n)[columns][:, None]


def _pad(n, out, pad, mode="constant", value=None):
    return torch.arange(out)[:, None] - pad[0]


_TAPS: dict[str, Callable[..., Tensor]] = {
    "conv2d": _conv2d,
    "conv_transpose2d": _conv_transpose2d,
    "max_pool2d": _pool2d,
    "avg_pool2d": _avg_pool2d,
    "interpolate": _interpolate,
    "__getitem__": _getitem,
    "pad": _pad,
}


class MeanForMax(TorchFunctionMode):
    """Replaces max-pooling by average pooling: a maximum lets the gradient of one input through."""

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func.__name__ != "max_pool2d":
            return func(*args, **kwargs)
        for name in ("dilation", "return_indices"):
            kwargs.pop(name, None)
        return F.avg_pool2d(*args, **kwargs)
