import math
import warnings

import numpy as np
import pytest
import torch
from batches import NoWaiting, batches, random_batch, some
from hypothesis import given

from segkit import metrics
from segkit.check import CASES
from segkit.errors import ArgumentError
from segkit.metrics import (
    THRESHOLDS,
    Counts,
    bootstrap,
    boundary_counts,
    calibration,
    counts,
    sweep,
)

SCORES = ("iou", "dice", "precision", "recall", "accuracy")


def count_by_hand(logits, target, threshold=0.5):
    """Count pixel by pixel in Python: slow, and short enough to be seen right."""
    images, channels = logits.shape[:2]
    result = torch.zeros(4, images, channels, dtype=torch.int64)
    for n in range(images):
        for y in range(target.shape[1]):
            for x in range(target.shape[2]):
                true, here = target[n, y, x].item(), logits[n, :, y, x].tolist()
                if true == 255:
                    continue
                if channels == 1:
                    pred = int(1 / (1 + math.exp(-here[0])) > threshold)
                    columns = [(0, pred == 1, true == 1)]
                else:
                    pred = here.index(max(here))
                    columns = [(c, pred == c, true == c) for c in range(channels)]
                for c, positive, is_true in columns:
                    which = {(1, 1): 0, (1, 0): 1, (0, 1): 2, (0, 0): 3}[positive, is_true]
                    result[which, n, c] += 1
    return result


@pytest.mark.parametrize("example", CASES, ids=lambda c: c.name)
def test_worked_cases(example):
    found = counts(example.logits(), example.target())
    for name in ("tp", "fp", "fn", "tn"):
        assert getattr(found, name).tolist() == [list(getattr(example, name))], name
    counted = sum(pixel != "x" for row in example.true.split() for pixel in row)
    assert (found.stacked().sum(dim=0) == counted).all()
    for name in ("iou", "dice"):
        expected = torch.tensor([example.score(name)], dtype=torch.float64)
        torch.testing.assert_close(getattr(found, name)("none"), expected, equal_nan=True)


@pytest.mark.parametrize("classes", [1, 2, 5])
@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.9])
def test_counts_equal_counting_by_hand(classes, threshold):
    logits, target = random_batch(3, classes)
    found = counts(logits, target, threshold)
    assert found.tp.dtype == torch.int64 and found.tp.shape == (3, classes)
    assert torch.equal(found.stacked(), count_by_hand(logits, target, threshold))


def test_threshold_is_exclusive_and_reaches_the_ends():
    logits = torch.tensor([0.0, 1e4, -1e4, 1.0]).view(1, 1, 2, 2)
    target = torch.ones(1, 2, 2, dtype=torch.int64)
    assert counts(logits, target).tp.item() == 2  # a logit of 0, probability 0.5, is background
    assert counts(logits, target, threshold=0).tp.item() == 4
    assert counts(logits, target, threshold=1).tp.item() == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("classes", [1, 4])
def test_counts_in_other_precisions(dtype, classes):
    logits, target = random_batch(2, classes)
    logits = logits.to(dtype)
    assert torch.equal(counts(logits, target).stacked(), count_by_hand(logits.double(), target))


@pytest.mark.parametrize("ignore_index", [None, -100, 1])
def test_other_ignore_index(ignore_index):
    logits, target = random_batch(2, 3, ignored=0)
    if ignore_index == -100:
        target[:, 0] = -100
    found = counts(logits, target, ignore_index=ignore_index)
    relabelled = target if ignore_index is None else target.masked_fill(target == ignore_index, 255)
    assert torch.equal(found.stacked(), count_by_hand(logits, relabelled))


def test_ignored_pixels_are_in_no_count():
    logits, target = random_batch(2, 3)
    before = counts(logits, target).stacked()
    moved = torch.where(target[:, None] == 255, -logits, logits)
    assert torch.equal(counts(moved, target).stacked(), before)
    assert torch.equal(before.sum(dim=0), (target != 255).sum(dim=(1, 2))[:, None].expand(-1, 3))
    assert counts(logits, torch.full_like(target, 255)).stacked().sum() == 0


