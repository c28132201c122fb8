from copy import deepcopy

from tiny import BASE, LOSS, RATE, design

from segkit.experiments import designs
from segkit.experiments.grid import merged, name_of, named


def test_every_combination_for_every_seed_and_all_cells_before_the_next_seed():
    made = design(loss=LOSS, rate=RATE)
    assert made.cells() == [
        {"loss": "bce", "rate": "slow"},
        {"loss": "bce", "rate": "fast"},
        {"loss": "dice", "rate": "slow"},
        {"loss": "dice", "rate": "fast"},
    ]
    configs = list(made.configs())
    assert [c["fit"]["seed"] for c in configs] == [0] * 4 + [1] * 4
    assert [c["model"]["seed"] for c in configs] == [0] * 4 + [1] * 4
    assert configs[1]["fit"]["loss"] == {"bce": {}} and configs[1]["fit"]["lr"] == 1e-2
    assert "seed" not in configs[1]["data"], "all runs are judged on the same images"


def test_a_design_leaves_what_it_was_made_of_alone():
    before = deepcopy((BASE, LOSS))
    config = next(design(loss=LOSS).configs())
    config["fit"]["loss"]["bce"]["pos_weight"] = 3
    assert before == (BASE, LOSS)


def test_a_name_is_of_the_content_not_of_its_order():
    config = next(design().configs())
    turned = {part: dict(reversed(list(value.items()))) for part, value in config.items()}
    assert name_of(config) == name_of(dict(reversed(list(turned.items()))))
    others = [merged(config, {"fit.lr": 1e-3}), merged(config, {"data.size": 17})]
    assert len({name_of(c) for c in [config, *others]}) == 3


def test_what_designs_share_is_run_once():
    two = [design(loss=LOSS), design(loss={"dice": LOSS["dice"]})]
    assert len(named(c for d in two for c in d.configs())) == 4


def test_the_quick_grid_is_mostly_the_three_factor_design():
    quick = {d.name: d for d in designs.quick()}
    factors = {name: list(levels) for name, levels in quick["abi2024"].factors.items()}
    assert factors == {
        "down": ["maxpool", "strided"],
        "up": ["transposed", "nearest"],
        "loss": ["bce", "dice"],
    }
    assert len(list(quick["abi2024"].configs())) == 24


def test_every_run_says_its_precision():
    for group in designs.GROUPS.values():
        for made in group():
            for config in made.configs():
                assert config["fit"]["precision"] in ("fp32", "bf16", "fp16"), made.name
