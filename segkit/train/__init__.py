"""Training: `fit` trains a network, `evaluate` and `predict_batches` use it on a data set."""

import copy
import inspect
import math
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader
from tqdm import tqdm

from segkit.data.dataset import SeededSampler
from segkit.errors import ArgumentError, CheckpointError, TrainingError, one_of
from segkit.metrics import Counts, counts
from segkit.train import checkpoint, distributed
from segkit.train import precision as precisions
from segkit.train.checkpoint import BEST, LAST, Progress, load_weights, save_weights
from segkit.train.checks import Loss, check_and_default_loss, is_out_of_memory
from segkit.train.distributed import (
    all_sum,
    epoch_batches,
    make_loader,
    on_device,
    random_states,
    ranks,
)
from segkit.train.history import History, call_trackers, epoch_line, make_trackers, run_metadata
from segkit.train.range_test import RangeTest, lr_range_test
from segkit.train.schedules import Schedule, Scheduler, curve, make_optimizer

__all__ = [  # noqa: RUF022
    "fit", "evaluate", "predict_batches", "History", "Schedule", "curve", "load_weights",
    "save_weights", "RangeTest", "lr_range_test", "CheckpointError", "TrainingError",
]  # fmt: skip

# Steps between checks that all is finite, if not 50: a check waits for all that a GPU has queued.
_CHECK_EVERY = {"cpu": 1}


