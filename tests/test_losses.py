import copy
import math

import pytest
import torch
from batches import NoWaiting, random_batch

from segkit import losses, metrics
from segkit.errors import ArgumentError
from segkit.losses import (
    BCELoss,
    Combined,
    CrossEntropyLoss,
    DiceLoss,
    FocalLoss,
    JaccardLoss,
    LovaszLoss,
    TverskyLoss,
)
from segkit.metrics import counts

BINARY = {
    "bce": BCELoss,
    "weighted bce": lambda: BCELoss(pos_weight=3),
    "dice": DiceLoss,
    "jaccard": JaccardLoss,
    "tversky": TverskyLoss,
    "focal": lambda: FocalLoss(alpha=0.25),
    "focal 0.5": lambda: FocalLoss(gamma=0.5),
    "lovasz": LovaszLoss,
    "combined": lambda: Combined({BCELoss(): 1.0, DiceLoss(): 0.5}),
}
EXCLUSIVE = {
    "cross-entropy": CrossEntropyLoss,
    "weighted cross-entropy": lambda: CrossEntropyLoss([0.5, 1, 2]),
    "dice": DiceLoss,
    "jaccard": JaccardLoss,
    "tversky": TverskyLoss,
    "focal": lambda: FocalLoss(alpha=[1, 2, 3]),
    "focal 0.5": lambda: FocalLoss(gamma=0.5),
    "lovasz": LovaszLoss,
    "combined": lambda: Combined({CrossEntropyLoss(): 1.0, LovaszLoss(): 0.5}),
}
EVERY = [pytest.param(make, 1, id=f"binary-{name}") for name, make in BINARY.items()]
EVERY += [pytest.param(make, 3, id=f"exclusive-{name}") for name, make in EXCLUSIVE.items()]
every_loss = pytest.mark.parametrize(("make", "classes"), EVERY)


# p      0.8  0.4  0.1  0.6  (ignored)     Σpt = 1.2, Σp = 1.9, Σt = 2
# t      1    1    0    0
ROW = torch.tensor([0.8, 0.4, 0.1, 0.6, 0.99], dtype=torch.float64).logit().view(1, 1, 1, 5)
ROW = ROW, torch.tensor([[[1, 1, 0, 0, 255]]])
LOG = math.log
BCE = -(LOG(0.8) + LOG(0.4) + LOG(0.9) + LOG(0.4)) / 4
# Two pixels of three classes, and one ignored. The first is class 0, the second class 2.
THREE = torch.tensor([[0.7, 0.2, 0.1], [0.3, 0.3, 0.4], [0.1, 0.8, 0.1]], dtype=torch.float64)
THREE = THREE.log().T.view(1, 3, 1, 3), torch.tensor([[[0, 2, 255]]])


