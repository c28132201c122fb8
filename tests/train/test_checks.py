import re

import numpy as np
import pytest
import torch
from nets import net, quick, same, toy, weights
from torch.utils.data import DataLoader, SequentialSampler

from segkit import train
from segkit.errors import ArgumentError, DataError
from segkit.losses import BCELoss
from segkit.train import TrainingError


class Breaks(BCELoss):
    """A loss that is not finite at its `at`-th call (None: each), in value or gradient alone."""

    def __init__(self, at, how):
        super().__init__()
        self.calls, self.at, self.how = 0, at, how

    def forward(self, logits, target):
        loss = super().forward(logits, target)
        self.calls += logits.requires_grad
        if logits.requires_grad and self.at in (None, self.calls):
            if self.how == "value":
                return loss * float("nan")
            return loss + 0 * (logits.sum() * 0).sqrt()  # 0, but its slope is 0 * inf
        return loss


@pytest.mark.parametrize("how", ["value", "gradient"])
def test_what_is_not_finite_stops_training_before_it_does_harm(how, tmp_path):
    data, val = toy(32), toy(8, seed=1)
    twin, _ = quick(data=data, val=val, epochs=2, device="cpu")
    model = net()
    with pytest.raises(TrainingError) as caught:
        quick(
            model,
            data,
            val,
            loss=Breaks(at=11, how=how),
            epochs=4,
            lr=1e-3,
            out=tmp_path,
            device="cpu",
        )
    message = str(caught.value)
    assert "in epoch 3, batch 3 of 4, learning rate 0.001" in message
    assert "a lower learning rate (lr=0.0001), warmup=1, clip=1.0 or" in message
    assert f"The last good checkpoint is {tmp_path / 'last.pt'}" in message
    named = re.search(r"on ([\d, ]+)\. Look", message)[1].split(", ")
    order = np.arange(32)
    np.random.default_rng((0, 2)).shuffle(order)
    assert named == [f"{i:05d}" for i in order[16:24]]
    assert all(p.isfinite().all() for p in model.parameters())
    kept = net(seed=5)
    train.load_weights(tmp_path / "last.pt", kept)
    assert same(weights(kept), weights(twin))


def test_without_a_folder_the_message_says_so():
    with pytest.raises(TrainingError, match=r'of 16 bits, precision="fp32"\. Nothing was saved'):
        quick(loss=Breaks(1, "value"), precision="bf16")


def test_on_an_accelerator_it_is_noticed_late_but_before_any_save(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "_CHECK_EVERY", {"cpu": 1000})
    model = net()
    with pytest.raises(TrainingError, match="epoch 1, batch 2 of 4"):
        quick(model, toy(32), loss=Breaks(2, "value"), out=tmp_path, save_every=3)
    assert not (tmp_path / "last.pt").exists()


def test_weights_that_break_in_the_last_step_stop_training_too():
    for options in ({}, {"ema": 0.0}):
        with pytest.raises(TrainingError, match="not finite in evaluation: the weights are broken"):
            quick(net(norm=False), toy(8), toy(8), lr=1e30, epochs=1, **options)


def test_fp16_whose_scale_cannot_help_any_more_stops():
    with pytest.raises(TrainingError, match="not finite in epoch"):
        quick(loss=Breaks(None, "gradient"), precision="fp16", epochs=10, batch_size=4)


def test_masks_outside_the_classes_are_refused_before_training():
    data = toy(8, classes=3)
    with pytest.raises(DataError, match=r"mask 00000 holds class 2, but the network predicts"):
        quick(net(classes=1), data)
    with pytest.raises(DataError, match=r"classes 0\.\.1: build it with classes=3"):
        quick(net(classes=2), data)
    quick(net(classes=3), data)
    with pytest.raises(DataError, match="holds class 2"):
        quick(net(classes=2), toy(8), val=data)
    data.masks[data.masks == 2] = 255
    quick(net(classes=2), data)


def test_masks_of_0_and_255_are_refused():
    data = toy(8)
    data.masks = data.masks * np.uint8(255)
    with pytest.raises(DataError, match="none of the 8 masks has a foreground pixel, only 0 and"):
        quick(data=data)


