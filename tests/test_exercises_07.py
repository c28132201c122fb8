"""Answers to the exercises of lesson 07 in other styles than the solutions'."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import jaccard_score

from segkit import check, metrics

NAN = float("nan")
CLAIMS = {"A": "micro", "B": "macro", "C": "micro-imagewise", "D": "macro-imagewise"}


def divided(tp, fp, fn):
    with np.errstate(invalid="ignore"):
        return np.divide([tp, 2 * tp], [tp + fp + fn, 2 * tp + fp + fn])


def divided_in_torch(tp, fp, fn):
    tp, fp, fn = (torch.tensor(float(n)) for n in (tp, fp, fn))
    return torch.stack([tp / (tp + fp + fn), 2 * tp / (2 * tp + fp + fn)])


def caught(tp, fp, fn):
    try:
        iou = tp / (tp + fp + fn)
    except ZeroDivisionError:
        return [math.nan, math.nan]
    return [iou, 2 * iou / (1 + iou)]


def named(tp, fp, fn):
    iou, dice = caught(tp, fp, fn)
    return {"Dice": dice, "IoU": iou}


@pytest.mark.parametrize("answer", [divided, divided_in_torch, caught, named])
def test_two_scores_may_have_any_form(answer):
    assert check.iou_and_dice.grade(answer).status == "passed"


def by_confusion_matrix(pred, target, num_classes):
    valid = target != 255
    pairs = num_classes * target[valid] + pred[valid]
    matrix = pairs.bincount(minlength=num_classes**2).view(num_classes, num_classes)
    tp = matrix.diag()
    return (tp / (matrix.sum(0) + matrix.sum(1) - tp)).nanmean()


def by_sets(pred, target, num_classes):
    pairs = [(p, t) for p, t in zip(pred.flatten(), target.flatten(), strict=True) if t != 255]
    scores = []
    for k in range(num_classes):
        union = sum(k in (p, t) for p, t in pairs)
        if union:
            scores.append(sum(p == t == k for p, t in pairs) / union)
    return np.mean(scores) if scores else np.nan


def by_sklearn(pred, target, num_classes):
    pred, target = pred.numpy(), target.numpy()
    pred, target = pred[target != 255], target[target != 255]
    present = np.union1d(pred, target)
    if not len(present):
        return np.array([np.nan])
    return jaccard_score(target, pred, labels=present, average="macro")


def by_segkit(pred, target, num_classes):
    logits = torch.nn.functional.one_hot(pred, num_classes).movedim(-1, 1).float()
    return metrics.counts(logits, target).iou("macro")


@pytest.mark.parametrize("answer", [by_confusion_matrix, by_sets, by_sklearn, by_segkit])
def test_miou_may_be_computed_in_any_way(answer):
    result = check.mean_iou.grade(answer)
    assert result.status == "passed", result.message


def test_a_miou_of_255_as_a_class_is_refused():
    def answer(pred, target, num_classes):
        return jaccard_score(target.flatten(), pred.flatten(), labels=range(num_classes),
                             average="macro", zero_division=0)  # fmt: skip

    assert "Ignored pixels became errors" in check.mean_iou.grade(answer).message


@pytest.mark.parametrize(
    "style",
    [
        str.upper,
        lambda name: name.replace("-", "_"),
        lambda name: name.replace("-imagewise", " (per image)"),
        lambda name: " ".join(reversed(name.split("-"))),
        lambda name: name.replace("micro-imagewise", "macro-imagewise"),  # one class: one number
    ],
    ids=["capitals", "underscore", "words", "reversed", "one class"],
)
def test_an_average_may_be_written_in_any_way(style):
    def answer(claim):
        return style(CLAIMS[claim]) if claim != "D" else CLAIMS[claim]

    assert check.choose_average.grade(answer).status == "passed"


def test_averages_may_be_a_dictionary():
    assert check.choose_average.grade(CLAIMS).status == "passed"


@pytest.mark.parametrize("wrong", ["micro macro", "mean", "", 3])
def test_what_names_no_average_is_refused_without_the_answer(wrong):
    message = check.choose_average.grade(lambda claim: wrong).message
    assert "not yet" in message and "expected  'fits the claim'" in message


def by_asserts(metric):
    target = np.zeros((8, 8), bool)
    target[2:4, 2:4] = True
    pixel = np.zeros((8, 8), bool)
    pixel[2, 2] = True
    assert metric(target, target) == 1
    assert metric(~target | target, target) < 0.5
    assert metric(target & ~target, target) == 0
    assert metric(pixel, target) < 0.9
    return True


def by_numbers(metric):
    target = torch.zeros(10, 10, dtype=torch.bool)
    target[:2, :2] = True
    pixel = torch.zeros(10, 10, dtype=torch.int64)
    pixel[0, 0] = 1
    pairs = ((target, 1.0), (1 - 0 * pixel, 0.2), (0 * pixel, 0.0), (pixel, 0.3))
    known = [metric(pred, target) for pred, _ in pairs]
    right = [
        math.isclose(known[0], 1),
        0 < known[1] < pairs[1][1],
        known[2] == 0,
        pairs[3][1] - 0.1 < known[3] < 0.5,
    ]
    return torch.tensor(all(right))


def compared_with_the_formulas(metric):
    generator = torch.Generator().manual_seed(0)
    pred, target = torch.rand(2, 9, 9, generator=generator) > 0.5
    tp, errors = (pred & target).sum().item(), (pred ^ target).sum().item()
    known = (tp / (tp + errors), 2 * tp / (2 * tp + errors))
    return any(math.isclose(metric(pred, target), score) for score in known)


@pytest.mark.parametrize("answer", [by_asserts, by_numbers, compared_with_the_formulas])
def test_metrics_may_be_tested_in_any_way(answer):
    result = check.is_sound.grade(answer)
    assert result.status == "passed", result.message


@pytest.mark.parametrize("answer", [lambda metric: True, lambda metric: False])
def test_a_test_that_always_says_the_same_is_refused(answer):
    assert check.is_sound.grade(answer).status == "failed"
