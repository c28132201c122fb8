"""Metrics held to other libraries on random batches; where they differ, that is noted."""

import math

import numpy as np
import pytest
import torch
from batches import batches, some
from hypothesis import given
from hypothesis import strategies as st

from segkit.metrics import bootstrap, boundary_counts, calibration, counts

sklearn_metrics = pytest.importorskip("sklearn.metrics")
torchmetrics = pytest.importorskip("torchmetrics.functional.classification")
smp_metrics = pytest.importorskip("segmentation_models_pytorch").metrics

binary = batches(most_classes=1)
exclusive = batches()


def close(ours, theirs):
    torch.testing.assert_close(
        torch.as_tensor(ours).double(),
        torch.as_tensor(theirs).double(),
        rtol=1e-5,
        atol=1e-6,
        equal_nan=True,
    )


def flat(logits, target):
    """Return predicted and true ids of the pixels that count, as sklearn wants them."""
    pred = logits.argmax(dim=1) if logits.shape[1] > 1 else (logits[:, 0] > 0).long()
    return pred[target != 255].numpy(), target[target != 255].numpy()


@pytest.mark.parametrize("most_classes", [1, 5])
@some
@given(data=st.data())
def test_scikit_learn(most_classes, data):
    logits, target = data.draw(batches(most_classes))
    pred, true = flat(logits, target)
    c, classes = counts(logits, target).total(), logits.shape[1]
    if not len(true):
        return
    labels = range(classes) if classes > 1 else [1]
    matrices = sklearn_metrics.multilabel_confusion_matrix(true, pred, labels=labels)
    ours = torch.stack([c.tn, c.fp, c.fn, c.tp]).squeeze(1).T.reshape(-1, 2, 2)
    assert ours.tolist() == matrices.tolist()
    names = {"jaccard": "iou", "f1": "dice", "precision": "precision", "recall": "recall"}
    for average in ("micro", "macro", "weighted", None):
        for name, score in names.items():
            theirs = getattr(sklearn_metrics, f"{name}_score")(
                true, pred, labels=labels, average=average, zero_division=0
            )
            close(getattr(c, score)(average or "none", zero_division=0).squeeze(0), theirs)
    close(c.accuracy(), sklearn_metrics.accuracy_score(true, pred))


@some
@given(exclusive)
def test_torchmetrics_exclusive(batch):
    logits, target = batch
    classes, c = logits.shape[1], counts(logits, target)
    kind = dict(num_classes=classes, ignore_index=255)
    stats = torchmetrics.multiclass_stat_scores(
        logits, target, average=None, multidim_average="samplewise", **kind
    )
    assert torch.equal(stats[..., :4], torch.stack([c.tp, c.fp, c.tn, c.fn], dim=-1))
    # Its averages leave out classes that occur nowhere, as ours do, and say 0 when none is left.
    for average in ("micro", "macro", "weighted"):
        for name, ours in (("jaccard_index", c.iou), ("f1_score", c.dice), ("recall", c.recall)):
            theirs = getattr(torchmetrics, f"multiclass_{name}")(
                logits, target, average=average, **kind
            )
            if average == "macro" and name == "recall":
                # A class that is predicted but absent has no recall; torchmetrics averages a 0.
                total = c.total()
                seen = (total.tp + total.fp + total.fn) > 0
                close(total.recall("none", zero_division=0)[seen].mean().nan_to_num(0), theirs)
            else:
                close(ours(average).nan_to_num(0), theirs)


@some
@given(binary)
def test_torchmetrics_binary(batch):
    logits, target = batch
    c = counts(logits, target)
    if not (target != 255).any():
        return
    stats = torchmetrics.binary_stat_scores(
        logits[:, 0], target, multidim_average="samplewise", ignore_index=255
    )
    assert torch.equal(stats[:, :4], torch.cat([c.tp, c.fp, c.tn, c.fn], dim=-1))
    theirs = torchmetrics.binary_jaccard_index(logits[:, 0], target, ignore_index=255)
    close(c.iou(zero_division=0), theirs)


