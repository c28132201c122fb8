"""Which number format to compute in: by what the machine can do, never by assumption."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from segkit.errors import ArgumentError, one_of

NAMES = ("auto", "fp32", "tf32", "bf16", "fp16")
_SIXTEEN_BITS = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class Precision:
    """A number format for a network's convolutions and products; weights and sums are float32.

    Args:
        name: "fp32", "tf32" (float32 storage, 10-bit mantissa inside an NVIDIA GPU's products),
            "bf16" or "fp16" (`torch.autocast`; fp16 also scales the loss: `torch.amp.GradScaler`).
        device: where the network computes.
        reason: why the format was chosen, in words.
    """

    name: str
    device: torch.device
    reason: str
    scaler: torch.amp.GradScaler = field(init=False)

    def __post_init__(self) -> None:
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.name == "fp16")

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"

    def autocast(self) -> AbstractContextManager:
        """Return the context in which the network's forward pass runs."""
        dtype = _SIXTEEN_BITS.get(self.name)
        return torch.autocast(self.device.type, dtype or torch.bfloat16, enabled=dtype is not None)

    def backward(self, loss: Tensor) -> None:
        """Compute gradients; in fp16 those of the scaled loss."""
        self.scaler.scale(loss).backward()

    @property
    def overflow_allowed(self) -> bool:
        """Whether a gradient may be infinite: in fp16 that halves the loss's scale, down to 1."""
        return self.scaler.is_enabled() and self.scaler.get_scale() >= 1

    def step(self, optimizer: torch.optim.Optimizer) -> bool:
        """Update the weights. False: fp16 gradients overflowed and the step was skipped."""
        scale = self.scaler.get_scale()
        self.scaler.step(optimizer)
        self.scaler.update()
        return self.scaler.get_scale() >= scale

    @contextmanager
    def gpu_kernels(self, deterministic: bool) -> Iterator[None]:
        """Choose a GPU's kernels for the time of a training run. CPUs need no such choice.

        Args:
            deterministic: the same bits in every run, for some speed; otherwise cuDNN tries
                several kernels and takes the fastest.
        """
        if self.device.type != "cuda":
            yield
            return
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS demands it for that
        before = torch.are_deterministic_algorithms_enabled()
        warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
        fill = torch.utils.deterministic.fill_uninitialized_memory
        torch.use_deterministic_algorithms(deterministic, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # costs time, helps debugging
        try:
            with torch.backends.cudnn.flags(
                enabled=True,
                benchmark=not deterministic,
                deterministic=deterministic,
                allow_tf32=self.name != "fp32",
            ):
                yield
        finally:
            torch.use_deterministic_algorithms(before, warn_only=warn_only)
            torch.utils.deterministic.fill_uninitialized_memory = fill


def choose(name: str = "auto", device: str | torch.device = "cpu") -> Precision:
    """Return the precision called `name` for `device`.

    Args:
        name: one of `NAMES`. "auto" is bf16 where the hardware multiplies it natively, else fp32:
            emulated bf16 makes training on a CPU two to three times slower.
        device: where the network computes.

    Raises:
        ArgumentError: there is no such precision on this device.
    """
    device = torch.device(device)
    one_of("precision", name, NAMES)
    native, reason = native_bf16(device)
    if name == "auto":
        return Precision("bf16" if native else "fp32", device, reason)
    if name == "tf32" and device.type != "cuda":
        raise ArgumentError(f'tf32 is a mode of NVIDIA GPUs, the device is {device}: use "fp32"')
    emulated = name == "bf16" and not native
    return Precision(name, device, f"as asked, though {reason}" if emulated else "as asked")


def native_bf16(device: torch.device) -> tuple[bool, str]:
    """Return whether `device` multiplies bfloat16 in hardware, and that in words."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return True, f"the {name} multiplies bfloat16 natively"
        return False, f"the {name} has no bfloat16"
    if device.type == "cpu":
        can = getattr(torch.cpu, "get_capabilities", dict)()
        unit = next((u for u in ("amx_bf16", "avx512_bf16", "bf16") if can.get(u)), None)
        if unit:
            return True, f"this CPU multiplies bfloat16 natively ({unit})"
        return False, "this CPU has no native bfloat16, and emulating it is slower"
    return False, f"bfloat16 is not known to be fast on {device.type}"
