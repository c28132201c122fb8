"""The training loop, short enough to read aloud. What each line rests on has its own module."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from segkit.losses import BCELoss, CrossEntropyLoss
from segkit.metrics import Counts, counts
from segkit.train.precision import Precision
from segkit.train.schedules import Course
from segkit.train.trouble import Guard

Batch = tuple[Tensor, Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass
class Machine:
    """Where and how the network computes: device, memory layout of images, precision."""

    device: torch.device
    layout: torch.memory_format
    precision: Precision

    def take(self, images: Tensor, masks: Tensor) -> Batch:
        """Return a batch on the device, without waiting for it."""
        images = images.to(self.device, memory_format=self.layout, non_blocking=True)
        return images, masks.to(self.device, non_blocking=True)


@dataclass
class Run:
    """What a step of training works with.

    plain: the network itself. model: what is called in training, the same compiled or wrapped
    for several processes. average: the moving average of its weights, if one is kept.
    rate: the learning rate of the step under way.
    """

    plain: nn.Module
    model: nn.Module
    loss: Loss
    optimizer: torch.optim.Optimizer
    course: Course
    machine: Machine
    guard: Guard
    clip: float | None = None
    accumulate: int = 1
    average: AveragedModel | None = None
    rate: float = 0.0

    @property
    def kept(self) -> nn.Module:
        """The network whose scores count and whose weights are kept: the average, if any."""
        return self.average.module if self.average else self.plain

    @property
    def judged(self) -> nn.Module:
        """The same network as it is called in evaluation: compiled, if training is."""
        several = isinstance(self.model, nn.parallel.DistributedDataParallel)
        called = self.model.module if several else self.model
        return self.kept if self.average else called


def train_epoch(run: Run, batches: Iterator[Batch], totals: Tensor) -> Iterator[int]:
    """Train over `batches`; after each step of the optimizer, yield how many went into it.

    totals: `[sum of the images' losses, number of images]`, added to on the device.
    """
    run.model.train()
    while group := list(islice(batches, run.accumulate)):
        for number, (images, masks) in enumerate(group, start=1):
            images, masks = run.machine.take(images, masks)
            with exchange(run.model, last=number == len(group)):
                with run.machine.precision.autocast():
                    logits = run.model(images)
                loss = run.loss(logits.float(), masks)
                run.machine.precision.backward(loss / len(group))
            totals += torch.stack([loss.detach() * len(images), totals.new_tensor(len(images))])
        update(run, totals[0])
        yield len(group)


def update(run: Run, loss: Tensor) -> None:
    """Move the weights by their gradients, and then all that follows the weights."""
    precision = run.machine.precision
    run.rate = run.optimizer.param_groups[0]["lr"]
    precision.scaler.unscale_(run.optimizer)
    norm = nn.utils.get_total_norm([p.grad for p in run.plain.parameters() if p.grad is not None])
    run.guard.watch(loss if precision.forgives else loss + norm)
    if run.clip:
        nn.utils.clip_grads_with_norm_(run.plain.parameters(), run.clip, norm)
    if precision.step(run.optimizer):
        run.course.step()
        if run.average:
            run.average.update_parameters(run.plain)
    run.optimizer.zero_grad(set_to_none=True)


@torch.no_grad()
def evaluate(
    model: nn.Module, batches: Iterable[Batch], loss: Loss, machine: Machine
) -> tuple[Tensor, Counts]:
    """Return `[sum of the images' losses, number of images]` and the counts of every image."""
    model.eval()
    totals, counted = torch.zeros(2, device=machine.device), []
    for images, masks in batches:
        images, masks = machine.take(images, masks)
        with machine.precision.autocast():
            logits = model(images)
        value = loss(logits.float(), masks)
        totals += torch.stack([value * len(images), totals.new_tensor(len(images))])
        counted.append(counts(logits, masks).stacked())
    return totals, Counts(*torch.cat(counted, dim=1))


def exchange(model: nn.Module, last: bool) -> AbstractContextManager:
    """Return a context in which several processes average gradients after the `last` batch only."""
    return model.no_sync() if hasattr(model, "no_sync") and not last else nullcontext()


def default_loss(channels: int) -> nn.Module:
    """Return binary cross-entropy for one channel of logits, cross-entropy for more."""
    return BCELoss() if channels == 1 else CrossEntropyLoss()
