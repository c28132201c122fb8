"""Use a network without its Python code: torch.export, ONNX, and how long each takes."""

import ast
import inspect
import io
import logging
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from segkit import errors, files, image_ops, onnx_predictor
from segkit.files import atomic_file, text_table, write_text
from segkit.model_file import ModelMetadata
from segkit.onnx_predictor import OnnxNetwork


class ExportError(errors.SegkitError, RuntimeError):
    """A network that could not be exported, or whose export computes something else."""


def export_program(model: nn.Module, in_channels: int) -> ExportedProgram:
    """Return `model` as a program: its operations alone, for any batch, height and width.

    Raises:
        ExportError: the network is not the same program for every size, or torch is too old.
    """
    if torch.__version__ < "2.15":  # its max-pooling is tied to odd or to even sizes
        needed = "an export needs torch 2.15 or newer, and this is"
        raise ExportError(f"{needed} {torch.__version__}: pip install 'segkit[export]'")
    copy = deepcopy(model).cpu().float().eval()
    example = torch.zeros(2, in_channels, 67, 100)  # odd and even, and no two sizes alike
    dynamic = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)  # what torch logs and prints about a failure is in the error
    try:
        with redirect_stderr(io.StringIO()):
            return torch.export.export(copy, (example,), dynamic_shapes=(dynamic,))
    except Exception as error:  # torch raises its own kinds and plain ValueErrors
        raise ExportError(
            f"{type(model).__name__} cannot be exported for every size. The usual causes are an "
            '"if" on values or sizes in forward, numbers taken out of tensors (.item(), int()), '
            f"and sizes written as constants. torch says: {error}"
        ) from error
    finally:
        logging.disable(disabled)


def save_program(path: str | Path, model: nn.Module, metadata: ModelMetadata) -> None:
    """Write `model` as a program (`.pt2`): `torch.export.load(path).module()` runs it.

    The metadata lies in it as JSON: `extra = {"segkit": ""}; torch.export.load(path,
    extra_files=extra)` fills in `extra`.
    """
    program = export_program(model, metadata.in_channels)
    content = io.BytesIO()
    torch.export.save(program, content, extra_files={"segkit": metadata.to_export()})
    with atomic_file(path) as part:
        part.write_bytes(content.getvalue())


def export_onnx(path: str | Path, model: nn.Module, metadata: ModelMetadata) -> float:
    """Write `model` to `path` as ONNX, with its metadata inside; return max |Δlogit| to PyTorch.

    Beside it lies onnx_predictor.py, which is all that is needed to predict with it. Batch,
    height and width are dynamic.

    Raises:
        ExportError: onnxruntime's logits differ from PyTorch's, on random images of several
            shapes, by more than 1e-4 (or 1e-5 of the largest logit, if that is more). Then
            nothing is written.
    """
    import onnx

    path = Path(path)
    program = export_program(model, metadata.in_channels)
    names = {"input_names": ["image"], "output_names": ["logits"]}
    proto = torch.onnx.export(program, **names, verbose=False).model_proto
    del proto.graph.value_info[:]  # sizes in between, under names of torch's own
    for value in (*proto.graph.input, *proto.graph.output):
        for axis, name in ((0, "batch"), (2, "height"), (3, "width")):
            value.type.tensor_type.shape.dim[axis].dim_param = name
    onnx.helper.set_model_props(proto, {"segkit": metadata.to_export()})
    with atomic_file(path) as part:
        onnx.save(proto, str(part))
        difference, largest = _compare(model, OnnxNetwork(part), metadata)
        allowed = max(1e-4, 1e-5 * largest)
        if not difference <= allowed:  # NaN is not
            raise ExportError(
                f"onnxruntime's logits differ from PyTorch's by {difference:.1e}, more than "
                f"{allowed:.1e}: {path} was not written"
            )
    write_text(path.with_name("onnx_predictor.py"), _standalone_predictor())
    return difference


