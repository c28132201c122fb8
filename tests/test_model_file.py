"""Model files: what goes in comes out, and nothing else gets in."""

import json
import os
import pickle
import random
import struct
from dataclasses import replace

import pytest
import safetensors.torch
import torch

from segkit import data, models
from segkit.errors import CheckpointError
from segkit.model_file import ModelMetadata, load_model, save_model
from segkit.train import model_format as checkpoint
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


def test_facts_come_from_the_data():
    dataset = data.load("toy-xray", size=32, count=2, bones=2)
    metadata = ModelMetadata.of(dataset, "unet", width=8, pretrained=True, notes={"seed": 3})
    assert metadata.class_names == dataset.class_names and metadata.classes == 3
    assert metadata.in_channels == 1 and metadata.size == (32, 32)
    assert metadata.mean == dataset.transform.mean and metadata.std == dataset.transform.std
    assert metadata.options == {"width": 8}  # its weights are in the file
    assert metadata.notes["seed"] == 3
    scaled = ModelMetadata.of(dataset.with_transform(None), "unet")
    assert (scaled.mean, scaled.std) == ((0.0,), (1.0,))
    with pytest.raises(ValueError, match="no mean and std"):
        ModelMetadata.of(dataset.with_transform(lambda *pair: pair), "unet")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"network": "vnet"}, "network is one of dumbnet"),
        ({"class_names": ("a", "b")}, "each class has a name"),
        ({"mean": (0.1, 0.2)}, "number per channel"),
        ({"std": (0.0,)}, "above 0"),
        ({"size": (0, 4)}, "height, width"),
        ({"threshold": 1.0}, "between 0 and 1"),
        ({"options": {"depth": 10**9}}, "no option exceeds"),
    ],
)
def test_facts_that_contradict_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        replace(METADATA, **wrong)


def test_saving_refuses_facts_of_another_network(tmp_path):
    other = models.build("unet", 1, 3, width=8, depth=2)
    with pytest.raises(CheckpointError, match="the metadata given"):
        save_model(tmp_path / "m.safetensors", other, METADATA)
    assert not list(tmp_path.iterdir())


class Trap:
    def __reduce__(self):
        return os.mkdir, (os.environ["TRAP"],)


def test_pickles_are_refused_unopened(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAP", str(tmp_path / "sprung"))
    torch.save({"model": Trap()}, tmp_path / "new.pt")
    torch.save({"model": Trap()}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    for protocol in range(2, 6):
        (tmp_path / f"{protocol}.pkl").write_bytes(pickle.dumps(Trap(), protocol))
    files = list(tmp_path.iterdir())
    assert len(files) == 6
    for path in files:
        with pytest.raises(CheckpointError, match=f"{path.name} is a pickle"):
            load_model(path)
    assert not (tmp_path / "sprung").exists()


def test_what_is_no_model_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="there is no such file"):
        load_model(tmp_path / "none.safetensors")
    with pytest.raises(CheckpointError, match="there is no such file"):
        load_model(tmp_path)
    save_weights(tmp_path / "best.pt", METADATA.build())
    with pytest.raises(CheckpointError, match=r"best\.pt is a pickle"):
        load_model(tmp_path / "best.pt")
    for name, content in {"empty": b"", "text": b"hello", "png": b"\x89PNG\r\n\x1a\n"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=str(tmp_path / name)):
            load_model(tmp_path / name)


def test_damage_is_noticed_wherever_it_is(saved):
    whole = saved.read_bytes()
    draw = random.Random(0)
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    places = [draw.randrange(header) for _ in range(200)]
    places += [draw.randrange(header, len(whole)) for _ in range(50)]
    for place in places:
        broken = bytearray(whole)
        broken[place] ^= 1 << draw.randrange(8)
        saved.write_bytes(broken)
        with pytest.raises(CheckpointError, match=r"m\.safetensors"):
            load_model(saved)
    for length in [*range(0, 64, 7), *(draw.randrange(len(whole)) for _ in range(60))]:
        saved.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"m\.safetensors"):
            load_model(saved)


def rewrite(path, change):
    """Change the metadata of a model file as its author could: `change` takes and returns JSON."""
    with safetensors.safe_open(path, framework="pt") as file:
        header = file.metadata()
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    header["about"] = change(header["about"])
    header["sum"] = checkpoint.checksum(header, tensors)
    path.write_bytes(safetensors.torch.save(tensors, header))


def with_metadata(**metadata):
    def change(text):
        about = json.loads(text)
        about["metadata"] |= metadata
        return json.dumps(about)

    return change


@pytest.mark.parametrize(
    "about",
    [
        "[]",
        "7",
        "[" * 100_000,
        '{"kind": "model"}',
        '{"kind": "model", "metadata": 3}',
        '{"kind": "model", "metadata": {"network": "unet"}}',
    ],
)
def test_facts_that_are_none_are_refused(saved, about):
    rewrite(saved, lambda _: about)
    with pytest.raises(CheckpointError, match=r"m\.safetensors"):
        load_model(saved)


@pytest.mark.parametrize(
    "options", [{"depth": 4000}, {"width": 4000}, {"depth": 10**9}, {"wide": 1}, {"up": "x"}, []]
)
def test_a_network_that_cannot_be_costs_no_memory(saved, options):
    rewrite(saved, with_metadata(options=options))
    with pytest.raises(CheckpointError, match=r"m\.safetensors"):
        load_model(saved)


def test_a_later_segkits_facts_are_read(saved):
    rewrite(saved, with_metadata(colour_space="sRGB"))
    assert load_model(saved)[1] == METADATA
