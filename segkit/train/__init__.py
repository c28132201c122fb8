"""Training: `fit` a network and get its history. What a step does is written in `loop`."""

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import nn
from torch.optim import Optimizer

from segkit.metrics import Counts
from segkit.train import checkpoint, distributed, loop, setup
from segkit.train.checkpoint import CheckpointError, load_weights, save_weights
from segkit.train.range_test import RangeTest, lr_range_test
from segkit.train.schedules import Schedule, curve
from segkit.train.session import Session
from segkit.train.tracking import COLUMNS, History, Tracker, Trackers
from segkit.train.trouble import Guard, TrainingError, interruptible, memory_advice

__all__ = [
    "CheckpointError",
    "History",
    "RangeTest",
    "Schedule",
    "TrainingError",
    "curve",
    "evaluate",
    "fit",
    "load_weights",
    "lr_range_test",
    "save_weights",
]

# Arguments of `fit` that do not change its numbers, or are told by what is made of them.
UNRECORDED = {"train", "val", "device", "out", "resume", "save_every", "trackers", "log"}


def fit(
    model: nn.Module,
    train: distributed.Data,
    val: distributed.Data | None = None,
    *,
    loss: loop.Loss | None = None,
    epochs: int = 10,
    lr: float = 1e-3,
    optimizer: str | Optimizer = "adamw",
    weight_decay: float | None = None,
    schedule: str | Schedule = "constant",
    warmup: float = 0.0,
    batch_size: int = 16,
    accumulate: int = 1,
    clip: float | None = None,
    ema: float | None = None,
    patience: int | None = None,
    monitor: str | None = None,
    keep: str = "last",
    seed: int = 0,
    workers: int = 0,
    device: str | torch.device | None = None,
    precision: str = "auto",
    channels_last: bool = True,
    compile: bool = False,
    deterministic: bool = True,
    out: str | Path | None = None,
    resume: bool = False,
    save_every: int | None = None,
    trackers: Iterable[str | Tracker] = (),
    log: Callable[[str], object] | None = print,
) -> History:
    """Train `model` on `train`, judge it on `val` after each epoch, return the history.

    train, val: SegmentationDatasets, or DataLoaders of float32 (N, C, H, W) and int64 (N, H, W).
    loss: called as `loss(logits, target)`; by default binary or, for several channels of logits,
    multi-class cross-entropy. optimizer: "adamw", "adam" or "sgd" (momentum 0.9) at rate `lr`,
    or one of your own. schedule: a name or a `Schedule`; warmup: epochs over which the rate
    first rises. batch_size: of all processes together; accumulate: batches to one step.
    clip: the largest norm of the gradient. ema: decay of a moving average of the weights (0.99
    averages over about 100 steps), which then is what is judged and kept. patience: epochs
    without a better `monitor` (val_iou, or without val train_loss) after which training stops.
    keep: the weights that `model` ends with, of the "last" or of the "best" epoch.

    seed: of order, augmentation and dropout. The same seed and machine give the same numbers
    with any number of `workers`; the caller's random state is left alone. precision: "auto",
    "fp32", "tf32", "bf16", "fp16". deterministic: on a GPU, the same bits each time rather than
    the fastest kernels.

    out: a folder for config.json, history.csv, last.safetensors (to go on from; written after
    each epoch, and every `save_every` steps) and best.safetensors. resume: go on from there, to
    the very weights that training without a break gives; starts anew if nothing is there.
    trackers: "tensorboard", "wandb", or your own. log: takes a line per epoch; None is silent.
    Ctrl-C ends the step, saves, and returns the history so far.

    val_iou and val_dice are those of the whole set: counts pooled over its images, averaged over
    the classes (binary: the foreground alone). Raises DataError, TrainingError, CheckpointError.
    """
    given = {name: value for name, value in locals().items() if name not in UNRECORDED}
    if not isinstance(schedule, Schedule):
        schedule = given["schedule"] = Schedule(schedule, warmup=warmup)
    for name in ("epochs", "batch_size", "accumulate"):
        if given[name] < 1:
            raise ValueError(f"{name}={given[name]}: give at least 1")
    if keep not in ("last", "best"):
        raise ValueError(f'keep={keep!r}: say "last" or "best"')
    monitor = monitor or ("train_loss" if val is None else "val_iou")
    if monitor not in (COLUMNS[1:5] if val is not None else COLUMNS[1:2]):
        raise ValueError(f"monitor={monitor!r} is not a score or loss of this run")
    if out is None and (resume or save_every):
        raise ValueError('resume and save_every need a folder: out="runs/name"')
    out = Path(out) if out else None
    with ExitStack() as during:
        during.enter_context(distributed.joined())
        log = log if distributed.rank() == 0 else None
        machine = setup.machine(device, precision, channels_last)
        cuda = [machine.device] if machine.device.type == "cuda" else []
        during.enter_context(torch.random.fork_rng(cuda))
        during.enter_context(machine.precision.numerics(deterministic))
        during.enter_context(memory_advice(batch_size))

        train = distributed.feed(train, batch_size, seed, workers, training=True)
        if val is not None:
            val = distributed.feed(val, batch_size, seed, workers, training=False)
        batches = len(train)
        model = distributed.share_norms(model, machine.device)
        model.to(machine.device, memory_format=machine.layout)
        given["loss"] = loss = setup.ready(model, loss, [train, val], machine)
        optimizer = setup.optimizer(optimizer, model, lr, weight_decay)
        average = setup.average(model, ema)
        called = torch.compile(model) if compile else model
        run = loop.Run(
            plain=model,
            model=distributed.together(called, machine.device),
            loss=loss,
            optimizer=optimizer,
            course=schedule.start(optimizer, epochs, steps=-(-batches // accumulate)),
            machine=machine,
            guard=Guard(machine.device),
            clip=clip,
            accumulate=accumulate,
            average=average,
        )
        config = setup.facts(given, model, machine, train)
        history = History(monitor=monitor, config=config)
        place = checkpoint.start(out, resume, run, history)
        if log:
            log(f"{machine.device}, {machine.precision}")
        session = Session(
            run=run,
            train=train,
            batches=batches,
            val=val,
            history=history,
            trackers=Trackers(trackers, out, quiet=distributed.rank() > 0),
            epochs=epochs,
            seed=seed,
            patience=patience,
            keep=keep,
            out=out,
            save_every=save_every,
            log=log,
            stop=during.enter_context(interruptible(log)),
        )
        session.go(place)
    return history


def evaluate(
    model: nn.Module,
    data: distributed.Data,
    *,
    loss: loop.Loss | None = None,
    batch_size: int = 16,
    workers: int = 0,
    device: str | torch.device | None = None,
    precision: str = "auto",
    channels_last: bool = True,
) -> tuple[float, Counts]:
    """Return the mean loss of `model` over the images of `data`, and the counts of each image.

    Arguments are those of `fit`. Every score and average is read from the counts.
    """
    machine = setup.machine(device, precision, channels_last)
    fed = distributed.feed(data, batch_size, 0, workers, training=False)
    model.to(machine.device, memory_format=machine.layout)
    loss = setup.ready(model, loss, [fed], machine)
    totals, counted = loop.evaluate(model, fed, loss, machine)
    summed, images = totals.tolist()
    return summed / images, counted
