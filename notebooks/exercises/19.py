"""Exercises of lesson 19: scaling out."""

from collections.abc import Callable

from segkit.check import Case, Exercise, Mistake


def _effective(
    processes: int, own: int, accumulate: int, base_batch: int, base_rate: float
) -> list[float]:
    batch = processes * own * accumulate
    return [batch, base_rate * batch / base_batch]


effective = Exercise(
    name="effective",
    reference=_effective,
    cases=(
        Case("one GPU, as the paper", (1, 16, 1, 16, 0.1)),
        Case("eight GPUs", (8, 32, 1, 64, 0.1)),
        Case("one small GPU, accumulating", (1, 4, 4, 16, 0.01)),
        Case("both", (4, 8, 2, 16, 0.02)),
        Case("a smaller batch than the paper's", (2, 4, 1, 32, 0.1)),
    ),
    mistakes=(
        Mistake(
            lambda n, own, k, base, rate: [n * own, rate * n * own / base],
            "Gradients of `accumulate` batches are added up before each step. So how many images "
            "are in one step?",
        ),
        Mistake(
            lambda n, own, k, base, rate: [own * k, rate * own * k / base],
            "All processes take one step, with the mean of their gradients. Count all images.",
        ),
        Mistake(
            lambda n, own, k, base, rate: [n * own * k, rate * (n * own * k / base) ** 0.5],
            "That is the square-root rule. It exists too, but here the linear one is asked for.",
        ),
        Mistake(
            lambda n, own, k, base, rate: [n * own * k, rate * base / (n * own * k)],
            "The ratio is inverted: a larger batch takes fewer steps, so each has to be larger.",
        ),
        Mistake(
            lambda n, own, k, base, rate: [n * own * k, rate * n * k],
            "You compare with your own batch on one GPU. The rate is for `base_batch` images.",
        ),
        Mistake(
            lambda n, own, k, base, rate: [n * own * k, rate],
            "The batch is right. The learning rate is for `base_batch` images; which is for yours?",
        ),
    ),
    hint="First count the images of one step; then see how many times `base_batch` that is.",
)


def _evaluated(share: Callable, n: int, ranks: int) -> dict[str, object]:
    shares = [[int(index) for index in share(n, rank, ranks)] for rank in range(ranks)]
    sizes = [len(own) for own in shares]
    times = [sum(own.count(index) for own in shares) for index in range(n)]
    return {
        "times evaluated": times,
        "not an image": sum(sizes) - sum(times),
        "even": max(sizes) - min(sizes) <= 1,
    }


def _blocks(n: int, rank: int, ranks: int) -> list[int]:
    size = -(-n // ranks)
    return list(range(n))[rank * size : (rank + 1) * size]


share = Exercise(
    name="share",
    measure=_evaluated,
    reference=lambda n, rank, ranks: list(range(rank, n, ranks)),
    cases=(
        Case("8 images, 2 processes", (8, 2)),
        Case("10 images, 3 processes", (10, 3)),
        Case("11 images, 4 processes", (11, 4)),
        Case("3 images, 1 process", (3, 1)),
    ),
    mistakes=(
        Mistake(
            lambda n, rank, ranks: list(range(rank * (n // ranks), (rank + 1) * (n // ranks))),
            "The remainder of the division is evaluated by no process. Which one takes it?",
        ),
        Mistake(
            lambda n, rank, ranks: [i % n for i in range(rank, -(-n // ranks) * ranks, ranks)],
            "You fill up from the beginning, as training does. In validation an image that is "
            "evaluated twice counts twice.",
        ),
        Mistake(
            lambda n, rank, ranks: list(range(n)),
            "Every process evaluates all images. It is right, but no faster: divide them.",
        ),
        Mistake(
            lambda n, rank, ranks: list(range(rank + 1, n, ranks)),
            "Ranks and images are counted from 0. Which process evaluates image 0?",
        ),
        Mistake(
            _blocks,
            "Each image is evaluated once, but the last process has too few: the other blocks "
            "were rounded up. Deal the images out like cards.",
        ),
        Mistake(
            lambda n, rank, ranks: (
                list(range(n))[rank * (n // ranks) :]
                if rank == ranks - 1
                else list(range(rank * (n // ranks), (rank + 1) * (n // ranks)))
            ),
            "Each image is evaluated once, but the last process gets the whole remainder, and "
            "the others wait for it. Deal the images out like cards.",
        ),
    ),
    hint="Write the shares of all processes side by side. Is each image in exactly one of them?",
)
