"""Several processes that train one model, and what each of them is fed.

`torchrun --nproc_per_node=2 …` starts the processes; `fit` joins them by itself. `batch_size`
is that of all processes together, so their number changes the speed and not the training:
scores, summed as integers, are the same, and losses but for rounding, if each process has as
many pixels that count as any other. With ignored pixels, and for losses pooled over a batch such
as Dice, each process averages over its own share, and the mean of means differs a little.
(A convolution's bias before batch normalisation is a special case: its gradient is nothing but
rounding, which Adam blows up to full steps. Training does not notice; validation, in the fourth
digit, does.)
"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import DataLoader

from segkit.data.dataset import DataError, SeededSampler, SegmentationDataset, loader

Data = SegmentationDataset | DataLoader


@contextmanager
def joined() -> Iterator[None]:
    """Join the processes that torchrun started, for the time of the context."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1 or dist.is_initialized():
        yield
        return
    dist.init_process_group()  # gloo for tensors on CPUs, nccl for those on GPUs
    try:
        yield
    finally:
        dist.destroy_process_group()


def leave() -> None:
    """End this process with code 0 if it is one of those that torchrun started.

    The threads in which gloo works may still ask for the interpreter while it shuts down, and
    that aborts a process whose work is done; torchrun would then stop the others as well.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def ranks() -> int:
    """Return how many processes train together; 1 without torchrun."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this process; process 0 alone writes and prints."""
    return dist.get_rank() if dist.is_initialized() else 0


def pick_device(device: str | torch.device | None) -> torch.device:
    """Return the device asked for, or the best there is; with several GPUs, this process's.

    Raises ValueError for one that is not here.
    """
    names = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device is None:
        device = next((name for name, there in names.items() if there), "cpu")
    try:
        device = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device={device!r}: choose cpu, cuda or mps") from error
    if not names.get(device.type, True):
        raise ValueError(f"device={str(device)!r}: PyTorch finds no such device here; choose cpu")
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device)
    return device


def all_sum(numbers: Tensor) -> Tensor:
    """Return the sum over the processes."""
    if ranks() > 1:
        numbers = numbers.clone()
        dist.all_reduce(numbers)
    return numbers


def gather(thing: Any) -> list[Any]:
    """Return what each process gave, in the order of their ranks."""
    if ranks() == 1:
        return [thing]
    things = [None] * ranks()
    dist.all_gather_object(things, thing)
    return things


def together(model: nn.Module, device: torch.device) -> nn.Module:
    """Return `model` so that its gradients are averaged over the processes."""
    if ranks() == 1:
        return model
    ids = [device.index] if device.type == "cuda" else None
    return nn.parallel.DistributedDataParallel(model, device_ids=ids)


def share_norms(model: nn.Module, device: torch.device) -> nn.Module:
    """Let batch normalisation see the batch of all processes, not each its own share of it."""
    if ranks() == 1:
        return model
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for module in model.modules():
        if type(module) is nn.BatchNorm2d and module.affine and module.track_running_stats:
            module.__class__ = SharedBatchNorm2d  # the same weights and names, another forward
    return model


class Sum(torch.autograd.Function):
    """The sum over the processes, through which gradients flow to each of them."""

    @staticmethod
    def forward(context: Any, numbers: Tensor) -> Tensor:
        """Return the sum of every process's numbers."""
        return all_sum(numbers)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        """Every process's loss depends on the sum: sum their gradients."""
        return all_sum(gradient)


class SharedBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation over all processes, for CPUs, which torch's SyncBatchNorm leaves out."""

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` (N, C, H, W) normalised with the statistics of every process's batch."""
        if not self.training or ranks() == 1:
            return super().forward(x)
        wide = x.float()
        count = all_sum(torch.tensor(float(wide.numel() / wide.shape[1])))
        mean = Sum.apply(wide.sum((0, 2, 3))) / count
        centred = wide - mean[:, None, None]
        variance = Sum.apply(centred.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            passes = float(self.num_batches_tracked)
            weight = 1 / passes if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean, weight)
            self.running_var.lerp_(variance * count / (count - 1), weight)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)


def feed(data: Data, batch_size: int, seed: int, workers: int, training: bool) -> DataLoader:
    """Return the loader of this process's share of `data`.

    In training, the shares of one step make up the batch that a single process would take.
    In evaluation every item is in exactly one share. A DataLoader is used as it is.
    """
    if isinstance(data, DataLoader):
        if ranks() > 1:
            raise ValueError("several processes: give data sets, not loaders, to be shared out")
        if len(data) == 0:
            raise DataError("the loader yields nothing: is its data set empty, or drop_last on?")
        return data
    if not isinstance(data, SegmentationDataset):
        raise TypeError(f"{type(data).__name__} is neither a SegmentationDataset nor a DataLoader")
    if batch_size % ranks():
        raise ValueError(
            f"batch_size={batch_size} is that of all {ranks()} processes together: make it a "
            f"multiple of {ranks()}"
        )
    own = batch_size // ranks()
    if training:
        fed = loader(replace(data, seed=seed), own, True, seed, workers, rank=rank(), ranks=ranks())
    else:
        if len(data) < ranks():
            raise DataError(f"{len(data)} items cannot be shared among {ranks()} processes")
        fed = loader(data.subset(range(rank(), len(data), ranks())), own, workers=workers)
    fed.generator = torch.Generator()  # else each pass would draw from the global stream
    fed.worker_init_fn = leave_ctrl_c
    return fed


def leave_ctrl_c(worker: int) -> None:
    """Let Ctrl-C reach the process that trains alone, and not the workers that feed it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def epoch_batches(fed: DataLoader, epoch: int, seed: int, start: int = 0) -> Iterator:
    """Return the batches of an epoch from number `start` on.

    The global random state is set from seed, epoch and rank, so that dropout, or the order of
    a DataLoader that is not ours, is the same whatever came before.
    """
    sequence = np.random.SeedSequence((seed, epoch, rank()))
    torch.manual_seed(int(sequence.generate_state(1, np.uint64)[0] >> 1))
    if isinstance(fed.sampler, SeededSampler):
        fed.sampler.set_epoch(epoch, start=start * fed.batch_size)
        return iter(fed)
    if hasattr(fed.sampler, "set_epoch"):
        fed.sampler.set_epoch(epoch)
    batches = iter(fed)
    for _ in islice(batches, start):
        pass
    return batches


def item_names(fed: DataLoader, epoch: int, batch: int, count: int) -> list[str]:
    """Return the names of the items in `count` batches from number `batch` on, where known."""
    if not isinstance(fed.sampler, SeededSampler):
        return []
    fed.sampler.set_epoch(epoch, start=batch * fed.batch_size)
    picked = islice(iter(fed.sampler), count * fed.batch_size)
    return [fed.dataset.names[index] for index, _ in picked]
