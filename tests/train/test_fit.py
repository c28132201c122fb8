import ast
import inspect
import math

import pytest
import torch
from nets import jitter, net, numbers, quick, same, toy, weights
from torch import nn
from torch.utils.data import DataLoader

from segkit import train
from segkit.data.dataset import loader
from segkit.errors import ArgumentError
from segkit.losses import DiceLoss
from segkit.metrics import Counts, counts
from segkit.train import Schedule
from segkit.train.distributed import pick_device


def test_learns_and_reports_one_line_per_epoch():
    lines = []
    _, history = quick(val=toy(16, seed=1), epochs=8, lr=0.05, log=lines.append)
    assert history.last["val_iou"] > 0.9 > history.rows[0]["val_iou"]
    assert history["epoch"] == list(range(1, 9))
    assert len(lines) == 9  # device and precision, then the epochs
    assert lines[0] == f"{pick_device(None)}, fp32: as asked"
    assert lines[3].startswith("epoch 3/8  loss 0.") and " val IoU " in lines[3]


def test_row_is_what_the_network_scores_on_its_own():
    val = toy(13, seed=1)
    model, history = quick(val=val)
    model.eval()
    images = torch.stack([val[i][0] for i in range(13)])
    masks = torch.stack([val[i][1] for i in range(13)])
    with torch.no_grad():
        logits = model(images)
    expected = nn.functional.binary_cross_entropy_with_logits(logits[:, 0], masks.float())
    assert history.last["val_loss"] == pytest.approx(expected.item(), abs=1e-6)
    pooled = counts(logits, masks).total()
    assert history.last["val_iou"] == pooled.iou("macro").item()
    assert history.last["val_dice"] == pooled.dice("macro").item()


@pytest.mark.parametrize(("count", "loss"), [(10, None), (8, DiceLoss())])
def test_train_loss_is_the_mean_over_images_not_over_batches(count, loss):
    data = toy(count)
    options = {"loss": loss, "batch_size": 8}
    model, history = quick(net(norm=False), data, epochs=1, lr=0.0, **options)
    found, per_image = train.evaluate(model, data, precision="fp32", **options)
    assert history.last["train_loss"] == pytest.approx(found, abs=1e-6)
    assert isinstance(per_image, Counts) and len(per_image) == count


def test_several_classes_use_cross_entropy_and_mean_iou():
    val = toy(16, seed=1, classes=3)
    _, history = quick(net(classes=3), toy(classes=3), val, epochs=10, lr=0.05)
    assert history.config["settings"]["loss"].startswith("CrossEntropyLoss")
    assert history.last["val_iou"] > 0.7
    assert history.rows[0]["train_loss"] == pytest.approx(math.log(3), abs=0.4)


def test_same_seed_same_numbers_with_any_number_of_workers():
    data, val = toy(transform=jitter), toy(8, seed=1)
    runs = [quick(net(dropout=0.3), data, val, seed=3, workers=n) for n in (0, 2)]
    (model_a, a), (model_b, b) = runs
    assert numbers(a) == numbers(b)
    assert same(weights(model_a), weights(model_b))


@pytest.mark.parametrize("what", ["order", "augmentation", "dropout"])
def test_seed_and_epoch_reach_everything_random(what):
    data = toy(32 if what == "order" else 8, transform=jitter if what == "augmentation" else None)

    def losses(seed):
        model = net(dropout=0.5 * (what == "dropout"), norm=what != "augmentation")
        lr = 0.0 if what == "augmentation" else 1e-3
        return quick(model, data, seed=seed, lr=lr)[1]["train_loss"]

    assert losses(0) == losses(0) != losses(1)
    assert len(set(losses(0))) == 2  # the second epoch differs from the first


def test_caller_keeps_random_state():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    quick(net(dropout=0.5), val=toy(8, seed=1), seed=9)
    assert torch.equal(torch.rand(3), expected)


