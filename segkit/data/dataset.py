"""One data set class for every source, and the loader that feeds it to a network."""

import hashlib
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from segkit.errors import ArgumentError, DataError

IGNORE = 255  # the mask value that losses and metrics leave out
Pair = tuple[np.ndarray, np.ndarray]


def check_seed(seed: int) -> int:
    """Return a seed that numpy and torch both take, or raise ArgumentError."""
    if not isinstance(seed, int | np.integer) or seed < 0:
        raise ArgumentError(f"seed={seed!r}: give a whole number of 0 or more")
    return int(seed)


def digest(image: np.ndarray) -> str:
    """Return 12 hex digits that are the same for images of the same pixels and shape."""
    content = repr(image.shape).encode() + np.ascontiguousarray(image).tobytes()
    return hashlib.blake2b(content, digest_size=6).hexdigest()


@dataclass
class SegmentationDataset(Dataset):
    """Images and masks in memory (or memory-mapped), all of one size.

    `dataset[i]` is `(image, mask)`: float32 `(C, H, W)` and int64 `(H, W)`. `dataset[i, draw]`
    is the same item with the draw's augmentation, so an item looks different in each epoch and
    yet the same with any number of workers.
    """

    images: np.ndarray  # uint8 or uint16 (N, H, W, C) or, grey, (N, H, W)
    masks: np.ndarray  # uint8 class ids (N, H, W); 255 is "ignore"
    class_names: tuple[str, ...]  # one per id, the background first
    names: Sequence[str] = ()  # one per item; by default numbers
    groups: Sequence[str] = ()  # one per item: what belongs together (patient) or is stratified by
    transform: Callable | None = None  # (image, mask, seed) -> tensors; None scales to 0..1
    seed: int = 0  # of the augmentation
    info: dict = field(default_factory=dict)  # where the data come from, for the record of a run

    def __post_init__(self) -> None:
        images, n = self.images, len(self.images)
        self.names = tuple(self.names) or tuple(f"{i:05d}" for i in range(n))
        self.groups = tuple(self.groups) or ("",) * n
        for kind in ("masks", "names", "groups"):
            if len(getattr(self, kind)) != n:
                raise DataError(f"{n} images but {len(getattr(self, kind))} {kind}: one per item")
        shape = self.masks.shape
        if images.shape[:3] != shape or images.ndim > 4:
            raise DataError(f"images {images.shape} and masks {shape} differ: give (N, H, W[, C])")
        if images.dtype not in (np.uint8, np.uint16):
            what = f"images are {images.dtype}: give 0 to 255 as uint8"
            raise DataError(f"{what}, or what image_ops.rescale makes of them")
        if self.masks.dtype != np.uint8:
            raise DataError(f"masks are {self.masks.dtype}: give ids as uint8")

    @property
    def channels(self) -> int:
        """Channels of an image: 1 for grey, 3 for colour, or any other number."""
        return self.images.shape[3] if self.images.ndim == 4 else 1

    @property
    def classes(self) -> int:
        """Output channels a network needs: 1 for two classes (binary), else one per class."""
        return 1 if len(self.class_names) == 2 else len(self.class_names)

    def __len__(self) -> int:
        return len(self.images)

    def digests(self) -> list[str]:
        """Return a digest of each image: equal images have equal ones."""
        return [digest(image) for image in self.images]

    def raw(self, i: int) -> Pair:
        """Return item `i` as it is stored: image `(H, W[, C])` and uint8 mask `(H, W)`."""
        return np.asarray(self.images[i]), np.asarray(self.masks[i])

    def __getitem__(self, key: int | tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        i, draw = key if isinstance(key, tuple) else (key, 0)
        if not -len(self) <= i < len(self):
            raise IndexError(f"item {i} of a data set of {len(self)}")
        i %= len(self)
        image, mask = self.raw(i)
        if self.transform is None:
            image = image[None] if image.ndim == 2 else image.transpose(2, 0, 1)
            image = image / np.float32(np.iinfo(image.dtype).max)
            return torch.from_numpy(image), torch.from_numpy(mask.astype("int64"))
        item_seed = int(np.random.SeedSequence((self.seed, draw, i)).generate_state(1)[0])
        return self.transform(image, mask, item_seed)

    def subset(self, indices: Sequence[int] | np.ndarray) -> "SegmentationDataset":
        """Return the chosen items: numbers in the order wanted, or one boolean per item."""
        indices = np.asarray(indices) if len(indices) else np.empty(0, int)
        try:
            chosen = indices = np.arange(len(self))[indices.reshape(len(indices))]
        except (IndexError, ValueError) as error:
            raise ArgumentError(
                f"{error}: give whole numbers, or one boolean for each of the {len(self)} items"
            ) from error
        steps = np.diff(indices)
        if isinstance(self.images, np.memmap) and len(steps) and (steps == max(1, steps[0])).all():
            chosen = slice(indices[0], indices[-1] + 1, steps[0])  # a view, where a list would copy
        return replace(
            self,
            images=self.images[chosen],
            masks=self.masks[chosen],
            names=[self.names[i] for i in indices],
            groups=[self.groups[i] for i in indices],
        )

    def with_transform(self, transform: Callable | None) -> "SegmentationDataset":
        """Return the same items behind another `transform`; the arrays are shared."""
        return replace(self, transform=transform)

    def normalised(self, mean: Sequence[float], std: Sequence[float]) -> "SegmentationDataset":
        """Return the same items, normalised as pretrained weights need it.

        Args:
            mean: one number per channel, subtracted from pixels in 0..1.
            std: one number per channel, by which the difference is divided.

        Raises:
            ArgumentError: there are other channels, or the transform does not normalise.
        """
        if not len(mean) == len(std) == self.channels:
            raise ArgumentError(
                f"mean {mean} and std {std}: the images have {self.channels} channels"
            )
        try:
            changed = replace(self.transform, mean=tuple(mean), std=tuple(std))
        except TypeError as error:
            raise ArgumentError(
                f"the data set's transform, {self.transform!r}, has no mean and std: load the data "
                'with transform="evaluation" or "light", or normalise in the transform itself'
            ) from error
        return self.with_transform(changed)


class SeededSampler(Sampler):
    """Yields `(index, epoch)`: a seeded order of `length` items, new in each epoch.

    It is shared out over `ranks` processes, of which this is `rank`. A shuffled order is padded
    from its own beginning, so that all get equally many.
    """

    def __init__(
        self, length: int, shuffle: bool = True, seed: int = 0, rank: int = 0, ranks: int = 1
    ) -> None:
        self.length, self.shuffle, self.seed = length, shuffle, check_seed(seed)
        self.rank, self.ranks = rank, ranks
        self.epoch = self.start = 0

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Choose the epoch, and how many of its items, already done, to leave out."""
        self.epoch, self.start = epoch, start

    def __len__(self) -> int:
        return len(range(0 if self.shuffle else self.rank, self.length, self.ranks)) - self.start

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.arange(self.length)
        if self.shuffle:
            np.random.default_rng((self.seed, self.epoch)).shuffle(order)
            order = np.resize(order, -(-self.length // self.ranks) * self.ranks)
        for index in order[self.rank :: self.ranks][self.start :]:
            yield int(index), self.epoch


def loader(
    dataset: SegmentationDataset,
    batch_size: int,
    shuffle: bool = False,
    seed: int = 0,
    workers: int = 0,
    drop_last: bool = False,
    rank: int = 0,
    ranks: int = 1,
    generator: torch.Generator | None = None,
    pin_memory: bool = False,
) -> DataLoader:
    """Return batches of `dataset`: float32 `(N, C, H, W)` images and int64 `(N, H, W)` masks.

    Order and augmentation depend on `seed` and the epoch alone: call
    `loader.sampler.set_epoch(e)` at each. `workers` processes load; with 0 it is this one, best
    for data in memory. `rank` is which process this is, of `ranks` that share the items. The seeds
    of workers are drawn from `generator`, by default the global one. `pin_memory` is for batches
    that go to a GPU.
    """
    if len(dataset) == 0:
        raise DataError("the data set is empty: nothing to load")
    if drop_last and len(dataset) // ranks < batch_size:
        raise DataError(f"drop_last leaves nothing of {len(dataset)}: use a smaller batch_size")
    if workers and "cv2" in sys.modules:  # workers are forked, and hang waiting for its threads
        sys.modules["cv2"].setNumThreads(0)
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=SeededSampler(len(dataset), shuffle, seed, rank, ranks),
        num_workers=workers,
        drop_last=drop_last,
        pin_memory=pin_memory,
        persistent_workers=workers > 0,
        worker_init_fn=_ignore_ctrl_c,
        generator=generator,
    )


def _ignore_ctrl_c(worker: int) -> None:
    """Let Ctrl-C reach the process that trains alone, and not the workers that load for it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
