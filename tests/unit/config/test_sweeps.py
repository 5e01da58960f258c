import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from afr_clip.config.nodes import config_dir, register
from afr_clip.config.plan import training_job
from afr_clip.config.sweeps import digest_of, sweep_jobs
from afr_clip.config.validate import ConfigError
from afr_clip.reports.record.run_folder import write_json
from afr_clip.run.job import EvaluationJob, Record, TrainingJob
from afr_clip.sweep.job import SweepJob
from helpers.configs import plain

TINY = ("backbone=tiny",)


@pytest.fixture(scope="module", autouse=True)
def _configs():
    register()
    with initialize_config_dir(config_dir(), version_base="1.3"):
        yield


@pytest.fixture
def all_planned(tmp_path: Path, monkeypatch) -> Callable[..., list[SweepJob]]:
    def plan(*typed: str, seeds=(0,), leave_out=()) -> list[SweepJob]:
        own = (f"sweep_dir={tmp_path}", f"seeds={list(seeds)}", f"leave_out={list(leave_out)}")
        config = compose("sweep", [*TINY, *typed, *own], return_hydra_config=True)
        monkeypatch.setattr(HydraConfig.instance(), "cfg", config)
        return sweep_jobs(config, [*TINY, *typed])

    return plan


@pytest.fixture
def planned(all_planned) -> Callable[..., SweepJob]:
    def plan(*typed: str, **more) -> SweepJob:
        (job,) = all_planned(*typed, **more)
        return job

    return plan


def test_a_table_has_a_cell_for_every_row_and_seed(planned):
    plan = planned("experiment=table6", "optimizer.lr=0.01", seeds=(0, 2))
    cells = plan.cells
    assert [(cell.setting, cell.seed) for cell in cells] == [
        ("table6_1", 0), ("table6_1", 2), ("table6_3", 0), ("table6_3", 2), ("table6_5", 0), ("table6_5", 2)
    ]  # fmt: skip
    assert (plan.experiment, plan.overrides) == ("table6", (*TINY, "experiment=table6", "optimizer.lr=0.01"))
    assert cells[1].overrides == (*plan.overrides, "ablation=table6_1", "seed=2")
    assert (cells[1].job.module.network.mpfa_window, cells[1].job.seed) == (1, 2)
    assert cells[1].folder == plan.folder / "cells" / f"table6_1-seed2-{cells[1].digest}"
    assert len({cell.digest for cell in cells}) == 6
    assert plan.reference == "table6_3"


def test_the_same_training_has_one_digest_in_every_table():
    def digest(ablation: str) -> str:
        return digest_of(plain(compose("train", [*TINY, f"ablation={ablation}"])))

    full = {digest(name) for name in ("full", "table3_full", "table4_stages_1", "table5_both", "table6_3")}
    assert len(full) == 1
    assert digest("table3_cmfr_mpfa") == digest("table5_none") != digest("table3_cmfr_sp") == digest("table6_1")


def test_a_cell_that_is_there_under_another_name_keeps_its_folder(planned):
    full = planned("experiment=table3").cells[-1].folder
    full.mkdir(parents=True)
    (renamed,) = planned("experiment=table6", leave_out=("table6_1", "table6_5")).cells
    assert (renamed.setting, renamed.folder) == ("table6_3", full)


def test_the_digest_is_of_what_influences_numbers():
    config = compose("train", [*TINY, "logger=wandb"])

    def digest(key: str | None = None, value: object = None) -> str:
        changed = config.copy()
        if key is not None:
            OmegaConf.update(changed, key, value)
        return digest_of(plain(changed))

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
        ("ablation=full", "is varied by the sweep"),
        ("module.network.mpfa_window=5", "ablation=table6_1 sets it"),
    ],
)
def test_what_the_sweep_decides_itself_must_not_be_typed(planned, typed, words):
    with pytest.raises(ConfigError) as caught:
        planned("experiment=table6", typed)
    assert words in str(caught.value)
    assert typed.split("=")[0] in str(caught.value)


