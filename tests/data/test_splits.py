import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segkit.data import splits
from segkit.errors import DataError

FRACTIONS = (0.7, 0.15, 0.15)
BREEDS = np.repeat(["Abyssinian", "Bengal", "pug", "shiba"], [120, 60, 15, 5])


def everything(parts):
    return np.sort(np.concatenate(parts)).tolist()


@pytest.mark.parametrize(
    "split",
    [
        lambda seed: splits.random_split(len(BREEDS), FRACTIONS, seed),
        lambda seed: splits.stratified_split(BREEDS, FRACTIONS, seed),
        lambda seed: splits.grouped_split(np.arange(len(BREEDS)) // 4, FRACTIONS, seed),
    ],
    ids=["random", "stratified", "grouped"],
)
def test_a_split_is_complete_seeded_and_of_the_right_size(split):
    parts = split(3)
    assert everything(parts) == list(range(200))
    assert [len(part) for part in parts] == pytest.approx([140, 30, 30], abs=4)
    assert all(np.array_equal(a, b) for a, b in zip(parts, split(3), strict=True))
    assert not np.array_equal(parts[1], split(4)[1])
    assert all((np.diff(part) > 0).all() for part in parts)


def test_sorted_split_keeps_the_order_and_so_loses_breeds():
    train, _, test = splits.sorted_split(200, FRACTIONS)
    assert train.tolist() == list(range(140))
    assert set(BREEDS[test]) == {"Bengal", "pug", "shiba"}


@given(
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=12).filter(lambda s: sum(s) > 12),
    seed=st.integers(0, 99),
)
def test_stratified_parts_hold_the_labels_in_proportion(sizes, seed):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    parts = splits.stratified_split(labels, FRACTIONS, seed)
    assert everything(parts) == list(range(len(labels)))
    for part, fraction in zip(parts, FRACTIONS, strict=True):
        counts = np.bincount(labels[part], minlength=len(sizes))
        assert np.abs(counts - fraction * np.array(sizes)).max() <= 3


def test_stratified_gives_a_rare_label_to_each_part_in_turn():
    labels = ["rare"] + ["common"] * 99
    where = [int(splits.stratified_split(labels, (0.5, 0.5), s)[1][0] == 0) for s in range(200)]
    assert 60 < sum(where) < 140


@given(sizes=st.lists(st.integers(1, 9), min_size=30, max_size=60), seed=st.integers(0, 99))
def test_no_group_is_split_and_the_sizes_come_near(sizes, seed):
    groups = np.repeat(np.arange(len(sizes)), sizes)
    parts = splits.grouped_split(groups, FRACTIONS, seed)
    assert splits.leakage(parts, groups=groups).clean
    assert everything(parts) == list(range(len(groups)))
    wanted = np.array(FRACTIONS) * len(groups)
    assert np.abs([len(part) for part in parts] - wanted).max() <= 9


@pytest.mark.parametrize("groups", range(3, 9))
def test_few_groups_or_items_are_split_as_long_as_every_part_can_have_one(groups):
    for seed in range(30):
        sizes = np.random.default_rng(seed).integers(1, 10, groups)
        for labels in (np.repeat(np.arange(groups), sizes), np.repeat(np.arange(groups), 10)):
            parts = splits.grouped_split(labels, FRACTIONS, seed)
            assert everything(parts) == list(range(len(labels))) and min(map(len, parts)) > 0
            assert splits.leakage(parts, groups=labels).clean
        for parts in (splits.random_split(groups, FRACTIONS, seed), splits.sorted_split(groups)):
            assert everything(parts) == list(range(groups)) and min(map(len, parts)) > 0
    assert [len(part) for part in splits.sorted_split(4)] == [2, 1, 1]
    assert [len(part) for part in splits.sorted_split(20, (0.5, 0.01, 0.49))] == [10, 1, 9]


@pytest.mark.parametrize("fractions", [(0.7, 0.2), (1.2, -0.2), (float("nan"), 1.0), "abc"])
def test_fractions_must_not_be_negative_and_add_up(fractions):
    with pytest.raises(ValueError, match="must not be negative, and add up to 1"):
        splits.random_split(10, fractions)


@pytest.mark.parametrize("fractions", [(0.8, 0.2, 0.0), (0.0, 0.5, 0.5), (1.0, 0.0)])
def test_a_fraction_of_nothing_is_an_empty_part(fractions):
    for parts in (
        splits.random_split(10, fractions),
        splits.stratified_split(list("aaaaabbbbb"), fractions),
        splits.grouped_split(list("abcdefghij"), fractions),
    ):
        assert [len(part) for part in parts] == [round(10 * share) for share in fractions]
        assert sorted(np.concatenate(parts).tolist()) == list(range(10))


def test_an_empty_part_is_refused():
    with pytest.raises(DataError, match=r"2 items cut into parts of 1, 1, 0: none may be empty"):
        splits.random_split(2, FRACTIONS)
    with pytest.raises(DataError, match="bring more items or groups"):
        splits.grouped_split(["a"] * 50, FRACTIONS)


def test_sample_is_seeded_in_proportion_and_exact():
    chosen = splits.sample(200, 40, seed=1, labels=BREEDS)
    assert len(set(chosen)) == 40
    assert np.unique(BREEDS[chosen], return_counts=True)[1] == pytest.approx([24, 12, 3, 1], abs=1)
    assert chosen.tolist() == splits.sample(200, 40, seed=1, labels=BREEDS).tolist()
    assert chosen.tolist() != splits.sample(200, 40, seed=2, labels=BREEDS).tolist()
    with pytest.raises(DataError, match="count=0: choose 1 to 200"):
        splits.sample(200, 0)


def test_a_count_beyond_the_items_takes_all_and_says_so():
    with pytest.warns(UserWarning, match="count=201, but there are 200 items: all 200 are used"):
        assert splits.sample(200, 201, seed=1, labels=BREEDS).tolist() == list(range(200))


def test_leakage_finds_each_kind_and_names_it():
    images = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), dtype=np.uint8)
    images[5] = images[1]
    report = splits.leakage([[0, 1, 2], [2, 3], [4, 5]], groups=list("abcadd"), images=images)
    assert tuple(report) == ([2], ["a", "c"], [(1, 5)]) and not report.clean
    assert str(report) == (
        "leak: 1 items in several parts: 2; 2 groups in several parts: a, c; "
        "1 identical images: 1 = 5"
    )


def test_leakage_is_silent_on_a_clean_split():
    images = np.arange(6, dtype=np.uint8).reshape(6, 1, 1)
    images[1] = images[0]  # twice in one part: a duplicate, not a leak
    report = splits.leakage([[0, 1, 2], [3], [4, 5]], groups=list("aaabcc"), images=images)
    assert report.clean and str(report) == "no leak found"