@pytest.mark.parametrize("classes", [1, 4])
def test_counting_in_any_batching_gives_the_same_integers(classes):
    logits, target = random_batch(7, classes)
    whole = counts(logits, target)
    for size in (1, 2, 3, 7):
        parts = zip(logits.split(size), target.split(size), strict=True)
        joined = [counts(*part) for part in parts]
        assert torch.equal(Counts.cat(joined).stacked(), whole.stacked())
        added = sum(joined[1:], joined[0])
        assert torch.equal(added.stacked(), whole.stacked()) and len(added) == 7
    total = Counts(*sum(image.total().stacked() for image in whole))
    assert torch.equal(total.stacked(), whole.total().stacked())
    for score in SCORES:
        for reduction in ("micro", "macro", "weighted"):
            assert getattr(total, score)(reduction) == getattr(whole, score)(reduction)


@pytest.mark.parametrize("classes", [1, 4])
def test_order_of_images_and_pixels_changes_nothing(classes):
    logits, target = random_batch(5, classes)
    whole = counts(logits, target)
    images = torch.randperm(5, generator=torch.Generator().manual_seed(1))
    assert torch.equal(counts(logits[images], target[images]).stacked(), whole[images].stacked())
    moved = counts(logits.flip(2, 3), target.flip(1, 2))
    assert torch.equal(moved.stacked(), whole.stacked())
    for reduction in metrics.REDUCTIONS[:-1]:
        torch.testing.assert_close(whole[images].iou(reduction), whole.iou(reduction))


@some
@given(batches())
def test_dice_is_f1_and_twice_iou_over_one_plus_iou(batch):
    c = counts(*batch)
    iou, dice = c.iou("none"), c.dice("none")
    torch.testing.assert_close(dice, 2 * iou / (1 + iou), equal_nan=True)
    p, r = c.precision("none", zero_division=0), c.recall("none", zero_division=0)
    harmonic = torch.where(p + r > 0, 2 * p * r / (p + r), 0)
    torch.testing.assert_close(dice.nan_to_num(0), harmonic)
    assert (dice.nan_to_num(1) >= iou.nan_to_num(1)).all()


# Two images, two classes, made so that every reduction answers differently.
#            image 0      image 1
#             tp fp fn     tp fp fn
# class 0      4  1  3      2  2  1     IoU 4/8, 2/5; pooled 6/13
# class 1      2  3  1      0  0  3     IoU 2/6, 0/3; pooled 2/9
TWO = Counts(
    tp=torch.tensor([[4, 2], [2, 0]]),
    fp=torch.tensor([[1, 3], [2, 0]]),
    fn=torch.tensor([[3, 1], [1, 3]]),
    tn=torch.tensor([[2, 4], [0, 2]]),
)


@pytest.mark.parametrize(
    ("score", "reduction", "expected"),
    [
        ("iou", "micro", 8 / 22),
        ("iou", "macro", (6 / 13 + 2 / 9) / 2),
        ("iou", "weighted", (10 * 6 / 13 + 6 * 2 / 9) / 16),
        ("iou", "micro-imagewise", (6 / 14 + 2 / 8) / 2),
        ("iou", "macro-imagewise", ((4 / 8 + 2 / 6) / 2 + (2 / 5 + 0 / 3) / 2) / 2),
        ("iou", "none", [[4 / 8, 2 / 6], [2 / 5, 0 / 3]]),
        ("dice", "macro", (2 * 6 / (2 * 6 + 3 + 4) + 4 / 11) / 2),
        ("precision", "macro", (6 / 9 + 2 / 5) / 2),
        ("recall", "macro", (6 / 10 + 2 / 6) / 2),
        ("accuracy", "macro", (8 / 15 + 8 / 15) / 2),
    ],
)
def test_scores_by_hand(score, reduction, expected):
    found = getattr(TWO, score)(reduction)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_classes_are_averaged_in_each_image_before_the_images():
    c = Counts(
        *torch.tensor([[[1, 0], [3, 0]], [[1, 0], [0, 0]], [[0, 2], [0, 0]], [[9, 9], [8, 11]]])
    )
    # image 0: IoU 1/2 and 0; image 1: IoU 1, and a class in neither mask
    assert c.iou("macro-imagewise").item() == ((1 / 2 + 0) / 2 + 1) / 2