@pytest.mark.parametrize(
    ("loss", "batch", "expected"),
    [
        (BCELoss(), ROW, BCE),
        (BCELoss(pos_weight=3), ROW, BCE - 2 * (LOG(0.8) + LOG(0.4)) / 4),
        (DiceLoss(), ROW, 1 - (2 * 1.2 + 1) / (1.9 + 2 + 1)),
        (DiceLoss(smooth=0.1), ROW, 1 - (2 * 1.2 + 0.1) / (1.9 + 2 + 0.1)),
        (JaccardLoss(), ROW, 1 - (1.2 + 1) / (1.9 + 2 - 1.2 + 1)),
        (TverskyLoss(), ROW, 1 - (1.2 + 1) / (1.2 + 0.3 * 0.7 + 0.7 * 0.8 + 1)),
        (FocalLoss(gamma=0), ROW, BCE),
        (
            FocalLoss(gamma=2, alpha=0.25),
            ROW,
            -0.25 * (0.2**2 * LOG(0.8) + 0.6**2 * LOG(0.4)) / 4
            - 0.75 * (0.1**2 * LOG(0.9) + 0.6**2 * LOG(0.4)) / 4,
        ),
        (Combined({BCELoss(): 2, JaccardLoss(): 0.5}), ROW, 2 * BCE + 0.5 * (1 - 2.2 / 3.7)),
        (CrossEntropyLoss(), THREE, -(LOG(0.7) + LOG(0.4)) / 2),
        (CrossEntropyLoss([1, 5, 3]), THREE, -(LOG(0.7) + 3 * LOG(0.4)) / 4),
        # class 0: Σpt 0.7, Σp 1.0; class 2: Σpt 0.4, Σp 0.5; class 1 is absent and left out
        (DiceLoss(), THREE, (1 - (1.4 + 1) / (2 + 1) + 1 - (0.8 + 1) / (1.5 + 1)) / 2),
        (JaccardLoss(), THREE, (1 - 1.7 / (1.3 + 1) + 1 - 1.4 / (1.1 + 1)) / 2),
        (TverskyLoss(0.2, 0.8), THREE, 1 - 1.7 / (1.7 + 0.3) / 2 - 1.4 / (1.4 + 0.5) / 2),
        (FocalLoss(gamma=2), THREE, -(0.3**2 * LOG(0.7) + 0.6**2 * LOG(0.4)) / 2),
        (FocalLoss(1, [2, 9, 4]), THREE, -(2 * 0.3 * LOG(0.7) + 4 * 0.6 * LOG(0.4)) / 2),
        # class 0: |t - p| is 0.3 (true) then 0.3: missed 1, then 0; each class has one pixel,
        # so the largest error counts whole and the other not at all
        (LovaszLoss(), THREE, (0.3 + 0.6) / 2),
    ],
)
def test_values_by_hand(loss, batch, expected):
    assert loss(*batch).item() == pytest.approx(expected)


def test_lovasz_hinge_by_hand():
    logits = torch.tensor([2.0, -1.0, 0.5, -3.0]).view(1, 1, 1, 4)
    target = torch.tensor([[[1, 1, 0, 0]]])
    # Margins 0, 2, 1.5, 0. Wrong in turn: IoU 2/2 → 1/2 (a miss) → 1/3 (a false alarm).
    expected = 2.0 * (1 - 1 / 2) + 1.5 * (1 / 2 - 1 / 3)
    assert LovaszLoss()(logits, target).item() == pytest.approx(expected)


def test_lovasz_and_jaccard_at_whole_masks_are_one_minus_iou():
    logits, target = random_batch(2, 4)
    sure = torch.nn.functional.one_hot(logits.argmax(dim=1), 4).movedim(-1, 1) * 1000.0
    iou = counts(logits, target).iou("macro").item()
    assert LovaszLoss()(sure, target).item() == pytest.approx(1 - iou)
    assert JaccardLoss(smooth=1e-6)(sure, target).item() == pytest.approx(1 - iou, abs=1e-5)
    dice = counts(logits, target).dice("macro").item()
    assert DiceLoss(smooth=1e-6)(sure, target).item() == pytest.approx(1 - dice, abs=1e-5)


@pytest.mark.parametrize(
    ("one", "other", "channels"),
    [
        (TverskyLoss(0.5, 0.5, smooth=0.5), DiceLoss(), 1),
        (TverskyLoss(1, 1), JaccardLoss(), 1),
        (CrossEntropyLoss(), BCELoss(), 2),
        (FocalLoss(alpha=[0.75, 0.25]), FocalLoss(alpha=0.25), 2),
    ],
)
def test_losses_that_are_special_cases_agree(one, other, channels):
    logits, target = random_batch(2, 1)
    same = torch.cat([torch.zeros_like(logits), logits], dim=1)[:, -channels:]
    assert one(same, target).item() == pytest.approx(other(logits, target).item())


@every_loss
def test_gradients_are_the_slopes(make, classes):
    logits, target = random_batch(2, classes, size=3)
    logits = logits.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: make()(x, target), (logits,))