def fit(
    model: nn.Module,
    train: distributed.Data,
    val: distributed.Data | None = None,
    *,
    loss: Loss | None = None,
    epochs: int = 10,
    lr: float = 1e-3,
    encoder_lr: float | None = None,
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
    trackers: Iterable[Any] = (),
    log: Callable[[str], object] | None = print,
) -> History:
    """Train `model` on `train`, evaluate it on `val` after each epoch, return the history.

    The scores of a row, val_iou and val_dice, are those of the whole set: counts summed over its
    images, averaged over the classes (binary: the foreground alone). Ctrl-C ends the step, saves,
    and returns the history so far.

    Args:
        model: the network; its parameters are trained in place, and in the end are on the device
            that they came from.
        train: a SegmentationDataset, or a DataLoader of float32 images (N, C, H, W) and int64
            masks (N, H, W).
        val: the same for validation, or None.
        loss: called as `loss(logits, target)`; by default binary cross-entropy, or cross-entropy
            for several channels of logits.
        lr: peak learning rate.
        encoder_lr: learning rate of a pretrained `model.encoder`, if another. 0 freezes the
            encoder, also for what comes after `fit`; more trains it, frozen before or not.
        optimizer: "adamw", "adam", "sgd" (momentum 0.9), or an optimizer, whose own learning
            rate and weight decay then hold.
        schedule: of the learning rate: a name or a `Schedule`.
        warmup: epochs over which the learning rate first rises linearly.
        batch_size: images in a batch, of all processes together.
        accumulate: batches whose gradients are averaged for one step.
        clip: the largest norm of the gradient.
        ema: decay of a moving average of the weights, which then is what is evaluated and kept;
            0.99 averages over about 100 steps.
        patience: epochs without a better `monitor` after which training stops.
        monitor: the column that chooses the best epoch: val_iou or, without `val`, train_loss.
        keep: the epoch whose weights `model` has in the end, "last" or "best".
        seed: seeds the order of images, augmentation and dropout. The same seed and machine give
            the same numbers with any number of workers; the caller's random state stays as it is.
        workers: processes that load data; 0 loads in this one.
        device: by default a GPU if there is one.
        precision: "auto", "fp32", "tf32", "bf16" or "fp16".
        channels_last: whether images and weights have that memory layout, usually faster.
        deterministic: on a GPU, the same bits each time rather than the fastest kernels.
        out: a folder for config.json, history.csv, best.pt and last.pt, to resume from, which is
            written after each epoch and after every `save_every` steps.
        resume: continue the run in `out`, if there is one, to the same weights as without a break.
        trackers: "tensorboard", "wandb", or objects with `start(config, rows)` (`rows`: those
            before resuming), `log(row)` and `finish()`; one that raises is left out.
        log: called with a line per epoch; None is silent.

    Raises:
        ArgumentError: an argument cannot be used.
        DataError: the masks do not fit the network.
        TrainingError: the loss is not finite, or memory ran out.
        CheckpointError: the run in `out` cannot be continued.
    """
    settings, schedule, monitor = _checked_settings(locals())
    out = Path(out) if out else None
    trackers = make_trackers(trackers, out)
    with ExitStack() as stack:
        # Processes, device, number format, random state.
        device = stack.enter_context(distributed.process_group(device))
        log = log if distributed.rank() == 0 else None
        number_format = precisions.choose(precision, device)
        options = {"device": device, "precision": precision, "channels_last": channels_last}
        layout = torch.channels_last if channels_last else torch.contiguous_format
        stack.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else []))
        stack.enter_context(number_format.gpu_kernels(deterministic))
        stack.enter_context(_memory_advice(batch_size))

        # Data, network, loss, optimizer, schedule.
        train = make_loader(train, batch_size, seed, workers, device, training=True)
        if val is not None:
            val = make_loader(val, batch_size, seed, workers, device, training=False)
        batches = len(train)
        model = distributed.sync_batch_norm(model, device)
        loss = settings["loss"] = check_and_default_loss(model, loss, [train, val])
        stack.enter_context(on_device(device, model, loss, memory_format=layout))
        optimizer = make_optimizer(optimizer, model, lr, weight_decay, encoder_lr)
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        scheduler = Scheduler(schedule, optimizer, epochs, math.ceil(batches / accumulate))
        average = None
        if ema is not None:  # of the weights, and of batch normalisation's statistics
            average = AveragedModel(model, None, None, get_ema_multi_avg_fn(ema), use_buffers=True)
        compiled = torch.compile(model) if compile else model
        network = distributed.wrap_ddp(compiled, device)
        result = average.module if average else model  # what is evaluated and saved

        # The record of the run, and where it continues.
        config = run_metadata(settings, model, number_format, train)
        history, best_weights = History(monitor=monitor, config=config), {}
        parts = {"model": model, "average": average, "optimizer": optimizer}
        parts |= {"scheduler": scheduler, "scaler": number_format.scaler}
        progress = checkpoint.begin(out, resume, parts, history, not schedule.needs_epochs)
        if log:
            log(f"{device}, {number_format}")
        call_trackers(trackers, "start", config, history.rows)
        stack.callback(call_trackers, trackers, "finish")
        interrupted = stack.enter_context(_interruptible(log))

        save_every, check_every = save_every or math.inf, _CHECK_EVERY.get(device.type, 50)
        for epoch in range(progress.epoch, epochs):
            if interrupted.is_set() or (patience and history.since_best() >= patience):
                break
            started, done = time.perf_counter() - progress.seconds, progress.batch
            totals = progress.totals.to(device)  # sum of the images' losses, number of images
            first_bad = torch.full((), -1, device=device)  # batch of the first bad step, or -1
            network.train()
            loader = epoch_batches(train, epoch, seed, done, progress.random)
            bar = tqdm(loader, None, batches, False, initial=done, disable=None if log else True)
            for batch, (images, masks) in enumerate(bar, start=done):
                # Forward and backward; the gradients of a group of batches add up to one step.
                group = min(accumulate, batches - (batch - batch % accumulate))
                completes_group = batch % accumulate == group - 1
                images = images.to(device, memory_format=layout, non_blocking=True)
                masks = masks.to(device, non_blocking=True)
                with nullcontext() if completes_group or network is compiled else network.no_sync():
                    with number_format.autocast():
                        logits = network(images)
                    batch_loss = loss(logits.float(), masks)
                    number_format.backward(batch_loss / group)
                totals += _summed(batch_loss.detach(), images)
                if not completes_group:
                    continue

                # Clip, and check that all is finite before the weights change.
                done, steps, stopping = batch + 1, batch // accumulate + 1, interrupted.is_set()
                saving = done < batches and (stopping or steps % save_every == 0)
                learning_rate = optimizer.param_groups[0]["lr"]
                number_format.scaler.unscale_(optimizer)
                norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
                watched = totals[0] if number_format.overflow_allowed else totals[0] + norm
                first_bad = torch.where(watched.isfinite() | (first_bad >= 0), first_bad, batch)
                if (saving or done == batches or steps % check_every == 0) and first_bad >= 0:
                    raise _not_finite(int(first_bad), epoch, train, accumulate, learning_rate, out)
                if clip:
                    nn.utils.clip_grads_with_norm_(parameters, clip, norm)
                if number_format.step(optimizer):
                    scheduler.step()
                    if average:
                        average.update_parameters(model)
                optimizer.zero_grad(set_to_none=True)
                model.zero_grad(set_to_none=True)  # also of parameters that the optimizer lacks
                if saving:
                    seconds, share = time.perf_counter() - started, all_sum(totals).cpu() / ranks()
                    progress = Progress(epoch, done, seconds, share, random_states(device))
                    checkpoint.save(out, parts, progress, history)
                if stopping:
                    break
            if done < batches:
                break  # interrupted

            # Validation, checkpoint, trackers.
            row = {"epoch": epoch + 1, "train_loss": _mean(totals)}
            row |= _validation(result if average else compiled, val, loss, **options)
            row |= {"lr": learning_rate, "seconds": time.perf_counter() - started}
            history.rows.append(row)
            scheduler.end_epoch(row["train_loss"] if val is None else row["val_loss"])
            if keep == "best" and history.best is row:
                best_weights = {k: v.clone() for k, v in result.state_dict().items()}
            progress = Progress(epoch + 1)
            checkpoint.save(out, parts, progress, history)
            call_trackers(trackers, "log", row)
            if log:
                log(epoch_line(row, epochs))

        if len(history) < epochs:
            history.stopped = f"no better {monitor} in {history.since_best()} epochs"
            if interrupted.is_set():
                history.stopped = f"interrupted in epoch {len(history) + 1}"
        if keep == "best" and history.rows:  # its file alone has them if it was before resuming
            model.load_state_dict(best_weights or checkpoint.read_weights(out / BEST)[0])
        elif average:
            model.load_state_dict(result.state_dict())
    return history


