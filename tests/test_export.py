"""Exports compute what the network computes, at any size, with nothing of segkit beside them."""

import json
import shutil
import subprocess
import sys
from functools import cache

import numpy as np
import pytest
import torch
from pictures import noise, saved
from PIL import Image
from torch import nn

from segkit import export, image_ops, models, predict
from segkit.errors import ArgumentError
from segkit.model_file import ModelMetadata, read_metadata
from segkit.onnx_predictor import OnnxNetwork

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


def trained(name="dumbnet", channels=3, classes=3):
    """Return a network with the statistics of its images and logits of a trained one's size."""
    metadata = ModelMetadata(
        name,
        ("background", "cat", "dog")[: max(2, classes)],
        (0.5, 0.4, 0.3)[:channels],
        (0.2, 0.3, 0.25)[:channels],
        (32, 48),
        channels,
        classes,
        {"filters": 4} if name == "pdr_unet" else {"width": 4},
        threshold=0.4,
    )
    model = metadata.build()
    images = a_photo(channels, 75, 50)[None]
    batch = torch.from_numpy(image_ops.normalise(images, metadata.mean, metadata.std))
    with torch.no_grad():
        for _ in range(20):
            model.train()(batch)
        logits = model.eval()(batch)
        scale = 3 / logits.std()
        model.out.weight *= scale
        model.out.bias.copy_((model.out.bias - logits.mean(dim=(0, 2, 3))) * scale)
    return model, metadata


def a_photo(channels, *shape):
    return noise(*shape, 3) if channels == 3 else noise(*shape)


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """Return a function that exports a network once: model, metadata, file, and max |Δlogit|."""

    @cache
    def export_once(name):
        path = tmp_path_factory.mktemp(name) / "m.onnx"
        model, metadata = trained(name, *{"unet": (1, 3), "dumbnet": (3, 3)}.get(name, (3, 1)))
        return model, metadata, path, export.export_onnx(path, model, metadata)

    return export_once


@pytest.fixture
def exported(exports):
    return exports("dumbnet")


@pytest.mark.parametrize("name", models.names())
def test_onnxruntime_gives_the_same_masks(exports, name):
    model, metadata, path, difference = exports(name)
    channels, classes = metadata.in_channels, metadata.classes
    assert difference <= 1e-4
    assert {p.name for p in path.parent.iterdir()} == {"m.onnx", "onnx_predictor.py"}
    ours, theirs = predict.as_network(model, metadata), OnnxNetwork(path)
    assert theirs.session.get_inputs()[0].shape == ["batch", channels, "height", "width"]
    for shape in ((1, 1, 1), (1, 2, 3), (2, 16, 9), (3, 45, 64), (1, 160, 100)):  # none seen before
        images = a_photo(channels, *shape)
        np.testing.assert_allclose(ours(images), theirs(images), atol=1e-4)
    image = a_photo(channels, 75, 50)
    for window in (None, 48):
        ours = predict.Predictor(predict.as_network(model, metadata), metadata, window=window)
        theirs = predict.Predictor.load(path, window=window)
        assert theirs.metadata == metadata
        logits = np.sort(ours.logits(image), axis=0)
        margin = logits[-1] - logits[-2] if classes > 1 else abs(logits[0] - np.log(0.4 / 0.6))
        sure = margin > 2e-4
        assert sure.mean() > 0.99
        np.testing.assert_array_equal(ours.mask(image)[sure], theirs.mask(image)[sure])
        assert 0.02 < (ours.mask(image) > 0).mean() < 0.98


def test_a_program_is_the_network_which_stays_as_it_was(tmp_path):
    model, metadata = trained("unet", 3, 1)
    model.train()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    export.save_program(tmp_path / "m.pt2", model, metadata)
    assert model.training
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
    model.eval()
    extra = {"segkit": ""}
    program = torch.export.load(tmp_path / "m.pt2", extra_files=extra).module()
    assert read_metadata("m.pt2", json.loads(extra["segkit"])) == metadata
    for shape in ((1, 33, 47), (4, 64, 64), (2, 17, 100)):
        x = torch.randn(shape[0], 3, *shape[1:])
        assert (program(x) - model(x)).abs().max() <= 1e-4


class Undecided(nn.Module):
    def forward(self, x):
        return x if x.mean() > 0 else -x


def test_what_cannot_be_exported_is_explained(monkeypatch):
    with pytest.raises(export.ExportError, match=r'Undecided cannot be exported.*"if" on values'):
        export.export_program(Undecided(), 3)
    monkeypatch.setattr(torch, "__version__", torch.torch_version.TorchVersion("2.11.0"))
    with pytest.raises(export.ExportError, match=r"needs torch 2\.15 or newer, and this is 2\.11"):
        export.export_program(nn.Identity(), 3)