def test_accuracy_of_exclusive_classes_is_the_share_of_right_pixels():
    logits, target = random_batch(4, 5)
    valid = target != 255
    right = (logits.argmax(dim=1) == target) & valid
    c = counts(logits, target)
    assert c.accuracy().item() == pytest.approx((right.sum() / valid.sum()).item())
    by_image = right.sum(dim=(1, 2)) / valid.sum(dim=(1, 2))
    assert c.accuracy("micro-imagewise").item() == pytest.approx(by_image.mean().item())
    per_class = (c.tp + c.tn).sum(0) / c.stacked().sum(dim=(0, 1))
    assert c.accuracy("macro").item() == pytest.approx(per_class.mean().item())


def test_background_can_be_left_out():
    assert TWO.iou("macro", include_background=False).item() == 2 / 9
    assert TWO.iou("none", include_background=False).shape == (2, 1)
    binary = counts(*random_batch(3, 1))
    assert binary.iou(include_background=False) == binary.iou()


@pytest.mark.parametrize(
    ("reduction", "zero_division", "expected"),
    [
        ("macro-imagewise", "skip", 1 / 2),
        ("macro-imagewise", 1.0, (1 / 2 + 1) / 2),
        ("macro-imagewise", 0.0, (1 / 2 + 0) / 2),
        ("micro", "skip", 1 / 2),
        ("none", 1.0, [[1 / 2], [1.0]]),
    ],
)
def test_blank_image_predicted_blank(reduction, zero_division, expected):
    c = Counts(*torch.tensor([[[2], [0]], [[1], [0]], [[1], [0]], [[5], [9]]]))
    found = c.iou(reduction, zero_division=zero_division)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_absent_class_changes_no_mean_unless_asked_to():
    logits, target = random_batch(3, 3)
    padded = torch.cat([logits, torch.full_like(logits[:, :2], -99)], dim=1)
    three, five = counts(logits, target), counts(padded, target)
    for score in ("iou", "dice", "precision", "recall"):
        for reduction in metrics.REDUCTIONS[:-1]:
            torch.testing.assert_close(
                getattr(five, score)(reduction), getattr(three, score)(reduction)
            )
    gift = five.iou("macro", zero_division=1.0)
    assert gift.item() == pytest.approx((3 * three.iou("macro").item() + 2) / 5)
    predicted = counts(torch.tensor([[1.0, 9.0]]).view(1, 2, 1, 1), torch.zeros(1, 1, 1).long())
    assert predicted.iou("none").tolist() == [[0.0, 0.0]]  # absent, but predicted


@pytest.mark.parametrize("reduction", metrics.REDUCTIONS)
def test_nothing_at_all_is_nan_or_what_was_asked_for(reduction):
    c = counts(torch.zeros(2, 1, 3, 3), torch.full((2, 3, 3), 255))
    assert c.iou(reduction).isnan().all()
    assert (c.iou(reduction, zero_division=0.25) == 0.25).all()


def test_one_image_keeps_its_axis_however_it_is_picked():
    c = counts(torch.tensor([[[[1.0]]], [[[-1.0]]]]), torch.ones(2, 1, 1, dtype=torch.int64))
    for index in (1, -1, np.int64(1), c.iou("none").argmin()):
        assert c[index].iou().item() == 0 and len(c[index]) == 1


def test_unknown_reduction_names_the_known():
    with pytest.raises(ValueError, match=r"'mean'.*macro-imagewise"):
        TWO.iou("mean")


BINARY, IDS = torch.zeros(2, 1, 4, 4), torch.zeros(2, 4, 4).long()


@pytest.mark.parametrize(
    ("logits", "target", "ignore_index", "message"),
    [
        (BINARY[:, 0], IDS, 255, r"\(N, C, H, W\)"),
        (BINARY.long(), IDS, 255, "logits are torch.int64"),
        (BINARY[:0], IDS[:0], 255, "no pixel"),
        (BINARY, IDS[:, :0], 255, "need"),
        (BINARY, IDS[:1], 255, r"need \(2, 4, 4\)"),
        (BINARY, IDS[..., :3], 255, r"need \(2, 4, 4\)"),
        (BINARY, IDS[:, None], 255, r"target\[:, 0\]"),
        (BINARY, torch.rand(2, 4, 4), 255, "int64.*nearest"),
        (BINARY, IDS.byte(), 255, r"target\.long\(\).*\(target > 127\)"),
        (BINARY, IDS.bool(), 255, r"target\.long\(\)"),
        (BINARY, IDS + 2, 255, "as many channels"),
        (BINARY, IDS - 1, 255, "as many channels"),
        (BINARY, IDS + 254, 255, "as many channels"),
        (BINARY, IDS + 255, None, r"values \[255\].*binary.*\(mask > 127\)"),
        (BINARY.expand(-1, 3, -1, -1), IDS + 3, 255, r"values \[3\].*0 to 2.*: more classes need"),
    ],
)
def test_target_that_cannot_be_right_is_refused(logits, target, ignore_index, message):
    with pytest.raises(ArgumentError, match=message):
        counts(logits, target, ignore_index=ignore_index)