def test_takes_loaders_of_any_kind():
    data = toy(24)
    model, _ = quick(data=loader(data, 8, shuffle=True), val=loader(toy(8, seed=1), 8))
    assert same(weights(model), weights(quick(data=data)[0]))
    plain = DataLoader(list(data), batch_size=8, shuffle=True)
    runs = [quick(data=plain, seed=seed)[1]["train_loss"] for seed in (0, 0, 1)]
    assert runs[0] == runs[1] != runs[2]


def test_without_val_the_training_loss_chooses():
    _, history = quick(epochs=3, lr=0.05)
    assert history.monitor == "train_loss" and history["val_iou"] == [None] * 3


def test_a_loader_of_the_callers_is_whole_again_after_an_error():
    batches = loader(toy(40), 4, shuffle=True)
    broken = net()
    for weight in broken.parameters():
        weight.register_hook(lambda grad: grad * float("nan") if len(seen) > 5 else grad)
    seen = []
    broken.register_forward_hook(lambda *_: seen.append(1))
    with pytest.raises(train.TrainingError, match="not finite"):
        quick(broken, batches)
    assert len(batches) == 10 and len(list(batches)) == 10


def test_masks_of_0_and_255_in_a_loader_are_warned_about():
    pairs = [(torch.rand(3, 16, 16), 255 * torch.randint(0, 2, (16, 16))) for _ in range(4)]
    with pytest.warns(UserWarning, match=r"only 0 and 255 .* give \(mask > 127\)"):
        quick(data=DataLoader(pairs, 2), epochs=1)


def test_patience_ends_training():
    _, history = quick(net(norm=False), val=toy(8, seed=1), lr=0.0, epochs=20, patience=3)
    assert len(history) == 4
    assert history.stopped == "no better val_iou in 3 epochs"


@pytest.mark.parametrize("folder", [True, False])
@pytest.mark.parametrize("keep", ["last", "best"])
def test_keep_leaves_the_weights_that_were_asked_for(keep, folder, tmp_path):
    val = toy(8, seed=1)
    val.masks = 1 - val.masks  # the better it learns, the worse it does here
    out = tmp_path if folder else None
    model, history = quick(val=val, lr=0.1, epochs=4, monitor="val_loss", keep=keep, out=out)
    assert history.best["epoch"] < history.last["epoch"]
    wanted = history.best if keep == "best" else history.last
    assert train.evaluate(model, val, precision="fp32")[0] == wanted["val_loss"]
    if folder:  # resumed with nothing left to train: the same weights again
        options = {"lr": 0.1, "epochs": 4, "monitor": "val_loss", "keep": keep, "resume": True}
        again, _ = quick(net(seed=3), val=val, out=out, **options)
        assert same(weights(again), weights(model))