def test_a_group_may_be_typed_whose_keys_the_settings_change(planned):
    cells = planned("experiment=table6", "module=afr_clip").cells
    assert [cell.job.module.network.mpfa_window for cell in cells] == [1, 3, 5]


def test_a_setting_whose_config_does_not_hold_is_refused_before_anything_runs(planned):
    with pytest.raises(
        ConfigError, match=r"^table6_1, table6_3, table6_5 cannot run: data\.mosaic must be from 0 to 1, got 2\.0"
    ):
        planned("experiment=table6", "data.mosaic=2")


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
    plan = planned("experiment=[table6,demo]")
    assert (plan.experiment, len(plan.cells)) == ("table6", 3)
    job = plan.cells[0].job
    assert (job.auxiliary.name, [target.name for target in job.targets]) == ("demo", ["demo_unseen"])
    with pytest.raises(ConfigError, match="Only one experiment of a sweep may vary settings"):
        planned("experiment=[table6,table3]")


def test_a_setting_may_join_several_ablations(planned):
    plan = planned("experiment=mechanism", "backbone.image_size=64")
    names = [cell.setting for cell in plan.cells]
    network = plan.cells[names.index("reading_unit_tokens+no_cmfr+no_sp+table6_3")].job.module.network
    assert (network.cmfr.enabled, network.self_prompting.is_active, network.mpfa_window) == (False, False, 3)
    assert (network.adapters.unit_tokens, network.scoring.temperature) == (True, 0.07)
    assert plan.reference == "full"
    with pytest.raises(ConfigError, match="ablation=no_cmfr sets it"):
        planned("experiment=mechanism", "module.network.cmfr.enabled=true")


def test_an_experiment_that_varies_nothing_is_swept_over_its_seeds(planned):
    plan = planned("experiment=smoke", seeds=(0, 1))
    assert [(cell.setting, cell.seed) for cell in plan.cells] == [("smoke", 0), ("smoke", 1)]
    assert plan.reference is None


def test_runs_of_a_sweep_are_grouped_and_tagged_unless_that_is_typed(planned):
    wandb = planned("experiment=table6", "logger=wandb").cells[0].job.logger.wandb
    assert (wandb.group, wandb.tags) == ("table6", ["table6", "table6_1"])
    wandb = planned("experiment=table6", "logger=wandb", "logger.wandb.group=mine").cells[0].job.logger.wandb
    assert (wandb.group, len(wandb.tags)) == ("mine", 2)


def test_a_cell_with_legs_has_a_training_and_a_result_for_each(planned):
    others = ("table6_1", "table6_5")
    (cell,) = planned("experiment=table6", "protocol=cross_dataset", "protocol.targets=[]", leave_out=others).cells
    assert cell.results == ["visa/results.json", "mvtec_ad/results.json"]
    assert [leg.auxiliary.name for leg in cell.runs] == ["visa", "mvtec_ad"]


def test_a_cell_that_an_earlier_version_ran_keeps_its_folder(planned):
    (cell,) = planned("experiment=smoke").cells
    old = cell.folder.with_name("smoke-seed0-0123456789ab")
    config = json.loads(json.dumps(cell.job.record.config))
    config["optimizer"]["_target_"] = {"adam": "torch.optim.Adam", "adamw": "torch.optim.AdamW"}[
        config["optimizer"].pop("name")
    ]
    config["schedule"]["_target_"] = f"afr_clip.training.schedule.{config['schedule'].pop('name')}"
    config["module"]["network"]["_target_"] = "afr_clip.models.afr_clip.network.AFRCLIP"
    write_json(old / "manifest.json", {"config": config})
    assert planned("experiment=smoke").cells[0].folder == old


