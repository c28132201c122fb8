"""What is refused before the first step, with a message that says what to do."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from segkit.data.dataset import IGNORE, DataError, SegmentationDataset
from segkit.errors import ArgumentError
from segkit.losses import BCELoss, CrossEntropyLoss

Loss = Callable[[Tensor, Tensor], Tensor]


def check_and_default_loss(
    model: nn.Module, loss: Loss | None, loaders: list[DataLoader | None], training: bool = True
) -> Loss:
    """Return the loss, on the network's device, once network, batches and masks fit together.

    By default it is binary cross-entropy for one channel of logits, cross-entropy for more.
    `training`: whether the first loader's batches are trained on. Raises ArgumentError, DataError.
    """
    loaders = [loader for loader in loaders if loader is not None]
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    channels = _logit_channels(model, loaders[0], device, training)
    datasets = [x.dataset for x in loaders if isinstance(x.dataset, SegmentationDataset)]
    for data in datasets:
        _check_masks(data, channels)
    loss = loss or (BCELoss() if channels == 1 else CrossEntropyLoss())
    if isinstance(loss, nn.Module):
        loss.to(device)
        for part in loss.modules():
            if datasets and hasattr(part, "foreground_seen"):
                part.foreground_seen = True  # else it might refuse a first batch without any
    return loss


@torch.no_grad()
def _logit_channels(
    model: nn.Module, loader: DataLoader, device: torch.device, training: bool
) -> int:
    """Return how many channels of logits `model` returns for one image of the loader."""
    images = _first_images(loader)[:1].to(device)
    one_value = []  # batch normalisation layers that see one value a channel of one image

    def note(module: nn.Module, inputs: tuple[Tensor]) -> None:
        if inputs[0].numel() == inputs[0].shape[1]:
            one_value.append(module)

    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    hooks = [norm.register_forward_pre_hook(note) for norm in norms]
    try:
        logits = model.eval()(images)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        raise ArgumentError(
            f"{type(model).__name__} cannot take images of shape {tuple(images.shape)}: {error}"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    if not isinstance(logits, Tensor) or logits.ndim != 4:
        raise ArgumentError(
            f"{type(model).__name__} returns {_describe(logits)}, not logits (N, classes, H, W): "
            "wrap it in a module whose forward returns the logits alone"
        )
    if training and one_value:
        _check_last_batch(loader)
    return logits.shape[1]


def _first_images(loader: DataLoader) -> Tensor:
    if isinstance(loader.dataset, SegmentationDataset):
        return loader.dataset[0][0][None]
    batch = next(iter(loader), None)
    pair = isinstance(batch, (tuple, list)) and len(batch) == 2
    if not pair or not all(isinstance(part, Tensor) for part in batch):
        raise ArgumentError(
            f"a batch of the loader is {_describe(batch)}, not (images, masks): give the "
            "DataLoader a collate_fn that returns these two tensors"
        )
    return batch[0]


def _describe(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, dict):
        return f"a dict with {', '.join(map(str, value))}"
    length = f" of {len(value)}" if isinstance(value, (tuple, list)) else ""
    return f"a {type(value).__name__}{length}"


def _check_last_batch(loader: DataLoader) -> None:
    """Raise ArgumentError if a batch holds one image, over which nothing can be normalised."""
    size, count = loader.batch_size, len(loader.sampler)
    if size and not loader.drop_last and (size == 1 or count % size == 1):
        better = next((n for n in range(max(size, 2), size + 5) if count % n != 1), None)
        raise ArgumentError(
            f"an epoch of {count} images in batches of {size} has a batch of one image, and batch "
            "normalisation cannot train on one value a channel, as the network has there: "
            f"use {f'batch_size={better}' if better else 'more images'}, or larger images"
        )


def _check_masks(data: SegmentationDataset, channels: int) -> None:
    """Raise DataError if a mask holds a class for which the network has no output.

    Also if no mask has any foreground: a 0/255 mask reads as background and ignored.
    """
    classes = max(2, channels)
    foreground = False
    for name, mask in zip(data.names, data.masks, strict=True):
        if mask.max() >= classes:
            wrong = mask[(mask >= classes) & (mask != IGNORE)]
            if wrong.size:
                raise DataError(
                    f"mask {name} holds class {wrong.max()}, but the network predicts classes "
                    f"0..{classes - 1}: build it with classes={wrong.max() + 1}, or fix the mask"
                )
        foreground = foreground or bool(((mask > 0) & (mask != IGNORE)).any())
    if not foreground:
        raise DataError(
            f"none of the {len(data)} masks has a foreground pixel, only 0 and {IGNORE} "
            "(ignore): masks stored as 0/255 must become 0/1 first"
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether a GPU or the machine ran out of memory."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
