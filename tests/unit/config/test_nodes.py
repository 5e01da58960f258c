import inspect
import pkgutil
from dataclasses import MISSING, fields
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.errors import ConfigCompositionException
from lightning.pytorch import Trainer
from omegaconf import OmegaConf

from afr_clip.cli.command import describe
from afr_clip.config import nodes
from afr_clip.config.axes import read_axes
from afr_clip.config.nodes import GROUPS, config_dir, method_names
from afr_clip.config.plan import training_job
from afr_clip.losses.total import AnomalyLoss
from afr_clip.run.job import Record
from afr_clip.training.schedule import optimizer_factory, schedule_factory
from helpers.configs import plain, validate

CONF = Path(config_dir())
GROUP_FILES = sorted(path for path in CONF.glob("*/*.yaml"))

ABLATIONS = {
    "full": {},
    "no_cmfr": {"module.network.cmfr.enabled": False},
    "no_sp": {"module.network.self_prompting.enabled": False},
    "no_mpfa": {"module.network.mpfa_window": 1},
    "baseline": {
        "module.network.cmfr.enabled": False,
        "module.network.self_prompting.enabled": False,
        "module.network.mpfa_window": 1,
    },
}
"""The paper's, and what each switches off."""

REFUSED = [
    # the file that is composed alone, a key that is misspelt, a value of the wrong type
    ("backbone/vit_l_14_336", "backbone.image_sise=518", "backbone.image_size=big"),
    ("backbone/tiny", "backbone.cnn.stage=[1]", "backbone.cnn.pretrained=maybe"),
    ("module/afr_clip", "module.method=afr_clip", "module.name=[afr_clip]"),
    ("module/afr_clip", "module.network.mpfa_windw=3", "module.network.mpfa_window=wide"),
    ("module/afr_clip", "module.network.prompts.styl=single", "module.network.prompts.style=poetic"),
    ("module/afr_clip", "module.network.cmfr.enable=false", "module.network.cmfr.inner_dim=half"),
    ("module/afr_clip", "module.network.self_prompting.num=5", "module.network.self_prompting.placement=prepend"),
    ("module/afr_clip", "module.network.scoring.temprature=1", "module.network.scoring.image_score=mean"),
    ("dataset/visa", "dataset.rot=/data", "dataset.categories=bottle"),
    ("data/default", "data.batchsize=4", "data.batch_size=2.5"),
    ("loss/anomaly", "loss.image_wieght=1", "loss.image_weight=lots"),
    ("optimizer/adam", "optimizer.learning_rate=1", "optimizer.lr=abc"),
    ("schedule/inverse_epoch", "schedule.gamma=1", "schedule.name=[a]"),
    ("trainer/default", "trainer.max_epoch=1", "trainer.max_epochs=null"),
    ("logger/wandb", "logger.wandb.tag=[a]", "logger.wandb.tags=a"),
    ("logger/tensorboard", "logger.tensorboard.flush=3", "logger.tensorboard.flush_secs=often"),
    ("logger/mlflow", "logger.mlflow.uri=a", "logger.mlflow.experiment=[a]"),
    ("logger/all", "logger.wandb.tag=[a]", "logger.mlflow.experiment=[a]"),
    ("protocol/no_targets", "protocol.target=[visa]", "protocol.targets=visa"),
    ("protocol/no_targets", "protocol.leg={}", "protocol.legs=[visa]"),
    ("train", "sed=1", "seed=one"),
    ("train", "save_map=true", "save_maps=perhaps"),
    ("train", "optimzer.lr=1", "optimizer.lr=[1]"),
]

GLOBAL = {"ablation", "experiment", "recipe", "suite"}
"""Groups whose files change keys of others."""

HYDRAS_OWN = {"defaults", "hydra"}


def is_global(path: Path) -> bool:
    return path.read_text(encoding="utf-8").startswith("# @package _global_")


def as_override(path: Path) -> str:
    return f"{path.parent.name}={path.stem}"


def leaves(values: object, path: str = "") -> dict[str, object]:
    """Flatten nested dictionaries to dotted keys."""
    if not isinstance(values, dict) or not values:
        return {path: values}
    flat: dict[str, object] = {}
    for key, value in values.items():
        flat |= leaves(value, f"{path}.{key}" if path else str(key))
    return flat


