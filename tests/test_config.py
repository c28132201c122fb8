"""Configs: what they refuse, what they mean, and what training from one leaves behind."""

import functools
import json
import signal

import pytest
import torch
import yaml

from segkit import config, losses
from segkit.errors import ArgumentError, SegkitError
from segkit.model_file import ModelMetadata, load_model

SMALL = {
    "data": {"name": "toy-embryo", "size": 32, "count": 16, "val_count": 6},
    "model": {"name": "unet", "width": 4, "depth": 2},
    "fit": {"epochs": 2, "batch_size": 8, "precision": "fp32"},
}


def changed(threshold="validation", **parts):
    made = {name: SMALL[name] | part for name, part in {**SMALL, **parts}.items()}
    return made | {"threshold": threshold}


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            SMALL | {"modle": {}},
            r"no config part 'modle' \(did you mean model\?\); there are: data,",
        ),
        ({"model": {"name": "unet"}}, "no data set ''; there are: toy-pets"),
        (SMALL | {"data": None}, "no data set ''; there are: toy-pets"),
        (SMALL | {"data": [1]}, r"data: \[1\] is not a set of keys and values"),
        (SMALL | {"model": "unet"}, "model: 'unet' is not a set of keys and values"),
        (SMALL | {"fit": [1]}, r"fit: \[1\] is not a set of keys and values"),
        (changed(data={"name": "toy-embrio"}), r"no data set 'toy-embrio' \(did you mean toy-embr"),
        (changed(data={"name": [[0] * 9] * 9}), r"data\.name: \[\[0, 0, 0, 0, 0, 0, \.\.\.\]"),
        (changed(data={"siz": 3}), r"no toy-embryo option 'siz' \(did you mean size\?\); there a"),
        (changed(data={"border": "pet"}), "no toy-embryo option 'border'"),
        (changed(data={"split": "test"}), "no toy-embryo option 'split'"),
        (changed(data={"count": "many"}), "data.count: 'many' is not an integer or null"),
        (changed(model={"name": "unett"}), r"no network 'unett' \(did you mean unet\?\)"),
        (changed(model={"name": "smp.Unet"}), "no network 'smp.Unet'"),
        (
            changed(model={"widht": 8}),
            r"no unet option 'widht' \(did you mean width\?\); there are",
        ),
        (changed(model={"width": "wide"}), "model.width: 'wide' is not an integer"),
        (
            changed(fit={"epoch": 3}),
            r"no fit option 'epoch' \(did you mean epochs\?\); there are: ",
        ),
        (changed(fit={"epochs": 2.5}), "fit.epochs: 2.5 is not an integer"),
        (changed(fit={"epochs": True}), "fit.epochs: True is not an integer"),
        (changed(fit={"lr": "fast"}), "fit.lr: 'fast' is not a number"),
        (changed(fit={"model": "unet"}), "no fit option 'model'"),
        (changed(fit={"loss": "dise"}), r"no loss 'dise' \(did you mean dice\?\)"),
        (changed(fit={"loss": ["dice"]}), r"fit\.loss: \['dice'\] is not a set of keys"),
        (
            changed(fit={"loss": {"focal": {"gama": 3}}}),
            r"no focal option 'gama' \(did you mean ga",
        ),
        (
            changed(fit={"loss": {"bce": {"pos_weight": "x"}}}),
            r"fit\.loss\.bce\.pos_weight: 'x' is n",
        ),
        (changed(fit={"schedule": "cos"}), "no schedule 'cos'"),
        (changed(fit={"schedule": 3}), "fit.schedule: 3 is not a set of keys"),
        (changed(fit={"schedule": {"name": "poly", "gamma": 1}}), "no option of poly 'gamma'"),
        (changed(fit={"schedule": {"name": "poly", "power": "x"}}), "fit.schedule.power: 'x' is n"),
        (SMALL | {"threshold": 1.5}, "threshold: 1.5 is neither"),
        (SMALL | {"threshold": "best"}, "threshold: 'best' is neither"),
    ],
)
def test_what_does_not_exist_is_refused_before_anything_is_loaded(monkeypatch, asked, message):
    monkeypatch.setattr(config, "open_split", lambda *_: pytest.fail("data were loaded"))
    with pytest.raises(ArgumentError, match=message):
        config.from_config(asked)


def test_files_are_yaml_or_json(tmp_path):
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(SMALL))
    (tmp_path / "a.json").write_text(json.dumps(SMALL))
    assert config.read(tmp_path / "a.yaml") == config.read(tmp_path / "a.json") == SMALL
    wrong = {"list.yaml": "[1]", "bad.yaml": "a: [", "bad.json": "{", "bad2.yaml": "a: !!python/x"}
    for name, text in (wrong | {"picture.yaml": "\x89PNG\x00", "none.yaml": None}).items():
        if text is not None:
            (tmp_path / name).write_bytes(text.encode("latin-1"))
        with pytest.raises(ArgumentError, match=f"{name}: "):
            config.read(tmp_path / name)


