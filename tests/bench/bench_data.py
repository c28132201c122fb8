"""Speed of the data side: `python tests/bench/bench_data.py`, on one core.

Procedural images against the 1,000 a second that keep a lesson short; pets from the cache against
pets decoded anew each epoch; the loader against the network that it feeds; `segkit data check`
against 10,000 pairs a minute. Real pets are taken from `SEGKIT_REAL_DATA` where it is set, else
JPEGs of their size are made. What counts is the ratio: the two sides of a row take turns, the
medians are compared.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torchvision.datasets import OxfordIIITPet

from segkit import doctor
from segkit.data import load, loader, transforms
from segkit.data.pets import from_trimap
from segkit.models import build

ROUNDS = 5
PETS = 200


def seconds(work: Callable[[], object]) -> float:
    """Return how long one call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def in_turns(*works: Callable[[], object]) -> list[float]:
    """Return the median seconds of each, run in turns, after one call that is not counted."""
    rounds = [[seconds(work) for work in works] for _ in range(ROUNDS + 1)][1:]
    return [statistics.median(times) for times in zip(*rounds, strict=True)]


def toys(size: int = 96, count: int = 200) -> list[tuple]:
    """Compare painting each procedural family with 1,000 images a second."""
    rows = []
    for family, options in (("pets", {"border": "class"}), ("xray", {}), ("embryo", {})):
        name = f"toy-{family}"
        (spent,) = in_turns(lambda n=name, o=options: load(n, "train", size, count=count, **o))
        rows.append((f"{name} at {size} px, against 1,000 a second", count / spent, 1000, 1))
    return rows


def make_pets(parent: Path) -> Path:
    """Write JPEGs and trimaps of the usual size, in the layout of the real ones."""
    rng = np.random.default_rng(0)
    root = parent / "oxford-iiit-pet"
    for sub in ("images", "annotations/trimaps"):
        (root / sub).mkdir(parents=True)
    names = [f"breed_{i}" for i in range(PETS)]
    for name in names:
        small = rng.integers(0, 256, (47, 63, 3), dtype=np.uint8)
        picture = cv2.resize(small, (500, 375), interpolation=cv2.INTER_CUBIC)
        Image.fromarray(picture).save(root / "images" / f"{name}.jpg", quality=90)
        marks = cv2.resize(small[..., 0] % 3 + 1, (500, 375), interpolation=cv2.INTER_NEAREST)
        Image.fromarray(marks).save(root / "annotations" / "trimaps" / f"{name}.png")
    (root / "annotations" / "test.txt").write_text("".join(f"{name} 1 1 1\n" for name in names))
    return parent


def pets(root: Path, label: str, size: int = 128) -> list[tuple]:
    """Compare an epoch, and opening the data set, with and without the cache."""
    transform = transforms.build("evaluation", 3)
    official = OxfordIIITPet(root, "test", "segmentation")
    cached = load("oxford-pet", "test", size, border="pet", count=PETS, data_dir=root)
    number = {path.stem: i for i, path in enumerate(official._images)}
    chosen = [number[name] for name in cached.names]

    def decode_all() -> None:
        for i in chosen:
            image, trimap = official[i]
            image = np.array(image.resize((size, size), Image.Resampling.BILINEAR))
            trimap = np.array(trimap.resize((size, size), Image.Resampling.NEAREST))
            last[:] = transform(image, from_trimap(trimap, "pet"))

    def read_all() -> None:
        for i in range(len(cached)):
            last[:] = cached[i]

    def open_again(keep: bool) -> None:
        load("oxford-pet", "test", size, border="pet", count=PETS, data_dir=root, cache=keep)

    last = [None, None]
    decode_all()
    wanted = list(last)
    read_all()
    assert all(torch.equal(a, b) for a, b in zip(last, wanted, strict=True))
    decoding, reading = in_turns(decode_all, read_all)
    fresh, again = in_turns(lambda: open_again(False), lambda: open_again(True))
    n = len(cached)
    return [
        (
            f"an epoch of {label} at {size} px, cached against decoded",
            n / reading,
            n / decoding,
            10,
        ),
        (f"opening {label} at {size} px, again against first", n / again, n / fresh, 10),
    ]


def feeding(size: int = 64, batch: int = 16) -> list[tuple]:
    """Compare how fast the loader brings images with how fast U-Net of width 8 learns from them."""
    rows = []
    network = build("unet", in_channels=3, classes=1, width=8)
    optimiser = torch.optim.AdamW(network.parameters())
    for pipeline in ("evaluation", "light", "medium"):
        data = load("toy-pets", "train", size, border="pet", transform=pipeline)
        batches = loader(data, batch, shuffle=True)
        images, masks = next(iter(batches))

        def learn(images=images, masks=masks) -> None:
            for _ in range(4):
                logits = network(images)[:, 0]
                loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, masks.float())
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()

        bringing, learning = in_turns(lambda b=batches: list(b), learn)
        rows.append(
            (
                f"loader ({pipeline}) against U-Net of width 8, {size} px",
                len(data) / bringing,
                4 * batch / learning,
                1,
            )
        )
    return rows


def checking(root: Path, size: int = 256, count: int = 1000) -> list[tuple]:
    """Measure the data doctor on pairs of PNGs, on all cores."""
    rng = np.random.default_rng(0)
    for part in ("images", "masks"):
        (root / part).mkdir(parents=True)
    for i in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8))
        image = coarse.resize((size, size), Image.Resampling.BICUBIC)
        image.save(root / "images" / f"{i}.png", compress_level=1)
        mask = np.array(image.convert("L")) > 128
        Image.fromarray(mask.astype(np.uint8)).save(root / "masks" / f"{i}.png", compress_level=1)
    taken = seconds(lambda: doctor.check(root))
    return [(f"data check, PNG of {size} px, against 10,000 a minute", count / taken, 1e4 / 60, 1)]


def main() -> None:
    """Measure everything and print one table."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    real = os.environ.get("SEGKIT_REAL_DATA")
    rows = toys() + feeding()
    with tempfile.TemporaryDirectory() as home:
        os.environ["SEGKIT_DATA"] = home
        root = Path(real) if real else make_pets(Path(home))
        rows += pets(root, "real pets" if real else "made-up pets")
        rows += checking(Path(home) / "scans")
    table = Table("what", "images/s", "against", "ratio", "aim", "held")
    for what, ours, theirs, aim in rows:
        ratio = ours / theirs
        held = "yes" if ratio >= aim else "no"
        table.add_row(what, f"{ours:,.0f}", f"{theirs:,.0f}", f"{ratio:.1f}", f"≥ {aim}", held)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