@some
@given(exclusive)
def test_segmentation_models_pytorch(batch):
    logits, target = batch
    c = counts(logits, target)
    kind = dict(mode="multiclass", ignore_index=255, num_classes=logits.shape[1])
    theirs = smp_metrics.get_stats(logits.argmax(dim=1), target, **kind)
    assert torch.equal(torch.stack(theirs), torch.stack([c.tp, c.fp, c.fn, c.tn]))
    names = {"iou": "iou_score", "dice": "f1_score", "precision": "precision", "recall": "recall"}
    for reduction in ("micro", "macro", "micro-imagewise", "macro-imagewise", "none"):
        for empty in (1.0, 0.0):
            for ours, name in names.items():
                score = getattr(smp_metrics, name)
                score = score(*theirs, reduction=reduction, zero_division=empty)
                close(getattr(c, ours)(reduction, zero_division=empty), score)


@some
@given(batches(ignored=(0.0,)))
def test_monai_scores(batch):
    compute_iou = pytest.importorskip("monai.metrics").compute_iou
    compute_dice = pytest.importorskip("monai.metrics").compute_dice
    logits, target = batch
    pred, true = one_hot(logits, target)
    c = counts(logits, target)
    # It says NaN for a class absent from the truth, even where it is predicted.
    absent = (c.tp + c.fn) == 0
    close(c.iou("none").masked_fill(absent, math.nan), compute_iou(pred, true))
    close(c.dice("none").masked_fill(absent, math.nan), compute_dice(pred, true))


def one_hot(logits, target):
    classes = logits.shape[1]
    pred = torch.nn.functional.one_hot(logits.argmax(dim=1), classes)
    true = torch.nn.functional.one_hot(target, classes)
    return pred.movedim(-1, 1), true.movedim(-1, 1)


def blobs(seed, size=32, classes=3):
    """Return logits and a target with smooth shapes, so that contours mean something."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(2, classes, size, size, generator=generator)
    smooth = torch.nn.functional.avg_pool2d(noise, 9, stride=1, padding=4)
    other = smooth + 0.3 * torch.nn.functional.avg_pool2d(noise.flip(0), 5, stride=1, padding=2)
    return smooth, other.argmax(dim=1)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("ratio", [0.02, 0.1])
def test_boundary_iou_as_eroding_pixel_by_pixel(seed, ratio):
    # The paper's own definition by erosion, with scipy: d times with a 3x3 square.
    from scipy.ndimage import binary_erosion

    logits, target = blobs(seed)
    pred, true = (x.bool().numpy() for x in one_hot(logits, target))
    d = max(1, round(ratio * math.hypot(32, 32)))
    square = np.ones((1, 1, 3, 3))
    pred, true = (m & ~binary_erosion(m, square, iterations=d) for m in (pred, true))
    expected = (pred & true).sum(axis=(2, 3)) / (pred | true).sum(axis=(2, 3))
    close(boundary_counts(logits, target, ratio=ratio).iou("none"), expected)


@pytest.mark.parametrize("most_classes", [1, 5])
@some
@given(data=st.data())
def test_torchmetrics_calibration(most_classes, data):
    logits, target = data.draw(batches(most_classes))
    if not (target != 255).any():
        return
    kind = dict(n_bins=15, ignore_index=255)
    if logits.shape[1] == 1:
        probs = logits[:, 0].double().sigmoid()
        theirs = torchmetrics.binary_calibration_error(probs, target, **kind)
    else:
        theirs = torchmetrics.multiclass_calibration_error(
            logits.double(), target, num_classes=logits.shape[1], **kind
        )
    close(calibration(logits, target).error(), theirs)


def test_scipy_bootstrap():
    from scipy import stats

    values = np.random.default_rng(0).exponential(size=80)
    theirs = stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=20_000, random_state=1
    ).confidence_interval
    ours = bootstrap(lambda v: v.mean(-1), torch.from_numpy(values), resamples=20_000)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.01)
