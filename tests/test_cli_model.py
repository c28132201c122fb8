"""`segkit train`, `evaluate`, `predict`, `export`, one after the other, as a user would."""

import functools
import json
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from calls import call, main, printed
from PIL import Image

from segkit import config, data, environment, predict
from segkit.errors import SegkitError
from segkit.evaluate import evaluate, summary
from segkit.model_file import load_model
from segkit.onnx_predictor import OnnxNetwork

CONFIG = {
    "data": {"name": "toy-embryo", "size": 32, "count": 32, "val_count": 16},
    "model": {"name": "unet", "width": 8, "depth": 2},
    "fit": {"epochs": 9, "batch_size": 8, "precision": "fp32", "lr": 0.1},
}
OVERRIDES = ("--lr", "0.02", "--epochs", 6, "--seed", 3, "-s", "fit.clip=1", "--out")
TINY = ("--data", "toy-embryo", "--size", 32, "-s", "data.count=16", "-s", "model.width=4")
TINY += ("-s", "data.val_count=4", "-s", "model.depth=2", "--epochs", 3, "--batch-size", 8)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run folder; what `segkit train --json` printed lies in it too."""
    place = tmp_path_factory.mktemp("cli")
    (place / "c.yaml").write_text(yaml.safe_dump(CONFIG))
    shown = printed("train", place / "c.yaml", *OVERRIDES, place / "run", "--json")
    (place / "run" / "shown.json").write_text(shown)
    return place / "run"


@pytest.fixture(scope="module")
def model(run) -> Path:
    return run / "model.safetensors"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("pictures")
    images = data.load("toy-embryo", "test", size=48, count=3, transform=None).images
    for name, image in zip("abc", images, strict=True):
        Image.fromarray(image).save(place / f"{name}.png")
    return place


def mask(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        assert picture.mode in ("P", "L")
        return np.array(picture)


def test_options_override_the_file(run, model):
    asked = yaml.safe_load((run / "train.yaml").read_text())
    assert asked["data"] == CONFIG["data"] | {"seed": 3}
    assert asked["model"] == CONFIG["model"] | {"seed": 3}
    changed = {"lr": 0.02, "epochs": 6, "seed": 3, "clip": 1.0, "out": str(run)}
    assert asked["fit"] == CONFIG["fit"] | changed
    shown = json.loads((run / "shown.json").read_text())
    assert shown["model"] == str(model) and shown["epochs"] == 6
    assert shown["threshold"] == load_model(model)[1].threshold
    assert (run / "history.csv").read_text().count("\n") == 7


def test_evaluate_says_which_images_were_trained_on(run, model, tmp_path):
    assert "Warning" not in printed("evaluate", model)
    assert "16 of these 16 images" in printed("evaluate", model, "--split", "val")
    given = ("--data", "toy-embryo", "-s", "seed=3", "--split", "train", "--count", 5)
    told = printed("evaluate", model, *given, "--report", tmp_path / "card.html")
    assert "Warning: 5 of these 5 images (" in told and "were used to train the model" in told
    assert "5 of these 5 images" in (tmp_path / "card.html").read_text()
    assert "5 of these 5" in json.loads(printed("evaluate", model, *given, "--json"))["warnings"][0]
    assert "Warning" not in printed("evaluate", model, "--data", "toy-embryo", "-s", "seed=8")


def test_evaluate_scores_the_test_set_of_the_run(model, tmp_path):
    shown = json.loads(printed("evaluate", model, "--json", "--device", "cpu"))
    own = data.load("toy-embryo", "test", 32, seed=3)
    expected = summary(evaluate(*load_model(model), own))
    assert {name: shown[name] for name in expected} == expected
    assert shown["data"] == {"source": "toy-embryo", "split": "test"}
    assert shown["scores"]["IoU"]["value"] > 0.4
    code, text = call("evaluate", model, "--threshold", 0.3, "--count", 4)
    assert code == 0
    for line in ("on 4 images: source toy-embryo, split test", "cell", "boundary IoU",
                  "foreground above the probability 0.3; ignored pixels"):  # fmt: skip
        assert line in text
    card = tmp_path / "card.html"
    shown = json.loads(printed("evaluate", model, "--count", 4, "--report", card, "--json"))
    assert shown["report"] == str(card) and shown["images"] == 4
    assert "Report card" in card.read_text()


def test_weights_trained_elsewhere_become_a_model_file(
    model, pictures, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    network, metadata = load_model(model)
    torch.save({"state_dict": {f"module.{k}": v for k, v in network.state_dict().items()}}, "w.pth")
    words = ["import-weights", "w.pth", "-n", "unet", "--classes", "background, cell", "--size", 32]
    words += ["--mean", metadata.mean[0], "--std", metadata.std[0], "--threshold", 0.3]
    words += ["-s", "width=8", "-s", "depth=2", "-o", "out/m.safetensors"]
    text = printed(*words)
    assert text == f"All {len(network.state_dict())} tensors match: out/m.safetensors\n"
    found, about = load_model("out/m.safetensors")
    kept = ("network", "class_names", "mean", "std", "size", "in_channels", "classes", "options")
    assert all(getattr(about, name) == getattr(metadata, name) for name in kept)
    assert about.threshold == 0.3
    x = torch.randn(1, 1, 32, 32)
    assert torch.equal(found(x), network(x))
    assert call("predict", "out/m.safetensors", pictures, "-o", "masks")[0] == 0
    whole = Path("out/m.safetensors").read_bytes()
    code, text = call(*words)
    assert code == 2 and "is there already" in text
    assert Path("out/m.safetensors").read_bytes() == whole
    words[-1] = "other"
    for change, message in (
        (["-s", "classes=2"], "2 of another shape or type: out.weight (1, 8, 1, 1"),
        (["-s", "width=4"], "of another shape or type"),
        (["-s", "widht=4"], "unet has no option widht"),
        (["--mean", "0,0"], "mean and std have a number per channel"),
        (["--classes", "cell"], "each class has a name"),
        (["--classes", "background,a,b"], "out.bias (1, torch.float32) for (3, torch.float32)"),
    ):
        assert main(monkeypatch, *words, *change) == 2
        assert message in capsys.readouterr().err
    code, text = call(*words, "--std", "one")
    assert code == 2 and "give numbers" in text
    assert not Path("other").exists()


@pytest.fixture(scope="module")
def exported(model) -> Path:
    path = model.parent / "out" / "m.onnx"
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    shown = json.loads(printed("export", model, path, "--repeats", 2, "--size", 16, "--json"))
    assert shown["difference"] <= 1e-4
    assert {row["name"] for row in shown["latency"]} >= {"onnxruntime"}
    assert {tuple(row["shape"]) for row in shown["latency"]} == {(1, 1, 16, 16)}
    return path


def test_what_is_exported_predicts_the_same_masks(model, exported, pictures, tmp_path):
    for file, out in ((model, "torch"), (exported, "onnx")):
        code, text = call("predict", file, pictures, "--out", tmp_path / out)
        assert code == 0 and "3 of 3 masks are in" in text
    assert OnnxNetwork(exported).metadata["class_names"] == ["background", "cell"]
    for name in "abc":
        ours, theirs = (mask(tmp_path / out / f"{name}.png") for out in ("torch", "onnx"))
        assert ours.shape == (48, 48) and 0.02 < ours.mean() < 0.98
        np.testing.assert_array_equal(ours, theirs)


def test_options_of_predict_reach_the_predictor(model, pictures, tmp_path):
    words = ("--tta", "hv", "--scale", 1, "--scale", 1.5, "--tile", 32, "--overlap", 0.5)
    words += ("--min-size", 9, "--threshold", 0.4, "--form", "ids", "--overlay", "--json")
    (row,) = json.loads(printed("predict", model, pictures / "a.png", "-o", tmp_path, *words))
    net, metadata = load_model(model)
    network = predict.as_network(net, metadata)
    metadata = replace(metadata, threshold=0.4)
    same = predict.Predictor(network, metadata, 32, 0.5, 4, "hv", (1.0, 1.5), 9)
    np.testing.assert_array_equal(mask(Path(row["mask"])), same.mask(mask(pictures / "a.png")))
    with Image.open(row["mask"]) as picture:
        assert picture.mode == "L"
    assert row["overlay"] == str(tmp_path / "a_overlay.jpg") and Path(row["overlay"]).is_file()
    assert sum(row["shares"].values()) == pytest.approx(1)


def test_a_broken_picture_is_reported_and_the_rest_done(model, pictures, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing")
    code, text = call("predict", model, tmp_path, pictures, "-o", tmp_path / "o")
    assert code == 1
    assert "broken.jpg: cannot be read" in text and "3 of 4 masks" in text
    assert sorted(p.name for p in (tmp_path / "o").iterdir()) == ["a.png", "b.png", "c.png"]


def test_nothing_that_is_there_is_overwritten(model, pictures, tmp_path, monkeypatch, capsys):
    def refused(*words):
        assert main(monkeypatch, "predict", model, pictures, *words) == 2
        return capsys.readouterr().err

    before = {p: p.read_bytes() for p in pictures.iterdir()}
    for words in ((), ("--overwrite",)):
        assert "holds the pictures themselves" in refused("-o", pictures, *words)
    (tmp_path / "b.png").write_bytes(b"a mask drawn by hand")
    assert "b.png is there already" in refused("-o", tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["b.png"]
    assert (tmp_path / "b.png").read_bytes() == b"a mask drawn by hand"
    assert call("predict", model, pictures, "-o", tmp_path, "--overwrite")[0] == 0
    assert mask(tmp_path / "b.png").shape == (48, 48)
    assert {p: p.read_bytes() for p in pictures.iterdir()} == before


def test_a_program_is_exported_too_and_what_is_not_installed_named(
    model, tmp_path, monkeypatch, capsys
):
    code, text = call("export", model, tmp_path / "m.pt2")
    assert code == 0 and "m.pt2" in text
    assert torch.export.load(tmp_path / "m.pt2").module()(torch.zeros(1, 1, 20, 20)).shape[2] == 20
    real = environment.version
    monkeypatch.setattr(environment, "version", lambda n: None if n == "onnx" else real(n))
    assert main(monkeypatch, "export", model, tmp_path / "m.onnx") == 1
    assert "lacks onnx: pip install 'segkit[export]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evaluate", "none.safetensors"], "none.safetensors: there is no such file"),
        (["evaluate", "pickle.pt"], "pickle.pt is damaged, or no model file"),
        (["evaluate", "text.txt"], "text.txt is damaged, or no model file"),
        (["evaluate", "MODEL", "--split", "tset"], "no split 'tset' (did you mean test?)"),
        (["evaluate", "MODEL", "--data", "toy-pets"], "toy-pets marks a border"),
        (["evaluate", "MODEL", "--data", "toy-pets", "--border", "ignore"], "trained for class"),
        (["evaluate", "MODEL", "-s", "bones=2"], "no toy-embryo option 'bones'"),
        (["evaluate", "MODEL", "-s", "size=8"], "size is that of the model, 32: leave it out"),
        (["train", "--data", "toy-xray", "-s", "model.width=0"], "width=0: give at least 1"),
        (
            ["evaluate", "MODEL", "--data", "nowhere"],
            "no folder, config file or data set 'nowhere'",
        ),
        (["evaluate", "alone.safetensors"], "no train.yaml lies beside alone.safetensors: give"),
        (["evaluate", "pets"], "no train.yaml lies beside pets: give the data with --data"),
        (["predict", "text.onnx", "text.txt", "-o", "o"], "text.onnx: no ONNX file, or a damaged"),
        (["evaluate", "MODEL", "--threshold", "1"], "threshold is between 0 and 1"),
        (["predict", "MODEL", "nowhere", "-o", "o"], "nowhere: neither a picture nor a folder"),
        (["predict", "MODEL", "text.txt", "-o", "o", "--tta", "x"], "flips='x': choose"),
        (["train", "none.yaml"], "none.yaml: cannot be read as a config (No such file"),
        (["train", "--data", "toy-xray", "-s", "fit.epoch=3"], "did you mean epochs?"),
        (["train", "--data", "toy-xray", "-n", "vnet"], "no network 'vnet'"),
        (["train", "--data", "toy-xray", "--device", "tpu"], "tpu"),
        (["train", "RUN/train.yaml"], "already holds a run: continue it with --resume,"),
        (["train", "RUN/train.yaml", "--resume", "--lr", "0.5"], "Resume with the same"),
        (["train", "list.yaml"], "fit: [1] is not a set of keys and values"),
    ],
)
def test_wrong_input_is_one_message(run, model, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    torch.save({}, "pickle.pt")
    for name in ("text.txt", "text.onnx"):
        Path(name).write_text("words, and no more than words")
    Path("list.yaml").write_text("data: {name: toy-xray}\nfit: [1]")
    Path("alone.safetensors").write_bytes(model.read_bytes())
    before = {p: p.stat().st_mtime_ns for p in run.iterdir()}
    words = [w.replace("MODEL", str(model)).replace("RUN", str(run)) for w in words]
    assert main(monkeypatch, *words) == 2
    shown = capsys.readouterr().err
    assert message in shown and shown.startswith("segkit: ")
    assert not Path("o").exists()
    assert {p: p.stat().st_mtime_ns for p in run.iterdir()} == before


@pytest.mark.parametrize(
    "words",
    ["predict MODEL MODEL", "export MODEL m.pth", "train -s epochs", "train -s fit.lr=[",
     "train --epochs 0", "train -s fit.lr=2020-13-45"],
)  # fmt: skip
def test_wrong_usage_is_reported_by_typer(model, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    code, text = call(*(str(model) if word == "MODEL" else word for word in words.split()))
    assert code == 2 and "Error" in text
    assert not list(tmp_path.iterdir())


def test_a_network_that_breaks_is_no_wrong_usage(tmp_path, monkeypatch, capsys):
    assert main(monkeypatch, "train", *TINY, "--lr", 1e30, "--out", tmp_path / "o") == 1
    assert "not finite" in capsys.readouterr().err.lower()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_training_is_saved_and_goes_on(tmp_path, monkeypatch, number):
    real = config.fit

    @functools.wraps(real)
    def fit(*given, log, **options):
        def interrupt(line):
            log(line)
            if line.startswith("epoch 1"):
                signal.raise_signal(number)

        return real(*given, log=interrupt, **options)

    monkeypatch.setattr(config, "fit", fit)
    code, text = call("train", *TINY, "--out", tmp_path / "o")
    assert code == 130 and "Stopped: interrupted in epoch 2" in text
    assert load_model(tmp_path / "o" / "model.safetensors")[1].notes["training"]["epochs"] == 1
    monkeypatch.setattr(config, "fit", real)
    code, text = call("train", tmp_path / "o" / "train.yaml", "--resume")
    assert code == 0 and "epoch 1/3" not in text and "epoch 3/3" in text


def test_a_bug_of_ours_shows_its_traceback(monkeypatch, model, pictures, tmp_path):
    """One of the plain kinds that an argument can cause, too."""
    monkeypatch.setattr(predict.Predictor, "load", lambda *_, **__: list(zip([1], [], strict=True)))
    with pytest.raises(ValueError, match="zip"):
        main(monkeypatch, "predict", model, pictures, "--out", tmp_path / "masks")


def test_what_a_user_caused_is_an_error_of_segkit():
    for function in (lambda: data.load("no-such-set"), lambda: config.read("/no/such/file")):
        with pytest.raises(SegkitError):
            function()


@pytest.mark.parametrize(
    "entry",
    ["data.class_names=3", "data.group_by=3", "data.size=abc", "data.data_dir=3",
     "data.size=[1]", "data.fractions=abc", "data.fractions=3", "fit.out=3", "fit.device=[1]",
     "data.mask_suffix=3", "data.image_suffix=[a]"],
)  # fmt: skip
def test_an_option_of_another_type_is_one_message(entry, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for part in ("images", "masks"):
        Path(part).mkdir()
        for i in range(8):
            Image.fromarray(np.eye(32, k=i, dtype=np.uint8)).save(f"{part}/{i}.png")
    options = ("--data", tmp_path, "--size", 32, "--out", "o", "-s", "model.width=2")
    assert main(monkeypatch, "train", *options, "-s", entry) == 2
    shown = capsys.readouterr().err.replace("--mask-suffix", "mask_suffix")
    assert entry.split(".")[1].split("=")[0] in shown.replace("--image-suffix", "image_suffix")


@pytest.mark.parametrize(
    ("words", "network", "out"),
    [([], "unet", "runs/toy-xray-unet"), (["-n", "dumbnet", "-o", "here"], "dumbnet", "here")],
)
def test_training_has_a_network_and_a_run_folder_by_default(monkeypatch, words, network, out):
    asked = []
    monkeypatch.setattr(config, "from_config", lambda full, _: asked.append(full) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        call("train", "--data", "toy-xray", *words)
    wanted = {"data": {"name": "toy-xray"}, "model": {"name": network}, "fit": {"out": out}}
    assert asked == [wanted | {"threshold": "validation"}]
