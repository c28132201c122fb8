"""What has to stand before the first step: machine, optimizer, loss, and facts for the record."""

import inspect
import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from segkit.data.dataset import SegmentationDataset
from segkit.train import distributed
from segkit.train import precision as precisions
from segkit.train.loop import Loss, Machine, default_loss
from segkit.train.trouble import check_masks, out_of_memory

OPTIMIZERS = {"adamw": AdamW, "adam": Adam, "sgd": SGD}


def machine(device: str | torch.device | None, precision: str, channels_last: bool) -> Machine:
    """Return where and how to compute."""
    device = distributed.pick_device(device)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return Machine(device, layout, precisions.choose(precision, device))


def optimizer(
    wanted: str | Optimizer, model: nn.Module, lr: float, weight_decay: float | None
) -> Optimizer:
    """Return the optimizer called `wanted` for the weights that learn, fused where it can be."""
    if isinstance(wanted, Optimizer):
        return wanted
    if wanted not in OPTIMIZERS:
        raise ValueError(f"no optimizer {wanted!r}; there are: {', '.join(OPTIMIZERS)}, or yours")
    weights = [p for p in model.parameters() if p.requires_grad]
    if not weights:
        raise ValueError("every weight of the network is frozen: there is nothing to train")
    options: dict[str, Any] = {"momentum": 0.9} if wanted == "sgd" else {}
    if weight_decay is not None:
        options["weight_decay"] = weight_decay
    fused = weights[0].device.type in ("cpu", "cuda")
    return OPTIMIZERS[wanted](weights, lr=lr, fused=fused, **options)


def average(model: nn.Module, decay: float | None) -> AveragedModel | None:
    """Return an exponential moving average of the weights, and of batch normalisation's statistics.

    Those of the model as it is would not fit the averaged weights.
    """
    if decay is None:
        return None
    if not 0 <= decay < 1:
        raise ValueError(f"ema={decay} is not a decay: give one from 0 to below 1, such as 0.99")
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)


@torch.no_grad()
def channels(model: nn.Module, fed: DataLoader, device: torch.device) -> int:
    """Return how many channels of logits `model` gives for an image of `fed`."""
    ours = isinstance(fed.dataset, SegmentationDataset)
    images = fed.dataset[0][0][None] if ours else next(iter(fed))[0][:1]
    try:
        return model.eval()(images.to(device)).shape[1]
    except RuntimeError as error:
        if out_of_memory(error):
            raise
        raise ValueError(
            f"{type(model).__name__} cannot take images of shape {tuple(images.shape)}: {error}"
        ) from error


def ready(
    model: nn.Module, loss: Loss | None, feeds: list[DataLoader | None], place: Machine
) -> Loss:
    """Return the loss, by default the one for the network's logits, once the masks fit them."""
    feeds = [fed for fed in feeds if fed is not None]
    outputs = channels(model, feeds[0], place.device)
    ours = [fed.dataset for fed in feeds if isinstance(fed.dataset, SegmentationDataset)]
    for data in ours:
        check_masks(data, outputs)
    loss = loss or default_loss(outputs)
    if isinstance(loss, nn.Module):
        loss.to(place.device)
        for part in loss.modules():
            if ours and hasattr(part, "foreground_seen"):
                part.foreground_seen = True  # else it might refuse a first batch without any
    return loss


def facts(given: Mapping[str, Any], model: nn.Module, place: Machine, train: DataLoader) -> dict:
    """Return what it takes to repeat a run, ready for JSON.

    "settings" are the arguments of `fit` that change its numbers.
    """
    data = train.dataset
    count = sum(p.numel() for p in model.parameters())
    settings = {name: plain(value) for name, value in given.items() if name != "model"}
    settings |= {
        "model": type(model).__name__,
        "train_items": len(data),
        "processes": distributed.ranks(),
    }
    about_data = {}
    if isinstance(data, SegmentationDataset):
        about_data = {
            "class_names": list(data.class_names),
            "channels": data.channels,
            "size": list(data.masks.shape[1:]),
            "mean": list(getattr(data.transform, "mean", ())),
            "std": list(getattr(data.transform, "std", ())),
        }
    return {
        "settings": settings,
        "parameters": count,
        "data": about_data,
        "device": device_name(place.device),
        "precision": str(place.precision),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "git": revision(),
        "command": sys.argv,
    }


def plain(value: Any) -> Any:
    """Return a setting as JSON can hold it; a loss by its name and the arguments it keeps."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, nn.Module):
        names = inspect.signature(type(value).__init__).parameters
        kept = {name: getattr(value, name, None) for name in names if name != "self"}
        told = [f"{k}={v.tolist() if isinstance(v, Tensor) else v}" for k, v in kept.items()]
        inside = [plain(child) for child in value.children()]
        return f"{type(value).__name__}({', '.join(told + inside)})"
    if isinstance(value, Optimizer):
        return type(value).__name__
    return getattr(value, "__name__", repr(value))


def device_name(device: torch.device) -> str:
    """Return the device with its maker's name, as far as it is known."""
    if device.type == "cuda":
        return f"cuda: {torch.cuda.get_device_name(device)}"
    if device.type == "cpu":
        return f"cpu: {getattr(torch.cpu, 'get_capabilities', dict)().get('cpu_name', '')}"
    return device.type


def revision() -> str | None:
    """Return git's name of the code's revision, with "-dirty" if it was edited, or None."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
