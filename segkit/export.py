"""Leave Python's training code behind: torch.export, ONNX, and how long each takes."""

import ast
import inspect
import io
import json
import logging
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from segkit import errors, files, image_ops, onnx_predictor
from segkit.errors import SegkitError
from segkit.files import atomic_file, write_text
from segkit.image_ops import normalise, resize
from segkit.model_file import ModelMetadata
from segkit.onnx_predictor import OnnxNetwork

SHAPES = ((1, 64, 64), (3, 33, 70), (2, 97, 64), (1, 256, 31))  # of what is compared: N, H, W
TOLERANCE = 1e-4  # of logits up to 10; of larger ones 1e-5 of the largest, for they round so


class ExportError(SegkitError, RuntimeError):
    """A network that could not be exported, or whose export computes something else."""


def export_program(model: nn.Module, in_channels: int) -> ExportedProgram:
    """Return `model` as a program: its operations alone, for any batch, height and width.

    Raises ExportError where the network is not the same program for every size.
    """
    plain = deepcopy(model).cpu().float().eval()
    example = torch.zeros(2, in_channels, 67, 100)  # odd and even, and nothing alike
    free = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    try:
        with _silent():
            return torch.export.export(plain, (example,), dynamic_shapes=(free,))
    except Exception as error:  # torch raises its own kinds and plain ValueErrors
        raise ExportError(
            f"{type(model).__name__} cannot be exported for every size. The usual causes are an "
            '"if" on values or sizes in forward, numbers taken out of tensors (.item(), int()), '
            f"and sizes written as constants. torch says: {error}"
        ) from error


