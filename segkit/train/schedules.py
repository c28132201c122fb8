"""Optimizers by name, and how the learning rate changes. PyTorch's schedulers compute it."""

from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer, lr_scheduler

from segkit.errors import ArgumentError, one_of

_OPTIONS: dict[str, dict[str, Any]] = {
    "constant": {},
    "step": {"every": None, "gamma": 0.1},
    "cosine": {"floor": 0.0},
    "one-cycle": {
        "pct_start": 0.3,
        "div_factor": 25.0,
        "final_div_factor": 1e4,
        "cycle_momentum": True,
    },
    "exponential": {"final": 0.01},
    "poly": {"power": 0.9},
    "plateau": {"factor": 0.3, "patience": 3},
}


class Schedule:
    """A schedule of the learning rate, and a linear warm-up before it.

    Args:
        name: "constant"; "step": times `gamma` after every `every` epochs (default: a third of
            all); "cosine": down to `floor` (https://arxiv.org/abs/1608.03983, no restarts);
            "one-cycle": up and down once, and the momentum (Adam's beta 1) down and up unless
            `cycle_momentum` is false (https://arxiv.org/abs/1708.07120); "exponential": times
            the same factor in each step, times `final` in all; "poly": (1 - t)^`power`, t from 0
            to 1 (https://arxiv.org/abs/1606.00915); "plateau": times `factor` when the validation
            loss (or training loss, without validation) has not fallen for `patience` epochs.
        warmup: epochs, also fractions, over which the learning rate first rises linearly.

    Raises:
        ArgumentError: a name or an option that does not exist, or a negative warm-up.
    """

    def __init__(self, name: str = "constant", *, warmup: float = 0.0, **options: Any) -> None:
        own = _OPTIONS[one_of("schedule", name, _OPTIONS)]
        for option, value in options.items():
            one_of(f"option of {name}", option, own)
            if value is not None and (value < 0 or (value == 0 and option in ("every", "final"))):
                raise ArgumentError(f"{name} cannot use {option}={value}: give a positive number")
        if warmup < 0:
            raise ArgumentError(f"warmup={warmup} is below zero: give a number of epochs")
        self.name, self.warmup, self.options = name, warmup, own | options
        self.per_step = name not in ("step", "plateau")  # else it changes after each epoch
        self.needs_epochs = name not in ("constant", "plateau")  # their number shapes the curve

    def __repr__(self) -> str:
        return f"Schedule({self.name!r}, warmup={self.warmup}, **{self.options})"


