"""What only a GPU can show: `pytest tests/train/test_gpu.py` on a machine that has one."""

from itertools import chain

import pytest
import torch
from nets import jitter, net, numbers, quick, same, toy, weights

from segkit import models, train
from segkit.losses import CrossEntropyLoss
from segkit.train import lr_range_test

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def test_networks_and_losses_come_back_from_the_gpu():
    model, loss, data = net(classes=3), CrossEntropyLoss([1.0, 2.0, 2.0]), toy(classes=3)
    _, history = quick(model, data, data, loss=loss)
    _, counted = train.evaluate(model, data, loss=loss)
    lr_range_test(model, data, loss=loss)
    logits, _ = next(train.predict_batches(model, data, device="cuda"))
    assert history.config["device"].startswith("cuda") and logits.is_cuda
    tensors = chain(model.parameters(), model.buffers(), loss.buffers(), [counted.tp])
    assert not any(tensor.is_cuda for tensor in tensors)
    model.cuda()
    train.evaluate(model, data, device="cpu")
    assert all(parameter.is_cuda for parameter in model.parameters())


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16"])
@pytest.mark.parametrize("compiled", [False, True])
def test_every_number_format_learns_with_and_without_compilation(precision, compiled):
    options = {"precision": precision, "compile": compiled, "epochs": 8, "lr": 0.05}
    _, history = quick(val=toy(16, seed=1), **options)
    assert history.last["val_iou"] > 0.9


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_same_seed_same_bits(precision):
    def trained():
        model = models.build("unet", 3, width=4, depth=2, seed=0)
        data = toy().with_transform(jitter)
        options = {"ema": 0.9, "clip": 1.0, "accumulate": 2, "precision": precision}
        return quick(model, data, toy(8, seed=1), workers=2, **options)

    (one, first), (two, second) = trained(), trained()
    assert same(weights(one), weights(two)) and numbers(first) == numbers(second)


def test_a_run_continues_as_if_it_had_not_stopped(tmp_path):
    def run(epochs, **options):
        model = net(dropout=0.5)
        return quick(model, epochs=epochs, precision="fp16", **options)

    whole, history = run(4)
    run(2, out=tmp_path)
    halves, resumed = run(4, out=tmp_path, resume=True)
    assert same(weights(whole), weights(halves)) and numbers(history) == numbers(resumed)


def test_running_out_of_memory_names_the_remedies():
    model = models.build("unet", 3, width=64, seed=0)
    with pytest.raises(train.TrainingError, match=r"out of memory.* batch_size=512"):
        quick(model, toy(1024, size=256), batch_size=1024, epochs=1)
