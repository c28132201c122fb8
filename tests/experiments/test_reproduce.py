"""The whole way, from a command to a ledger, with designs that train in moments."""

import json

import pytest
from tiny import LOSS, design, real_data
from typer.testing import CliRunner

from segkit import cli
from segkit.experiments import designs, ledger
from segkit.experiments.analysis import read
from segkit.experiments.grid import Design, merged, named
from segkit.experiments.run import run

RUN = CliRunner()


@pytest.fixture
def small(monkeypatch):
    """Put one small design in the place of the quick profile."""
    made = design(loss=LOSS)
    monkeypatch.setitem(designs.GROUPS, "quick", lambda: [made])
    monkeypatch.setattr(ledger, "claims", list)
    return made


def test_reproduce_runs_what_is_missing_and_writes_the_ledger(small, tmp_path):
    for expected in ("4 of 4 runs are done", "4 of 4 runs are done"):
        done = RUN.invoke(cli.app, ["reproduce", "--out", str(tmp_path), "--jobs", "1"])
        assert done.exit_code == 0 and expected in done.output
        found = ledger.read(tmp_path)["profiles"]["quick"]
        assert (found["runs"], found["missing"]) == (4, 0)
        assert set(found["scores"]["tiny"]) == {"bce", "dice"}
    assert (tmp_path / "ledger.md").read_text().startswith(ledger.MADE)
    assert len((tmp_path / "runs.csv").read_text().splitlines()) == 1 + 4


def test_without_time_nothing_is_done_and_the_exit_code_says_so(small, tmp_path):
    left = RUN.invoke(cli.app, ["reproduce", "--out", str(tmp_path), "--minutes", "0"])
    assert left.exit_code == 1 and "4 are left: call again to go on" in left.output
    assert ledger.read(tmp_path)["profiles"]["quick"]["missing"] == 4


def test_what_does_not_exist_is_refused_before_anything_runs(tmp_path):
    with pytest.raises(ValueError, match="no profile 'huge'; there are: quick, full"):
        designs.chosen("huge")
    with pytest.raises(ValueError, match="no design abi; there are: abi2024 own, abi2024, "):
        designs.chosen("quick", ["abi", "quality"])
    assert [d.name for d in designs.chosen("full", ["quality", "amp"])] == ["quality", "amp"]
    assert "quality" not in [d.name for d in designs.chosen("full")]


def shrunk(chosen: Design) -> Design:
    """Return a full-size design at 32 pixels, for one epoch, without weights to download."""
    model = chosen.base.get("model", {"name": ""})
    patch = {"data.size": 32, "fit.epochs": 1, "fit.batch_size": 4, "fit.precision": "fp32"}
    patch |= {"model.pretrained": False} if "pretrained" in model else {}
    patch |= {"model.encoder_weights": None} if "encoder_weights" in model else {}
    patch |= {"model.width": 4} if model["name"] == "unet" else {}
    factors = {
        factor: {
            level: {
                name: {**value, **{k: 4 for k in ("width", "filters") if k in value}}
                if name == "model" else value
                for name, value in levels[level].items() if name != "fit.precision"
            }
            for level in levels
        }
        for factor, levels in chosen.factors.items()
    }  # fmt: skip
    return Design(chosen.name, merged(chosen.base, patch), factors, (0,))


@pytest.mark.slow
@pytest.mark.parametrize(
    "chosen", [*designs.full(), *designs.quality()], ids=lambda chosen: chosen.name
)
def test_the_full_profile_runs_on_stand_ins_in_the_formats_of_the_real_data(
    chosen, tmp_path, monkeypatch
):
    monkeypatch.setenv("SEGKIT_DATA", str(tmp_path / "cache"))
    if chosen.name in ("deb", "smp notebook", "quality"):
        pytest.importorskip("segmentation_models_pytorch")
    small = shrunk(chosen)
    config = small.config(small.cells()[-1], 0)
    file = run(config, tmp_path, real_data(tmp_path / "data"))
    found = json.loads(file.read_text())
    if config["data"].get("rule") == "sorted":
        assert found["test"] is None
    else:
        images = len(found["test"][0])
        assert images == (8 if config["data"]["name"] == "oxford-pet" else 2)
    assert read(tmp_path) and list(named([config])) == [file.stem]


def test_a_folder_that_was_not_given_is_asked_for(tmp_path):
    teeth = next(d for d in designs.full() if d.name == "pdr-unet")
    with pytest.raises(ValueError, match="where is the folder teeth-xray"):
        run(teeth.config(teeth.cells()[0], 0), tmp_path)