class Scheduler:
    """A schedule on an optimizer, for `epochs` of `steps` steps: the warm-up, then PyTorch's."""

    def __init__(self, schedule: Schedule, optimizer: Optimizer, epochs: int, steps: int) -> None:
        self.schedule, self.optimizer = schedule, optimizer
        self.epochs, self.total = epochs, epochs * steps
        self.steps_done = self.epochs_done = 0
        self.warmup_steps = max(0, min(round(schedule.warmup * steps), self.total - 1))
        self.peaks = [group["lr"] for group in optimizer.param_groups]
        if (floor := schedule.options.get("floor", 0)) > min(self.peaks):
            raise ArgumentError(
                f"cosine's floor {floor} is above the learning rate {min(self.peaks)}, which it "
                "would raise: give a lower one"
            )
        if self.warmup_steps:
            start = 1 / (self.warmup_steps + 1)
            self.current = lr_scheduler.LinearLR(optimizer, start, total_iters=self.warmup_steps)
        else:
            self._end_warmup()

    def _end_warmup(self) -> None:
        """Replace the warm-up by the schedule, which starts at the peak learning rate."""
        optimizer, options = self.optimizer, self.schedule.options
        for group, peak in zip(optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak
            group.pop("initial_lr", None)
        steps = self.total - self.warmup_steps
        match self.schedule.name:
            case "constant":
                self.current = lr_scheduler.ConstantLR(optimizer, factor=1.0, total_iters=0)
            case "step":
                every = options["every"] or max(1, self.epochs // 3)
                self.current = lr_scheduler.StepLR(optimizer, every, options["gamma"])
                self.current.last_epoch = self.epochs_done  # epochs count from the first one on
            case "cosine":
                self.current = lr_scheduler.CosineAnnealingLR(optimizer, steps, options["floor"])
            case "one-cycle":
                self.current = lr_scheduler.OneCycleLR(optimizer, self.peaks, steps + 1, **options)
            case "exponential":
                factor = options["final"] ** (1 / steps)
                self.current = lr_scheduler.ExponentialLR(optimizer, factor)
            case "poly":
                self.current = lr_scheduler.PolynomialLR(optimizer, steps, options["power"])
            case "plateau":
                self.current = lr_scheduler.ReduceLROnPlateau(optimizer, "min", **options)

    def step(self) -> None:
        """Update the learning rate after a step of the optimizer."""
        self.steps_done += 1
        if self.steps_done == self.warmup_steps:
            self._end_warmup()
        elif self.steps_done < self.warmup_steps or self.schedule.per_step:
            self.current.step()

    def end_epoch(self, loss: float) -> None:
        """Update the learning rate after an epoch with this validation (or training) loss."""
        self.epochs_done += 1
        if self.steps_done >= self.warmup_steps and not self.schedule.per_step:
            self.current.step(*([loss] if self.schedule.name == "plateau" else []))

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint holds; the optimizer's state holds the learning rates."""
        current = self.current.state_dict()
        return {"steps": self.steps_done, "epochs": self.epochs_done, "current": current}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict`. Load the optimizer's state after it."""
        self.steps_done, self.epochs_done = state["steps"], state["epochs"]
        if self.steps_done >= self.warmup_steps:
            self._end_warmup()
        self.current.load_state_dict(state["current"])


def curve(
    schedule: Schedule, lr: float, epochs: int, steps: int, losses: list[float] | None = None
) -> list[float]:
    """Return the learning rate, `lr` at its peak, of each of `steps` steps an epoch, for a plot.

    losses: one per epoch, for "plateau".
    """
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = Scheduler(schedule, optimizer, epochs, steps)
    rates = []
    for epoch in range(epochs):
        for _ in range(steps):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        scheduler.end_epoch(losses[epoch] if losses else 0.0)
    return rates


def make_optimizer(
    optimizer: str | Optimizer,
    model: nn.Module,
    lr: float,
    weight_decay: float | None,
    encoder_lr: float | None = None,
) -> Optimizer:
    """Return the optimizer of that name for the parameters that are not frozen.

    Args:
        optimizer: "adamw", "adam", "sgd" (momentum 0.9), or one that is made already.
        lr: learning rate.
        weight_decay: None takes PyTorch's default.
        encoder_lr: that of the encoder. 0 freezes it, more trains it, frozen before or not;
            None gives one learning rate to all.
    """
    if isinstance(optimizer, Optimizer):
        return optimizer
    kinds = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "sgd": torch.optim.SGD}
    kind = kinds[one_of("optimizer", optimizer, kinds)]
    groups = [{"params": list(model.parameters())}]
    if encoder_lr is not None:
        if not hasattr(model, "parameter_groups"):
            raise ArgumentError(
                f"encoder_lr={encoder_lr}, but {type(model).__name__} has no parameter_groups, as "
                "pretrained_unet and resnet34_unet have: leave it out, or give an optimizer with "
                "parameter groups of your own"
            )
        if not encoder_lr >= 0:
            raise ArgumentError(f"encoder_lr={encoder_lr}: give 0, which freezes it, or more")
        if encoder_lr == 0 or model.frozen:
            model.freeze_encoder(encoder_lr == 0)
        groups = model.parameter_groups(lr, encoder_lr)  # the history has the first one's
    for group in groups:
        group["params"] = [p for p in group["params"] if p.requires_grad]
    groups = [group for group in groups if group["params"]]
    if not groups:
        raise ArgumentError("every parameter of the network is frozen: there is nothing to train")
    options = {"momentum": 0.9} if optimizer == "sgd" else {}
    if weight_decay is not None:
        options["weight_decay"] = weight_decay
    fused = groups[0]["params"][0].device.type in ("cpu", "cuda")
    return kind(groups, lr=lr, fused=fused, **options)