def _checked_settings(arguments: dict[str, Any]) -> tuple[dict[str, Any], Schedule, str]:
    """Return the arguments of `fit` that change its numbers, schedule, and monitor."""
    schedule, warmup = arguments["schedule"], arguments["warmup"]
    if not isinstance(schedule, Schedule):
        schedule = Schedule(schedule, warmup=warmup)
    elif warmup and schedule.warmup not in (0, warmup):
        raise ArgumentError(f"warmup={warmup}, but the schedule has its own, {schedule.warmup}")
    elif warmup:
        schedule = Schedule(schedule.name, warmup=warmup, **schedule.options)
    columns = [] if arguments["val"] is None else ["val_iou", "val_dice", "val_loss"]
    columns.append("train_loss")
    monitor = one_of("score or loss of this run", arguments["monitor"] or columns[0], columns)
    one_of("epoch to keep", arguments["keep"], ("last", "best"))
    for name in ("epochs", "batch_size", "accumulate", "patience", "save_every", "seed"):
        least = 0 if name == "seed" else 1
        if arguments[name] is not None and arguments[name] < least:
            raise ArgumentError(f"{name}={arguments[name]}: give at least {least}")
    clip, ema, optimizer = arguments["clip"], arguments["ema"], arguments["optimizer"]
    if clip is not None and not clip > 0:
        raise ArgumentError(f"clip={clip} is no norm: give a number above 0, or None")
    if ema is not None and not 0 <= ema < 1:
        raise ArgumentError(f"ema={ema} is not a decay: give 0 to below 1, such as 0.99")
    if not arguments["out"] and (arguments["resume"] or arguments["save_every"]):
        raise ArgumentError('resume and save_every need a folder: out="runs/name"')
    settings = arguments | {"schedule": schedule, "warmup": schedule.warmup, "monitor": monitor}
    others = {"model", "train", "val", "device", "out", "resume", "save_every", "trackers", "log"}
    for name in others:  # they do not change the numbers, or are recorded under other names
        del settings[name]
    for name in ("lr", "encoder_lr", "weight_decay") if isinstance(optimizer, Optimizer) else ():
        own = [group[name] for group in optimizer.param_groups if name in group]
        if arguments[name] not in (inspect.signature(fit).parameters[name].default, *own):
            value = f"{name}={arguments[name]}"
            raise ArgumentError(f"{value} has no effect on an optimizer of your own: give it there")
        if own:
            settings[name] = own[0] if len(own) == 1 else own
    return settings, schedule, monitor


def _summed(loss: Tensor, images: Tensor) -> Tensor:
    """Return [sum of the images' losses, number of images] of a batch, on the device."""
    return torch.stack([loss * len(images), loss.new_full((), len(images))])


def _mean(totals: Tensor) -> float:
    """Return the mean loss over the images of all processes."""
    summed, images = all_sum(totals).tolist()
    return summed / images


def _not_finite(
    batch: int, epoch: int, loader: DataLoader, accumulate: int, lr: float, out: Path | None
) -> TrainingError:
    """Return the error about the first step that is not finite, whose last batch is `batch`."""
    batch, images = batch - batch % accumulate, ""
    if isinstance(loader.sampler, SeededSampler):
        sampler = copy.copy(loader.sampler)  # the loader may be the caller's
        sampler.set_epoch(epoch, start=batch * loader.batch_size)
        indices = islice(sampler, accumulate * loader.batch_size)
        images = " on " + ", ".join(loader.dataset.names[index] for index, _ in indices)
    saved = 'Nothing was saved: out="runs/name" keeps the last good checkpoint'
    if out and (out / LAST).exists():
        saved = f"The last good checkpoint is {out / LAST}"
    return TrainingError(
        f"the loss or its gradient is not finite in epoch {epoch + 1}, batch {batch + 1} of "
        f"{len(loader)}, learning rate {lr:.3g}{images}. Look at these images; if they are right, "
        f"try a lower learning rate (lr={lr / 10:.1g}), warmup=1, clip=1.0 or, instead of 16 bits, "
        f'precision="fp32". {saved}'
    )