def test_only_decisive_overrides_must_stay_the_same(planned):
    plan = planned("experiment=table6", "num_threads=1", "trainer.max_epochs=2", "data_dir=a")
    assert plan.decisive == sorted([*TINY, "experiment=table6", "trainer.max_epochs=2"])
    assert json.dumps(plan.axes) == '{"ablation": ["table6_1", "table6_3", "table6_5"]}'


def test_the_paper_is_its_methods_and_its_tables_in_one_folder(all_planned):
    jobs = all_planned("experiment=paper", "backbone.image_size=64", seeds=(0, 1, 2))
    assert [job.experiment for job in jobs] == ["methods", "table3", "table4", "table5", "table6"]
    assert [job.reference for job in jobs] == [None, "table3_full", "table4_stages_1", "table5_both", "table6_3"]
    assert [job.compares_methods for job in jobs] == [True, False, False, False, False]
    assert len({job.folder for job in jobs}) == 1
    assert jobs[1].overrides == (*TINY, "backbone.image_size=64", "experiment=table3")
    cells = [cell for job in jobs for cell in job.cells]
    assert len({cell.folder for cell in cells}) == 4 * 3 + 11 + 12 * 3  # protocols, datasets of WinCLIP, ablations


def test_a_method_that_trains_nothing_is_scored_on_each_dataset_once(planned):
    plan = planned(
        "experiment=methods", "protocol.legs.visa=[mpdd]", "data.eval_batch_size=7", "data_dir=a b", seeds=(0, 1)
    )
    trained, scored = plan.cells[:8], plan.cells[8:]
    assert [cell.setting for cell in trained[::2]] == ["afr_clip", "ada_clip", "anomaly_clip", "april_gan"]
    assert [cell.setting for cell in scored] == ["winclip on mpdd", "winclip on visa"]
    job = scored[0].job
    assert isinstance(job, EvaluationJob)
    assert (job.backbone.name, job.data.eval_batch_size, str(job.data_dir)) == ("tiny", 7, "a b")
    assert [target.name for target in job.targets] == ["mpdd"]
    assert scored[0].overrides[:3] == ("module=winclip", "backbone=tiny", "dataset=mpdd")
    assert not any(key.startswith(("optimizer", "protocol", "seed")) for key in scored[0].overrides)
    assert scored[0].digest != scored[1].digest


def test_every_method_of_the_package_is_compared_on_pocket_by_its_own_recipe(planned):
    plan = planned("experiment=methods_pocket", "backbone=pocket", "protocol.targets=[mpdd]")
    jobs = {cell.setting.removesuffix(" on mpdd"): cell.job for cell in plan.cells}
    assert jobs.keys() == {path.stem for path in Path(config_dir(), "module").glob("*.yaml")}
    assert {job.backbone.name for job in jobs.values()} == {"pocket"}
    trained = {name: job for name, job in jobs.items() if isinstance(job, TrainingJob)}
    assert jobs.keys() - trained.keys() == {"winclip", "clip_similarity"}
    assert {job.trainer.max_epochs for job in trained.values()} == {2}
    demo = training_job(compose("train", ["experiment=demo"]), Path("demo"), Record("train", (), {}, {}))
    for key in ("module", "loss", "optimizer"):
        assert getattr(trained["afr_clip"], key) == getattr(demo, key)
    assert (trained["april_gan"].optimizer.betas, trained["uni_adet"].data.mosaic) == ([0.5, 0.999], 0.5)
    assert trained["aa_clip"].schedule.shares == [0.0025, 1.0]
    assert trained["adapt_clip"].loss.image_weight == 2 + len(trained["adapt_clip"].backbone.tap_layers)


def test_another_suite_takes_the_place_of_the_papers(planned):
    plan = planned(
        "experiment=methods", "suite=crane14", leave_out=("ada_clip", "anomaly_clip", "april_gan", "winclip")
    )
    assert [leg.auxiliary.name for leg in plan.cells[0].runs] == ["mvtec_ad", "visa"]
    assert {"ksdd", "dagm", "dtd_synthetic"} <= {one.name for leg in plan.cells[0].runs for one in leg.targets}
