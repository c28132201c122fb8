"""Exercises of lesson 09: the training loop."""

import re
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segkit.check import Case, Exercise, Mistake

_Batches = list[tuple[Tensor, Tensor]]


def _batches(*sizes: int) -> _Batches:
    """Return batches of images (N, 2, 4, 4) and masks (N, 4, 4) of 0 and 1, always the same."""
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.randn(n, 2, 4, 4, generator=generator),
         (torch.rand(n, 4, 4, generator=generator) < 0.1 + 0.2 * k).long())
        for k, n in enumerate(sizes)
    ]  # fmt: skip


def _network(*extra: nn.Module, seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), *extra, nn.Conv2d(4, 1, 1))


def _criterion(logits: Tensor, masks: Tensor) -> Tensor:
    return nn.functional.binary_cross_entropy_with_logits(logits[:, 0], masks.float())


# ---------------------------------------------------------------- one epoch


def _epoch(
    divide: bool = True,
    report_divided: bool = False,
    zero_each: bool = False,
    step_each: bool = False,
    by_image: bool = True,
    training: bool = True,
) -> Callable:
    """Return `train_epoch`, right or with a usual mistake."""

    def train_epoch(
        model: nn.Module,
        loader: Iterable,
        criterion: Callable,
        optimizer: torch.optim.Optimizer,
        accumulate: int,
    ) -> float:
        if training:
            model.train()
        total = count = 0
        for i, (images, masks) in enumerate(loader, start=1):
            loss = criterion(model(images), masks)
            (loss / accumulate if divide else loss).backward()
            reported = loss.item() / (accumulate if report_divided else 1)
            total += reported * (len(images) if by_image else 1)
            count += len(images) if by_image else 1
            if step_each or i % accumulate == 0:
                optimizer.step()
                optimizer.zero_grad()
            elif zero_each:
                optimizer.zero_grad()
        return total / count

    return train_epoch


def _train(train_epoch: Callable, sizes: tuple[int, ...], accumulate: int) -> dict[str, Any]:
    """Train for two epochs and return what can be measured of it."""
    model = _network().eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    steps, modes = [], []
    optimizer.register_step_post_hook(lambda *_: steps.append(1))
    model.register_forward_hook(lambda module, *_: modes.append(module.training))
    loader = _batches(*sizes)
    losses = [train_epoch(model, loader, _criterion, optimizer, accumulate) for _ in range(2)]
    if None in losses:
        return None
    return {
        "mean loss of an image, in two epochs": [float(loss) for loss in losses],
        "steps of the optimizer": len(steps),
        "model in training mode": "yes" if all(modes) else "no",
        "norm of the weights": torch.cat([p.flatten() for p in model.parameters()]).norm().item(),
    }


train_epoch = Exercise(
    name="train_epoch",
    reference=_epoch(),
    measure=_train,
    cases=(
        Case("six batches of two, three for each step", ((2,) * 6, 3)),
        Case("batches of different sizes, a step for each", ((4, 4, 1), 1)),
    ),
    mistakes=(
        Mistake(
            _epoch(divide=False),
            "The gradients of the batches are summed, so the steps are too long: divide each loss "
            "by `accumulate` before backward().",
        ),
        Mistake(
            _epoch(report_divided=True),
            "The steps are right. The loss that you return was divided by `accumulate`, too.",
        ),
        Mistake(
            _epoch(zero_each=True),
            "zero_grad() after every batch deletes the gradients that should be summed. Call it "
            "after optimizer.step() only.",
        ),
        Mistake(
            _epoch(step_each=True),
            "optimizer.step() is due after every `accumulate` batches, not after each.",
        ),
        Mistake(
            _epoch(by_image=False),
            "You average over batches. Weight each batch's loss by its number of images.",
        ),
        Mistake(
            _epoch(training=False),
            "model.train() is missing: the network may come from an evaluation.",
        ),
    ),
    hint="For each batch: forward pass, loss, backward pass. After every `accumulate` batches: "
    "step and zero_grad. Return the sum of loss × images, divided by the number of images.",
)

# ---------------------------------------------------------------- evaluation