@pytest.mark.parametrize("classes", [1, 4])
def test_counts_never_wait_for_the_device(monkeypatch, classes):
    logits, target = random_batch(2, classes)
    with pytest.raises(AssertionError, match="waits"), NoWaiting():
        counts(logits, target)  # on a CPU the values are checked
    monkeypatch.setattr(metrics, "_on_cpu", lambda tensor: False)
    with NoWaiting():
        counts(logits, target) + counts(logits, target).total()


def test_sweep_equals_counts_at_every_threshold():
    logits, target = random_batch(3, 1)
    logits[0, 0, 0] = torch.tensor([metrics.logit(t) for t in THRESHOLDS[45:53]])
    swept = sweep(logits, target)
    assert swept.tp.shape == (99, 3, 1)
    for k, threshold in enumerate(THRESHOLDS):
        at_k = torch.stack([t[k] for t in (swept.tp, swept.fp, swept.fn, swept.tn)])
        assert torch.equal(at_k, counts(logits, target, threshold).stacked()), threshold
    halves = sweep(logits[:1], target[:1]) + sweep(logits[1:], target[1:])
    assert torch.equal(halves.stacked(), swept.stacked())
    for reduction in metrics.REDUCTIONS[:-1]:
        assert swept.iou(reduction)[49] == counts(logits, target).iou(reduction)


@pytest.mark.parametrize(
    ("metric", "classes", "options", "message"),
    [
        (sweep, 1, {"thresholds": [0.5, 0.2]}, "must rise"),
        (sweep, 3, {}, "one channel"),
        *((boundary_counts, 1, {"ratio": ratio}, "more than 0") for ratio in (0, -1, math.nan)),
        (counts, 1, {"threshold": 127}, "0 to 1"),
    ],
)
def test_options_that_cannot_be_used_are_refused(metric, classes, options, message):
    with pytest.raises(ArgumentError, match=message):
        metric(*random_batch(1, classes), **options)


def square(top, left, side, size=40):
    mask = torch.zeros(1, size, size, dtype=torch.int64)
    mask[:, top : top + side, left : left + side] = 1
    return mask


def as_logits(mask):
    return (mask[:, None] * 4 - 2).float()


def test_boundary_iou_by_hand():
    # Diagonal 56.6, ratio 0.02: d = 1. Bands of two 10-squares shifted by 1: 36 pixels each.
    # Shared: the crossings on rows 11 and 19, and of the columns 8 pixels on each side.
    pred, true = square(11, 10, 10), square(10, 10, 10)
    found = boundary_counts(as_logits(pred), true)
    assert (found.tp.item(), found.fp.item(), found.fn.item()) == (18, 18, 18)
    assert boundary_counts(as_logits(true), true).iou() == 1


def test_boundary_is_as_wide_as_the_ratio_says_and_runs_along_the_image_edge():
    everything = torch.ones(1, 30, 40, dtype=torch.int64)  # diagonal 50
    for ratio, width in ((0.001, 1), (0.06, 3)):
        found = boundary_counts(as_logits(everything), everything, ratio=ratio)
        assert found.tp.item() == 30 * 40 - (30 - 2 * width) * (40 - 2 * width)


def test_boundary_of_several_classes_and_ignored_pixels():
    true = square(10, 10, 10)
    found = boundary_counts(torch.cat([-as_logits(true), as_logits(true)], dim=1), true)
    assert found.tp[0, 1] == 36 and found.tp[0, 0] > 36
    ignored = true.clone()
    ignored[:, :20] = 255
    assert boundary_counts(as_logits(true), ignored).stacked()[:3].sum() == 0
    pred = true | square(10, 14, 10) | square(30, 30, 5)  # a prediction there has no contour
    true[pred != true] = 255
    assert boundary_counts(as_logits(pred), true).iou() == 1