@pytest.mark.parametrize("path", GROUP_FILES, ids=as_override)
def test_every_file_of_every_group_composes_and_its_values_arrive(composed, path):
    config = composed(as_override(path), "data_dir=DATA")
    content = OmegaConf.load(path)
    own = leaves({key: value for key, value in OmegaConf.to_container(content).items() if key not in HYDRAS_OWN})
    arrived = leaves(plain(config if is_global(path) else config[path.parent.name]))
    for key, value in own.items():
        if key and "${" not in str(value) and key != "run_dir":
            assert arrived[key] == value, key


@pytest.mark.parametrize("path", sorted(CONF.glob("experiment/*.yaml")), ids=as_override)
def test_every_experiment_validates(composed, path):
    assert validate(composed(as_override(path), f"data_dir={CONF}")).data_dir == str(CONF)


SIZES = {"afr11": 11, "crane14": 14, "adaclip14": 14, "visualad13": 13 - 2, "anomalyvfm24": 24 - 3}
"""Datasets of each suite; two lack some that cannot be read here."""


@pytest.mark.parametrize("path", sorted(CONF.glob("suite/*.yaml")), ids=as_override)
def test_a_suite_scores_each_of_its_datasets_with_a_model_that_has_not_seen_it(composed, path):
    legs = validate(composed(as_override(path))).protocol.legs
    scored = [name for targets in legs.values() for name in targets]
    assert len(scored) == len(set(scored)) == SIZES[path.stem]
    assert all(auxiliary in scored and auxiliary not in targets for auxiliary, targets in legs.items())
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", [as_override(path)])
        job = training_job(config, Path("runs"), Record("train", (), {}, {}))
    assert [leg.folder for leg in job.legs] == [Path("runs") / auxiliary for auxiliary in legs]


def test_a_suite_is_a_protocol_whose_legs_may_be_changed(composed):
    crane, adaclip = (composed(f"suite={name}").protocol.legs for name in ("crane14", "adaclip14"))
    assert {*crane.mvtec_ad, *crane.visa} == {*adaclip.mvtec_ad, *adaclip.visa}
    assert composed("suite=crane14", "protocol.legs.visa=[mpdd]").protocol.legs.visa == ["mpdd"]
    assert plain(composed("suite=afr11").protocol) == plain(composed("protocol=cross_dataset").protocol)


@pytest.mark.parametrize("path", sorted(CONF.glob("ablation/*.yaml")), ids=as_override)
def test_an_ablation_changes_exactly_the_keys_of_its_file(composed, default_config, path):
    before, after = leaves(plain(default_config)), leaves(plain(composed(as_override(path))))
    differing = {key: value for key, value in after.items() if before[key] != value}
    own = {key: value for key, value in leaves(OmegaConf.to_container(OmegaConf.load(path))).items() if key}
    assert before.keys() == after.keys()
    assert differing == {key: value for key, value in own.items() if before[key] != value}
    assert {key: after[key] for key in own} == own
    assert differing == ABLATIONS.get(path.stem, differing)


def of_paper(cmfr: bool, sp: bool, window: int, stages: tuple[int, ...] = (1,)) -> dict[str, object]:
    """Say what a row of a table of the paper switches on."""
    return {"cmfr": cmfr, "sp": sp, "window": window, "stages": stages if sp else None, "image": sp, "shared": sp}


TABLE_ROWS = {
    "table3_baseline": of_paper(False, False, 1),
    "table3_sp_mpfa": of_paper(False, True, 3),
    "table3_cmfr": of_paper(True, False, 1),
    "table3_cmfr_sp": of_paper(True, True, 1),
    "table3_cmfr_mpfa": of_paper(True, False, 3),
    "table3_full": of_paper(True, True, 3),
    "table4_stages_1": of_paper(True, True, 3),
    "table4_stages_1_2": of_paper(True, True, 3, (1, 2)),
    "table4_stages_1_3": of_paper(True, True, 3, (1, 2, 3)),
    "table4_stages_1_4": of_paper(True, True, 3, (1, 2, 3, 4)),
    "table5_none": of_paper(True, False, 3),
    "table5_image": of_paper(True, True, 3) | {"shared": False},
    "table5_shared": of_paper(True, True, 3) | {"image": False},
    "table5_both": of_paper(True, True, 3),
    "table6_1": of_paper(True, True, 1),
    "table6_3": of_paper(True, True, 3),
    "table6_5": of_paper(True, True, 5),
}
"""What the paper's tables 3 to 6 say of each row; what SP is made of only where there is SP."""


