"""Counting and Dice loss against other libraries: `python tests/bench/bench_metrics.py`.

Everything starts at logits, counts per image and class, and is checked to agree before it is
timed. The candidates take turns on one thread; what is printed is the ratio of their best time to
ours: above 1, ours is faster. MONAI's Dice neither ignores pixels nor checks the masks it is given.
"""

import time
from collections.abc import Callable

import monai
import segmentation_models_pytorch as smp
import torch
import torchmetrics.functional.classification as torchmetrics
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from torch import Tensor

from segkit.losses import DiceLoss
from segkit.metrics import counts

SHAPES = {"16×1×256²": (16, 1, 256, 256), "8×21×512²": (8, 21, 512, 512)}


def batch(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return logits that are right in most pixels, and a target.

    A margin is ignored if there are several classes: for one, smp cannot ignore.
    """
    generator = torch.Generator().manual_seed(0)
    images, channels, height, width = shape
    coarse = torch.randint(
        max(2, channels), (images, height // 32, width // 32), generator=generator
    )
    target = coarse.repeat_interleave(32, dim=1).repeat_interleave(32, dim=2)
    logits = torch.randn(shape, generator=generator)
    if channels == 1:
        logits += 2.0 * target[:, None] - 1
    else:
        logits.scatter_add_(1, target[:, None], torch.full((images, 1, height, width), 2.0))
    if channels > 1:
        target[:, :8] = 255
    return logits, target


def counters(logits: Tensor, target: Tensor) -> dict[str, Callable[[], Tensor]]:
    """Return ways to count, each giving (4, images, classes) tp, fp, fn, tn.

    torchmetrics pooled does less: it counts all images as one.
    """
    classes, order = logits.shape[1], [0, 1, 3, 2]

    def by_torchmetrics(average: str) -> Tensor:
        kind = dict(multidim_average=average, ignore_index=255, validate_args=False)
        if classes == 1:
            stats = torchmetrics.binary_stat_scores(logits[:, 0], target, **kind)
        else:
            stats = torchmetrics.multiclass_stat_scores(
                logits, target, classes, average=None, **kind
            )
        return stats.view(-1, classes, 5)[..., order].movedim(-1, 0)

    def by_smp() -> Tensor:
        if classes == 1:
            masks = target[:, None]
            stats = smp.metrics.get_stats(logits.sigmoid(), masks, mode="binary", threshold=0.5)
        else:
            kind = dict(mode="multiclass", num_classes=classes, ignore_index=255)
            stats = smp.metrics.get_stats(logits.argmax(dim=1), target, **kind)
        return torch.stack(stats)

    return {
        "segkit": lambda: counts(logits, target).stacked(),
        "torchmetrics": lambda: by_torchmetrics("samplewise"),
        "torchmetrics pooled": lambda: by_torchmetrics("global"),
        "smp": by_smp,
    }


def dice_losses(logits: Tensor, target: Tensor, backward: bool) -> dict[str, Callable[[], Tensor]]:
    """Return Dice losses of a batch, with or without the gradient."""
    binary = logits.shape[1] == 1
    masks = target[:, None] if binary else target
    theirs = smp.losses.DiceLoss("binary" if binary else "multiclass", smooth=0.5, ignore_index=255)
    # MONAI has no ignored class id: it is given the masks without.
    whole = target.where(target != 255, 0)[:, None]
    other = monai.losses.DiceLoss(
        sigmoid=binary, softmax=not binary, to_onehot_y=not binary, batch=True
    )

    def run(loss: Callable[[Tensor, Tensor], Tensor], masks: Tensor) -> Callable[[], Tensor]:
        def step() -> Tensor:
            if not backward:
                return loss(logits, masks)
            leaf = logits.detach().requires_grad_()
            value = loss(leaf, masks)
            value.backward()
            return value.detach()

        return step

    return {
        "segkit": run(DiceLoss(), target),
        "smp": run(theirs, masks),
        "MONAI": run(other, whole),
    }


def compare(candidates: dict[str, Callable[[], Tensor]], rounds: int) -> dict[str, float]:
    """Return the least seconds of each, timed in turns after one unmeasured round."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for round_ in range(rounds + 1):
        for name, work in candidates.items():
            start = time.perf_counter()
            work()
            if round_:
                seconds[name].append(time.perf_counter() - start)
    return {name: min(times) for name, times in seconds.items()}


def measure(rounds: int = 7) -> dict[str, dict[str, float]]:
    """Return for each task the least seconds of each library."""
    results = {}
    for name, shape in SHAPES.items():
        logits, target = batch(shape)
        ways = counters(logits, target)
        ours = ways["segkit"]()
        for way, count in ways.items():
            expected = ours.sum(dim=1, keepdim=True) if "pooled" in way else ours
            assert torch.equal(count(), expected), f"{way} counts otherwise"
        results[f"counts {name}"] = compare(ways, rounds)
        for backward in (False, True):
            ways = dice_losses(logits, target, backward)
            torch.testing.assert_close(ways["smp"](), ways["segkit"](), atol=1e-3, rtol=1e-3)
            task = "Dice loss and gradient" if backward else "Dice loss"
            results[f"{task} {name}"] = compare(ways, rounds)
    return results


def main() -> None:
    """Measure and print the table."""
    torch.set_num_threads(1)
    results = measure()
    others = ("torchmetrics", "torchmetrics pooled", "smp", "MONAI")
    table = Table("task", "segkit, ms", *(f"{name} / ours" for name in others), box=SIMPLE)
    for task, seconds in results.items():
        ours = seconds["segkit"]
        ratios = (f"{seconds[n] / ours:.2f}" if n in seconds else "–" for n in others)
        table.add_row(task, f"{ours * 1e3:.1f}", *ratios)
    Console(width=110).print(f"torch {torch.__version__}, CPU, one thread", table)


if __name__ == "__main__":
    main()