@every_loss
def test_ignored_pixels_do_not_count(make, classes):
    logits, target = random_batch(2, classes)
    loss = make()
    moved = torch.where(target[:, None] == 255, logits + 7 * logits.abs(), logits)
    moved.requires_grad_()
    there = loss(moved, target)
    assert there.item() == loss(logits, target).item()
    there.backward()
    assert (moved.grad.movedim(1, -1)[target == 255] == 0).all()
    assert (moved.grad.movedim(1, -1)[target != 255] != 0).any()
    elsewhere = torch.where(target == 255, 99, target)
    for part in getattr(loss, "losses", [loss]):
        part.ignore_index = 99
    assert loss(moved, elsewhere).item() == there.item()


@every_loss
def test_the_batch_is_pooled_and_its_order_is_nothing(make, classes):
    logits, target = random_batch(4, classes)
    target[0], target[1:, :3] = 255, 0  # images of unequal weight
    whole = make()(logits, target).item()
    assert make()(logits.flip(0), target.flip(0)).item() == pytest.approx(whole, rel=1e-5)
    row = logits.movedim(1, 0).reshape(1, classes, 1, -1), target.reshape(1, 1, -1)
    assert make()(*row).item() == pytest.approx(whole, rel=1e-5)


SITUATIONS = {"empty": 0, "full": -1, "ignored": 255, "mixed": None}


@every_loss
@pytest.mark.parametrize("situation", SITUATIONS)
@pytest.mark.parametrize("scale", [0, 1, 1e4])
def test_finite_with_finite_gradients(make, classes, situation, scale):
    logits, target = random_batch(2, classes)
    value = SITUATIONS[situation]
    if value is not None:
        target = torch.full_like(target, max(1, classes - 1) if value == -1 else value)
    for sign in (logits.sign(), logits):  # exactly ±scale, with ties, and around it
        leaf = (sign * scale).requires_grad_()
        loss = make()(leaf, target)
        loss.backward()
        assert loss.isfinite() and leaf.grad.isfinite().all()
        if situation == "ignored":
            assert loss == 0 and (leaf.grad == 0).all()


@pytest.mark.parametrize("make", [v for k, v in BINARY.items()], ids=list(BINARY))
def test_false_alarms_on_a_blank_batch_cost_and_are_pushed_down(make):
    logits = torch.full((2, 1, 8, 8), 1.0, requires_grad=True)
    make()(logits, torch.zeros(2, 8, 8).long()).backward()
    assert (logits.grad >= 0).all() and logits.grad.sum() > 0


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_of_many_pixels(make, classes, dtype):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, classes, 300, 300, generator=generator).to(dtype)  # 180,000 pixels
    target = torch.randint(max(2, classes), (2, 300, 300), generator=generator)
    leaf = logits.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss = make()(leaf, target)
    assert loss.dtype == torch.float32
    assert loss.item() == make()(logits.float(), target).item()
    loss.backward()
    assert leaf.grad.isfinite().all()


def test_autocast_does_not_reach_into_a_loss():
    class Product(losses._Loss):
        def _compute(self, logits, labels, valid):
            return (logits.flatten(1) @ logits.flatten(1).T).sum()

    with torch.autocast("cpu", torch.bfloat16):
        assert Product()(*random_batch(2, 3)).dtype == torch.float32


@every_loss
def test_targets_that_cannot_be_right_are_refused(make, classes):
    logits, target = random_batch(2, classes, ignored=0)
    for wrong in (target / 2, target[:1], target - 1, target + 7):  # messages: see the metrics
        with pytest.raises(ArgumentError, match="target"):
            make()(logits, wrong)


@every_loss
def test_on_another_device_values_are_never_waited_for(monkeypatch, make, classes):
    logits, target = random_batch(2, classes)
    loss, expected = make(), make()(logits, target)
    monkeypatch.setattr(metrics, "_on_cpu", lambda tensor: False)
    with NoWaiting():
        found = loss(logits.requires_grad_(), target)
        found.backward()
    assert found == expected and logits.grad.isfinite().all()


