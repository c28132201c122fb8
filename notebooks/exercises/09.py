"""Exercises of lesson 09: the training loop."""

import torch

from segkit.check import Case, Exercise, Mistake

three_bugs = Exercise(
    name="three_bugs",
    reference={2, 5, 8},
    mistakes=(
        Mistake({5, 8}, "Two are right. In which mode does the network learn in epoch two?"),
        Mistake({2, 5}, "Two are right. What is in the gradients when line 9 reads them?"),
        Mistake({2, 8}, "Two are right. What does a loss for logits take, and what is it given?"),
        Mistake({5, 8, 10}, "Line 10 is fine: judging needs eval(). But who switches back?"),
        Mistake({2, 5, 9}, "Line 9 is fine where it is. Look at the line before it."),
        Mistake({2, 6, 8}, "Line 6 is fine, it wants logits. What is it given?"),
    ),
    hint="Play the loop through by hand for two epochs. The answer is a set of three line numbers.",
)


def _clip(gradients: list[torch.Tensor], limit: float) -> list[torch.Tensor]:
    length = torch.sqrt(sum((g**2).sum() for g in gradients))
    return [g * min(1.0, limit / length) for g in gradients]


def _each(gradients: list[torch.Tensor], limit: float) -> list[torch.Tensor]:
    return [g * min(1.0, limit / g.norm()) for g in gradients]


def _always(gradients: list[torch.Tensor], limit: float) -> list[torch.Tensor]:
    length = torch.sqrt(sum((g**2).sum() for g in gradients))
    return [g * limit / length for g in gradients]


clip = Exercise(
    name="clip",
    reference=_clip,
    cases=(
        Case("one tensor, too long", ([torch.tensor([3.0, 4.0])], 1.0)),
        Case("short enough", ([torch.tensor([0.3, 0.4])], 1.0)),
        Case("two tensors, long together", ([torch.tensor([3.0]), torch.tensor([[4.0]])], 2.5)),
    ),
    mistakes=(
        Mistake(_each, "Each tensor was scaled by its own length. One factor for all, please."),
        Mistake(_always, "A gradient that is short enough must stay as it is; yours is stretched."),
        Mistake(
            lambda gradients, limit: [g.clamp(-limit, limit) for g in gradients],
            "You limit each value by itself. That changes the direction; scale them all instead.",
        ),
        Mistake(
            lambda gradients, limit: [
                g * min(1.0, limit / sum(h.abs().sum() for h in gradients)) for g in gradients
            ],
            "The length is the root of the sum of squares, not the sum of absolute values.",
        ),
    ),
)
