"""Devices, and several processes that train one network, each on its share of the data.

`torchrun --nproc_per_node=2 -m segkit train config.yaml` starts them; `fit` joins them by itself.
`batch_size` is that of all processes together, so their number changes the speed and not the
training: losses agree but for rounding, scores exactly. Exceptions: a loss that pools over the
batch (Dice, ignored pixels) is averaged over the shares of a batch; on CPUs, which have no
SyncBatchNorm, each process normalises its own share; a few images are used twice in an epoch if
their number is not a multiple of the number of processes.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain, islice
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from segkit.data.dataset import SeededSampler, SegmentationDataset, loader
from segkit.errors import ArgumentError, DataError, TrainingError

Data = SegmentationDataset | DataLoader


@contextmanager
def process_group(device: str | torch.device | None) -> Iterator[torch.device]:
    """Join the processes that torchrun started, for the time of the context.

    Yields the device of this one, as `pick_device` does.
    """
    device = pick_device(device)
    if int(os.environ.get("WORLD_SIZE", 1)) == 1 or dist.is_initialized():
        yield device
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield device
    finally:
        dist.destroy_process_group()


def leave() -> None:
    """End this process with code 0 if torchrun started it: gloo's threads may abort an exit."""
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
    """Return "cpu", "cuda" (this process's GPU) or "mps"; by default the best there is.

    Raises ArgumentError if PyTorch does not find that device.
    """
    found = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        device = found if device is None else torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ArgumentError(f"device={device!r}: choose cpu, cuda or mps") from error
    if device.type not in ("cpu", found.type):
        raise ArgumentError(f"device={str(device)!r}: PyTorch finds no such device; choose cpu")
    if device.type == "cuda":
        if device.index is None:
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        if device.index >= torch.cuda.device_count():
            raise ArgumentError(
                f"this needs GPU number {device.index}, and there are {torch.cuda.device_count()}: "
                'start as many processes as there are GPUs, or give device="cpu"'
            )
        torch.cuda.set_device(device)
    return device


@contextmanager
def on_device(device: torch.device, *modules: object, **layout: Any) -> Iterator[None]:
    """Have those of `modules` that are networks or losses on `device`, then where they were."""
    homes = {}
    for module in modules:
        if isinstance(module, nn.Module):
            homes[module] = device_of(module)
            module.to(device, **layout)
    try:
        yield
    finally:
        for module, home in homes.items():
            module.to(home)


def device_of(module: nn.Module) -> torch.device:
    """Return where the parameters of a network are, or the buffers of a loss."""
    tensors = chain(module.parameters(), module.buffers())
    return next((t.device for t in tensors), torch.device("cpu"))


def device_name(device: torch.device) -> str:
    """Return the device with its maker's name, as far as it is known."""
    if device.type == "cuda":
        return f"cuda: {torch.cuda.get_device_name(device)}"
    if device.type == "cpu":
        return f"cpu: {getattr(torch.cpu, 'get_capabilities', dict)().get('cpu_name', '')}"
    return device.type


def all_sum(numbers: Tensor) -> Tensor:
    """Return the sum over the processes."""
    if ranks() > 1:
        numbers = numbers.clone()
        dist.all_reduce(numbers)
    return numbers


def sync_batch_norm(model: nn.Module, device: torch.device) -> nn.Module:
    """Let batch normalisation on GPUs use the batch of all processes, not each its own share."""
    if ranks() == 1 or device.type != "cuda":
        return model
    from timm.layers import convert_sync_batchnorm  # torch's drops the activation inside timm's

    return convert_sync_batchnorm(model)


def wrap_ddp(model: nn.Module, device: torch.device) -> nn.Module:
    """Return `model` such that `backward` averages its gradients over the processes."""
    if ranks() == 1:
        return model
    return DistributedDataParallel(model, [device.index] if device.type == "cuda" else None)


def make_loader(
    data: Data, batch_size: int, seed: int, workers: int, device: torch.device, training: bool
) -> DataLoader:
    """Return a loader of this process's share of `data`; a DataLoader is used as it is.

    In training the order is shuffled, and the shares are equally large; in evaluation every image
    is in exactly one. Raises ArgumentError and DataError.
    """
    n = ranks()
    if not isinstance(data, Data):
        kind = type(data).__name__
        raise ArgumentError(f"{kind} is neither a SegmentationDataset nor a DataLoader")
    try:
        length = len(data)
    except TypeError as error:
        raise ArgumentError(
            f"{error}, so an epoch has none: add __len__ to the data set"
        ) from error
    if length == 0:
        raise DataError("the data set is empty, or drop_last leaves nothing of it to load")
    if isinstance(data, DataLoader):
        if getattr(data.sampler, "ranks", 1) != n:
            raise ArgumentError("several processes: give data sets, not loaders, to be shared out")
        return data
    if length < n:
        raise DataError(f"{length} items cannot be shared among {n} processes")
    if batch_size % n:
        remedy = f"make it a multiple of {n}"
        raise ArgumentError(f"batch_size={batch_size} is that of all {n} processes: {remedy}")
    data, share = replace(data, seed=seed) if training else data, {"rank": rank(), "ranks": n}
    share["pin_memory"] = device.type == "cuda"
    share["generator"] = torch.Generator()  # else each pass would draw from the global stream
    return loader(data, batch_size // n, training, seed, workers, **share)


def epoch_batches(
    loader: DataLoader, epoch: int, seed: int, start: int = 0, random: list[dict] | None = None
) -> Iterator:
    """Yield the batches of an epoch from number `start` on.

    Every generator is seeded from seed, epoch and rank, so that order and dropout are the same
    whatever came before. `random`: the `random_states` after the batches that are left out.
    """
    sequence = np.random.SeedSequence((seed, epoch, rank()))
    epoch_seed = int(sequence.generate_state(1, np.uint64)[0] >> 1)
    torch.manual_seed(epoch_seed)
    sampler, skipped = loader.sampler, start
    for owner in (loader, sampler, getattr(loader.batch_sampler, "sampler", None)):
        if getattr(owner, "generator", None) is not None:
            owner.generator.manual_seed(epoch_seed)
    if isinstance(sampler, SeededSampler):
        sampler.set_epoch(epoch, start=start * loader.batch_size)
        skipped = 0
    elif hasattr(sampler, "set_epoch"):
        sampler.set_epoch(epoch)
    batches, count = iter(loader), len(loader) - skipped
    for _ in islice(batches, skipped):
        pass
    if random:
        torch.set_rng_state(random[rank()]["cpu"])
        if "cuda" in random[rank()]:
            torch.cuda.set_rng_state(random[rank()]["cuda"])
    try:
        for n in range(count):
            batch = next(batches, None)
            if batch is None:
                raise TrainingError(f"the loader ended after {n} of its {count} batches")
            yield batch
    finally:
        if isinstance(sampler, SeededSampler):
            sampler.set_epoch(epoch)  # the whole epoch again: the loader may be the caller's


def random_states(device: torch.device) -> list[dict[str, Tensor]]:
    """Return the state of every process's generators that dropout draws from, by rank."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    states = [state] * ranks()
    if ranks() > 1:
        dist.all_gather_object(states, state)
    return states