@pytest.mark.parametrize("width", [1, 2, 3, 5, 8, 30])
def test_boundary_band_is_that_of_a_square_window(width):
    mask = torch.rand(2, 3, 50, 37, generator=torch.Generator().manual_seed(0)) < 0.97
    outside = torch.nn.functional.pad((~mask).float(), (width,) * 4, value=1.0)
    outside = torch.nn.functional.max_pool2d(outside, 2 * width + 1, stride=1) > 0
    assert torch.equal(metrics._boundary_band(mask, width), mask & outside)


@pytest.mark.parametrize("classes", [1, 3])
def test_nan_logits_are_refused_by_every_metric_unless_ignored(classes):
    logits, target = random_batch(2, classes)
    clean = [metric(logits, target) for metric in (counts, boundary_counts)]
    broken = logits.masked_fill((target == 255)[:, None], math.nan)
    for metric, expected in zip((counts, boundary_counts), clean, strict=True):
        assert torch.equal(metric(broken, target).stacked(), expected.stacked())
    assert torch.equal(calibration(broken, target).pixels, calibration(logits, target).pixels)
    y, x = (target[1] != 255).nonzero()[0]
    broken[1, -1, y, x] = math.nan
    for metric in (counts, boundary_counts, calibration, *([sweep] if classes == 1 else [])):
        with pytest.raises(ArgumentError, match="not finite"):
            metric(broken, target)


def test_calibration_by_hand():
    probabilities = torch.tensor([0.1, 0.1, 0.9, 0.9, 0.9, 0.7])
    target = torch.tensor([0, 1, 1, 1, 0, 255]).view(1, 1, 6)
    found = calibration(probabilities.logit().view(1, 1, 1, 6), target, bins=5)
    assert found.pixels.tolist() == [2, 0, 0, 0, 3]
    confidence, right = found.curve()
    assert confidence[[0, 4]].tolist() == pytest.approx([0.1, 0.9])
    assert right[[0, 4]].tolist() == pytest.approx([1 / 2, 2 / 3])
    assert right[1:4].isnan().all()
    expected = (2 * abs(1 / 2 - 0.1) + 3 * abs(2 / 3 - 0.9)) / 5
    assert found.error().item() == pytest.approx(expected)
    assert (found + found).error().item() == pytest.approx(expected)


def test_calibrated_predictions_have_little_error():
    generator = torch.Generator().manual_seed(0)
    p = torch.rand(4, 1, 100, 100, generator=generator)
    target = (torch.rand(4, 100, 100, generator=generator) < p[:, 0]).long()
    assert calibration(p.logit(), target).error() < 0.01
    assert calibration(4 * p.logit(), target).error() > 0.1  # overconfident


def test_calibration_of_several_classes_takes_the_largest_probability():
    logits = torch.tensor([[0.0, 2.0, 0.0], [3.0, 0.0, 0.0]]).T.view(1, 3, 1, 2)
    found = calibration(logits, torch.tensor([[[1, 2]]]), bins=10)
    first, second = math.e**2 / (math.e**2 + 2), math.e**3 / (math.e**3 + 2)
    assert found.error().item() == pytest.approx((abs(1 - first) + second) / 2)


def test_bootstrap_is_the_spread_of_the_mean():
    values = torch.randn(400, generator=torch.Generator().manual_seed(0)).double()
    found = bootstrap(lambda v: v.mean(-1), values)
    assert found.value == values.mean().item()
    margins = [found.high - found.value, found.value - found.low]
    assert margins == pytest.approx([1.96 * values.std().item() / 20] * 2, rel=0.1)
    assert found == bootstrap(lambda v: v.mean(-1), values)
    assert found != bootstrap(lambda v: v.mean(-1), values, seed=1)
    narrow = bootstrap(lambda v: v.mean(-1), values, level=0.5)
    assert found.low < narrow.low < narrow.high < found.high