@pytest.mark.parametrize("off", [1e-3, np.nan])
def test_an_export_that_computes_something_else_is_not_written(tmp_path, monkeypatch, off):
    model, metadata = trained()
    right, calls = OnnxNetwork.__call__, iter((0, off, 0, 0))
    monkeypatch.setattr(OnnxNetwork, "__call__", lambda *given: right(*given) + next(calls))
    with pytest.raises(export.ExportError, match=r"m\.onnx was not written"):
        export.export_onnx(tmp_path / "m.onnx", model, metadata)
    assert not list(tmp_path.iterdir())


ALONE = """
import runpy, sys

class Only:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "segkit", "cv2", "scipy", "albumentations"):
            raise ImportError(f"{name} is not there")

sys.meta_path.insert(0, Only())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture
def alone(exported, tmp_path):
    """Return a function that runs the predictor beside an export where segkit is not installed."""
    shutil.copytree(exported[2].parent, tmp_path, dirs_exist_ok=True)
    saved(tmp_path / "a.png", 75, 50, 3)

    def run(*arguments):
        command = [sys.executable, "-c", ALONE, "onnx_predictor.py", "m.onnx", *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert "Traceback" not in done.stderr
        return done

    return run


def test_the_predictor_works_alone(alone, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing")
    saved(tmp_path / "glass.png", 9, 9, 4)
    done = alone("a.png", "broken.jpg", "none.png", "glass.png", "--out", "whole")
    assert done.returncode == 1
    for message in ("broken.jpg: cannot be read", "none.png: cannot", "glass.png: is transparent"):
        assert message in done.stderr
    assert done.stdout.split() == ["whole/a.png"]
    assert alone("a.png", "--window", "32", "--out", "window").returncode == 0
    for window, out in ((None, "whole"), (32, "window")):
        predictor = predict.Predictor.load(tmp_path / "m.onnx", window=window)
        with Image.open(tmp_path / out / "a.png") as mask:
            np.testing.assert_array_equal(np.array(mask), predictor.mask(noise(75, 50, 3)))


def test_the_lone_predictor_overwrites_no_picture_and_refuses_impossible_options(alone, tmp_path):
    saved(tmp_path / "b" / "a.png", 9, 9)
    before = (tmp_path / "a.png").read_bytes()
    for arguments, message in (
        (("--out", "."), "holds the pictures themselves"),
        (("b/a.png",), "have one name"),
        (("--threshold", "0"), "not between 0 and 1"),
        (("--threshold", "2"), "not between 0 and 1"),
        (("--window", "0"), "must be at least 1"),
        (("--window=-3",), "must be at least 1"),
    ):
        done = alone("a.png", *arguments)
        assert done.returncode == 2 and message in done.stderr
    assert (tmp_path / "a.png").read_bytes() == before and not (tmp_path / "masks").exists()


def test_foreign_and_damaged_onnx_files_are_refused(exported, tmp_path):
    path, right = exported[2], OnnxNetwork(exported[2]).metadata
    proto = onnx.load(path)
    wrong = {
        "std": [0.2, 0.2, 0.0], "mean": [0.5], "size": [10**6, 10**6], "in_channels": 1,
        "threshold": 1, "classes": 2,
    }  # fmt: skip
    damaged = {"not-json": "{", "list": "[1]", "null": "null", "deep": "[" * 200_000, "empty": "{}"}
    damaged |= {name: json.dumps(right | {name: value}) for name, value in wrong.items()}
    damaged |= {f"{n}-text": json.dumps(right | {n: "ab"}) for n in ("mean", "size", "threshold")}
    for name, text in damaged.items():
        onnx.helper.set_model_props(proto, {"segkit": text})
        onnx.save(proto, tmp_path / f"{name}.onnx")
    del proto.metadata_props[:]
    onnx.save(proto, tmp_path / "foreign.onnx")
    (tmp_path / "cut.onnx").write_bytes(path.read_bytes()[:2000])
    expected = dict.fromkeys(damaged, "its metadata")
    expected |= {"foreign": "did not export it", "cut": "damaged", "none": "exist"}
    for name, message in expected.items():
        with pytest.raises(ArgumentError, match=rf"{name}\.onnx.*{message}"):
            OnnxNetwork(tmp_path / f"{name}.onnx")


def test_latency_times_every_runner_at_every_shape(exported):
    model, _, path, _ = exported
    runners = export.runners(model, path)
    x = torch.randn(1, 3, 20, 20)
    given = [np.asarray(run(x)) for run in runners.values()]
    np.testing.assert_allclose(given[0], np.reshape(given[1], given[0].shape), atol=1e-4)
    shapes = [(1, 3, 16, 16), (2, 3, 128, 128)]
    rows = export.latency(runners, shapes, repeats=4)
    assert [(row.name, row.shape) for row in rows] == [(n, s) for s in shapes for n in runners]
    assert all(0 < row.median <= row.p90 for row in rows)
    assert rows[-1].median > rows[1].median
    text = export.table(rows)
    assert text.count("\n") == len(rows) and "2×3×128×128" in text
