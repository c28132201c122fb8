"""How high a learning rate training tolerates: try them all in one short run."""

from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass
from itertools import chain, count, islice
from typing import Any

import torch
from torch import nn

from segkit.errors import ArgumentError, TrainingError
from segkit.train import distributed
from segkit.train import precision as precisions
from segkit.train.checks import Loss, check_and_default_loss
from segkit.train.schedules import Schedule, Scheduler, make_optimizer


@dataclass
class RangeTest:
    """Learning rates, the loss at each, and the loss smoothed over about ten steps."""

    rates: list[float]
    losses: list[float]
    smooth: list[float]

    @property
    def suggestion(self) -> float:
        """A tenth of the learning rate with the lowest smoothed loss: beyond it, training fails."""
        return self.rates[self.smooth.index(min(self.smooth))] / 10

    def plot(self, ax: Any = None) -> Any:
        """Draw loss over learning rate with the suggestion; return the axes (matplotlib)."""
        import matplotlib.pyplot as plt

        ax = ax or plt.subplots(figsize=(5, 3))[1]
        ax.plot(self.rates, self.losses, alpha=0.35, label="loss")
        ax.plot(self.rates, self.smooth, color="C0", label="smoothed")
        ax.axvline(self.suggestion, color="C1", ls="--", label=f"suggested {self.suggestion:.1e}")
        ax.set(xscale="log", xlabel="learning rate", ylabel="training loss")
        ax.legend()
        return ax


def lr_range_test(
    model: nn.Module,
    train: distributed.Data,
    *,
    lowest: float = 1e-6,
    highest: float = 1.0,
    steps: int = 100,
    loss: Loss | None = None,
    encoder_lr: float | None = None,
    optimizer: str = "adamw",
    batch_size: int = 16,
    seed: int = 0,
    device: str | torch.device | None = None,
    precision: str = "auto",
) -> RangeTest:
    """Train a copy of `model` while the learning rate grows from `lowest` to `highest`.

    Ends early where the loss is not finite, or smoothed has risen by more than three times its
    lowest value. The other arguments are those of `fit`. Method: https://arxiv.org/abs/1506.01186.
    """
    if steps < 2 or not 0 < lowest < highest:
        raise ArgumentError(f"steps={steps}, from {lowest} to {highest}: give 2 steps, and a range")
    device = distributed.pick_device(device)
    number_format = precisions.choose(precision, device)
    loader = distributed.make_loader(train, batch_size, seed, 0, device, training=True)
    model, rates, losses, smooth = deepcopy(model), [], [], []
    growth = Schedule("exponential", final=highest / lowest)
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else []))
        loss = check_and_default_loss(model, loss, [loader])
        layout = {"memory_format": torch.channels_last}
        stack.enter_context(distributed.on_device(device, model, loss, **layout))
        optimizer = make_optimizer(optimizer, model, lowest, None, encoder_lr)
        scheduler = Scheduler(growth, optimizer, 1, steps - 1)  # as many intervals
        epochs = (distributed.epoch_batches(loader, epoch, seed) for epoch in count())
        model.train()
        for images, masks in islice(chain.from_iterable(epochs), steps):
            with number_format.autocast():
                logits = model(images.to(device, memory_format=torch.channels_last))
            value = loss(logits.float(), masks.to(device))
            number_format.backward(value)
            number_format.scaler.unscale_(optimizer)
            grads = [p.grad for p in model.parameters() if p.grad is not None]
            norm = 0 if number_format.overflow_allowed else nn.utils.get_total_norm(grads)
            if not (value + norm).isfinite():
                break  # this learning rate is too high
            losses.append(value.item())
            rates.append(optimizer.param_groups[0]["lr"])
            smooth.append(0.9 * smooth[-1] + 0.1 * losses[-1] if smooth else losses[-1])
            best = min(smooth)
            if smooth[-1] - best > 3 * (best if best > 0 else max(-best, smooth[0] - best)):
                break
            number_format.step(optimizer)
            scheduler.step()
            optimizer.zero_grad(set_to_none=True)
    if not rates:
        raise TrainingError(f"not finite at the lowest learning rate, {lowest:g}: check the images")
    return RangeTest(rates, losses, smooth)
