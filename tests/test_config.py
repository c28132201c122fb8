"""Configs: what they refuse, what they mean, and what training from one leaves behind."""

import json
import signal

import pytest
import torch
import yaml

from segkit import config, losses
from segkit.config import ConfigError
from segkit.data.dataset import DataError
from segkit.errors import SegkitError
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
            r"a config: no part 'modle' \(did you mean model\?\); there are: d",
        ),
        ({"model": {"name": "unet"}}, "data: has no name; there are: toy-pets"),
        (SMALL | {"fit": [1]}, r"fit: \[1\] is not a set of keys and values"),
        (
            changed(data={"name": "toy-embrio"}),
            r"data: no data set 'toy-embrio' \(did you mean toy-",
        ),
        (
            changed(data={"name": [[0] * 9] * 9}),
            r"data: no data set '\[\[0, 0, 0, 0, 0, 0, \.\.\.\]",
        ),
        (
            changed(data={"siz": 3}),
            r"data toy-embryo: no key 'siz' \(did you mean size\?\); there a",
        ),
        (changed(data={"border": "pet"}), "data toy-embryo: no key 'border'"),
        (changed(data={"split": "test"}), "data toy-embryo: no key 'split'"),
        (changed(data={"count": "many"}), "data.count: 'many' is not an integer or null"),
        (changed(model={"name": "unett"}), r"model: no network 'unett' \(did you mean unet\?\)"),
        (changed(model={"name": "smp.Unet"}), "model: no network 'smp.Unet'"),
        (
            changed(model={"widht": 8}),
            r"model unet: no key 'widht' \(did you mean width\?\); there a",
        ),
        (changed(model={"width": "wide"}), "model.width: 'wide' is not an integer"),
        (changed(fit={"epoch": 3}), r"fit: no key 'epoch' \(did you mean epochs\?\); there are: "),
        (changed(fit={"epochs": 2.5}), "fit.epochs: 2.5 is not an integer"),
        (changed(fit={"epochs": True}), "fit.epochs: True is not an integer"),
        (changed(fit={"lr": "fast"}), "fit.lr: 'fast' is not a number"),
        (changed(fit={"model": "unet"}), "fit: no key 'model'"),
        (changed(fit={"loss": "dise"}), r"fit.loss: no loss 'dise' \(did you mean dice\?\)"),
        (changed(fit={"loss": {"focal": {"gama": 3}}}), r"fit.loss focal: no key 'gama' \(did you"),
        (
            changed(fit={"loss": {"bce": {"pos_weight": "x"}}}),
            "fit.loss.pos_weight: 'x' is not a n",
        ),
        (changed(fit={"schedule": "cos"}), "fit.schedule: no schedule 'cos'"),
        (
            changed(fit={"schedule": {"name": "poly", "gamma": 1}}),
            "fit.schedule: poly has no option",
        ),
        (changed(fit={"schedule": {"name": "poly", "power": "x"}}), "fit.schedule.power: 'x' is n"),
        (SMALL | {"threshold": 1.5}, "threshold: 1.5 is neither"),
        (SMALL | {"threshold": "best"}, "threshold: 'best' is neither"),
    ],
)
def test_what_does_not_exist_is_refused_before_anything_is_loaded(monkeypatch, asked, message):
    monkeypatch.setattr(config, "open_split", lambda *_: pytest.fail("data were loaded"))
    with pytest.raises(ConfigError, match=message):
        config.from_config(asked)


def test_numbers_that_yaml_takes_for_text_are_numbers():
    asked = yaml.safe_load("{lr: 1e-3, weight_decay: 1e-4, ema: null, epochs: 3}")
    assert asked["lr"] == "1e-3"
    found = config.checked(changed(fit=asked))
    assert found["fit"]["lr"] == 1e-3 and found["fit"]["weight_decay"] == 1e-4
    assert found["threshold"] == "validation"
    assert config.checked(SMALL | {"threshold": "0.3"})["threshold"] == 0.3


def test_files_are_yaml_or_json(tmp_path):
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(SMALL))
    (tmp_path / "a.json").write_text(json.dumps(SMALL))
    assert config.read(tmp_path / "a.yaml") == config.read(tmp_path / "a.json") == SMALL
    wrong = {"list.yaml": "[1]", "bad.yaml": "a: [", "bad.json": "{", "bad2.yaml": "a: !!python/x"}
    for name, text in wrong.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(ConfigError, match=name):
            config.read(tmp_path / name)
    (tmp_path / "picture.yaml").write_bytes(b"\x89PNG\xff\x00")
    for name in ("picture.yaml", "none.yaml"):
        with pytest.raises(ConfigError, match=f"{name}: cannot be read as a config"):
            config.read(tmp_path / name)


def test_a_key_that_stands_twice_is_refused(tmp_path):
    (tmp_path / "a.yaml").write_text("a: &a {lr: 1}\nfit: {<<: *a, lr: 2}\ndata: {lr: 3}")
    assert config.read(tmp_path / "a.yaml")["fit"] == {"lr": 2}, "one in each part is one"
    (tmp_path / "a.yaml").write_text("fit: {lr: 1, epochs: 3, lr: 2}")
    with pytest.raises(ConfigError, match=r"a\.yaml: .*lr stands twice in one part"):
        config.read(tmp_path / "a.yaml")