@contextmanager
def _memory_advice(batch_size: int) -> Iterator[None]:
    """Turn running out of memory into a message that names the remedies."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise TrainingError(
            f"out of memory ({error!r:.200}). From the cheapest remedy on: batch_size="
            f"{max(1, batch_size // 2)} with accumulate=2 (about the same gradient), bf16 where "
            "native, activation checkpointing (slower), smaller images, a smaller width"
        ) from error


@contextmanager
def _interruptible(log: Callable[[str], object] | None) -> Iterator[threading.Event]:
    """Yield an event that the first Ctrl-C sets; a second one stops at once.

    So does the first among several processes, which would stop at different steps. Where the
    signal is ignored, as in a shell's background jobs, it stays so.
    """
    interrupted, before = threading.Event(), signal.getsignal(signal.SIGINT)
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or ranks() > 1 or before is signal.SIG_IGN:
        yield interrupted
        return

    def on_ctrl_c(*_: object) -> None:
        interrupted.set()
        signal.signal(signal.SIGINT, before)
        if log:
            log("stopping after this step; Ctrl-C again stops at once")

    signal.signal(signal.SIGINT, on_ctrl_c)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)


@torch.no_grad()
def predict_batches(
    model: nn.Module,
    data: distributed.Data,
    batch_size: int = 16,
    *,
    device: str | torch.device | None = None,
    precision: str = "fp32",
    channels_last: bool = True,
    workers: int = 0,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield float32 logits (N, classes, H, W) and masks (N, H, W) of each batch, on the device.

    The network is in evaluation mode, and no gradients are computed. By default the device is the
    one that the network is on; the other arguments are those of `fit`.
    """
    weights = next(model.parameters(), torch.empty(0))
    device = distributed.pick_device(device or distributed.device_of(model))
    number_format = precisions.choose(precision, device)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    loader = make_loader(data, batch_size, 0, workers, device, training=False)
    model.eval()
    with on_device(device, model, memory_format=layout):
        for images, masks in loader:
            images = images.to(device, weights.dtype, memory_format=layout, non_blocking=True)
            with number_format.autocast():
                logits = model(images)
            yield logits.float(), masks.to(device, non_blocking=True)


def evaluate(
    model: nn.Module,
    data: distributed.Data,
    *,
    loss: Loss | None = None,
    batch_size: int = 16,
    device: str | torch.device | None = None,
    precision: str = "auto",
) -> tuple[float, Counts]:
    """Return the mean loss of `model` over the images of `data`, and the counts of each image.

    Of several processes, each returns the mean loss over all, and the counts of its own share. The
    arguments, and the errors raised, are those of `fit`.
    """
    device = distributed.pick_device(device)
    loader = make_loader(data, batch_size, 0, 0, device, training=False)
    loss = check_and_default_loss(model, loss, [loader], training=False)
    with on_device(device, model, loss):
        mean, counted = _evaluate(model, loader, loss, device, precision=precision)
    return mean, Counts(*counted.stacked().cpu())


@torch.no_grad()
def _evaluate(
    model: nn.Module, loader: DataLoader, loss: Loss, device: torch.device, **options: Any
) -> tuple[float, Counts]:
    totals, counted = torch.zeros(2, device=device), []
    for logits, masks in predict_batches(model, loader, device=device, **options):
        totals += _summed(loss(logits, masks), masks)
        if device.type == "cpu" and not totals[0].isfinite():
            break  # on a GPU, to look would be to wait
        counted.append(counts(logits, masks))
    mean = _mean(totals)
    if not math.isfinite(mean):
        raise TrainingError(
            "the loss is not finite in evaluation: the weights are broken, or an image is. Train "
            "with a lower learning rate, warmup=1 or clip=1.0"
        )
    return mean, Counts.cat(counted)


def _validation(
    model: nn.Module, loader: DataLoader | None, loss: Loss, **options: Any
) -> dict[str, float | None]:
    """Return a row's validation loss and scores, over all processes; None without a loader."""
    if loader is None:
        return dict.fromkeys(("val_loss", "val_iou", "val_dice"))
    mean, counted = _evaluate(model, loader, loss, **options)
    pooled = Counts(*all_sum(counted.total().stacked()))
    iou, dice = pooled.iou("macro").item(), pooled.dice("macro").item()
    return {"val_loss": mean, "val_iou": iou, "val_dice": dice}
