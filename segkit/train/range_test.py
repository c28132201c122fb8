"""How high a learning rate a network bears: try them all in one short run."""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from segkit.train import distributed, setup
from segkit.train.loop import Batch, Loss, Run, train_epoch
from segkit.train.schedules import Schedule
from segkit.train.trouble import Guard, NotFinite


@dataclass
class RangeTest:
    """Rates tried, the loss at each, and the loss smoothed over about ten steps."""

    rates: list[float]
    losses: list[float]
    smooth: list[float]

    @property
    def suggestion(self) -> float:
        """A tenth of the rate at which the smoothed loss was lowest: past it training breaks."""
        return self.rates[self.smooth.index(min(self.smooth))] / 10

    def plot(self, ax: Any = None) -> Any:
        """Draw loss over rate, the suggestion marked; return the axes (matplotlib)."""
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
    optimizer: str = "adamw",
    batch_size: int = 16,
    seed: int = 0,
    workers: int = 0,
    device: str | torch.device | None = None,
    precision: str = "auto",
    channels_last: bool = True,
) -> RangeTest:
    """Train for `steps` while the rate grows from `lowest` to `highest`, and undo the training.

    Ends early where the smoothed loss passes four times its lowest, or is not finite.
    Arguments are those of `fit`. Method: Smith 2017, https://arxiv.org/abs/1506.01186.
    """
    machine = setup.machine(device, precision, channels_last)
    cuda = [machine.device] if machine.device.type == "cuda" else []
    model.to(machine.device, memory_format=machine.layout)
    fed = distributed.feed(train, batch_size, seed, workers, training=True)
    loss = setup.ready(model, loss, [fed], machine)
    before = deepcopy(model.state_dict())
    chosen = setup.optimizer(optimizer, model, lowest, None)
    course = Schedule("exponential", final=highest / lowest).start(chosen, 1, steps)
    run = Run(model, model, loss, chosen, course, machine, Guard(machine.device))
    rates, losses, smooth = [], [], []
    totals = torch.zeros(2, device=machine.device)
    try:
        with torch.random.fork_rng(cuda):
            for _ in train_epoch(run, endless(fed, seed, steps), totals):
                summed, images = totals.tolist()
                totals.zero_()
                losses.append(summed / images)
                rates.append(run.rate)
                smooth.append(0.9 * smooth[-1] + 0.1 * losses[-1] if smooth else losses[-1])
                if smooth[-1] > 4 * min(smooth):
                    break
    except NotFinite:
        pass  # that rate was too high: the curve ends before it
    finally:
        model.load_state_dict(before)
    return RangeTest(rates, losses, smooth)


def endless(fed: torch.utils.data.DataLoader, seed: int, steps: int) -> Iterator[Batch]:
    """Return `steps` batches, over as many epochs as that takes."""
    epoch = 0
    while steps > 0:
        for batch in distributed.epoch_batches(fed, epoch, seed):
            yield batch
            steps -= 1
            if steps == 0:
                return
        epoch += 1