def test_a_part_too_large_to_print_is_refused_at_once():
    bomb = ["x"]
    for _ in range(60):
        bomb = [bomb, bomb]
    for asked in ({"data": bomb}, SMALL | {"threshold": bomb}, changed(fit={"lr": bomb})):
        with pytest.raises(ConfigError) as caught:
            config.checked(asked)
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
    assert config.source(str(tmp_path / "c.yaml")) == SMALL["data"]
    with pytest.raises(ConfigError, match=r"d\.yaml: has no part data"):
        config.source(str(tmp_path / "d.yaml"))
    with pytest.raises(
        ConfigError, match=r"toy-xrai is neither .*no data set .*\(did you mean toy-xray"
    ):
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
    assert (
        config.for_model({"name": "toy-pets", "border": "ignore"}, metadata)["border"] == "ignore"
    )


def test_entries_override_and_leave_what_was_given_alone():
    asked = {"data": {"name": "toy-xray"}, "fit": None}
    found = config.apply_overrides(asked, {"fit.lr": 1, "model.name": "unet", "threshold": 0.5})
    assert found == {
        "data": {"name": "toy-xray"}, "fit": {"lr": 1}, "model": {"name": "unet"}, "threshold": 0.5
    }  # fmt: skip
    assert asked == {"data": {"name": "toy-xray"}, "fit": None}
    with pytest.raises(ConfigError, match=r"data.name.x: name is 'toy-xray', which has no entries"):
        config.apply_overrides(asked, {"data.name.x": 1})
    assert config.apply_overrides(asked, {"fit.lr": 1}, {"fit.lr": 2})["fit"] == {"lr": 2}


def test_losses_are_built_from_their_names():
    assert isinstance(config.fit_arguments({"loss": {"dice": {}}})["loss"], losses.DiceLoss)
    combined = config.fit_arguments({"loss": {"bce": None, "focal": {"gamma": "3e0"}}})["loss"]
    assert combined.weights == [1.0, 1.0] and combined.losses[1].gamma == 3.0
    assert config.checked(changed(fit={"loss": "dice"}))["fit"]["loss"] == {"dice": {}}


def test_a_schedule_with_options_has_the_warm_up_too():
    part = {"schedule": {"name": "cosine", "floor": "1e-5"}, "warmup": 2.0, "epochs": 3}
    trained = [
        config.from_config(changed(fit=part | entries), log=None).history["lr"]
        for entries in (
            {},
            {"schedule": part["schedule"] | {"warmup": 2}, "warmup": 0.0},
            {"warmup": 0.0},
        )
    ]
    assert trained[0] == trained[1] != trained[2]
    with pytest.raises(SegkitError, match=r"warmup=1\.0, but the schedule has its own: 2"):
        config.from_config(
            changed(fit=part | {"schedule": {"name": "poly", "warmup": 2}, "warmup": 1.0})
        )


def test_a_network_of_another_library_is_built_with_its_own_seed():
    pytest.importorskip("segmentation_models_pytorch")
    spec = {"name": "smp.Unet", "encoder_name": "resnet18", "encoder_weights": None}
    state = torch.get_rng_state()
    one, two, other = (
        next(config.build_model(spec | {"seed": seed}, 1, 2).parameters()) for seed in (0, 0, 1)
    )
    assert torch.equal(one, two) and not torch.equal(one, other) and one.shape[1] == 1
    assert torch.equal(torch.get_rng_state(), state)


def test_each_split_has_its_own_count():
    part = SMALL["data"] | {"transform": "light", "test_count": 5}
    sizes = {split: len(config.open_split(part, split)) for split in ("train", "val", "test")}
    assert sizes == {"train": 16, "val": 6, "test": 5}
    assert config.open_split(part, "train").transform.steps
    assert not config.open_split(part, "val").transform.steps
    assert len(config.open_split(part, "test", 3)) == 3
    assert len(config.open_split(SMALL["data"], "test")) == 64
    with pytest.raises(ConfigError, match=r"no split 'tset' \(did you mean test\?\)"):
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

    cut = config.from_config(changed(fit={"out": "cut"}, threshold=0.25), stop_after_one)
    assert cut.history.stopped.startswith("interrupted") and cut.metadata.threshold == 0.25
    again = config.read("cut/train.yaml")
    assert "resume" not in again["fit"]
    done = config.from_config(config.apply_overrides(again, {"fit.resume": True}), None)
    assert done.metadata.threshold == 0.25 and not done.history.stopped
    for name, value in load_model("cut/model.safetensors")[0].state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name


def test_where_nothing_can_be_trained_nothing_is_left(tmp_path):
    asked = changed(fit={"out": str(tmp_path / "out")}, data={"count": 0})
    with pytest.raises((ValueError, DataError), match="count=0"):
        config.from_config(asked)
    assert not (tmp_path / "out").exists()