@pytest.mark.parametrize("name", TABLE_ROWS)
def test_a_row_of_the_papers_tables_is_the_network_that_it_says(composed, name):
    network = validate(composed(f"ablation={name}")).module.network
    sp = network.self_prompting
    assert {
        "cmfr": network.cmfr.enabled,
        "sp": sp.is_active,
        "window": network.mpfa_window,
        "stages": tuple(sp.stages) if sp.enabled else None,
        "image": sp.enabled and sp.image_prompt,
        "shared": sp.enabled and sp.shared_prompt,
    } == TABLE_ROWS[name]


@pytest.mark.parametrize("path", sorted(CONF.glob("ablation/reading_*.yaml")), ids=as_override)
def test_a_reading_validates_and_is_another_than_ours(composed, default_config, path):
    config = composed(as_override(path))
    validate(config)
    assert plain(config) != plain(default_config)


def test_an_ablation_holds_also_where_an_experiment_says_otherwise(composed):
    assert composed("experiment=demo").module.network.scoring.temperature == 0.07
    assert (
        composed("experiment=demo", "ablation=reading_map_score").module.network.scoring.image_score.name == "map_max"
    )


@pytest.mark.parametrize("path", sorted(CONF.glob("experiment/table*.yaml")), ids=as_override)
def test_an_experiment_of_a_table_has_all_its_rows(composed, path):
    params = composed(as_override(path), return_hydra_config=True).hydra.sweeper.params
    assert set(read_axes(params).choices["ablation"]) == {name for name in TABLE_ROWS if name.startswith(path.stem)}


def test_the_readings_are_all_there_after_the_reference(composed):
    params = composed("experiment=readings", return_hydra_config=True).hydra.sweeper.params
    reference, *readings = read_axes(params).choices["ablation"]
    assert reference == "full"
    assert set(readings) == {path.stem for path in CONF.glob("ablation/reading_*.yaml")}


def test_the_page_of_differences_names_every_reading():
    page = (CONF.parent / "docs" / "differences.md").read_text(encoding="utf-8")
    names = [path.stem.removeprefix("reading_") for path in CONF.glob("ablation/reading_*.yaml")]
    assert [name for name in names if f"`{name}`" not in page] == []


def test_the_optimiser_that_the_authors_reading_leaves_out_can_be_added_as_its_header_says(composed):
    header = (CONF / "ablation" / "reading_author_later.yaml").read_text(encoding="utf-8").partition("# add ")[2]
    typed = header.splitlines()[0].rstrip(".").split()
    optimizer = validate(composed("ablation=reading_author_later", *typed)).optimizer
    assert (optimizer.name, optimizer.lr, optimizer.weight_decay) == ("adamw", 1e-5, 0.01)


def test_a_sweep_knows_the_groups_of_the_training_that_it_starts():
    trained, swept = (OmegaConf.load(CONF / f"{name}.yaml").defaults[1:] for name in ("train", "sweep"))
    assert swept == trained


@pytest.mark.parametrize(("dataset", "epochs", "mosaic"), [("mvtec_ad", 3, 0.2), ("visa", 15, 0.0)])
def test_april_gan_stands_on_plain_gelu_and_trains_as_published(composed, dataset, epochs, mosaic):
    config = composed("module=april_gan", f"dataset={dataset}")
    assert (config.backbone.name, config.trainer.max_epochs, config.data.mosaic) == (
        "vit_l_14_336_gelu",
        epochs,
        mosaic,
    )
    assert (config.data.batch_size, config.optimizer.betas) == (8, [0.5, 0.999])
    published = AnomalyLoss(image_weight=0.0, complement_weight=0.0, focal_smoothing=1e-5)
    assert AnomalyLoss(**vars(validate(config).loss)) == published


