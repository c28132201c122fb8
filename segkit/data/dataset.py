"""One data set class for every source, and the loader that feeds it to a network."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from segkit.errors import SegkitError

IGNORE = 255
"""The mask value that losses and metrics leave out."""

Pair = tuple[np.ndarray, np.ndarray]


class DataError(SegkitError, ValueError):
    """Data that would train a wrong model; the message names the file and the cure.

    code: a word for the kind of fault, files: those that have it, where the data doctor asks.
    """

    def __init__(self, message: str, code: str = "", files: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.code, self.files = code, tuple(files)


@dataclass
class SegmentationDataset(Dataset):
    """Images and masks in memory (or memory-mapped), all of one size.

    images: uint8 `(N, H, W, 3)` or, grey, `(N, H, W)`. masks: uint8 class ids `(N, H, W)`,
    255 is "ignore". class_names: one per id, the background first. names: one per item.
    groups: what must not be split apart or is stratified by (breed, patient), one per item.
    transform: `(image, mask, seed) -> (tensor (C, H, W), tensor (H, W))`; `None` only scales
    the image to 0..1.

    `dataset[i]` is `(image, mask)`: float32 `(C, H, W)` and int64 `(H, W)`. `dataset[i, draw]`
    is the same item with the draw's augmentation, so an item looks different in each epoch and
    yet the same whatever the number of workers.
    """

    images: np.ndarray
    masks: np.ndarray
    class_names: tuple[str, ...]
    names: Sequence[str] = ()
    groups: Sequence[str] = ()
    transform: Callable | None = None
    seed: int = 0
    info: dict = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.images) != len(self.masks):
            raise DataError(f"{len(self.images)} images but {len(self.masks)} masks")
        if self.images.shape[:3] != self.masks.shape:
            raise DataError(f"images {self.images.shape} and masks {self.masks.shape} differ")
        self.names = tuple(self.names) or tuple(f"{i:05d}" for i in range(len(self.images)))
        self.groups = tuple(self.groups) or ("",) * len(self.images)

    @property
    def channels(self) -> int:
        """Channels of an image: 3 for colour, 1 for grey."""
        return self.images.shape[3] if self.images.ndim == 4 else 1

    @property
    def classes(self) -> int:
        """Output channels a network needs: 1 for two classes (binary), else one per class."""
        return 1 if len(self.class_names) == 2 else len(self.class_names)

    def __len__(self) -> int:
        return len(self.images)

    def raw(self, i: int) -> Pair:
        """Return item `i` as it is stored: uint8 image `(H, W[, 3])` and uint8 mask `(H, W)`."""
        return np.asarray(self.images[i]), np.asarray(self.masks[i])

    def __getitem__(self, key: int | tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        i, draw = key if isinstance(key, tuple) else (key, 0)
        image, mask = self.raw(i)
        if self.transform is None:
            image = image[None] if image.ndim == 2 else image.transpose(2, 0, 1)
            return torch.from_numpy(image / np.float32(255)), torch.from_numpy(mask.astype("int64"))
        item_seed = int(np.random.SeedSequence((self.seed, draw, i)).generate_state(1)[0])
        return self.transform(image, mask, item_seed)

    def subset(self, indices: Sequence[int]) -> "SegmentationDataset":
        """Return the items at `indices`, in that order, as a data set of its own."""
        indices = np.asarray(indices, dtype=int)
        return replace(
            self,
            images=self.images[indices],
            masks=self.masks[indices],
            names=[self.names[i] for i in indices],
            groups=[self.groups[i] for i in indices],
        )

    def with_transform(self, transform: Callable | None) -> "SegmentationDataset":
        """Return the same items behind another `transform`; the arrays are shared."""
        return replace(self, transform=transform)


class SeededSampler(Sampler):
    """Yields `(index, epoch)`: a seeded order, new in each epoch, shared out over `ranks`.

    `set_epoch(e)` chooses the epoch, as with torch's DistributedSampler; `set_epoch(e, start=n)`
    leaves out the first `n` items of this rank, to go on after an interruption. With several
    ranks the order is padded from its own beginning, so that all ranks get equally many.
    """

    def __init__(
        self, length: int, shuffle: bool = True, seed: int = 0, rank: int = 0, ranks: int = 1
    ) -> None:
        self.length, self.shuffle, self.seed = length, shuffle, seed
        self.rank, self.ranks = rank, ranks
        self.epoch = self.start = 0

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Choose the epoch whose order comes next, and how many of its items are already done."""
        self.epoch, self.start = epoch, start

    def __len__(self) -> int:
        return -(-self.length // self.ranks) - self.start

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
) -> DataLoader:
    """Return batches of `dataset`: float32 `(N, C, H, W)` images and int64 `(N, H, W)` masks.

    Order and augmentation depend on `seed` and the epoch alone, not on `workers` (0 means: in
    this process, best for data in memory). Call `loader.sampler.set_epoch(e)` at each epoch.
    Raises DataError for an empty data set, and where `drop_last` would leave no batch.
    """
    if len(dataset) == 0:
        raise DataError("the data set is empty: nothing to load")
    if drop_last and len(dataset) // ranks < batch_size:
        raise DataError(
            f"drop_last leaves nothing of {len(dataset)} items at a batch of {batch_size}: "
            "use a smaller batch_size"
        )
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=SeededSampler(len(dataset), shuffle, seed, rank, ranks),
        num_workers=workers,
        drop_last=drop_last,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=workers > 0,
    )
