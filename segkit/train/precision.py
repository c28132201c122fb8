"""Which number format to compute in: by what the machine can do, never by assumption."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor

from segkit.errors import ArgumentError, one_of


class Precision:
    """A number format for a network's convolutions and products; weights and sums are float32.

    Args:
        name: "fp32", "tf32" (float32 storage, 10-bit mantissa inside an NVIDIA GPU's products),
            "bf16" or "fp16" (`torch.autocast`; fp16 also scales the loss: `torch.amp.GradScaler`).
        device: where the network computes.
        reason: why the format was chosen, in words.
    """

    def __init__(self, name: str, device: torch.device, reason: str) -> None:
        self.name, self.device, self.reason = name, device, reason
        self.scaler = torch.amp.GradScaler(device.type, enabled=name == "fp16")

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"

    def autocast(self) -> AbstractContextManager:
        """Return the context in which the network's forward pass runs."""
        dtype = torch.float16 if self.name == "fp16" else torch.bfloat16
        return torch.autocast(self.device.type, dtype, enabled=self.name in ("bf16", "fp16"))

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
        """Choose a GPU's kernels, for the same bits in every run or, if not, for speed."""
        if self.device.type != "cuda":
            yield
            return
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS demands it for that
        mode = torch.get_deterministic_debug_mode()
        fill = torch.utils.deterministic.fill_uninitialized_memory
        torch.set_deterministic_debug_mode("warn" if deterministic else "default")
        torch.utils.deterministic.fill_uninitialized_memory = False  # costs time
        kernels = {"benchmark": not deterministic, "deterministic": deterministic}
        try:
            with torch.backends.cudnn.flags(True, **kernels, allow_tf32=self.name != "fp32"):
                yield
        finally:
            torch.set_deterministic_debug_mode(mode)
            torch.utils.deterministic.fill_uninitialized_memory = fill


def choose(name: str = "auto", device: str | torch.device = "cpu") -> Precision:
    """Return the precision called `name` for `device`, or raise ArgumentError.

    "auto" is bf16 where the hardware multiplies it natively, else fp32: emulated bf16 makes
    training on a CPU two to three times slower.
    """
    device = torch.device(device)
    one_of("precision", name, ("auto", "fp32", "tf32", "bf16", "fp16"))
    native, reason = _native_bf16(device)
    if name == "auto":
        return Precision("bf16" if native else "fp32", device, reason)
    if name == "tf32" and device.type != "cuda":
        raise ArgumentError(f'tf32 is a mode of NVIDIA GPUs, the device is {device}: use "fp32"')
    emulated = name == "bf16" and not native
    return Precision(name, device, f"as asked, though {reason}" if emulated else "as asked")


def _native_bf16(device: torch.device) -> tuple[bool, str]:
    """Return whether `device` multiplies bfloat16 in hardware, and that in words."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return True, f"the {name} multiplies bfloat16 natively"
        return False, f"the {name} has no bfloat16"
    if device.type == "cpu":
        can = getattr(torch.cpu, "get_capabilities", dict)()
        for unit in ("amx_bf16", "avx512_bf16", "bf16"):
            if can.get(unit):
                return True, f"this CPU multiplies bfloat16 natively ({unit})"
        return False, "this CPU has no native bfloat16, and emulating it is slower"
    return False, f"bfloat16 is not known to be fast on {device.type}"