def test_a_key_that_stands_twice_is_refused(tmp_path):
    (tmp_path / "a.yaml").write_text("a: &a {lr: 1}\nfit: {<<: *a, lr: 2}\ndata: {lr: 3}")
    assert config.read(tmp_path / "a.yaml")["fit"] == {"lr": 2}, "one in each part is one"
    (tmp_path / "a.yaml").write_text("fit: {lr: 1, epochs: 3, lr: 2}")
    with pytest.raises(ArgumentError, match=r"a\.yaml: .*lr stands twice in one part"):
        config.read(tmp_path / "a.yaml")


def test_a_part_too_large_to_print_is_refused_at_once():
    bomb = ["x"]
    for _ in range(60):
        bomb = [bomb, bomb]
    for asked in ({"data": bomb}, SMALL | {"threshold": bomb}, changed(fit={"lr": bomb})):
        with pytest.raises(ArgumentError) as caught:
            config.from_config(asked)
        assert len(str(caught.value)) < 1000


def test_a_source_is_a_name_a_folder_or_a_config(tmp_path):
    (tmp_path / "drawn" / "val").mkdir(parents=True)
    (tmp_path / "drawn" / "val" / "a.json").touch()
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(SMALL))
    (tmp_path / "d.yaml").write_text("fit: {}")
    assert config.source("toy-xray") == {"name": "toy-xray"}
    assert config.source(str(tmp_path))["name"] == "folder"
    place = str(tmp_path / "drawn")
    assert config.source(place) == {"name": "labelme", "data_dir": place}
    (tmp_path / "mine" / "images").mkdir(parents=True)
    (tmp_path / "mine" / "split.json").write_text("{}")
    assert config.source(str(tmp_path / "mine"))["name"] == "folder"
    assert config.source(str(tmp_path / "c.yaml")) == SMALL["data"]
    with pytest.raises(ArgumentError, match=r"d\.yaml: has no part data"):
        config.source(str(tmp_path / "d.yaml"))
    wrong = r"no folder, config file or data set 'toy-xrai' \(did you mean toy-xray"
    with pytest.raises(ArgumentError, match=wrong):
        config.source("toy-xrai")


def test_the_model_demands_size_channels_names_and_border():
    notes = {"data": {"border": "pet"}}
    metadata = ModelMetadata("unet", ("sky", "bird"), (0.5,) * 3, (0.2,) * 3, (48, 64), notes=notes)
    assert config.for_model({"name": "folder", "data_dir": "x", "size": 9}, metadata) == {
        "name": "folder", "data_dir": "x", "size": (48, 64), "channels": 3,
        "class_names": ["sky", "bird"],
    }  # fmt: skip
    pets = config.for_model({"name": "toy-pets"}, metadata)
    assert pets == {"name": "toy-pets", "size": (48, 64), "border": "pet"}
    own = config.for_model({"name": "toy-pets", "border": "ignore"}, metadata)
    assert own["border"] == "ignore"


def test_entries_override_and_leave_what_was_given_alone():
    asked = {"data": {"name": "toy-xray"}, "fit": None}
    found = config.apply_overrides(asked, {"fit.lr": 1, "model.name": "unet", "threshold": 0.5})
    assert found == {
        "data": {"name": "toy-xray"}, "fit": {"lr": 1}, "model": {"name": "unet"}, "threshold": 0.5
    }  # fmt: skip
    assert asked == {"data": {"name": "toy-xray"}, "fit": None}
    with pytest.raises(ArgumentError, match=r"data.name.x: 'toy-xray' is not a set of keys"):
        config.apply_overrides(asked, {"data.name.x": 1})
    assert config.apply_overrides(asked, {"fit.lr": 1}, {"fit.lr": 2})["fit"] == {"lr": 2}


def test_losses_are_built_from_their_names():
    for loss in ("dice", {"dice": {}}):
        assert isinstance(config.fit_arguments({"loss": loss})["loss"], losses.DiceLoss)
    combined = config.fit_arguments({"loss": {"bce": None, "focal": {"gamma": "3e0"}}})["loss"]
    assert combined.weights == [1.0, 1.0] and combined.losses[1].gamma == 3.0


def test_a_schedule_with_options_has_the_warm_up_too():
    part = {"schedule": {"name": "cosine", "floor": "1e-5"}, "warmup": 2.0, "epochs": 3}
    ways = {}, {"schedule": part["schedule"] | {"warmup": 2}, "warmup": 0.0}, {"warmup": 0.0}
    trained = [
        config.from_config(changed(fit=part | entries), log=None).history["lr"] for entries in ways
    ]
    assert trained[0] == trained[1] != trained[2]
    with pytest.raises(SegkitError, match=r"warmup=1\.0, but the schedule has its own, 2"):
        part["schedule"] = {"name": "poly", "warmup": 2}
        config.from_config(changed(fit=part | {"warmup": 1.0}))


