"""The committed records are complete, and say what their own numbers say."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from segkit import models, paths
from segkit.models.inspect import parameters

RESULTS = Path(__file__).parent.parent / "figures" / "results"
NETWORKS = ("pdr_unet", "unet", "fusionnet")


@pytest.fixture(scope="module")
def text() -> str:
    return (RESULTS / "xray_record.json").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def xray(text: str) -> dict:
    return json.loads(text)


def test_the_xray_record_says_how_it_was_made(text: str, xray: dict) -> None:
    assert (RESULTS.parent.parent / xray["command"].split()[-1]).is_file()
    assert xray["hardware"]["device"] and xray["hardware"]["threads"] >= 1
    assert xray["versions"]["torch"] and xray["versions"]["python"]
    assert all(count > 0 for count in xray["data"]["images"].values())
    assert not re.search(r"/(?:home|root|tmp|work|Users)/", text), "holds a path of one machine"
    assert (RESULTS / "xray_record.png").stat().st_size < 100_000


@pytest.mark.parametrize("name", NETWORKS)
def test_the_xray_record_counts_the_networks_that_segkit_builds(name: str, xray: dict) -> None:
    found = xray["networks"][name]
    assert found["parameters"] == parameters(models.build(name, 1, 1, **found["options"]))
    assert found["published_parameters"] == parameters(models.build(name, 1, 1))
    assert found["peak_bytes"] > 4 * found["parameters"]


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_of_the_xray_record_had_the_same_budget(name: str, xray: dict) -> None:
    budget, found = xray["budget"], xray["networks"][name]
    assert [float(rate) for rate in found["search"]] == budget["rates"]
    assert found["search"][f"{found['rate']:g}"] == max(found["search"].values())
    assert [run["seed"] for run in found["runs"]] == budget["seeds"]
    for run in found["runs"]:
        assert run["rate"] == found["rate"] and run["seconds"] > 0
        assert len(run["val_dice"]) == budget["epochs"]
        assert all(0 <= dice <= 1 for dice in (*run["val_dice"], run["test_dice"]))


def test_the_target_of_the_xray_record_follows_from_its_curves(xray: dict) -> None:
    best = [max(run["val_dice"]) for run in xray["networks"]["unet"]["runs"]]
    target = xray["target"]
    assert target == pytest.approx(xray["target_share"] * sum(best) / len(best), abs=1e-4)
    for network in xray["networks"].values():
        for run in network["runs"]:
            reached = [epoch for epoch, dice in enumerate(run["val_dice"], 1) if dice >= target]
            assert run["epochs_to_target"] == (reached[0] if reached else None)


# ---------------------------------------------------------------- real pets, by pretraining

METHODS = ("from scratch", "frozen", "fine-tuned")
TIMM = ("pretrained_unet", "smp")


@pytest.fixture(scope="module")
def pets() -> dict:
    return json.loads((RESULTS / "pets_record.json").read_text(encoding="utf-8"))


def test_the_pets_record_says_how_it_was_made(pets: dict) -> None:
    text = json.dumps(pets)
    assert pets["hardware"]["device"] and pets["versions"]["torch"] and pets["versions"]["timm"]
    assert not re.search(r"/(?:home|root|tmp|work|Users)/", text), "holds a path of one machine"
    for run in pets["runs"].values():
        assert run["seconds"] > 0 and run["threads"] >= 1 and 0 < run["test_iou"] < 1


@pytest.mark.parametrize("name", METHODS)
def test_the_pets_record_has_three_seeds_of_each_method(name: str, pets: dict) -> None:
    for seed in range(3):
        run = pets["runs"][f"ablation, {name}, {seed}"]
        assert run["recipe"]["seed"] == seed and run["images"] == 298
        assert len(run["val_iou"]) == run["recipe"]["epochs"]
        for count in (4, 8, 16, 32, 64, 128, 372):
            run = pets["runs"][f"labels, {name}, {count} images, {seed}"]
            assert run["images"] == count and run["recipe"]["seed"] == seed


@pytest.mark.parametrize(
    "name", ["ablation, U-Net from scratch", "ablation, frozen", "final, final"]
)
def test_the_readme_states_the_pets_record(name: str, pets: dict) -> None:
    runs = [pets["runs"][f"{name}, {seed}"] for seed in range(3)]
    ious, minutes = (
        [run["test_iou"] for run in runs],
        np.mean([run["seconds"] for run in runs]) / 60,
    )
    half = 4.303 * np.std(ious, ddof=1) / np.sqrt(3)  # t of two degrees of freedom
    minutes = f"{minutes:.1f}" if minutes < 10 else f"{minutes:.0f}"
    row = f"| {np.mean(ious):.3f} ± {half:.3f} | {minutes} |"
    assert row in (paths.root() / "README.md").read_text("utf-8"), row


def test_the_names_of_the_pets_record_fit_their_recipes(pets: dict) -> None:
    network = models.build("pretrained_unet")
    for name, run in pets["runs"].items():
        recipe = run["recipe"]
        if recipe["network"] == "pretrained_unet":
            assert run["parameters"] == parameters(network)
        assert ("from scratch" in name) == (
            recipe.get("weights", "imagenet") is None or recipe["network"] not in TIMM
        )
        assert ("frozen" in name or name.startswith("final")) == (recipe["encoder_lr"] == 0)


def test_the_dlmbl_record_has_both_networks_at_equal_time() -> None:
    record = json.loads((RESULTS / "dlmbl_record.json").read_text(encoding="utf-8"))
    assert not re.search(r"/(?:home|root|tmp|work|Users)/", json.dumps(record))
    theirs, ours = record["rows"][::2], record["rows"][1::2]
    assert [row["seed"] for row in theirs] == [row["seed"] for row in ours] == [0, 1, 2]
    for one, other in zip(theirs, ours, strict=True):
        assert one["parameters"] == 7705 and one["epochs"] == 25
        assert other["seconds"] < 1.15 * one["seconds"]
        assert other["dice"]["data set"] > one["dice"]["data set"]
        # where the network of two feature maps says the same everywhere, it is not a score
        assert (one["spread"] < 1) == (one["dice"]["data set"] < 0.1)
