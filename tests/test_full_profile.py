"""The full profile's code at the sizes of quick: `pytest -m full`, some minutes. `make full` runs
all lessons so.
"""

import os

import pytest

from segkit import course

# A first training, counts beyond the data, many runs compared, a config with trackers, own files.
LESSONS = ["00", "07", "11", "12", "20"]
REAL = os.environ.get("SEGKIT_REAL_DATA")
DATASETS = [{}, {"dataset": "oxford-pet", "data_dir": REAL}]


@pytest.mark.full
@pytest.mark.timeout(600)
@pytest.mark.parametrize("data", DATASETS, ids=["own data", "real pets"])
@pytest.mark.parametrize("number", LESSONS)
def test_a_lesson_runs_in_full(tmp_path, monkeypatch, number, data):
    if data and not REAL:
        pytest.skip("SEGKIT_REAL_DATA does not name the folder of the real pets")
    monkeypatch.setenv("SEGKIT_FULL_SCALE", "0")
    chosen = course.arguments(course.find([number]), {"profile": "full", **data})
    (outcome,) = course.run(chosen, tmp_path, pages=False)
    assert outcome.status == "passed", outcome.error
