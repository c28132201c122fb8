"""The model that comes with the course: it loads by name, and does what its card says."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
from calls import main
from PIL import Image

from segkit import data, paths
from segkit.data import photos
from segkit.errors import CheckpointError
from segkit.evaluate import evaluate, summary
from segkit.model_file import ModelMetadata, load_model, save_model
from segkit.models import build
from segkit.predict import Predictor

FOLDER = paths.root() / "data" / "models"


@pytest.fixture(scope="module")
def pets():
    return load_model("pets")


def iou(prediction: np.ndarray, target: np.ndarray) -> float:
    return (prediction & target).sum() / (prediction | target).sum()


def test_it_loads_by_name_from_any_folder(tmp_path, monkeypatch, pets):
    monkeypatch.chdir(tmp_path)
    _, metadata = load_model("pets")
    assert metadata == pets[1] and metadata.class_names == ("background", "pet")
    assert (FOLDER / "pets.safetensors").stat().st_size < 2_000_000
    with pytest.raises(CheckpointError, match=r"cats: there is no such file; models .*: pets$"):
        load_model("cats")
    (tmp_path / "pets").mkdir()  # a folder of that name is no file
    assert load_model(Path("pets"))[1] == metadata


def test_a_file_of_that_name_wins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    other = data.load("toy-embryo", size=32, count=2)
    save_model("pets", build("dumbnet", 1), ModelMetadata.of(other, "dumbnet"))
    assert load_model("pets")[1].network == "dumbnet"


def test_the_cat_of_scikit_image_is_segmented(pets):
    image, target, _ = photos.annotated("chelsea")
    assert iou(Predictor.load("pets", "cpu").mask(image) == 1, target == 1) >= 0.85


def test_the_command_line_predicts_with_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(photos.load("chelsea")).save("photo.png")
    assert main(monkeypatch, "predict", "pets", "photo.png", "--out", "masks") == 0
    mask = np.array(Image.open("masks/photo.png"))
    assert mask.shape == (300, 451) and set(np.unique(mask)) == {0, 1}


def test_it_was_trained_on_no_test_image_and_names_no_machine(pets):
    metadata = pets[1]
    assert len(metadata.trained_on) == 372 == metadata.notes["training"]["images"]
    assert not re.search(r"/(?:home|root|tmp|work|Users)/", metadata.to_json())


def test_its_card_has_the_scores_in_the_file(pets):
    text = (FOLDER / "pets.md").read_text("utf-8")
    notes = pets[1].notes
    for name in ("IoU", "Dice"):
        score = notes["test"]["scores"][name]
        row = f"| {name} | {score['value']:.3f} | {score['low']:.3f} to {score['high']:.3f} |"
        assert row in text
    assert f"{notes['test']['images']} images" in text
    assert f"{notes['training']['processor seconds']} seconds" in text


@pytest.mark.skipif("SEGKIT_REAL_DATA" not in os.environ, reason="needs SEGKIT_REAL_DATA: the pets")
def test_its_scores_are_measured_again(pets):
    model, metadata = pets
    root = os.environ["SEGKIT_REAL_DATA"]
    test = data.load("oxford-pet", "test", metadata.size[0], border="pet", data_dir=root)
    found = evaluate(model, metadata, test)
    assert not found.warnings()
    expected = metadata.notes["test"]["scores"]["IoU"]
    assert summary(found)["scores"]["IoU"]["value"] == pytest.approx(expected["value"], abs=1e-3)
