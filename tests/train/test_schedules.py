import math

import pytest
import torch
from nets import net, quick, same, toy, weights
from torch import nn

from segkit.errors import ArgumentError, TrainingError
from segkit.train import RangeTest, Schedule, curve, lr_range_test
from segkit.train.schedules import _OPTIONS as OPTIONS
from segkit.train.schedules import Scheduler

EPOCHS, STEPS = 6, 5
TOTAL = EPOCHS * STEPS


def closed_form(name, i):
    """Return the factor on the rate at step i, from the formula rather than a recursion."""
    t = i / TOTAL
    if name == "one-cycle":  # two half cosines: from 1/25 to 1 over 30 %, then to 1/250,000
        rise = 0.3 * (TOTAL + 1) - 1
        low, high, end = 1 / 25, 1.0, 1 / 25 / 1e4
        a, b, x = (low, high, i / rise) if i <= rise else (high, end, (i - rise) / (TOTAL - rise))
        return b + (a - b) * (1 + math.cos(math.pi * x)) / 2
    return {
        "constant": 1.0,
        "step": 0.1 ** (i // STEPS // 2),
        "cosine": (1 + math.cos(math.pi * t)) / 2,
        "poly": (1 - t) ** 0.9,
        "exponential": 0.01**t,
        "plateau": 1.0,
    }[name]


@pytest.mark.parametrize("name", OPTIONS)
def test_curve_follows_the_formula(name):
    losses = [1 / (1 + e) for e in range(EPOCHS)]
    rates = curve(Schedule(name), 0.3, EPOCHS, STEPS, losses)
    expected = [0.3 * closed_form(name, i) for i in range(TOTAL)]
    assert rates == pytest.approx(expected, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("name", OPTIONS)
def test_warmup_rises_linearly_and_hands_over_at_full_height(name):
    warm = 7
    rates = curve(Schedule(name, warmup=warm / STEPS), 0.8, EPOCHS, STEPS)
    assert rates[:warm] == pytest.approx([0.8 * (i + 1) / (warm + 1) for i in range(warm)])
    rest = curve(Schedule(name), 0.8, 1, TOTAL - warm) if Schedule(name).per_step else [0.8]
    assert rates[warm : warm + len(rest)] == pytest.approx(rest)


def test_plateau_waits_and_then_lowers():
    losses = [1.0, 1.0, 1.0, 1.0, 0.5, 0.6]
    rates = curve(Schedule("plateau", factor=0.5, patience=1), 1.0, 6, 1, losses)
    assert rates == [1.0, 1.0, 1.0, 0.5, 0.5, 0.5]


def test_options_reach_the_scheduler():
    assert curve(Schedule("step", every=1, gamma=0.5), 1.0, 3, 1) == [1.0, 0.5, 0.25]
    assert curve(Schedule("poly", power=1.0), 1.0, 2, 2) == pytest.approx([1, 0.75, 0.5, 0.25])
    assert min(curve(Schedule("cosine", floor=0.2), 1.0, 9, 9)) > 0.2


def test_wrong_names_and_options_are_refused():
    with pytest.raises(ValueError, match=r"no schedule 'onecycle' .*there are: constant, step"):
        Schedule("onecycle")
    with pytest.raises(ValueError, match="no option of cosine 'gamma'; there are: floor"):
        Schedule("cosine", gamma=2)
    with pytest.raises(ValueError, match="warmup=-1 is below zero"):
        Schedule("cosine", warmup=-1)
    for name, option in (("exponential", "final"), ("cosine", "floor"), ("step", "every")):
        with pytest.raises(ValueError, match=f"{name} cannot use {option}=-1"):
            Schedule(name, **{option: -1})


def test_groups_keep_their_ratio():
    for name in OPTIONS:
        groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (0.01, 0.1)]
        optimizer = torch.optim.SGD(groups)
        scheduler = Scheduler(Schedule(name, warmup=1), optimizer, 3, 4)
        for i in range(12):
            low, high = (group["lr"] for group in optimizer.param_groups)
            assert high / low == pytest.approx(10)
            optimizer.step()
            scheduler.step()
            if i % 4 == 3:
                scheduler.end_epoch(1.0)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("stop", range(1, TOTAL, 4))
def test_state_goes_on_where_it_was(name, stop):
    losses = [1.0] * EPOCHS
    schedule = Schedule(name, warmup=1.4)
    whole = curve(schedule, 0.1, EPOCHS, STEPS, losses)

    def start():
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
        return optimizer, Scheduler(schedule, optimizer, EPOCHS, STEPS)

    optimizer, scheduler = start()
    rates = []
    for i in range(TOTAL):
        if i == stop:
            kept, rates_kept = scheduler.state_dict(), optimizer.state_dict()
            optimizer, scheduler = start()
            scheduler.load_state_dict(kept)
            optimizer.load_state_dict(rates_kept)
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
        if (i + 1) % STEPS == 0:
            scheduler.end_epoch(losses[i // STEPS])
    assert rates == whole


@pytest.mark.filterwarnings("error:Detected call of")
def test_fit_reports_the_rate_of_each_epochs_last_step():
    _, history = quick(data=toy(32), schedule="cosine", epochs=4, lr=0.1)
    steps = 4
    expected = curve(Schedule("cosine"), 0.1, 4, steps)[steps - 1 :: steps]
    assert history["lr"] == pytest.approx(expected)


def test_plateau_in_fit_listens_to_the_validation_loss():
    val = toy(8, seed=1)
    val.masks = 1 - val.masks  # its loss only rises
    plateau = Schedule("plateau", patience=0, factor=0.5)
    _, history = quick(val=val, schedule=plateau, epochs=4, lr=0.08)
    assert history["lr"] == [0.08, 0.08, 0.04, 0.02]
    _, history = quick(schedule=plateau, epochs=4, lr=0.08)  # the training loss only falls
    assert history["lr"] == [0.08] * 4


def test_range_test_finds_a_usable_rate_and_leaves_the_network_alone():
    model = net()
    before = weights(model)
    found = lr_range_test(model, toy(), steps=60, highest=100, batch_size=8, precision="fp32")
    assert same(weights(model), before)
    assert found.rates[0] == pytest.approx(1e-6)
    assert found.rates == sorted(found.rates)
    assert 1e-4 < found.suggestion < 1
    _, history = quick(net(), toy(), toy(8, seed=1), lr=found.suggestion, epochs=8)
    assert history.last["val_iou"] > 0.8
    again = lr_range_test(net(), toy(), steps=60, highest=100, batch_size=8, precision="fp32")
    assert again == found


def test_range_test_ends_where_training_breaks():
    options = {"highest": 1e9, "steps": 80, "optimizer": "sgd", "precision": "fp32"}
    found = lr_range_test(net(norm=False), toy(), **options)
    assert len(found.rates) < 80 and all(map(math.isfinite, found.losses))


def test_range_test_covers_its_range():
    model = net()
    options = {"steps": 10, "lowest": 1e-3, "highest": 0.1, "batch_size": 8, "precision": "fp32"}

    def loss(logits, target):
        return -1 - logits.sigmoid().mean()  # negative, as some overlap losses are

    for name in ("fp32", "fp16"):
        found = lr_range_test(model, toy(), loss=loss, **(options | {"precision": name}))
        assert found.rates[0] == 1e-3 and found.rates[-1] == pytest.approx(0.1)
        assert len(found.rates) == 10
    with pytest.raises(TrainingError, match=r"not finite at the lowest learning rate, 0\.001"):
        lr_range_test(model, toy(), loss=lambda x, _: x.mean() * float("nan"), **options)
    with pytest.raises(ArgumentError, match="steps=1, from"):
        lr_range_test(model, toy(), **(options | {"steps": 1}))


@pytest.mark.parametrize("warmup", [0.0, 0.4, 1.0, 1.4])
def test_step_counts_epochs_from_the_first_one_whatever_the_warmup(warmup):
    rates = curve(Schedule("step", every=2, warmup=warmup), 1.0, 6, 5)
    drops = [i // 5 for i in range(1, 30) if rates[i] < rates[i - 1]]
    assert drops == [2, 4]


def test_range_test_picture():
    found = RangeTest([1e-3, 1e-2, 1e-1], [3.0, 1.0, 2.0], [3.0, 1.0, 2.0])
    assert found.suggestion == 1e-3 and found.plot().get_xscale() == "log"


@pytest.mark.parametrize("cycle", [True, False])
def test_one_cycle_cycles_the_momentum_only_if_asked(cycle):
    """PyTorch's default cycles Adam's beta 1 between 0.95 and 0.85."""
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = Scheduler(Schedule("one-cycle", cycle_momentum=cycle), optimizer, EPOCHS, STEPS)
    momenta = []
    for _ in range(TOTAL):
        momenta.append(optimizer.param_groups[0]["betas"][0])
        optimizer.step()
        scheduler.step()
    assert (min(momenta), max(momenta)) == pytest.approx(
        (0.85, 0.95) if cycle else (0.9, 0.9), abs=0.01
    )
    assert OPTIONS["one-cycle"]["cycle_momentum"] is True