def test_a_network_of_another_library_is_built_with_its_own_seed():
    pytest.importorskip("segmentation_models_pytorch")
    spec = {"name": "smp.Unet", "encoder_name": "resnet18", "encoder_weights": None}
    state = torch.get_rng_state()
    one, two, other = (
        next(config.build_model(spec | {"seed": seed}, 1, 2).parameters()) for seed in (0, 0, 1)
    )
    assert torch.equal(one, two) and not torch.equal(one, other) and one.shape[1] == 1
    assert torch.equal(torch.get_rng_state(), state)


def test_validation_images_are_normalised_as_the_training_images(monkeypatch):
    seen = []

    @functools.wraps(config.fit)
    def catch(model, train, val, **_):
        seen.extend((part.transform.mean, part.transform.std) for part in (train, val))
        raise KeyboardInterrupt

    monkeypatch.setattr(config, "fit", catch)
    for weights in ("imagenet", None):
        spec = {"name": "pretrained_unet", "width": 4, "weights": weights}
        with pytest.raises(KeyboardInterrupt):
            config.from_config(changed() | {"model": spec}, log=None)
    assert seen[:2] == [((0.5,), (0.5,))] * 2
    assert seen[2] == seen[3] != seen[0]  # random weights expect nothing


def test_pretrained_weights_get_images_normalised_as_theirs_were(tmp_path):
    """And the model file has all that is needed: no package, no download."""
    spec = {"name": "pretrained_unet", "width": 4, "seed": 2}
    fit = {"out": str(tmp_path), "encoder_lr": 0.0}
    trained = config.from_config(changed(fit=fit) | {"model": spec}, log=None)
    assert (trained.metadata.mean, trained.metadata.std) == ((0.5,), (0.5,))
    start = config.build_model(spec, 1, 1)
    after = trained.model.state_dict()
    for name, tensor in start.encoder.state_dict().items():
        assert torch.equal(tensor, after[f"encoder.{name}"]), name
    loaded, metadata = load_model(trained.file)
    assert metadata.options == {"width": 4}
    x = torch.randn(1, 1, 32, 32)
    torch.testing.assert_close(loaded(x), trained.model.eval()(x), atol=1e-5, rtol=1e-4)


def test_each_split_has_its_own_count():
    part = SMALL["data"] | {"transform": "light", "test_count": 5}
    sizes = {split: len(config.open_split(part, split)) for split in ("train", "val", "test")}
    assert sizes == {"train": 16, "val": 6, "test": 5}
    assert config.open_split(part, "train").transform.steps
    assert not config.open_split(part, "val").transform.steps
    assert len(config.open_split(part, "test", 3)) == 3
    assert len(config.open_split(SMALL["data"], "test")) == 64
    with pytest.raises(ArgumentError, match=r"no split 'tset' \(did you mean test\?\)"):
        config.open_split(part, "tset")


def test_a_run_folder_repeats_and_goes_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = []
    whole = config.from_config(changed(fit={"out": "whole"}), lines.append)
    assert sum("epoch" in line for line in lines) == 2
    model, metadata = load_model(tmp_path / "whole" / "model.safetensors")
    assert metadata == whole.metadata and metadata.class_names == ("background", "cell")
    assert metadata.size == (32, 32) and metadata.options == {"width": 4, "depth": 2}
    assert metadata.notes["training"]["epochs"] == 2
    assert "6 validation images" in metadata.notes["threshold chosen"]

    def stop_after_one(line):
        if line.startswith("epoch 1"):
            signal.raise_signal(signal.SIGINT)

    # numbers that YAML takes for text
    asked = changed(fit={"out": "cut", "weight_decay": "1e-2", "loss": "bce"}, threshold="0.25")
    cut = config.from_config(asked, stop_after_one)
    assert cut.history.stopped.startswith("interrupted") and cut.metadata.threshold == 0.25
    again = config.read("cut/train.yaml")
    assert "resume" not in again["fit"] and again["fit"]["weight_decay"] == 0.01
    assert again["threshold"] == 0.25 and again["fit"]["loss"] == {"bce": {}}
    done = config.from_config(config.apply_overrides(again, {"fit.resume": True}), None)
    assert done.metadata.threshold == 0.25 and not done.history.stopped
    for name, value in load_model("cut/model.safetensors")[0].state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name


def test_where_nothing_can_be_trained_nothing_is_left(tmp_path):
    asked = changed(fit={"out": str(tmp_path / "out")}, data={"count": 0})
    with pytest.raises(SegkitError, match="count=0"):
        config.from_config(asked)
    assert not (tmp_path / "out").exists()
