"""Exercises of lesson 10: mixed precision."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from segkit.check import Case, Exercise, Mistake

stays_float32 = Exercise(
    name="stays_float32",
    reference={"d", "e", "f"},
    mistakes=(
        Mistake(
            {"e"},
            "The loss is cast to float32, yes. But autocast does not cast all others to bfloat16.",
        ),
        Mistake(
            {"e", "f"}, "Two are right. Of which type is a bfloat16 tensor plus a float32 one?"
        ),
        Mistake(
            {"d", "e"}, "Two are right. Sigmoid is in neither list: of which type is its input?"
        ),
        Mistake({"d", "f"}, "Two are right. Which operation does autocast cast to float32?"),
        Mistake(
            {"b", "d", "e", "f"},
            "Batch normalisation keeps the type of its input, whatever that of its statistics is.",
        ),
        Mistake(
            {"d", "e", "f", "g"},
            "g is a convolution too, if transposed: its input is cast to bfloat16 in any case.",
        ),
        Mistake({"a", "b", "c", "g"}, "These are the ones in bfloat16. Name the others."),
    ),
    hint="Ask of each: is it cast to bfloat16, to float32, or not at all? The answer is a set.",
)


def _step(
    model: nn.Module,
    images: Tensor,
    masks: Tensor,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    max_norm: float,
    *,
    autocast: bool = True,
    float16_sums: bool = False,
    scaled: bool = True,
    unscaled: bool = True,
    clipped: bool = True,
    updated: bool = True,
) -> None:
    with torch.autocast("cpu", torch.float16, enabled=autocast):
        logits = model(images)[:, 0]
    prob = (logits if float16_sums else logits.float()).sigmoid()
    target = masks.to(prob.dtype)
    loss = 1 - 2 * (prob * target).sum() / (prob.sum() + target.sum())
    (scaler.scale(loss) if scaled else loss).backward()
    if scaled and unscaled:
        scaler.unscale_(optimizer)
    if clipped:
        clip_grad_norm_(model.parameters(), max_norm)
    if scaled:
        scaler.step(optimizer)
    else:
        optimizer.step()
    if scaled and updated:
        scaler.update()
    optimizer.zero_grad()


def _but(**changes: bool) -> Callable:
    return lambda *args: _step(*args, **changes)


def _run(step: Callable, bias: float, lr: float, max_norm: float) -> tuple[str, Tensor]:
    """Return the type of the network's output, and its weight and bias after two steps."""
    x = torch.linspace(-1, 1, 256).expand(4, 1, 256, 256)
    model, formats = nn.Conv2d(1, 1, 1), []
    model.register_forward_hook(lambda _, __, out: formats.append(out.dtype))
    with torch.no_grad():
        model.weight.fill_(1.0)
        model.bias.fill_(bias)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    for _ in range(2):
        step(model, x, (x[:, 0] > -0.8).long(), optimizer, scaler, max_norm)
    weights = torch.cat([w.detach().flatten() for w in model.parameters()])
    return str(formats[-1] if formats else None).removeprefix("torch."), weights


rescued_step = Exercise(
    name="rescued_step",
    reference=_step,
    measure=_run,
    tolerance=1e-3,
    cases=(
        Case("sums above 65,504, and a large gradient", (1.0, 1.0, 0.05)),
        Case("gradients below 6e-8", (-8.0, 400.0, 1.0)),
    ),
    mistakes=(
        Mistake(
            _but(float16_sums=True, scaled=False),
            "Weights became NaN: a sum in float16 is infinite. Make the logits float32 first.",
        ),
        Mistake(
            _but(float16_sums=True),
            "Nothing moved: the sums are infinite in float16, so the scaler skips every step.",
        ),
        Mistake(
            _but(scaled=False),
            "The sums are right. But without scaling the small gradients are 0 in float16.",
        ),
        Mistake(
            _but(unscaled=False),
            "The steps are too small: you clip gradients that are scaled by 65,536. Unscale them "
            "first.",
        ),
        Mistake(_but(clipped=False), "The first step is too large: where is `max_norm` used?"),
        Mistake(_but(updated=False), "The scaler needs its `update()` after each step."),
        Mistake(
            _but(autocast=False),
            "The numbers are right, but the network computed in float32: keep autocast around it.",
        ),
    ),
    hint="Four lines matter: float32 sums, scaler.scale, scaler.unscale_ before clipping, "
    "and scaler.step with scaler.update.",
)


def _share(gradients: Tensor, scale: float, *, zeros: bool = False, scaled: bool = True) -> Tensor:
    nonzero = gradients if zeros else gradients[gradients != 0]
    stored = (nonzero * scale if scaled else nonzero).half()
    return (stored == 0).float().mean()


def _gradients(*exponents: int) -> Tensor:
    return torch.tensor([[(-1) ** k * 2.0**k for k in exponents], [0.0] * len(exponents)])


underflow_share = Exercise(
    name="underflow_share",
    reference=lambda gradients, scale: _share(gradients, scale),
    cases=(
        Case("without scaling", (_gradients(-30, -26, -20, -10), 1.0)),
        Case("scaled by 16", (_gradients(-30, -26, -20, -10), 16.0)),
        Case("scaled by 65,536", (_gradients(-30, -26, -20, -10), 65536.0)),
        Case("scaled too much: infinite is not 0", (_gradients(-40, 2), 65536.0)),
    ),
    mistakes=(
        Mistake(
            lambda gradients, scale: _share(gradients, scale, zeros=True),
            "You count gradients that are 0 in float32 as well. Leave them out.",
        ),
        Mistake(
            lambda gradients, scale: _share(gradients, scale, scaled=False),
            "Multiply by `scale` before you convert to float16: what is 0 stays 0.",
        ),
        Mistake(
            lambda gradients, scale: (
                ((gradients * scale).abs() < 2.0**-14)[gradients != 0].float().mean()
            ),
            "Below 2^-14 numbers are subnormal in float16, with fewer digits, but not yet 0.",
        ),
        Mistake(
            lambda gradients, scale: (_share(gradients, scale) * (gradients != 0).sum()).round(),
            "That is how many. Divide by the number of gradients other than 0.",
        ),
    ),
    hint="nonzero = gradients[gradients != 0]; then (nonzero * scale).half() == 0.",
)
