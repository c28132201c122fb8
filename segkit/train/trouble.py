"""What can go wrong in training, said so that one knows what to do."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from segkit.data.dataset import IGNORE, DataError, SegmentationDataset
from segkit.errors import SegkitError
from segkit.train import distributed

LOOK_EVERY = 50  # steps on an accelerator, where a look waits for all that is queued


class TrainingError(SegkitError, RuntimeError):
    """Training cannot go on; the message says at which step, on what, and what to change."""


@dataclass
class Guard:
    """Notices the first loss or gradient that is not finite, without a wait in every step.

    The step's number is kept on the device; it is read in every step on a CPU, before the
    weights are touched, and every 50 steps and before each save on an accelerator.
    """

    device: torch.device
    first: Tensor = field(init=False)
    steps: int = 0

    def __post_init__(self) -> None:
        self.first = torch.full((), -1, dtype=torch.int64, device=self.device)

    def begin(self) -> None:
        """Count steps from here."""
        self.steps = 0

    def watch(self, value: Tensor) -> None:
        """Note this step if `value`, a scalar on the device, is not finite."""
        self.first = torch.where(value.isfinite() | (self.first >= 0), self.first, self.steps)
        self.steps += 1
        if self.device.type == "cpu" or self.steps % LOOK_EVERY == 0:
            self.look()

    def look(self) -> None:
        """Raise NotFinite if a step was noted."""
        first = int(self.first)
        if first >= 0:
            raise NotFinite(first)


class NotFinite(ArithmeticError):
    """A loss or gradient was not finite, in step number `step` (from 0) since `Guard.begin`."""

    def __init__(self, step: int) -> None:
        super().__init__(f"step {step}")
        self.step = step


def not_finite(where: str, rate: float, precision: str, names: list[str], kept: str) -> str:
    """Return the message for a loss or gradient that is not finite, `names` being its images."""
    on = f" on {', '.join(names)}" if names else ""
    cure = [f"a lower rate (lr={rate / 10:.1g})", "warmup=1", "clip=1.0"]
    if precision in ("fp16", "bf16"):
        cure.append('precision="fp32"')
    return (
        f"the loss or its gradient is not finite in {where}, learning rate {rate:.3g}{on}. "
        f"Look at these images; if they are sound, try {', '.join(cure)}. {kept}"
    )


def check_masks(data: SegmentationDataset, channels: int) -> None:
    """Raise DataError if a mask holds a class that a network with `channels` outputs has not.

    Also if no mask has any foreground: a 0/255 mask says "background or ignore".
    """
    allowed = max(2, channels)
    foreground = False
    for name, mask in zip(data.names, data.masks, strict=True):
        if mask.max() >= allowed:
            wrong = mask[(mask >= allowed) & (mask != IGNORE)]
            if wrong.size:
                raise DataError(
                    f"mask {name} holds class {wrong.max()}, but the network tells classes "
                    f"0..{allowed - 1} apart: build it with classes={wrong.max() + 1}, or mend "
                    "the mask"
                )
        foreground = foreground or bool(((mask > 0) & (mask != IGNORE)).any())
    if not foreground:
        raise DataError(
            f"none of the {len(data)} masks has a foreground pixel, only 0 and {IGNORE} "
            "(ignore): masks stored as 0/255 must become 0/1 first"
        )


def out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that memory ran out, of a GPU or of the machine."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


@contextmanager
def memory_advice(batch_size: int) -> Iterator[None]:
    """Turn running out of memory into a message that names the knobs."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        first_line = (str(error) or type(error).__name__).splitlines()[0]
        raise TrainingError(
            "out of memory. In the order of what it costs you: "
            f"batch_size={max(1, batch_size // 2)} with accumulate=2 (about the same gradient), "
            "bf16 where it is native, activation checkpointing if the network offers it (slower), "
            f"smaller images, a smaller width. ({first_line})"
        ) from error


@dataclass
class Stop:
    """Whether Ctrl-C was pressed."""

    asked: bool = False


@contextmanager
def interruptible(log: Callable[[str], object] | None) -> Iterator[Stop]:
    """Let the first Ctrl-C ask the loop to stop after its step; a second one stops at once.

    Among several processes, which would stop at different steps, Ctrl-C stops at once. Where
    the signal is ignored, as in a shell's background jobs, it stays so.
    """
    stop, before = Stop(), signal.getsignal(signal.SIGINT)
    side = threading.current_thread() is not threading.main_thread()
    if side or distributed.ranks() > 1 or before is signal.SIG_IGN:
        yield stop
        return

    def ask(*_: object) -> None:
        stop.asked = True
        signal.signal(signal.SIGINT, before)
        if log:
            log("stopping after this step; Ctrl-C again stops at once")

    signal.signal(signal.SIGINT, ask)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)