@contextmanager
def _silent() -> Iterator[None]:
    """Keep back what torch prints and logs about a failure: the error says it."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)


def save_program(path: str | Path, model: nn.Module, metadata: ModelMetadata) -> None:
    """Write `model` as a program (`.pt2`): `torch.export.load(path).module()` runs it.

    The metadata lie in it as JSON: `extra = {"segkit": ""}; torch.export.load(path,
    extra_files=extra)` fills in `extra`.
    """
    program = export_program(model, metadata.in_channels)
    content = io.BytesIO()
    torch.export.save(program, content, extra_files={"segkit": json.dumps(asdict(metadata))})
    with atomic_file(path) as part:
        part.write_bytes(content.getvalue())


def export_onnx(path: str | Path, model: nn.Module, metadata: ModelMetadata) -> float:
    """Write `model` to `path` as ONNX, with its metadata inside; return max |Δlogit| to PyTorch.

    Beside it lies onnx_predictor.py, which is all that is needed to predict with it. Batch,
    height and width are free. Nothing is written to `path` unless onnxruntime's logits are
    within 1e-4 of PyTorch's (or 1e-5 of the largest logit, if that is more) for several shapes;
    ExportError says so otherwise.
    """
    import onnx

    path = Path(path)
    program = export_program(model, metadata.in_channels)
    written = torch.onnx.export(
        program, input_names=["image"], output_names=["logits"], verbose=False
    )
    proto = written.model_proto
    del proto.graph.value_info[:]  # sizes in between, under names of torch's own
    for value in (*proto.graph.input, *proto.graph.output):
        for axis, name in ((0, "batch"), (2, "height"), (3, "width")):
            value.type.tensor_type.shape.dim[axis].dim_param = name
    onnx.helper.set_model_props(proto, {"segkit": json.dumps(asdict(metadata))})
    with atomic_file(path) as part:
        onnx.save(proto, str(part))
        difference, largest = compare(model, OnnxNetwork(part), metadata)
        allowed = TOLERANCE * max(1.0, largest / 10)
        if not difference <= allowed:
            raise ExportError(
                f"onnxruntime's logits differ from PyTorch's by {difference:.1e}, more than "
                f"{allowed:.1e}: {path} was not written"
            )
    write_text(path.with_name("onnx_predictor.py"), _standalone_predictor())
    return difference


def _standalone_predictor() -> str:
    """Return `segkit.onnx_predictor` and what it needs of segkit as the source of one file."""
    imports = {"import os", "from contextlib import contextmanager"}  # of atomic_file
    needed = (errors.SegkitError, errors.ArgumentError, files.FileError, files.atomic_file)
    code = [inspect.getsource(part) for part in needed]
    for module in (image_ops, onnx_predictor):
        source = inspect.getsource(module)
        nodes = [n for n in ast.parse(source).body if isinstance(n, ast.Import | ast.ImportFrom)]
        lines = map(ast.unparse, nodes)
        imports |= {line for line in lines if not line.startswith("from segkit")}
        code.append("\n".join(source.splitlines()[nodes[-1].end_lineno :]) + "\n")
    head = [f'"""{onnx_predictor.__doc__}"""', "", *sorted(imports)]
    return "\n\n\n".join(["\n".join(head), *(part.strip("\n") for part in code)]) + "\n"


@torch.inference_mode()
def compare(
    model: nn.Module,
    network: image_ops.Network,
    metadata: ModelMetadata,
    shapes: Sequence[tuple[int, int, int]] = SHAPES,
    seed: int = 0,
) -> tuple[float, float]:
    """Return max |Δlogit| between `model` and `network`, and the largest |logit|.

    shapes: (N, H, W) of the random images that both are given; smooth ones, as photographs are.
    Where a network interpolates with aligned corners, float32 places its samples a little off,
    the more so the larger the image, and PyTorch as far off as any: at 512 pixels 1e-4 is over.
    NaN if a logit is NaN.
    """
    plain = deepcopy(model).cpu().float().eval()
    random = np.random.default_rng(seed)
    differences, largest = [], []
    for shape in shapes:
        images = _clouds(random, shape, metadata.in_channels)
        logits = plain(torch.from_numpy(normalise(images, metadata.mean, metadata.std))).numpy()
        differences.append(np.abs(logits - network(images)).max())
        largest.append(np.abs(logits).max())
    return float(np.max(differences)), float(np.max(largest))


def _clouds(random: np.random.Generator, shape: tuple[int, int, int], channels: int) -> np.ndarray:
    """Return random uint8 images (N, H, W[, C]) that change little from pixel to pixel."""
    n, height, width = shape
    coarse = (n, height // 8 + 1, width // 8 + 1, channels)
    images = random.integers(0, 256, coarse[: 3 if channels == 1 else 4], dtype=np.uint8)
    return np.stack([resize(image, (height, width)) for image in images])


@dataclass(frozen=True)
class Latency:
    """How long one batch takes, in milliseconds: the median of the runs, and their 90th centile."""

    name: str
    shape: tuple[int, ...]
    median: float
    p90: float


def latency(
    runners: dict[str, Callable[[Tensor], object]],
    shapes: Sequence[tuple[int, int, int, int]],
    repeats: int = 20,
) -> list[Latency]:
    """Time each runner on each shape (N, C, H, W), after three runs to warm up.

    runners: functions of a float32 tensor; `torch_runners` makes some. They take turns, so that
    whatever else the machine does falls on all of them alike.
    """
    rows = []
    for shape in shapes:
        batch = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        taken: dict[str, list[float]] = {name: [] for name in runners}
        for turn in range(repeats + 3):
            for name, run in runners.items():
                began = time.perf_counter()
                run(batch)
                if turn >= 3:
                    taken[name].append(1000 * (time.perf_counter() - began))
        for name, times in taken.items():
            p90 = statistics.quantiles(times, n=10)[-1]
            rows.append(Latency(name, tuple(shape), statistics.median(times), p90))
    return rows


def runners(model: nn.Module, onnx_file: str | Path) -> dict[str, Callable[[Tensor], object]]:
    """Return what is to be timed: `model` in PyTorch, where it is, and its export on this machine.

    Both use as many threads as torch does; a GPU is waited for.
    """
    device = next(model.parameters()).device
    network = OnnxNetwork(onnx_file, threads=torch.get_num_threads())

    @torch.inference_mode()
    def in_torch(batch: Tensor) -> Tensor:
        model.eval()
        return model(batch.to(device)).cpu()

    def in_onnxruntime(batch: Tensor) -> list[np.ndarray]:
        return network.session.run(None, {"image": batch.numpy()})

    return {f"PyTorch, {device.type}": in_torch, "onnxruntime": in_onnxruntime}


def table(rows: Sequence[Latency]) -> str:
    """Return latencies as text."""
    lines = [f"{'runner':20} {'batch':>18} {'median ms':>10} {'90 % within':>12}"]
    for row in rows:
        shape = "×".join(map(str, row.shape))
        lines.append(f"{row.name:20} {shape:>18} {row.median:>10.1f} {row.p90:>12.1f}")
    return "\n".join(lines)