@pytest.mark.parametrize(
    ("method", "betas", "published"),
    [
        (
            "anomaly_clip",
            [0.5, 0.999],
            AnomalyLoss(focal_weight=4.0, dice_weight=4.0, complement_weight=4.0, focal_smoothing=1e-5),
        ),
        (
            "ada_clip",
            [0.5, 0.999],
            AnomalyLoss(image_gamma=2.0, focal_smoothing=1e-5, image_smoothing=1e-5, dice_per="row"),
        ),
        ("aa_clip", [0.5, 0.999], AnomalyLoss(separation_weight=0.1, focal_smoothing=1e-5)),
        ("adapt_clip", [0.5, 0.999], AnomalyLoss(image_weight=6.0, focal_smoothing=1e-5)),
        ("afr_clip", [0.9, 0.999], AnomalyLoss()),
        ("coop", [0.5, 0.999], AnomalyLoss(focal_weight=0.0, dice_weight=0.0, complement_weight=0.0)),
        ("uni_adet", [0.9, 0.999], AnomalyLoss(complement_weight=0.0, focal_smoothing=1e-5)),
        (
            "visual_ad",
            [0.9, 0.999],
            AnomalyLoss(complement_weight=0.0, separation_weight=1.0, separation_margin=0.5, focal_smoothing=1e-5),
        ),
    ],
)
def test_each_method_is_trained_with_its_published_loss_and_betas(composed, method, betas, published):
    config = composed(f"module={method}", "dataset=visa")
    assert config.optimizer.betas == betas
    assert config.data.mosaic_label == ("replaced" if method == "ada_clip" else "any")
    assert AnomalyLoss(**vars(validate(config).loss)) == published


def test_winclip_stands_on_the_towers_of_its_published_numbers(composed):
    config = composed("module=winclip", "dataset=visa", command="evaluate")
    assert (config.backbone.architecture, config.backbone.pretrained) == ("ViT-B-16-plus-240", "laion400m_e31")
    assert (config.backbone.image_size, config.backbone.quick_gelu) == (240, False)
    network = validate(config).module.network
    assert (network.prompts.style.value, network.reference_tokens.value) == ("winclip_21", "raw")
    validate(config)


def test_what_is_typed_wins_over_what_a_method_brings(composed):
    typed = ("backbone=tiny", "schedule=inverse_epoch", "trainer.max_epochs=7", "optimizer.betas=[0.9,0.9]")
    config = composed("module=april_gan", *typed)
    assert (config.backbone.name, config.trainer.max_epochs, config.optimizer.betas) == ("tiny", 7, [0.9, 0.9])
    assert config.schedule.name == "inverse_epoch"


def test_the_papers_ablations_are_there():
    assert {path.stem for path in CONF.glob("ablation/*.yaml")} >= ABLATIONS.keys()


def test_the_refusals_cover_every_group():
    assert {file.split("/")[0] for file, *_ in REFUSED} == {*GROUPS, "module", "train"}


@pytest.mark.parametrize(("file", "typo"), [(file, typo) for file, typo, _ in REFUSED])
def test_a_misspelt_key_is_refused_and_named(composed, file, typo):
    key = typo.split("=")[0]
    with pytest.raises(ConfigCompositionException, match=f"Could not override '{key}'") as caught:
        composed(typo, command=file)
    unknown = key.split(".")[0] if file == "train" else key
    assert f"(key {unknown})" in describe(caught.value)


@pytest.mark.parametrize(("file", "wrong"), [(file, wrong) for file, _, wrong in REFUSED])
def test_a_value_of_the_wrong_type_is_refused_and_named(composed, file, wrong):
    key = wrong.split("=")[0]
    with pytest.raises(ConfigCompositionException, match=f"Error merging override {key}=") as caught:
        composed(wrong, command=file)
    assert f"(key {key})" in describe(caught.value)


@pytest.mark.parametrize("group", sorted({path.parent.name for path in GROUP_FILES} - {"paths"}))
def test_a_typo_inside_a_users_own_file_is_refused_with_the_file(composed, tmp_path, group):
    start = f"defaults:\n  - {own_schema(group)}\n  - _self_\n"
    if group in GLOBAL:
        start = "# @package _global_\noptimizer:\n  "
    path = tmp_path / group / "mine.yaml"
    path.parent.mkdir()
    path.write_text(f"{start}mispelt: 1\n", encoding="utf-8")
    with pytest.raises(ConfigCompositionException) as caught:
        composed(f"hydra.searchpath=[file://{tmp_path}]", f"{group}=mine")
    assert f"In '{group}/mine'" in describe(caught.value)
    assert "Key 'mispelt' not in" in describe(caught.value)


def test_a_wrong_type_inside_a_users_own_file_is_refused_with_the_file(composed, tmp_path):
    path = tmp_path / "experiment" / "mine.yaml"
    path.parent.mkdir()
    path.write_text("# @package _global_\noptimizer:\n  lr: abc\n", encoding="utf-8")
    with pytest.raises(ConfigCompositionException) as caught:
        composed(f"hydra.searchpath=[file://{tmp_path}]", "experiment=mine")
    assert "In 'experiment/mine'" in describe(caught.value)
    assert "Value 'abc' of type 'str' could not be converted to Float" in describe(caught.value)


