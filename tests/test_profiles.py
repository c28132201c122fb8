"""The two profiles, and the scale of the larger one."""

import pytest

from segkit import profile
from segkit.errors import ArgumentError
from segkit.profiles import PROFILES


@pytest.fixture
def scaled(monkeypatch):
    def at(scale):
        monkeypatch.setenv("SEGKIT_FULL_SCALE", scale)
        return profile("full")

    return at


def test_without_the_variable_full_is_whole(monkeypatch):
    monkeypatch.delenv("SEGKIT_FULL_SCALE", raising=False)
    full = profile("full")
    assert full == PROFILES["full"]
    assert (full.size, full.width, full.batch, full.scale) == (256, 64, 32, 1)
    assert (full.train, full.val, full.test) == (4000, 500, 1000)
    assert full.pick(quick=3, full=None) is None
    assert full.pick(quick=(1, "a"), full=(2, "b")) == (2, "b")


def test_the_scale_shrinks_sizes_counts_and_epochs_towards_quick(scaled):
    half = scaled("0.5")
    assert (half.name, half.size, half.width, half.batch) == ("full", 160, 36, 24)
    assert half.pick(quick=10, full=30) == 20
    assert half.pick(quick=48, full=None) == 48  # "all" would be no smaller
    assert half.pick(quick={"train": 96, "val": None}, full={"train": None, "val": None}) == {
        "train": 96,
        "val": None,
    }
    assert half.pick(quick=(6, 3), full=(64, 4)) == (35, 4)
    assert half.pick(quick=True, full=False) is False and half.pick(quick="a", full="b") == "b"
    assert half.pick(quick=0.1, full=0.3) == pytest.approx(0.2)
    nothing = scaled("0")
    sizes = {name: value for name, value in vars(nothing).items() if name not in ("name", "scale")}
    assert sizes.items() <= vars(PROFILES["quick"]).items()


def test_quick_has_no_scale(monkeypatch):
    monkeypatch.setenv("SEGKIT_FULL_SCALE", "0.5")
    assert profile("quick") == PROFILES["quick"]


@pytest.mark.parametrize("text", ["2", "-0.1", "half", "nan", ""])
def test_a_scale_that_is_no_share_is_refused(scaled, text):
    with pytest.raises(ArgumentError, match=r"SEGKIT_FULL_SCALE=.*a number from 0 to 1"):
        scaled(text)