def _evaluation(
    by_image: bool = True, pooled: bool = True, eval_mode: bool = True, gradients: bool = False,
    threshold: float = 0.0,
) -> Callable:  # fmt: skip
    """Return `evaluate`, right or with a usual mistake."""

    def evaluate(model: nn.Module, loader: Iterable, criterion: Callable) -> tuple[float, float]:
        if eval_mode:
            model.eval()
        total = count = 0
        intersections, unions = [], []
        with torch.set_grad_enabled(gradients):
            for images, masks in loader:
                logits = model(images)
                weight = len(images) if by_image else 1
                total += criterion(logits, masks).item() * weight
                count += weight
                pred, target = logits[:, 0] > threshold, masks == 1
                intersections.append((pred & target).sum().item())
                unions.append((pred | target).sum().item())
        ratios = [i / u for i, u in zip(intersections, unions, strict=True)]
        iou = sum(intersections) / sum(unions) if pooled else sum(ratios) / len(ratios)
        return total / count, iou

    return evaluate


def _evaluate(evaluate: Callable, sizes: tuple[int, ...]) -> dict[str, Any] | None:
    """Evaluate a network in training mode, and return what can be measured of it."""
    model = _network(nn.BatchNorm2d(4), nn.ReLU()).train()
    model[-1].bias.data.fill_(0.0)
    model[-1].weight.data.mul_(4.0)  # logits on both sides of 0, and of 0.5
    gradients = []
    model.register_forward_hook(lambda _, __, out: gradients.append(out.requires_grad))
    before = model[1].running_mean.clone()
    found = evaluate(model, _batches(*sizes), _criterion)
    if found is None:
        return None
    loss, iou = found
    changed = not torch.equal(before, model[1].running_mean)
    return {
        "mean loss of an image": float(loss),
        "IoU": float(iou),
        "running means": "changed" if changed else "as before",
        "saves activations for a backward pass": "yes" if any(gradients) else "no",
    }


evaluate_loop = Exercise(
    name="evaluate_loop",
    reference=_evaluation(),
    measure=_evaluate,
    cases=(
        Case("batches of 4, 4 and 1 images", ((4, 4, 1),)),
        Case("one batch of three images", ((3,),)),
    ),
    mistakes=(
        Mistake(
            _evaluation(eval_mode=False),
            "Batch normalisation used the batch, and its running mean changed: model.eval().",
        ),
        Mistake(
            _evaluation(gradients=True),
            "Right numbers, but all activations are saved: use torch.inference_mode().",
        ),
        Mistake(
            _evaluation(by_image=False),
            "The loss is a mean over batches. Weight each batch by its number of images.",
        ),
        Mistake(
            _evaluation(pooled=False),
            "The IoU is a mean over batches. Sum intersections and unions, and divide once.",
        ),
        Mistake(
            _evaluation(threshold=0.5),
            "The network returns logits: a probability of 0.5 is a logit of 0.",
        ),
    ),
    hint="model.eval(), then a loop under torch.inference_mode() that sums the loss times the "
    "number of images, the images, the intersection and the union. Return the two quotients.",
)

# ---------------------------------------------------------------- checkpoints

_PARTS = ("model", "optimizer", "scheduler")


def _pair(*parts: str, random: bool = True, next_epoch: bool = True) -> dict[str, Callable]:
    """Return `save` and `load` of these parts."""

    def save(path: Path, model: Any, optimizer: Any, scheduler: Any, epoch: int) -> None:
        given = dict(zip(_PARTS, (model, optimizer, scheduler), strict=True))
        state = {name: given[name].state_dict() for name in parts}
        torch.save(state | {"epoch": epoch, "random": torch.get_rng_state()}, path)

    def load(path: Path, model: Any, optimizer: Any, scheduler: Any) -> int:
        state = torch.load(path, weights_only=True)
        given = dict(zip(_PARTS, (model, optimizer, scheduler), strict=True))
        for name in parts:
            given[name].load_state_dict(state[name])
        if random:
            torch.set_rng_state(state["random"])
        return state["epoch"] + next_epoch

    return {"save": save, "load": load}


def _resume(pair: dict[str, Callable]) -> dict[str, Any] | None:
    """Train for two epochs, save, and train for two more: without a break, and resumed."""

    def parts(seed: int) -> tuple[nn.Module, Any, Any]:
        model = _network(nn.BatchNorm2d(4), nn.Dropout(0.5), seed=seed)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        return model, optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 5)

    def train(model: nn.Module, optimizer: Any, scheduler: Any, epochs: Iterable[int]) -> None:
        for _ in epochs:
            for images, masks in _batches(4, 4):
                _criterion(model.train()(images), masks).backward()
                optimizer.step()
                optimizer.zero_grad()
            scheduler.step()

    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng(devices=[]):
        path = Path(folder) / "last.pt"
        torch.manual_seed(0)
        unbroken = parts(seed=0)
        train(*unbroken, range(2))
        pair["save"](path, *unbroken, 1)
        if not path.is_file():
            return None
        train(*unbroken, range(2, 4))
        torch.manual_seed(1)  # another process
        resumed = parts(seed=1)
        epoch = pair["load"](path, *resumed)
        if epoch is None:
            return None
        train(*resumed, range(2, 4))
        torch.load(path, weights_only=True)
    states = [model.state_dict().values() for model, _, _ in (unbroken, resumed)]
    differences = [(a - b).abs().max().item() for a, b in zip(*states, strict=True)]
    rates = [optimizer.param_groups[0]["lr"] for _, optimizer, _ in (unbroken, resumed)]
    return {
        "first epoch after resuming": int(epoch),
        "learning rate at the end, resumed / unbroken": rates[1] / rates[0],
        "largest difference of a tensor at the end": max(differences),
    }


