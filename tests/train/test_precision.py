import pytest
import torch
from nets import net, quick, same, toy, weights

from segkit.train import precision


@pytest.mark.parametrize(
    ("can", "name", "words"),
    [
        ({"avx512_bf16": True}, "bf16", "this CPU multiplies bfloat16 natively (avx512_bf16)"),
        ({"amx_bf16": True}, "bf16", "this CPU multiplies bfloat16 natively (amx_bf16)"),
        ({"avx512_f": True, "avx512_bf16": False}, "fp32", "no native bfloat16"),
    ],
)
def test_auto_goes_by_what_the_cpu_can(monkeypatch, can, name, words):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: can, raising=False)
    chosen = precision.choose("auto", "cpu")
    assert chosen.name == name and words in chosen.reason
    assert precision.choose("bf16", "cpu").name == "bf16"
    emulated = "as asked, though" in precision.choose("bf16", "cpu").reason
    assert emulated == (name == "fp32")


@pytest.mark.parametrize("has", [True, False])
def test_auto_goes_by_what_the_gpu_can(monkeypatch, has):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Test GPU")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has)
    native, reason = precision._native_bf16(torch.device("cuda"))
    assert native is has and "Test GPU" in reason


def test_what_cannot_be_had_is_refused():
    with pytest.raises(ValueError, match="no precision 'float16'; there are: auto, fp32"):
        precision.choose("float16")
    with pytest.raises(ValueError, match="tf32 is a mode of NVIDIA GPUs"):
        precision.choose("tf32", "cpu")


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)],
)
def test_network_computes_in_it_and_the_loss_in_float32(name, dtype):
    seen = {"loss": set()}

    def loss(logits, target):
        seen["loss"].add(logits.dtype)
        return torch.nn.functional.binary_cross_entropy_with_logits(logits[:, 0], target.float())

    model = net()
    model[4].register_forward_hook(lambda module, args, out: seen.update(model=out.dtype))
    _, history = quick(model, precision=name, loss=loss, epochs=6, lr=0.05, val=toy(8, seed=1))
    assert seen == {"loss": {torch.float32}, "model": dtype}
    assert model[0].weight.dtype == torch.float32
    assert history.last["val_iou"] > 0.8


def test_fp16_scales_small_gradients_into_range():
    """A gradient of 1e-8 is zero in float16 unless the loss is scaled."""
    tiny = 1e-7

    def loss(logits, target):
        return logits.mean() * tiny

    def step(name):
        model = net(norm=False)
        before = weights(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        quick(model, toy(8), epochs=1, precision=name, loss=loss, optimizer=optimizer)
        return model[0].weight.detach() - before["0.weight"]

    full, scaled = step("fp32"), step("fp16")
    assert full.abs().max() > 0
    torch.testing.assert_close(scaled, full, rtol=0.05, atol=1e-8)


def test_fp16_step_that_overflows_is_left_out_and_the_schedule_waits():
    model = net(norm=False)
    before = weights(model)

    def loss(logits, target):
        return logits.float().mean() * 1e3  # times the scale of 65,536: past float16's range

    two_steps = toy(16)
    _, history = quick(
        model, two_steps, epochs=1, precision="fp16", loss=loss, schedule="cosine", ema=0.5
    )
    assert same(weights(model), before)
    assert history.last["lr"] == 1e-3
