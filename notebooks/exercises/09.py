"""Exercises of lesson 09: the training loop."""

import torch

from segkit.check import Case, Exercise, Mistake

three_bugs = Exercise(
    name="three_bugs",
    reference={2, 5, 8},
    mistakes=(
        Mistake({5, 8}, "Two are right. In which mode is the network trained in epoch two?"),
        Mistake({2, 5}, "Two are right. Which gradients does the step of line 9 use?"),
        Mistake(
            {2, 8}, "Two are right. What does a loss for logits take, and what is passed to it?"
        ),
        Mistake(
            {5, 8, 10}, "Line 10 is right: evaluation needs eval(). But which line switches back?"
        ),
        Mistake({2, 5, 9}, "Line 9 is right where it is. Read the line before it."),
        Mistake({2, 6, 8}, "Line 6 is right, it takes logits. What is passed to it?"),
    ),
    hint="Go through two epochs line by line. The answer is a set of three line numbers.",
)


def _clip(gradients: list[torch.Tensor], limit: float) -> list[torch.Tensor]:
    norm = torch.sqrt(sum((g**2).sum() for g in gradients))
    return [g * min(1.0, limit / norm) for g in gradients]


def _each(gradients: list[torch.Tensor], limit: float) -> list[torch.Tensor]:
    return [g * min(1.0, limit / g.norm()) for g in gradients]


def _always(gradients: list[torch.Tensor], limit: float) -> list[torch.Tensor]:
    norm = torch.sqrt(sum((g**2).sum() for g in gradients))
    return [g * limit / norm for g in gradients]


clip = Exercise(
    name="clip",
    reference=_clip,
    cases=(
        Case("one tensor, above the limit", ([torch.tensor([3.0, 4.0])], 1.0)),
        Case("within the limit", ([torch.tensor([0.3, 0.4])], 1.0)),
        Case("two tensors, above it together", ([torch.tensor([3.0]), torch.tensor([[4.0]])], 2.5)),
    ),
    mistakes=(
        Mistake(_each, "Each tensor was scaled by its own norm. Use one factor for all."),
        Mistake(_always, "A gradient within the limit must stay as it is; yours is scaled up."),
        Mistake(
            lambda gradients, limit: [g.clamp(-limit, limit) for g in gradients],
            "You clip each value by itself. That changes the direction; scale all of them instead.",
        ),
        Mistake(
            lambda gradients, limit: [
                g * min(1.0, limit / sum(h.abs().sum() for h in gradients)) for g in gradients
            ],
            "The norm is the root of the sum of squares, not the sum of absolute values.",
        ),
    ),
)
