"""How the learning rate moves. torch's schedulers do it; here is when each of them steps."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer, lr_scheduler


@dataclass(frozen=True)
class Kind:
    """What is known of a schedule.

    per_step: it moves after each step, else after each epoch. options: those it takes, with
    their defaults. ends: its curve is drawn for a number of epochs, which may not change later.
    make: `(optimizer, length, **options)` to torch's scheduler, length in steps or epochs.
    """

    per_step: bool
    make: Callable[..., Any]
    options: dict[str, Any] = field(default_factory=dict)
    ends: bool = True


def _one_cycle(optimizer: Optimizer, length: int, **options: Any) -> lr_scheduler.OneCycleLR:
    peaks = [group["lr"] for group in optimizer.param_groups]
    return lr_scheduler.OneCycleLR(optimizer, peaks, total_steps=length + 1, **options)


KINDS = {
    "constant": Kind(
        True, lambda o, n: lr_scheduler.ConstantLR(o, factor=1.0, total_iters=0), ends=False
    ),
    "step": Kind(
        False,
        lambda o, n, every, gamma: lr_scheduler.StepLR(o, every or max(1, n // 3), gamma),
        {"every": None, "gamma": 0.1},
    ),
    "cosine": Kind(
        True, lambda o, n, floor: lr_scheduler.CosineAnnealingLR(o, n, floor), {"floor": 0.0}
    ),
    "one-cycle": Kind(
        True, _one_cycle, {"pct_start": 0.3, "div_factor": 25.0, "final_div_factor": 1e4}
    ),
    "exponential": Kind(
        True,
        lambda o, n, final: lr_scheduler.ExponentialLR(o, final ** (1 / n)),
        {"final": 0.01},
    ),
    "poly": Kind(True, lambda o, n, power: lr_scheduler.PolynomialLR(o, n, power), {"power": 0.9}),
    "plateau": Kind(
        False,
        lambda o, n, factor, patience: lr_scheduler.ReduceLROnPlateau(o, "min", factor, patience),
        {"factor": 0.3, "patience": 3},
        ends=False,
    ),
}


class Schedule:
    """A schedule by name, its options, and a linear warm-up before it.

    "constant". "step": times `gamma` every `every` epochs (default: a third of all).
    "cosine": down to `floor` (Loshchilov and Hutter 2017, https://arxiv.org/abs/1608.03983,
    without restarts). "one-cycle": up and down once (Smith and Topin 2017,
    https://arxiv.org/abs/1708.07120). "poly": (1 - t)^`power`, t from 0 to 1 (as in DeepLab,
    https://arxiv.org/abs/1606.00915). "exponential": by the same factor in each step, times
    `final` in all. "plateau": times `factor` when the validation loss (without validation, the
    training loss) has not fallen for more than `patience` epochs.
    warmup: epochs, also fractions, over which the rate first rises linearly to its full height.
    Raises ValueError for a name or option that does not exist.
    """

    def __init__(self, name: str = "constant", *, warmup: float = 0.0, **options: Any) -> None:
        if name not in KINDS:
            raise ValueError(f"no schedule {name!r}; there are: {', '.join(KINDS)}")
        kind = KINDS[name]
        surplus = sorted(set(options) - set(kind.options))
        if surplus:
            own = ", ".join(f"{key}={value!r}" for key, value in kind.options.items())
            raise ValueError(f"{name} has no option {', '.join(surplus)}; it has: {own or 'none'}")
        if warmup < 0:
            raise ValueError(f"warmup={warmup} is below zero: give a number of epochs")
        self.name, self.warmup, self.kind = name, warmup, kind
        self.options = kind.options | options

    def __repr__(self) -> str:
        return f"Schedule({self.name!r}, warmup={self.warmup}, **{self.options})"

    def start(self, optimizer: Optimizer, epochs: int, steps: int) -> "Course":
        """Begin on `optimizer`, for `epochs` of `steps` steps each."""
        return Course(self, optimizer, epochs, steps)


class Course:
    """A schedule under way. Call `step()` after each step, `epoch(loss)` after each epoch."""

    def __init__(self, schedule: Schedule, optimizer: Optimizer, epochs: int, steps: int) -> None:
        self.schedule, self.optimizer = schedule, optimizer
        self.epochs, self.steps = epochs, steps
        self.done = 0
        self.warm_steps = max(0, min(round(schedule.warmup * steps), epochs * steps - 1))
        self.full = [group["lr"] for group in optimizer.param_groups]
        self.main: Any = None
        self.warm: Any = None
        if self.warm_steps:
            self.warm = lr_scheduler.LinearLR(
                optimizer, 1 / (self.warm_steps + 1), total_iters=self.warm_steps
            )
        else:
            self._begin()

    def _begin(self) -> None:
        """Hand over to the schedule proper: torch's schedulers start at the rate they find."""
        for group, rate in zip(self.optimizer.param_groups, self.full, strict=True):
            group["lr"] = rate
            group.pop("initial_lr", None)
        per_step = self.schedule.kind.per_step
        length = self.epochs * self.steps - self.warm_steps if per_step else self.epochs
        self.main = self.schedule.kind.make(self.optimizer, length, **self.schedule.options)

    def step(self) -> None:
        """Move on by one step of the optimizer."""
        self.done += 1
        if self.done < self.warm_steps:
            self.warm.step()
        elif self.done == self.warm_steps:
            self._begin()
        elif self.schedule.kind.per_step:
            self.main.step()

    def epoch(self, loss: float) -> None:
        """Move on by one epoch, which ended with this validation (or training) loss."""
        if self.main is None or self.schedule.kind.per_step:
            return
        if isinstance(self.main, lr_scheduler.ReduceLROnPlateau):
            self.main.step(loss)
        else:
            self.main.step()

    def state_dict(self) -> dict:
        """Return what a checkpoint keeps."""
        active = self.main or self.warm
        keep = {k: v for k, v in active.state_dict().items() if not callable(v)}
        return {"done": self.done, "active": keep}

    def load_state_dict(self, state: dict) -> None:
        """Go on where `state_dict` was taken; the optimizer's own state holds its rates."""
        self.done = state["done"]
        if self.main is None and self.done >= self.warm_steps:
            self._begin()
        (self.main or self.warm).load_state_dict(state["active"])


def curve(
    schedule: Schedule, lr: float, epochs: int, steps: int, losses: list[float] | None = None
) -> list[float]:
    """Return the rate of every step, for a picture. losses: one per epoch, for "plateau"."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)
    course = schedule.start(optimizer, epochs, steps)
    rates = []
    for epoch in range(epochs):
        for _ in range(steps):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            course.step()
        course.epoch(losses[epoch] if losses else 0.0)
    return rates
