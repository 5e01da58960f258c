import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from afr_clip.cli.command import config_dir
from afr_clip.config.schema import register
from afr_clip.config.validate import ConfigError
from afr_clip.sweep.plan import digest_of, make_plan, plan_cells, reference_of, results_of, trainings

TINY = ("backbone=tiny",)


@pytest.fixture(scope="module", autouse=True)
def _configs() -> Iterator[None]:
    register()
    with initialize_config_dir(config_dir(), version_base="1.3"):
        yield


@pytest.fixture
def planned(tmp_path: Path) -> Callable:
    def plan(*typed: str, seeds=(0,), leave_out=()):
        made = make_plan([*TINY, *typed], tmp_path)
        return made, plan_cells(made, seeds, leave_out)

    return plan


def test_a_table_has_a_cell_for_every_row_and_seed(planned):
    plan, cells = planned("experiment=table6", "optimizer.lr=0.01", seeds=(0, 2))
    assert [(cell.setting, cell.seed) for cell in cells] == [
        ("table6_1", 0), ("table6_1", 2), ("table6_3", 0), ("table6_3", 2), ("table6_5", 0), ("table6_5", 2)
    ]  # fmt: skip
    assert (plan.experiment, plan.overrides) == ("table6", (*TINY, "experiment=table6", "optimizer.lr=0.01"))
    assert cells[1].overrides == (*plan.overrides, "ablation=table6_1", "seed=2")
    assert (cells[1].config.module.network.mpfa_window, cells[1].config.seed) == (1, 2)
    assert cells[1].folder == plan.folder / "cells" / f"table6_1-seed2-{cells[1].digest}"
    assert len({cell.digest for cell in cells}) == 6
    assert reference_of(plan, cells) == "table6_3"


def test_the_same_training_has_one_digest_in_every_table():
    def digest(ablation: str) -> str:
        return digest_of(compose("train", [*TINY, f"ablation={ablation}"]))

    full = {digest(name) for name in ("full", "table3_full", "table4_stages_1", "table5_both", "table6_3")}
    assert len(full) == 1
    assert digest("table3_cmfr_mpfa") == digest("table5_none") != digest("table3_cmfr_sp") == digest("table6_1")


def test_a_cell_that_is_there_under_another_name_keeps_its_folder(planned):
    _, cells = planned("experiment=table3")
    full = cells[-1].folder
    full.mkdir(parents=True)
    (renamed,) = planned("experiment=table6", leave_out=("table6_1", "table6_5"))[1]
    assert (renamed.setting, renamed.folder) == ("table6_3", full)


def test_the_digest_is_of_what_influences_numbers():
    config = compose("train", [*TINY, "logger=wandb"])

    def digest(key: str | None = None, value: object = None) -> str:
        changed = config.copy()
        if key is not None:
            OmegaConf.update(changed, key, value)
        return digest_of(changed)

    harmless = {"data_dir": "elsewhere", "num_threads": 3, "save_maps": True, "data.num_workers": 0, "run_dir": "a"}
    for key, value in (harmless | {"logger.wandb.project": "mine", "logger.wandb": None}).items():
        assert digest(key, value) == digest(), key
    decisive = {"trainer.max_epochs": 3, "seed": 1, "dataset.name": "mpdd", "dataset.root": "elsewhere"}
    for key, value in (decisive | {"protocol.targets": ["visa"], "module.network.mpfa_window": 5}).items():
        assert digest(key, value) != digest(), key


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("seed=1", "seeds=[...]"),
        ("run_dir=a", "sweep_dir=DIR"),
        ("resume=true", "same command"),
        ("ablation=full", "what the sweep varies"),
        ("module.network.mpfa_window=5", "ablation=table6_1 sets it"),
    ],
)
def test_what_the_sweep_decides_itself_must_not_be_typed(planned, typed, words):
    with pytest.raises(ConfigError) as caught:
        planned("experiment=table6", typed)
    assert words in str(caught.value)
    assert typed.split("=")[0] in str(caught.value)


def test_a_group_may_be_typed_whose_keys_the_settings_change(planned):
    _, cells = planned("experiment=table6", "module=afr_clip")
    assert [cell.config.module.network.mpfa_window for cell in cells] == [1, 3, 5]


def test_a_setting_that_the_backbone_does_not_allow_is_refused_before_anything_runs(planned):
    with pytest.raises(ConfigError, match=r"table4_stages_1_3 cannot run: .*stages must lie in 1\.\.2"):
        planned("experiment=table4", "backbone.tap_layers=[1,2]")


@pytest.mark.parametrize("seeds", [(), (1, 1), (-1,)])
def test_seeds_must_be_different_numbers(planned, seeds):
    with pytest.raises(ConfigError, match="seeds must be different numbers"):
        planned("experiment=table6", seeds=seeds)


def test_a_sweep_needs_an_experiment_and_settings_that_exist(planned):
    with pytest.raises(ConfigError, match="experiment must name"):
        planned("optimizer.lr=1")
    with pytest.raises(ConfigError, match="leave_out must name settings of table6"):
        planned("experiment=table6", leave_out=("table6_7",))


def test_a_recipe_joins_a_table_and_only_one_of_them_may_vary(planned):
    plan, cells = planned("experiment=[table6,demo]")
    assert (plan.experiment, len(cells)) == ("table6", 3)
    config = cells[0].config
    assert (config.dataset.name, list(config.protocol.targets)) == ("demo", ["demo_unseen"])
    with pytest.raises(ConfigError, match="One experiment of a sweep may vary settings"):
        planned("experiment=[table6,table3]")


def test_an_experiment_that_varies_nothing_is_swept_over_its_seeds(planned):
    plan, cells = planned("experiment=smoke", seeds=(0, 1))
    assert [(cell.setting, cell.seed) for cell in cells] == [("smoke", 0), ("smoke", 1)]
    assert reference_of(plan, cells) is None


def test_runs_of_a_sweep_are_grouped_and_tagged_unless_that_is_typed(planned):
    _, cells = planned("experiment=table6", "logger=wandb")
    assert (cells[0].config.logger.wandb.group, cells[0].config.logger.wandb.tags) == ("table6", ["table6", "table6_1"])
    _, cells = planned("experiment=table6", "logger=wandb", "logger.wandb.group=mine")
    assert (cells[0].config.logger.wandb.group, len(cells[0].config.logger.wandb.tags)) == ("mine", 2)


def test_a_cell_with_legs_has_a_training_and_a_result_for_each(planned):
    _, cells = planned("experiment=table6", "protocol=cross_dataset", "protocol.targets=[]", leave_out=("table6_1", "table6_5"))  # fmt: skip  # noqa: E501
    assert results_of(cells[0].config) == ["visa/results.json", "mvtec_ad/results.json"]
    assert [leg.dataset.name for leg in trainings(cells[0].config)] == ["visa", "mvtec_ad"]


def test_only_decisive_overrides_must_stay_the_same(planned):
    plan, _ = planned("experiment=table6", "num_threads=1", "trainer.max_epochs=2", "data_dir=a")
    assert plan.decisive_overrides == sorted([*TINY, "experiment=table6", "trainer.max_epochs=2"])
    assert json.dumps(plan.axes.as_plain()) == '{"ablation": ["table6_1", "table6_3", "table6_5"]}'