def own_schema(group: str, name: str = "afr_clip") -> str:
    # Files of these need keys that others of their group do not have.
    own = group == "module" or (group == "schedule" and name in ("cosine", "steps"))
    return f"{name}_schema" if own else "schema"


@pytest.mark.parametrize("method", method_names())
def test_a_methods_keys_are_the_arguments_of_its_network_and_it_is_named_after_its_folder(composed, method):
    module = composed(f"module={method}").module
    assert module.name == method
    settings = OmegaConf.to_object(module).network
    network = pkgutil.resolve_name(f"afr_clip.models.{method}.network:{settings.network_class}")
    arguments = inspect.signature(network).parameters.keys() - {"towers"}
    assert {field.name for field in fields(settings)} == set(module.network) == arguments


def test_the_keys_of_the_trainer_and_of_the_loss_are_their_arguments(default_config):
    assert set(default_config.trainer) <= inspect.signature(Trainer).parameters.keys()
    assert set(default_config.loss) == inspect.signature(AnomalyLoss).parameters.keys()


def test_the_loss_of_the_config_is_the_default_loss_of_the_code(default_config):
    assert AnomalyLoss(**default_config.loss) == AnomalyLoss()


def test_every_file_of_a_group_starts_from_its_schema():
    typed = [path for path in GROUP_FILES if path.parent.name not in {*GLOBAL, "paths"}]
    assert typed
    for path in typed:
        assert OmegaConf.load(path).defaults[0] == own_schema(path.parent.name, path.stem), path


@pytest.mark.parametrize(
    "kind", [*nodes.COMMANDS.values(), *GROUPS.values(), *map(nodes.module_schema, method_names())]
)
def test_no_schema_holds_a_value(kind):
    assert all(field.default is MISSING or inspect.isclass(field.default) for field in fields(kind))
    assert all(field.default_factory is MISSING for field in fields(kind))


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [("constant", [1, 1, 1]), ("inverse_epoch", [1, 1 / 2, 1 / 3]), ("cosine", [1, 3 / 4, 1 / 4])],
)
def test_optimiser_and_schedule_are_the_ones_that_are_named(composed, schedule, factors):
    config = validate(composed(f"schedule={schedule}", "optimizer=adamw", "trainer.max_epochs=3"))
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = optimizer_factory(config.optimizer)([weight])
    assert type(optimizer) is torch.optim.AdamW
    (group,) = optimizer.param_groups
    assert (group["lr"], group["betas"], group["weight_decay"]) == (0.001, (0.9, 0.999), 0.01)
    (factor,) = schedule_factory(config.schedule)(optimizer).lr_lambdas
    assert [factor(epoch) for epoch in range(3)] == pytest.approx(factors)


@pytest.mark.parametrize(("name", "expected"), [("mvtec_ad", 3), ("visa", 15)])
def test_a_recipe_may_say_otherwise_for_a_dataset(name, expected):
    nodes.register()
    config = OmegaConf.create({"dataset": name, "epochs": "${for_dataset:${dataset},15,{mvtec_ad:3}}"})
    assert config.epochs == expected


def test_every_group_is_registered_and_registering_twice_is_harmless():
    nodes.register()
    nodes.register()
    store = ConfigStore.instance()
    for group in (*GROUPS, "module"):
        assert f"{own_schema(group)}.yaml" in store.list(group)


@pytest.mark.parametrize(
    ("values", "expected"), [((None, "b"), "b"), (("a", "b"), "a"), ((None, None), None), ((0, 1), 0)]
)
def test_the_first_given_value_wins(values, expected):
    assert nodes.first_given(*values) == expected


@pytest.mark.parametrize(("typed", "expected"), [((), "outputs/train/"), (("run_dir=elsewhere/a",), "elsewhere/a")])
def test_the_run_folder_is_hydras_unless_one_is_given(composed, typed, expected):
    config = composed(*typed, return_hydra_config=True)
    assert config.hydra.run.dir.startswith(expected)


@pytest.mark.parametrize("command", ["train", "evaluate", "predict"])
def test_every_command_has_its_own_name_and_the_shared_defaults(composed, command):
    given = {"train": (), "evaluate": ("dataset=visa", "checkpoint=a"), "predict": ("checkpoint=a", "images=b")}
    config = composed(*given[command], command=command)
    assert (config.task_name, config.seed, config.backbone.name) == (command, 0, "vit_l_14_336")