def _standalone_predictor() -> str:
    """Return `segkit.onnx_predictor` and what it needs of segkit as the source of one file."""
    imports = {"import os", "from contextlib import contextmanager, suppress"}  # of atomic_file
    needed = [errors.SegkitError, errors.ArgumentError, errors.DataError, files.FileError]
    code = [inspect.getsource(part) for part in (*needed, files.atomic_file)]
    for module in (image_ops, onnx_predictor):
        source = inspect.getsource(module)
        nodes = [n for n in ast.parse(source).body if isinstance(n, ast.Import | ast.ImportFrom)]
        lines = map(ast.unparse, nodes)
        imports |= {line for line in lines if not line.startswith("from segkit")}
        code.append("\n".join(source.splitlines()[nodes[-1].end_lineno :]) + "\n")
    head = [f'"""{onnx_predictor.__doc__}"""', "", *sorted(imports)]
    return "\n\n\n".join(["\n".join(head), *(part.strip("\n") for part in code)]) + "\n"


@torch.inference_mode()
def _compare(
    model: nn.Module, network: OnnxNetwork, metadata: ModelMetadata
) -> tuple[float, float]:
    """Return max |Δlogit| between `model` and `network`, NaN if one is, and the largest |logit|.

    Both are given smooth random images, as photographs are. Where a network interpolates with
    aligned corners, float32 places its samples a little off, the more so the larger the image,
    and PyTorch as far off as any: at 512 pixels 1e-4 is over.
    """
    copy = deepcopy(model).cpu().float().eval()
    random = np.random.default_rng(0)
    dtype = np.uint8 if metadata.intensity is None else np.uint16
    colours = () if metadata.in_channels == 1 else (metadata.in_channels,)
    differences, largest = [], []
    for n, height, width in ((1, 64, 64), (3, 33, 70), (2, 97, 64), (1, 256, 31)):
        coarse = (n, height // 8 + 1, width // 8 + 1, *colours)
        noise = random.integers(0, np.iinfo(dtype).max, coarse, dtype, endpoint=True)
        images = np.stack([image_ops.resize(image, (height, width)) for image in noise])
        batch = image_ops.normalise(images, metadata.mean, metadata.std)
        logits = copy(torch.from_numpy(batch)).numpy()
        differences.append(np.abs(logits - network(images)).max())
        largest.append(np.abs(logits).max())
    return float(np.max(differences)), float(np.max(largest))


@dataclass(frozen=True)
class _Latency:
    """How long one batch takes, in milliseconds: the median of the runs, and their 90th centile."""

    name: str
    shape: tuple[int, ...]
    median: float
    p90: float


def latency(
    runners: dict[str, Callable[[Tensor], object]],
    shapes: Sequence[tuple[int, int, int, int]],
    repeats: int = 20,
) -> list[_Latency]:
    """Time each runner on each shape, after three runs to warm up.

    The runners take turns, so that whatever else the machine does falls on all of them alike.

    Args:
        runners: functions of a float32 tensor that return when they are done; `runners` makes two.
        shapes: (N, C, H, W) of the batches.
        repeats: runs that are timed, 2 or more.
    """
    rows = []
    for shape in shapes:
        batch = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        taken: dict[str, list[float]] = {name: [] for name in runners}
        for _ in range(repeats + 3):
            for name, run in runners.items():
                began = time.perf_counter()
                run(batch)
                taken[name].append(1000 * (time.perf_counter() - began))
        for name, (_, _, _, *times) in taken.items():
            p90 = statistics.quantiles(times, n=10)[-1]
            rows.append(_Latency(name, tuple(shape), statistics.median(times), p90))
    return rows


def runners(model: nn.Module, onnx_file: str | Path) -> dict[str, Callable[[Tensor], object]]:
    """Return what to time: `model` in PyTorch, on its device, and its export on this machine.

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


def table(rows: Sequence[_Latency]) -> str:
    """Return latencies as text."""
    cells = [
        [row.name, "×".join(map(str, row.shape)), f"{row.median:.1f}", f"{row.p90:.1f}"]
        for row in rows
    ]
    return text_table(["runner", "batch", "median ms", "90 % within"], cells)