@pytest.mark.parametrize(("items", "large", "small"), [(32, 16, 4), (8, 8, 8)])
def test_accumulated_batches_are_averaged_also_in_an_incomplete_group(items, large, small):
    data, options = toy(items), {"optimizer": "sgd", "lr": 0.1}  # Adam ignores the gradient's scale
    one, _ = quick(net(norm=False), data, batch_size=large, **options)
    many, _ = quick(net(norm=False), data, batch_size=small, accumulate=4, **options)
    for a, b in zip(weights(one).values(), weights(many).values(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_clipping_bounds_the_step(precision):
    model = net(norm=False)
    before = weights(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    quick(model, toy(8), epochs=1, optimizer=optimizer, clip=0.01, precision=precision)
    moved = sum((model.state_dict()[k] - before[k]).square().sum() for k in before).sqrt()
    assert moved.item() == pytest.approx(0.01, rel=1e-3)


def test_average_is_what_is_judged_and_kept():
    val, data = toy(8, seed=1), toy(16)
    seen = []

    class Recorder(torch.optim.SGD):
        def step(self, closure=None):
            super().step(closure)
            seen.append(self.param_groups[0]["params"][0].detach().cpu().clone())

    model = net(norm=False)
    _, history = quick(
        model, data, val, optimizer=Recorder(model.parameters(), lr=0.5), ema=0.6, epochs=3
    )
    expected = seen[0]
    for value in seen[1:]:
        expected = 0.6 * expected + 0.4 * value
    torch.testing.assert_close(model[0].weight.detach(), expected)
    assert not torch.allclose(seen[-1], expected)
    assert train.evaluate(model, val, precision="fp32")[0] == history.last["val_loss"]


def test_optimizers_by_name_differ_and_decay():
    losses = {quick(optimizer=name)[1].last["train_loss"] for name in ("adamw", "adam", "sgd")}
    assert len(losses) == 3
    decayed = quick(weight_decay=50.0, lr=0.01)[0]
    assert decayed[0].weight.abs().sum() < quick(lr=0.01)[0][0].weight.abs().sum() / 2


def test_frozen_weights_stay():
    model = net()
    model[0].weight.requires_grad_(False)
    before = weights(model)
    quick(model)
    assert torch.equal(model[0].weight, before["0.weight"])
    assert not torch.equal(model[4].weight, before["4.weight"])
    model.requires_grad_(False)
    with pytest.raises(ArgumentError, match="every parameter of the network is frozen"):
        quick(model)


@pytest.mark.parametrize("channels_last", [True, False])
def test_memory_layout_is_used(channels_last):
    layout = torch.channels_last if channels_last else torch.contiguous_format
    assert quick(channels_last=channels_last)[0][0].weight.is_contiguous(memory_format=layout)


def test_compiled_network_trains_the_given_one(monkeypatch, tmp_path):
    compiled, real = [], torch.compile

    def compile_quickly(model):
        compiled.append(model)
        return real(model, backend="eager")

    monkeypatch.setattr(torch, "compile", compile_quickly)
    val = toy(8, seed=1)
    model, history = quick(val=val, compile=True, keep="best", out=tmp_path)
    assert compiled == [model]
    plain, expected = quick(val=val, keep="best")
    assert same(weights(model), weights(plain)) and numbers(history) == numbers(expected)
    assert train.load_weights(tmp_path / "best.pt", net())["row"] == history.best


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "adamm"}, "no optimizer 'adamm' .*there are: adamw, adam, sgd"),
        ({"schedule": "cosin"}, "no schedule 'cosin' .did you mean cosine"),
        ({"precision": "half"}, "no precision 'half'; there are: auto"),
        ({"accumulate": 0}, "accumulate=0: give at least 1"),
        ({"keep": "first"}, "no epoch to keep 'first'; there are: last, best"),
        ({"patience": 0}, "patience=0: give at least 1"),
        ({"save_every": -1, "out": "x"}, "save_every=-1: give at least 1"),
        ({"seed": -1}, "seed=-1: give at least 0"),
        ({"clip": 0}, "clip=0 is no norm"),
        ({"clip": -1.0}, r"clip=-1\.0 is no norm"),
        ({"resume": True}, 'need a folder: out="runs/name"'),
        ({"ema": 1.5}, "ema=1.5 is not a decay"),
        ({"monitor": "val_acc"}, "no score or loss of this run 'val_acc'; there are: train_loss"),
        ({"monitor": "val_iou"}, "no score or loss of this run 'val_iou'; there are: train_loss"),
        ({"trackers": ["mlflow"]}, "no tracker 'mlflow'; there are: tensorboard, wandb"),
        ({"trackers": ["wandb"]}, "tensorboard and wandb need a folder"),
        ({"model": nn.Conv2d(1, 1, 1)}, r"Conv2d cannot take images of shape \(1, 3, 16, 16\)"),
        ({"data": [1, 2]}, "list is neither a SegmentationDataset"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ArgumentError, match=message):
        quick(**options)


def test_the_loop_can_be_read_in_one_go():
    (function,) = ast.parse(inspect.getsource(train.fit)).body
    docstring = function.body[0]
    assert isinstance(docstring, ast.Expr) and function.end_lineno - docstring.end_lineno <= 120


def test_documented_defaults():
    defaults = {k: p.default for k, p in inspect.signature(train.fit).parameters.items()}
    expected = {"epochs": 10, "lr": 1e-3, "optimizer": "adamw", "schedule": "constant", "warmup": 0}
    expected |= {"batch_size": 16, "accumulate": 1, "seed": 0, "workers": 0, "keep": "last"}
    expected |= {"precision": "auto", "channels_last": True, "compile": False, "log": print}
    expected |= {"deterministic": True, "resume": False}
    assert expected.items() <= defaults.items()
    assert quick()[1].config["settings"]["loss"].startswith("BCELoss")


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_optimizer_over_some_parameters_trains_as_if_the_others_were_frozen(precision):
    def run(freeze):
        model = net(norm=False)
        if freeze:
            model[0].requires_grad_(False)
        optimizer = torch.optim.SGD(model[4].parameters(), lr=0.5)
        _, history = quick(model, optimizer=optimizer, clip=0.05, epochs=4, precision=precision)
        assert all(p.grad is None for p in model.parameters())
        return weights(model), numbers(history)

    (left_out, rows), (frozen, expected) = run(False), run(True)
    assert same(left_out, frozen) and rows == expected
    assert rows[-1]["train_loss"] < rows[0]["train_loss"] - 0.01


def test_warmup_also_holds_for_a_schedule_object():
    def rates(**options):
        return quick(epochs=4, lr=0.1, **options)[1]["lr"]

    expected = rates(schedule=Schedule("cosine", warmup=2))
    assert rates(schedule=Schedule("cosine"), warmup=2) == expected != rates(schedule="cosine")
    with pytest.raises(ArgumentError, match="warmup=2, but the schedule has its own, 1"):
        rates(schedule=Schedule("cosine", warmup=1), warmup=2)


def test_an_optimizer_of_ones_own_is_recorded_as_it_is():
    model = net()
    groups = [{"params": model[0].parameters(), "lr": 0.1}, {"params": model[4].parameters()}]
    optimizer = torch.optim.SGD(groups, lr=0.2, weight_decay=0.3)
    settings = quick(model, optimizer=optimizer)[1].config["settings"]
    assert settings["lr"] == [0.1, 0.2] and settings["weight_decay"] == [0.3, 0.3]
    for wrong in ({"lr": 0.5}, {"weight_decay": 0.1}):
        with pytest.raises(ArgumentError, match="has no effect on an optimizer of your own"):
            quick(model, optimizer=optimizer, **wrong)


def test_accumulation_reads_one_batch_at_a_time():
    read, ahead = [], []

    class Items(torch.utils.data.Dataset):
        def __len__(self):
            return 8

        def __getitem__(self, i):
            read.append(i)
            return toy(8)[i]

    def loss(logits, target):
        ahead.append(len(read))
        return nn.functional.binary_cross_entropy_with_logits(logits[:, 0], target.float())

    quick(data=DataLoader(Items(), batch_size=2), loss=loss, accumulate=4, epochs=1)
    assert ahead == [4, 6, 8, 10]  # two items are read before training


def test_predict_batches_yields_float32_logits_in_evaluation_mode():
    model, data = net(dropout=0.5).train(), toy(10)
    found = list(train.predict_batches(model, data, 4, precision="bf16", device="cpu"))
    assert [len(masks) for _, masks in found] == [4, 4, 2] and not model.training
    logits, masks = (torch.cat(parts) for parts in zip(*found, strict=True))
    assert logits.dtype == torch.float32 and not logits.requires_grad
    assert torch.equal(masks, torch.from_numpy(data.masks).long())
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
    exact = torch.cat([x for x, _ in train.predict_batches(model, data, device="cpu")])
    torch.testing.assert_close(logits, exact, atol=0.05, rtol=0.05)
    assert not torch.equal(logits, exact)  # the default is fp32
