"""Metrics and losses against other libraries: `python tests/bench/bench_metrics.py`.

Every candidate is checked to agree before it is timed. The candidates take turns on one thread;
what is printed is the ratio of their best time to ours: above 1, ours is faster. "plain" is the
obvious way to write it. MONAI's Dice neither ignores pixels nor checks the masks it is given.
"""

import math
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
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from segkit.losses import BCELoss, DiceLoss, FocalLoss
from segkit.metrics import Counts, bootstrap, boundary_counts, counts

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
            start = time.process_time()
            work()
            if round_:
                seconds[name].append(time.process_time() - start)
    return {name: min(times) for name, times in seconds.items()}


def pixel_losses(logits: Tensor, target: Tensor) -> dict[str, dict[str, Callable]]:
    """Return BCE and focal loss of a binary batch, by segkit and by torch and torchvision."""
    pixels = logits[:, 0]
    return {
        "BCE": {
            "segkit": lambda: BCELoss()(logits, target),
            "torch": lambda: F.binary_cross_entropy_with_logits(pixels, target.float()),
        },
        "focal loss": {
            "segkit": lambda: FocalLoss(alpha=0.25)(logits, target),
            "torch": lambda: sigmoid_focal_loss(pixels, target.float(), 0.25, 2, reduction="mean"),
        },
    }


def boundaries(logits: Tensor, target: Tensor) -> dict[str, Callable[[], Tensor]]:
    """Return ways to count near contours: dilation by shifts, and by max-pooling in float32."""
    width = max(1, round(0.02 * math.hypot(*target.shape[1:])))

    def band(mask: Tensor) -> Tensor:
        outside = F.pad((~mask).float(), (width,) * 4, value=1.0)
        for window in ((2 * width + 1, 1), (1, 2 * width + 1)):
            outside = F.max_pool2d(outside, window, stride=1)
        return mask & (outside > 0)

    def plain() -> Tensor:
        valid = (target != 255)[:, None]
        if logits.shape[1] == 1:
            masks = logits > 0, target[:, None] == 1
        else:
            ids = torch.arange(logits.shape[1])[:, None, None]
            masks = logits.argmax(dim=1)[:, None] == ids, target[:, None] == ids
        pred, true = (band(mask & valid) for mask in masks)
        found = (pred & true, pred & ~true, ~pred & true, ~pred & ~true & valid)
        return torch.stack([mask.sum(dim=(2, 3)) for mask in found])

    return {"segkit": lambda: boundary_counts(logits, target).stacked(), "plain": plain}


def bootstraps(images: int = 400, classes: int = 21) -> dict[str, Callable[[], Tensor]]:
    """Return intervals of the mean IoU: by one matrix product, and by gathering every resample."""
    generator = torch.Generator().manual_seed(0)
    data = Counts(*torch.randint(0, 10_000, (4, images, classes), generator=generator))

    def plain() -> Tensor:
        drawn = torch.randint(images, (2000, images), generator=torch.Generator().manual_seed(0))
        parts = [Counts(*data.stacked()[:, part]) for part in drawn.split(500)]
        scores = torch.cat([part.iou("macro") for part in parts])
        return torch.quantile(scores, torch.tensor([0.025, 0.975]).double())

    def ours() -> Tensor:
        found = bootstrap(lambda c: c.iou("macro"), data)
        return torch.tensor([found.low, found.high], dtype=torch.float64)

    return {"segkit": ours, "plain": plain}


def joins(images: int = 4000) -> dict[str, Callable[[], Tensor]]:
    """Return the counts of many batches of 16 sweeps as one: joined at once, and with sum()."""
    parts = [Counts(*torch.ones(4, 99, 16, 1, dtype=torch.int64)) for _ in range(images // 16)]
    return {
        "segkit": lambda: Counts.cat(parts).stacked(),
        "plain": lambda: sum(parts[1:], parts[0]).stacked(),
    }


def measure(rounds: int = 5) -> dict[str, dict[str, float]]:
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
        tasks = {"boundary counts of one image": boundaries(logits[:1], target[:1])}
        if shape[1] == 1:
            tasks |= pixel_losses(logits, target)
        for task, ways in tasks.items():
            first, second = (way() for way in ways.values())
            torch.testing.assert_close(first, second)
            results[f"{task} {name}"] = compare(ways, rounds)
    for task, ways in (
        ("bootstrap, 400 images, 21 classes", bootstraps()),
        ("joining 4,000 sweeps", joins()),
    ):
        assert torch.equal(*(way() for way in ways.values())), task
        results[task] = compare(ways, 2)
    return results


def main() -> None:
    """Measure and print the table."""
    torch.set_num_threads(1)
    results = measure()
    others = ("plain", "torch", "torchmetrics", "torchmetrics pooled", "smp", "MONAI")
    table = Table("task", "segkit, ms", *(f"{name} / ours" for name in others), box=SIMPLE)
    for task, seconds in results.items():
        ours = seconds["segkit"]
        ratios = (f"{seconds[n] / ours:.2f}" if n in seconds else "–" for n in others)
        table.add_row(task, f"{ours * 1e3:.1f}", *ratios)
    Console(width=130).print(f"torch {torch.__version__}, CPU, one thread", table)


if __name__ == "__main__":
    main()
