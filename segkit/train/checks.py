"""What is refused before the first step, with a message that says what to do."""

import warnings
from collections.abc import Callable
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from segkit.data.dataset import IGNORE, SegmentationDataset
from segkit.errors import ArgumentError, DataError
from segkit.losses import BCELoss, CrossEntropyLoss
from segkit.models.blocks import WithEncoder
from segkit.train.distributed import device_of

Loss = Callable[[Tensor, Tensor], Tensor]


def check_and_default_loss(
    model: nn.Module, loss: Loss | None, loaders: list[DataLoader | None], training: bool = True
) -> Loss:
    """Return the loss, once network, batches and masks fit together.

    By default it is binary cross-entropy for one channel of logits, cross-entropy for more.
    `training`: whether the first loader's batches are trained on. Raises ArgumentError, DataError.
    """
    images = _first_image(loaders[0]).to(device_of(model))
    channels = _logit_channels(model, images)
    if training:
        _check_single_images(model, images, loaders[0])
    for loader in loaders:
        if loader is not None and isinstance(loader.dataset, SegmentationDataset):
            _check_masks(loader.dataset, max(2, channels))
            _check_normalisation(model, loader.dataset)
    return loss or (BCELoss() if channels == 1 else CrossEntropyLoss())


def _first_image(loader: DataLoader) -> Tensor:
    """Return the first image as a batch (1, C, H, W)."""
    if isinstance(loader.dataset, SegmentationDataset):
        return loader.dataset[0][0][None]
    batch = next(iter(loader), None)
    pair = isinstance(batch, (tuple, list)) and len(batch) == 2
    if not pair or not all(isinstance(part, Tensor) for part in batch):
        raise ArgumentError(
            f"a batch of the loader is {_describe(batch)}, not (images, masks): give the "
            "DataLoader a collate_fn that returns these two tensors"
        )
    if set(batch[1].unique().tolist()) == {0, IGNORE}:
        warnings.warn(
            "the masks of the first batch hold only 0 and 255 (ignored): if 255 is the foreground, "
            "give (mask > 127).long()",
            stacklevel=4,
        )
    return batch[0][:1]


@torch.no_grad()
def _logit_channels(model: nn.Module, images: Tensor) -> int:
    name = type(model).__name__
    try:
        logits = model.eval()(images)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        shape = tuple(images.shape)
        raise ArgumentError(f"{name} cannot take images of shape {shape}: {error}") from error
    if not isinstance(logits, Tensor) or logits.ndim != 4:
        raise ArgumentError(
            f"{name} returns {_describe(logits)}, not logits (N, classes, H, W): wrap it in a "
            "module whose forward returns the logits alone"
        )
    return logits.shape[1]


def _describe(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, (tuple, list, dict)):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"


@torch.no_grad()
def _check_single_images(model: nn.Module, images: Tensor, loader: DataLoader) -> None:
    """Raise ArgumentError if an epoch has a batch of one image that cannot be normalised."""
    size, count = loader.batch_size, len(loader.sampler)
    if not size or loader.drop_last or (size > 1 and count % size != 1):
        return
    try:
        deepcopy(model).train()(images)  # a copy: its running statistics change
    except ValueError as error:
        raise ArgumentError(
            f"an epoch of {count} images in batches of {size} has a batch of one image, and batch "
            f"normalisation cannot train on one value a channel ({error}): use another "
            "batch_size, more images, or larger images"
        ) from error


def _check_masks(data: SegmentationDataset, classes: int) -> None:
    highest = [mask.max(where=mask != IGNORE, initial=0) for mask in data.masks]
    for name, found in zip(data.names, highest, strict=True):
        if found >= classes:
            raise DataError(
                f"mask {name} holds class {found}, but the network predicts classes "
                f"0..{classes - 1}: build it with classes={found + 1}, or fix the mask"
            )
    if max(highest) == 0:
        raise DataError(
            f"none of the {len(data)} masks has a foreground pixel, only 0 and {IGNORE} "
            "(ignore): masks stored as 0/255 must become 0/1 first"
        )


def _check_normalisation(model: nn.Module, data: SegmentationDataset) -> None:
    """Warn of images that are normalised in another way than pretrained weights need."""
    if not (isinstance(model, WithEncoder) and hasattr(model, "mean")):
        return
    wanted = tuple(model.mean), tuple(model.std)
    used = tuple(tuple(getattr(data.transform, name, ())) for name in ("mean", "std"))
    if all(used) and wanted != used:
        warnings.warn(
            f"the pretrained weights expect images normalised by mean {wanted[0]} and std "
            f"{wanted[1]}, these are by {used[0]} and {used[1]}: use "
            "dataset.normalised(model.mean, model.std)",
            stacklevel=4,
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether a GPU or the machine ran out of memory."""
    known = isinstance(error, (torch.OutOfMemoryError, MemoryError))
    return known or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))