def test_a_first_batch_without_foreground_is_no_trouble():
    data = toy(8)
    data.masks[:6] = 0
    data.masks[:, 0] = 255
    _, history = quick(data=data, batch_size=1, val=data)
    assert len(history) == 2


@pytest.mark.parametrize("wrong", ["2", "-1"])
def test_a_loader_of_ones_own_is_checked_batch_by_batch(wrong):
    pairs = [(image, mask.clone()) for image, mask in toy(8)]
    pairs[5][1][0, 0] = int(wrong)
    with pytest.raises(ValueError, match=f"target holds the values .*{wrong}.* binary"):
        quick(data=DataLoader(pairs, batch_size=4))


@pytest.mark.parametrize(("count", "size"), [(17, 16), (9, 4), (4, 1)])
def test_a_batch_of_one_image_at_a_bottleneck_of_one_pixel_is_refused_at_once(count, size):
    def deep(down):
        return torch.nn.Sequential(
            torch.nn.Conv2d(3, 4, down, stride=down),
            torch.nn.BatchNorm2d(4),
            torch.nn.Conv2d(4, 1, 1),
            torch.nn.Upsample(scale_factor=down),
        )

    model = deep(16)
    before = weights(model)
    message = rf"an epoch of {count} images in batches of {size} .* use another batch_size, more"
    with pytest.raises(ArgumentError, match=message):
        quick(model, toy(count), batch_size=size)
    assert same(weights(model), before)
    quick(model, toy(count), batch_size=size + 1)
    quick(deep(4), toy(count), batch_size=size)
    train.evaluate(model, toy(count), batch_size=size)


class Returns(torch.nn.Module):
    """A network whose output is wrapped."""

    def __init__(self, wrap):
        super().__init__()
        self.net, self.wrap = net(), wrap

    def forward(self, x):
        return self.wrap(self.net(x))


@pytest.mark.parametrize(
    ("wrap", "what"),
    [
        (lambda x: {"out": x, "aux": x}, "returns a dict of 2, not logits"),
        (lambda x: (x, x), "returns a tuple of 2, not logits"),
        (lambda x: x.mean((2, 3)), r"returns a tensor of shape \(1, 1\), not logits"),
    ],
)
def test_networks_that_return_something_else_are_named(wrap, what):
    for call in (quick, train.evaluate, train.lr_range_test):
        with pytest.raises(ArgumentError, match=what):
            call(Returns(wrap), toy(8))


def test_loaders_of_something_else_are_named():
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(toy(8))

    for data, what in [
        ([{"image": x, "mask": y} for x, y in toy(4)], "a dict of 2, not"),
        ([(x, y, 0) for x, y in toy(4)], "a list of 3, not .images, masks."),
        (Stream(), "'Stream' has no len.*, so an epoch has none"),
    ]:
        with pytest.raises(ArgumentError, match=what):
            quick(data=DataLoader(data, batch_size=4))


def test_loaders_that_yield_nothing_are_refused():
    with pytest.raises(DataError, match="the data set is empty"):
        quick(data=toy(8).subset([]))
    few = DataLoader(list(toy(3)), batch_size=4, drop_last=True)
    with pytest.raises(DataError, match="or drop_last leaves nothing of it"):
        quick(data=few)

    class Short(SequentialSampler):
        """Promises more items than it yields."""

        def __len__(self):
            return 8

    data = list(toy(4))
    with pytest.raises(TrainingError, match="the loader ended after 1 of its 2 batches"):
        quick(data=DataLoader(data, batch_size=4, sampler=Short(data)))


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_out_of_memory_names_the_remedies(error):
    def loss(logits, target):
        raise error

    with pytest.raises(TrainingError) as caught:
        quick(loss=loss, batch_size=16)
    for remedy in ("batch_size=8", "accumulate=2", "checkpointing", "smaller images", "width"):
        assert remedy in str(caught.value)
    huge = torch.nn.Sequential(net(), torch.nn.Upsample(scale_factor=1_000_000))
    with pytest.raises(TrainingError, match="out of memory"):
        quick(huge)


def test_an_error_leaves_no_trace_in_the_callers_state():
    state = torch.get_rng_state()
    with pytest.raises(TrainingError):
        quick(loss=Breaks(3, "value"))
    assert torch.equal(torch.get_rng_state(), state)