checkpoint = Exercise(
    name="checkpoint",
    reference=_pair(*_PARTS),
    measure=_resume,
    mistakes=(
        Mistake(
            _pair("model"),
            "The optimizer starts again, without its running averages and at the first learning "
            "rate: optimizer and scheduler have a state_dict, too.",
        ),
        Mistake(
            _pair("model", "optimizer"),
            "The schedule starts again: save the scheduler's state_dict.",
        ),
        Mistake(
            _pair(*_PARTS, random=False),
            "Dropout draws other numbers: save torch.get_rng_state() and set it when you load.",
        ),
        Mistake(
            _pair(*_PARTS, next_epoch=False),
            "`epoch` was finished when it was saved. Return the number of the one after it.",
        ),
    ),
    hint="Save one dictionary: the three state_dicts, the epoch, and torch.get_rng_state(). Load "
    "it with weights_only=True, and put each part back where it came from.",
)

# ---------------------------------------------------------------- three bugs


def _lines(answer: Any) -> list[int]:
    """Return the numbers in an answer, in order. Lines 8 and 9 are swapped: either may be named."""
    found = {int(number) for number in re.findall(r"\d+", str(answer))}
    return sorted(found - {9} | {8} if 9 in found and 8 not in found else found)


three_bugs = Exercise(
    name="three_bugs",
    reference={2, 5, 8},
    measure=_lines,
    mistakes=(
        Mistake({5, 8}, "Two are right. In which mode is the network trained in epoch two?"),
        Mistake({2, 5}, "Two are right. Which gradients does the step of line 9 use?"),
        Mistake(
            {2, 8}, "Two are right. What does a loss for logits take, and what is passed to it?"
        ),
        Mistake(
            {5, 8, 10}, "Line 10 is right: evaluation needs eval(). But which line switches back?"
        ),
        Mistake({2, 6, 8}, "Line 6 is right, it takes logits. What is passed to it?"),
    ),
    hint="Go through two epochs line by line. The answer is three line numbers.",
)

# ---------------------------------------------------------------- gradient clipping


def _clip(gradients: list[Tensor], max_norm: float) -> list[Tensor]:
    norm = torch.sqrt(sum((g**2).sum() for g in gradients))
    return [g * min(1.0, max_norm / norm) for g in gradients]


def _each(gradients: list[Tensor], max_norm: float) -> list[Tensor]:
    return [g * min(1.0, max_norm / g.norm()) for g in gradients]


def _always(gradients: list[Tensor], max_norm: float) -> list[Tensor]:
    norm = torch.sqrt(sum((g**2).sum() for g in gradients))
    return [g * max_norm / norm for g in gradients]


clip = Exercise(
    name="clip",
    reference=_clip,
    cases=(
        Case("one tensor, above the limit", ([torch.tensor([3.0, 4.0])], 1.0)),
        Case("within the limit", ([torch.tensor([0.3, 0.4])], 1.0)),
        Case("two tensors, above it together", ([torch.tensor([3.0]), torch.tensor([[4.0]])], 2.5)),
    ),
    tolerance=1e-4,  # torch's own divides by the norm + 1e-6
    mistakes=(
        Mistake(_each, "Each tensor was scaled by its own norm. Use one factor for all."),
        Mistake(_always, "A gradient within the limit must stay as it is; yours is scaled up."),
        Mistake(
            lambda gradients, max_norm: [g.clamp(-max_norm, max_norm) for g in gradients],
            "You clip each value by itself. That changes the direction; scale all of them instead.",
        ),
        Mistake(
            lambda gradients, max_norm: [
                g * min(1.0, max_norm / sum(h.abs().sum() for h in gradients)) for g in gradients
            ],
            "The norm is the root of the sum of squares, not the sum of absolute values.",
        ),
    ),
)