def test_bootstrap_of_images_that_are_alike_has_no_width():
    alike = Counts(*counts(*random_batch(1, 3)).stacked().expand(-1, 30, -1))
    assert bootstrap(lambda c: c.iou(), alike) == (alike.iou().item(),) * 3


def test_paired_bootstrap_sees_what_two_intervals_hide():
    generator = torch.Generator().manual_seed(0)
    easy = torch.randint(20, 100, (40, 1), generator=generator)
    rest, none = 100 - easy, torch.zeros_like(easy)
    a, b = Counts(easy, none, rest, none), Counts(easy - 2, none, rest + 2, none)
    apart = [bootstrap(lambda c: c.iou(), c) for c in (a, b)]
    assert apart[0].low < apart[1].high  # the two intervals overlap
    together = bootstrap(lambda a, b: a.iou() - b.iou(), a, b)
    assert together.low == pytest.approx(0.02) == together.high


def test_indexing_chooses_images_of_a_sweep_too():
    swept, c = sweep(*random_batch(6, 1)), counts(*random_batch(6, 1))
    assert swept[:4].tp.shape == (99, 4, 1) and len(swept[:4]) == 4
    assert c[-1].tp.shape == (1, 1) and torch.equal(c[-1].stacked(), c[5:].stacked())
    assert [one.iou().item() for one in c] == c.iou("none").flatten().tolist()
    with pytest.raises(IndexError):
        c[6]


def by_hand(score, data, resamples):
    """Return the interval from resamples that are scored one by one."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(len(data), (resamples, len(data)), generator=generator)
    scores = torch.stack([score(data[row]) for row in drawn])
    return scores.quantile(torch.tensor([0.025, 0.975]).double()).tolist()


@pytest.mark.parametrize("images", [2, 30])
@pytest.mark.parametrize("reduction", metrics.REDUCTIONS[:-1])
def test_bootstrap_by_sums_equals_bootstrap_by_images(reduction, images):
    c, score = counts(*random_batch(images, 3)), lambda c: c.iou(reduction)
    found = bootstrap(score, c, resamples=100)
    assert [found.low, found.high] == by_hand(score, c, 100)
    assert found.value == c.iou(reduction) and found.low <= found.value <= found.high
    swept, score = sweep(*random_batch(images, 1)), lambda c: c.iou(reduction).amax(dim=-1)
    found = bootstrap(score, swept, resamples=100)
    assert [found.low, found.high] == by_hand(score, swept, 100)


def test_bootstrap_of_pooled_scores_hands_over_sums_alone():
    c, longest = counts(*random_batch(50, 3)), []
    bootstrap(lambda c: (longest.append(len(c)), c.iou())[1], c, resamples=100)
    assert longest[0] == 50 and set(longest[1:-1]) == {1}


def test_bootstrap_leaves_out_resamples_without_a_score_and_warns():
    c = Counts(*torch.tensor([[[4], *[[0]] * 9], [[1], *[[0]] * 9]]).repeat(2, 1, 1))
    with pytest.warns(UserWarning, match="of 2000 resamples have no score"):
        found = bootstrap(lambda c: c.iou(), c)
    assert found == (c.iou().item(),) * 3
    blank = counts(torch.full((4, 1, 2, 2), -1.0), torch.zeros(4, 2, 2).long())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert all(map(math.isnan, bootstrap(lambda c: c.iou(), blank)))


def test_bootstrap_refuses_unpaired_or_single_images():
    c = counts(*random_batch(3, 1))
    with pytest.raises(ValueError, match="same images"):
        bootstrap(lambda a, b: a.iou() - b.iou(), c, c[:2])
    with pytest.raises(ValueError, match="two images or more"):
        bootstrap(lambda c: c.iou(), c[:1])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("classes", [1, 21])
def test_on_a_gpu_the_same_integers_without_a_wait(classes):
    logits, target = random_batch(4, classes, size=60)
    there = logits.cuda(), target.cuda()
    counts(*there)
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = counts(*there) + counts(*there)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert found.tp.is_cuda
    assert torch.equal(found[:4].stacked().cpu(), counts(logits, target).stacked())
    if classes == 1:
        assert torch.equal(sweep(*there).stacked().cpu(), sweep(logits, target).stacked())
    assert torch.equal(
        boundary_counts(*there).stacked().cpu(), boundary_counts(logits, target).stacked()
    )