@every_loss
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_logits_under_ignored_pixels_may_hold_anything(make, classes, value):
    logits, target = random_batch(2, classes)
    leaf = logits.masked_fill((target == 255)[:, None], value).requires_grad_()
    loss = make()(leaf, target)
    loss.backward()
    assert loss == make()(logits, target) and leaf.grad.isfinite().all()


def test_a_class_that_is_switched_off_costs_nothing_beside_ignored_pixels():
    logits, target = random_batch(2, 3)
    logits[:, 0], target = -math.inf, target.clamp(min=1)  # 255 stays
    expected = torch.nn.functional.cross_entropy(logits, target, ignore_index=255)
    torch.testing.assert_close(CrossEntropyLoss()(logits, target), expected)
    assert all(make()(logits, target).isfinite() for make in EXCLUSIVE.values())


def test_compiled_as_one_graph():
    logits, target = random_batch(2, 3)
    for make in (CrossEntropyLoss, DiceLoss):
        compiled = torch.compile(make(), fullgraph=True, backend="eager")
        assert compiled(logits, target) == make()(logits, target)
    assert torch.equal(
        torch.compile(counts, fullgraph=True, backend="eager")(logits, target).tp,
        counts(logits, target).tp,
    )


NUMBERS = [
    *((loss, "smooth") for loss in (DiceLoss, JaccardLoss, TverskyLoss)),
    *((BCELoss, "pos_weight"), (FocalLoss, "gamma"), (FocalLoss, "alpha")),
    *((TverskyLoss, "alpha"), (TverskyLoss, "beta"), (Combined, "weight")),
]


@pytest.mark.parametrize(("loss", "option"), NUMBERS)
@pytest.mark.parametrize("bad", [-1, math.nan, math.inf])
def test_options_that_make_no_loss_are_refused(loss, option, bad):
    with pytest.raises(ArgumentError, match=r"0 or more|more than 0"):
        Combined({BCELoss(): bad}) if loss is Combined else loss(**{option: bad})
    with pytest.raises(ArgumentError, match="0 or more"):
        CrossEntropyLoss([1, bad])


@pytest.mark.parametrize(
    ("make", "remedy"),
    [
        (lambda: CrossEntropyLoss()(torch.zeros(1, 1, 2, 2), torch.zeros(1, 2, 2).long()), "BCE"),
        (lambda: BCELoss()(torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 2).long()), "CrossEntropy"),
        (
            lambda: CrossEntropyLoss([1, 2])(torch.zeros(1, 3, 2, 2), torch.zeros(1, 2, 2).long()),
            "2 class weights for 3",
        ),
        (lambda: DiceLoss(smooth=0), "more than 0"),
        (lambda: BCELoss(pos_weight=0), "more than 0"),
        (lambda: CrossEntropyLoss([0, 0]), "not all 0"),
        (lambda: FocalLoss(alpha=2), "0 or more"),
        (lambda: Combined({}), "no losses"),
    ],
)
def test_wrong_use_is_refused_with_the_remedy(make, remedy):
    with pytest.raises(ArgumentError, match=remedy):
        make()


def test_losses_are_modules_that_copy_and_move():
    loss = Combined({CrossEntropyLoss([1, 2, 3]): 1.0, FocalLoss(alpha=[1, 2, 3]): 2.0})
    logits, target = random_batch(2, 3)
    copied = copy.deepcopy(loss).double()
    assert copied(logits.double(), target).item() == pytest.approx(loss(logits, target).item())
    assert len(list(loss.modules())) == 4


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@every_loss
def test_on_a_gpu_the_same_value_without_a_wait(make, classes):
    logits, target = random_batch(2, classes)
    loss = make().cuda()
    there = logits.cuda().requires_grad_(), target.cuda()
    loss(*there)
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.autocast("cuda", torch.float16):
            value = loss(*there)
        value.backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert value.item() == pytest.approx(make()(logits, target).item(), rel=1e-5)
    assert there[0].grad.isfinite().all()
