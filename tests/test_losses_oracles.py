"""Losses held to other libraries on random batches, in float64, where they mean the same."""

from functools import partial

import pytest
import torch
from batches import batches, some
from hypothesis import given
from torch.nn import functional as F

from segkit import losses

smp = pytest.importorskip("segmentation_models_pytorch").losses

binary = batches(most_classes=1)
exclusive = batches()


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs.to(ours.dtype), rtol=1e-6, atol=1e-8)


def in_double(batch):
    """Return the batch with float64 logits, and the flat pixels that count."""
    logits, target = batch[0].double(), batch[1]
    valid = target != 255
    return logits, target, logits.movedim(1, -1)[valid], target[valid]


@some
@given(binary)
def test_bce_as_torch_on_the_pixels_that_count(batch):
    logits, target, pixels, labels = in_double(batch)
    if len(labels):
        for weight in (1.0, 3.0):
            theirs = F.binary_cross_entropy_with_logits(
                pixels[:, 0], labels.double(), pos_weight=torch.tensor(weight).double()
            )
            close(losses.BCELoss(weight)(logits, target), theirs)


@some
@given(exclusive)
def test_cross_entropy_as_torch(batch):
    logits, target, _, labels = in_double(batch)
    if len(labels):
        weight = torch.arange(1, logits.shape[1] + 1).double()
        theirs = F.cross_entropy(logits, target, ignore_index=255)
        close(losses.CrossEntropyLoss()(logits, target), theirs)
        theirs = F.cross_entropy(logits, target, weight, ignore_index=255)
        close(losses.CrossEntropyLoss(weight)(logits, target), theirs)


# Ours, theirs, and the smooth of theirs that is 1 of ours: its Dice is computed as Tversky with
# two halves, (Σpt + smooth) / (half the sizes + smooth).
PAIRS = {
    "dice": (losses.DiceLoss, smp.DiceLoss, 0.5),
    "jaccard": (losses.JaccardLoss, smp.JaccardLoss, 1.0),
    "tversky": (losses.TverskyLoss, partial(smp.TverskyLoss, alpha=0.3, beta=0.7), 1.0),
}


@pytest.mark.parametrize("name", PAIRS)
@some
@given(binary)
def test_binary_overlap_as_segmentation_models_pytorch(name, batch):
    ours, theirs, smooth = PAIRS[name]
    logits, target, _, labels = in_double(batch)
    found = ours(smooth=1.0)(logits, target)
    other = theirs("binary", smooth=smooth, ignore_index=255)(logits, target[:, None])
    if (labels == 1).any():
        close(found, other)
    else:  # nothing to find: theirs is 0 whatever was predicted, ours is not
        assert other == 0
        assert found > 0 if len(labels) else found == 0


@pytest.mark.parametrize("name", PAIRS)
@some
@given(exclusive)
def test_exclusive_overlap_as_segmentation_models_pytorch(name, batch):
    ours, theirs, smooth = PAIRS[name]
    logits, target, _, labels = in_double(batch)
    found = ours(smooth=1.0)(logits, target)
    other = theirs("multiclass", smooth=smooth, ignore_index=255)(logits, target)
    present = labels.unique().numel()
    # Both sum over the classes present; theirs then divides by all classes.
    close(found * present, other * logits.shape[1])


@some
@given(batches(ignored=(0.0,)))
def test_dice_as_monai(batch):
    monai = pytest.importorskip("monai.losses")
    logits, target, *_ = in_double(batch)
    # MONAI pools the batch when asked, adds smooth above and below alike, and averages over all
    # classes, the absent ones included: so here over the present ones of its per-class losses.
    kind = dict(to_onehot_y=True, softmax=True, batch=True, smooth_nr=1.0, smooth_dr=1.0)
    by_class = monai.DiceLoss(reduction="none", **kind)(logits, target[:, None]).flatten()
    close(losses.DiceLoss(smooth=1.0)(logits, target), by_class[target.unique()].mean())
    by_class = monai.DiceLoss(reduction="none", jaccard=True, **kind)(logits, target[:, None])
    # its Jaccard is 1 - (2I + s) / (2U + s): our smooth is half of that
    close(
        losses.JaccardLoss(smooth=0.5)(logits, target), by_class.flatten()[target.unique()].mean()
    )


@some
@given(binary)
def test_focal_as_torchvision(batch):
    from torchvision.ops import sigmoid_focal_loss

    logits, target, pixels, labels = in_double(batch)
    if len(labels):
        for gamma, alpha in ((2.0, 0.25), (1.0, 0.6), (0.0, 0.5)):
            theirs = sigmoid_focal_loss(
                pixels[:, 0], labels.double(), alpha=alpha, gamma=gamma, reduction="mean"
            )
            close(losses.FocalLoss(gamma, alpha)(logits, target), theirs)


@some
@given(batches(ignored=(0.0,)))
def test_focal_as_monai(batch):
    monai = pytest.importorskip("monai.losses")
    logits, target, *_ = in_double(batch)
    theirs = monai.FocalLoss(to_onehot_y=True, use_softmax=True, gamma=2.0)(logits, target[:, None])
    # its mean is over pixels and classes, and only the true class's term is not 0
    close(losses.FocalLoss(2.0)(logits, target), theirs * logits.shape[1])


@some
@given(binary)
def test_lovasz_hinge_as_berman(batch):
    logits, target = batch
    theirs = smp.LovaszLoss("binary", ignore_index=255)(logits, target)
    torch.testing.assert_close(losses.LovaszLoss()(logits, target), theirs)


@some
@given(exclusive)
def test_lovasz_softmax_as_berman(batch):
    logits, target = batch
    if (target != 255).any():
        theirs = smp.LovaszLoss("multiclass", ignore_index=255)(logits, target)
        torch.testing.assert_close(losses.LovaszLoss()(logits, target), theirs)
