"""Networks against others' and plain ones of the same size: time and memory of a training step.

Run `python tests/bench/bench_models.py`. Every ratio compares two measurements of this run, taken
in turns; below 1 this package's network is the faster or the leaner.
"""

import statistics
import time
import weakref
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from segkit.models import build


class PeakMemory(TorchDispatchMode):
    """Counts the bytes of all tensors made inside of it that are alive at once; keeps the peak."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        outputs = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(outputs):
            if isinstance(tensor, Tensor):
                self._add(tensor.untyped_storage())
        return outputs

    def _add(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self.known:
            self.known.add(key)
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._drop, key, storage.nbytes())

    def _drop(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


def step(model: nn.Module, images: Tensor) -> None:
    """Run forward and backward, as a training step does."""
    model(images).float().square().mean().backward()


def peak_bytes(model: nn.Module, images: Tensor) -> int:
    """Return the most bytes that a training step holds at once, gradients included."""
    model.train().zero_grad(set_to_none=True)
    with PeakMemory() as memory:
        step(model, images)
    return memory.peak


def ratio(ours: Callable[[], None], theirs: Callable[[], None], rounds: int) -> tuple:
    """Return seconds of ours, of theirs, and the median ratio over `rounds` turns each."""
    ours(), theirs()
    times = []
    for _ in range(rounds):
        pair = []
        for run in (ours, theirs):
            start = time.perf_counter()
            run()
            pair.append(time.perf_counter() - start)
        times.append(pair)
    first, second = zip(*times, strict=True)
    quotient = statistics.median(a / b for a, b in times)
    return statistics.median(first), statistics.median(second), quotient


class PlainUNet(nn.Module):
    """A U-Net as one writes it first, the same layers in the same order as `build("unet")`."""

    def __init__(self, width: int, depth: int = 4) -> None:
        super().__init__()
        wide = [width * 2**i for i in range(depth + 1)]
        self.down = nn.ModuleList(_two(a, b) for a, b in zip([3, *wide], wide, strict=False))
        self.grow = nn.ModuleList(nn.ConvTranspose2d(2 * c, c, 2, 2) for c in wide[-2::-1])
        self.up = nn.ModuleList(_two(2 * c, c) for c in wide[-2::-1])
        self.head = nn.Conv2d(width, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for i, block in enumerate(self.down):
            x = block(x if i == 0 else F.max_pool2d(x, 2))
            skips.append(x)
        skips.pop()
        for grow, block in zip(self.grow, self.up, strict=True):
            x = block(torch.cat([skips.pop(), grow(x)], dim=1))
        return self.head(x)


def _two(a: int, b: int) -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU(inplace=True)),
        *(nn.Conv2d(b, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU(inplace=True)),
    )


class PlainResNet34UNet(nn.Module):
    """torchvision's ResNet-34 and the lab's decoder, interpolating before each 1×1 convolution."""

    def __init__(self) -> None:
        super().__init__()
        from torchvision.models import resnet34

        body = resnet34(weights=None)
        self.stem = nn.Sequential(body.conv1, body.bn1, body.relu)
        self.layers = nn.ModuleList(
            [nn.Sequential(body.maxpool, body.layer1), body.layer2, body.layer3, body.layer4]
        )
        self.mid = _two(512, 512)
        pairs = ((512, 256), (256, 128), (128, 64), (64, 32), (64, 32))
        self.grow = nn.ModuleList(
            nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(a, b, 1))
            for a, b in pairs
        )
        self.up = nn.ModuleList([_two(512, 256), _two(256, 128), _two(128, 64), _two(96, 64)])
        self.head = nn.Conv2d(32, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = [self.stem(x)]
        for layer in self.layers:
            skips.append(layer(skips[-1]))
        x = self.mid(skips.pop())
        for grow, block in zip(self.grow, self.up, strict=False):
            x = block(torch.cat([skips.pop(), grow(x)], dim=1))
        return self.head(self.grow[4](x))


def smp_unet() -> nn.Module:
    """segmentation-models-pytorch's U-Net over ResNet-34, 24.4 M parameters."""
    import segmentation_models_pytorch as smp

    return smp.Unet("resnet34", encoder_weights=None)


def compare(title: str, ours: nn.Module, theirs: nn.Module, batch: int, side: int, rounds: int):
    """Print one row: parameters, seconds and bytes of a training step, and their ratios."""
    images = torch.randn(batch, 3, side, side)
    mine, other, quotient = ratio(
        lambda: step(ours, images), lambda: step(theirs, images), rounds=rounds
    )
    memory = peak_bytes(ours, images), peak_bytes(theirs, images)
    size = [sum(p.numel() for p in m.parameters()) / 1e6 for m in (ours, theirs)]
    print(
        f"{title:<44} {size[0]:5.1f} {size[1]:5.1f}  {mine:6.3f} {other:6.3f}  {quotient:5.2f}  "
        f"{memory[0] / 2**20:6.0f} {memory[1] / 2**20:6.0f}  {memory[0] / memory[1]:5.2f}",
        flush=True,
    )


def main() -> None:
    """Print the table."""
    threads = torch.get_num_threads()
    print(f"torch {torch.__version__}, {threads} threads, forward + backward, float32")
    print(f"{'ours / theirs':<44} {'M par.':>11}  {'seconds':>13}  ratio  {'peak MiB':>13}  ratio")
    compare("U-Net 64 / plain", build("unet"), PlainUNet(64), 2, 128, 7)
    compare("U-Net 16 / plain", build("unet", width=16), PlainUNet(16), 4, 128, 15)
    mine = build("resnet34_unet")
    compare("ResNet34-UNet / plain, interpolating first", mine, PlainResNet34UNet(), 2, 256, 7)
    compare("ResNet34-UNet / segmentation-models-pytorch", mine, smp_unet(), 2, 256, 7)
    lean = build("pdr_unet", checkpointing=True)
    compare("PDR-UNet checkpointing / without", lean, build("pdr_unet"), 1, 192, 3)


if __name__ == "__main__":
    main()
