import copy
import functools
import operator
import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from afr_clip.config.nodes import config_dir, register
from afr_clip.config.plan import compose_target, output_dir, restore_model, training_job, typed_overrides
from afr_clip.config.validate import ConfigError
from afr_clip.run.job import Record
from helpers.configs import plain, validate

RECORD = Record("train", (), {}, {})

KEYS = ("dataset=visa", "checkpoint=run")


def restore_at_hand(*arguments):
    """Restore with the config files within reach, as they are while a command runs."""
    with initialize_config_dir(config_dir(), version_base="1.3"):
        return restore_model(*arguments)


@pytest.fixture(scope="module")
def trained_with(composed):
    """What a checkpoint says of its training: another backbone than the default, and one module key changed."""
    return plain(composed("backbone=vit_b_16", "module.network.mpfa_window=5"))


@pytest.fixture
def restored(composed, trained_with):
    def restore(*typed: str):
        config = composed(*KEYS, *typed, command="evaluate")
        return restore_at_hand(config, trained_with, [*KEYS, *typed])

    return restore


@pytest.fixture(autouse=True)
def _schemas():
    register()


FILES = ("backbone.weights", "backbone.cnn.weights", "module.network.released_weights")


def with_value(config: dict, key: str, value: object) -> dict:
    changed = copy.deepcopy(config)
    *path, name = key.split(".")
    functools.reduce(operator.getitem, path, changed)[name] = value
    return changed


@pytest.mark.parametrize("key", FILES)
@pytest.mark.parametrize("path", ["there.pt", "/etc/passwd", "package:afr_clip/../../x.pt", "package:json/decoder.py"])
def test_a_file_that_a_checkpoint_names_must_be_typed(composed, key, path):
    module = ("module=anomaly_clip",) if key.startswith("module") else ()
    trained_with = with_value(plain(composed("backbone=pocket", *module)), key, path)
    config = composed(*KEYS, *module, command="evaluate")
    with pytest.raises(ConfigError, match=rf"with {key}={re.escape(path)}\. A file .* not read: .* add {key}="):
        restore_at_hand(config, trained_with, [*KEYS, *module])
    typed = (*KEYS, *module, f"{key}=mine.pt")
    restored = restore_at_hand(composed(*typed, command="evaluate"), trained_with, typed)
    assert OmegaConf.select(restored, key) == "mine.pt"


def test_the_files_of_this_version_need_not_be_typed(composed):
    trained_with = plain(composed("backbone=pocket"))
    restored = restore_at_hand(composed(*KEYS, command="evaluate"), trained_with, KEYS)
    assert (
        restored.backbone.weights == trained_with["backbone"]["weights"] == "package:afr_clip/pocket/clip.safetensors"
    )
    assert restored.backbone.cnn.weights.startswith("package:efficientnet")


@pytest.mark.parametrize("value", ["${oc.env:HOME}", "a ${seed}", "???"])
def test_a_recorded_value_refers_to_nothing(composed, trained_with, value):
    changed = with_value(trained_with, "backbone.architecture", value)
    with pytest.raises(ConfigError, match=r"A recorded value is .*, which stands for something else"):
        restore_at_hand(composed(*KEYS, command="evaluate"), changed, KEYS)


@pytest.mark.parametrize(
    ("key", "value"),
    [("backbone.image_size", "large"), ("backbone.new_key", 1), ("module.network", 3), ("backbone.tap_layers", {})],
)
def test_a_recorded_model_that_does_not_fit_is_refused_in_a_sentence(composed, trained_with, key, value):
    changed = with_value(trained_with, key, value)
    with pytest.raises(ConfigError, match=rf"^The checkpoint was trained with a {key.split('.')[0]} that this version"):
        restore_at_hand(composed(*KEYS, command="evaluate"), changed, KEYS)


def test_the_checkpoints_model_wins_over_the_commands_defaults(restored, trained_with):
    config = restored()
    assert {key: plain(config)[key] for key in ("backbone", "module")} == {
        key: trained_with[key] for key in ("backbone", "module")
    }
    assert (config.backbone.name, config.module.network.mpfa_window) == ("vit_b_16", 5)
    validate(config)


def test_what_is_no_model_stays_the_commands_own(restored, composed):
    own = plain(composed(*KEYS, "data.eval_batch_size=7", command="evaluate"))
    config = plain(restored("data.eval_batch_size=7"))
    groups = own.keys() - {"backbone", "module"}
    assert {key: config[key] for key in groups} == {key: own[key] for key in groups}
    assert config["data"]["eval_batch_size"] == 7


@pytest.mark.parametrize(
    ("typed", "key", "value"),
    [
        ("backbone.weights=here.pt", "backbone.weights", "here.pt"),
        ("backbone.weights=null", "backbone.weights", None),
        ("backbone.cnn.weights=cnn.pt", "backbone.cnn.weights", "cnn.pt"),
        ("backbone.image_size=640", "backbone.image_size", 640),
        ("module.network.scoring.smoothing_sigma=4", "module.network.scoring.smoothing_sigma", 4.0),
        ("module.network.scoring.image_score=map_max", "module.network.scoring.image_score", "map_max"),
    ],
)
def test_a_single_key_that_was_typed_wins_and_nothing_else_changes(restored, typed, key, value):
    expected, config = OmegaConf.create(plain(restored())), plain(restored(typed))
    OmegaConf.update(expected, key, value)
    assert config == OmegaConf.to_container(expected)


@pytest.mark.parametrize(
    "typed",
    [
        "module.network.mpfa_window=3",
        "module.network.prompts.style=winclip",
        "backbone.tap_layers=[6,12]",
        "backbone.position_embeddings=bicubic",
    ],
)
def test_what_would_be_another_network_is_refused(restored, typed):
    with pytest.raises(ConfigError, match=f"^{typed.split('=')[0]} belongs to the trained network"):
        restored(typed)


@pytest.mark.parametrize("method", ["anomaly_clip", "ada_clip"])
def test_a_checkpoint_keeps_the_way_its_position_embeddings_were_interpolated(composed, method):
    trained = composed(f"module={method}")
    official = trained.backbone.position_embeddings.value
    assert official == {"anomaly_clip": "bilinear", "ada_clip": "bicubic"}[method]
    config = composed(*KEYS, command="evaluate")
    assert plain(restore_at_hand(config, plain(trained), KEYS))["backbone"]["position_embeddings"] == official
    # Before there was a choice, the towers had other names, and open_clip's way.
    old = plain(trained)
    old["backbone"] = plain(composed("backbone=vit_l_14_336_gelu"))["backbone"]
    del old["backbone"]["position_embeddings"]
    assert plain(restore_at_hand(config, old, KEYS))["backbone"]["position_embeddings"] == "bicubic_antialias"


def test_a_learned_temperature_cannot_be_typed(composed):
    learned = plain(composed("module.network.scoring.learnable_temperature=true"))
    typed = "module.network.scoring.temperature=0.07"
    with pytest.raises(ConfigError, match="only if it was not learned"):
        restore_at_hand(composed(*KEYS, typed, command="evaluate"), learned, [*KEYS, typed])


def test_a_checkpoint_never_names_what_is_called(restored, trained_with, composed):
    evil = copy.deepcopy(trained_with)
    evil["backbone"]["cnn"]["_target_"] = "os.system"
    evil["module"]["network"]["_target_"] = "os.system"
    config = restore_at_hand(composed(*KEYS, command="evaluate"), evil, KEYS)
    assert "os.system" not in str(plain(config))


@pytest.mark.parametrize("typed", ["backbone=vit_l_14", "backbone=tiny"])
def test_another_backbone_is_refused(restored, typed):
    sentence = rf"^The checkpoint was trained with backbone=vit_b_16, got {typed}\. Leave backbone= out\.$"
    with pytest.raises(ConfigError, match=sentence):
        restored(typed)


def test_the_same_backbone_may_be_typed(restored):
    assert plain(restored("backbone=vit_b_16")) == plain(restored())


def test_another_method_is_refused(composed, trained_with):
    other = trained_with | {"module": trained_with["module"] | {"name": "winclip"}}
    config = composed(*KEYS, "module=afr_clip", command="evaluate")
    with pytest.raises(
        ConfigError,
        match=r"^The checkpoint was trained with module=winclip, got module=afr_clip\. Leave module= out\.$",
    ):
        restore_at_hand(config, other, [*KEYS, "module=afr_clip"])


def test_the_commands_own_config_is_not_changed(composed, trained_with):
    config = composed(*KEYS, command="evaluate")
    before = plain(config)
    restore_at_hand(config, trained_with, KEYS)
    assert plain(config) == before


def test_what_was_typed_and_the_run_folder_are_hydras(composed, monkeypatch, tmp_path):
    config = composed("seed=3", f"hydra.runtime.output_dir={tmp_path}", return_hydra_config=True)
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)
    HydraConfig.instance().set_config(config)
    assert (typed_overrides(), output_dir()) == (["seed=3"], tmp_path)


@pytest.fixture
def target():
    def make(name: str, roots: dict, categories: dict):
        protocol = OmegaConf.create({"targets": [name], "roots": roots, "categories": categories})
        with initialize_config_dir(config_dir(), version_base="1.3"):
            return plain(compose_target(name, protocol))

    return make


def test_a_target_that_goes_by_the_auxiliary_name_is_other_categories_of_the_same_files():
    own = {"name": "mine", "layout": "folder", "root": "/m", "categories": ["a"], "drawn": {"images_per_category": 2}}
    protocol = OmegaConf.create({"targets": ["mine"], "roots": {}, "categories": {"mine": ["b"]}})
    with initialize_config_dir(config_dir(), version_base="1.3"):
        target = plain(compose_target("mine", protocol, OmegaConf.create(own)))
    assert target == own | {"categories": ["b"]}


@pytest.mark.parametrize(
    ("name", "roots", "categories", "expected"),
    [
        ("visa", {}, {}, {"name": "visa", "layout": "visa", "root": None, "categories": None, "drawn": None}),
        (
            "visa",
            {"visa": "/v"},
            {"visa": ["pcb1"]},
            {"name": "visa", "layout": "visa", "root": "/v", "categories": ["pcb1"], "drawn": None},
        ),
        (
            "mine",
            {"mine": "/m"},
            {},
            {"name": "mine", "layout": "folder", "root": "/m", "categories": None, "drawn": None},
        ),
    ],
)
def test_a_target_is_a_known_dataset_or_a_folder_of_ones_own(target, name, roots, categories, expected):
    assert target(name, roots, categories) == expected


def test_an_unknown_target_without_a_root_is_refused(target):
    with pytest.raises(
        ConfigError, match=r"must name datasets \(bmad_brain, .*mvtec_ad, .*visa\), got mvtec\..*roots\.mvtec=DIR"
    ):
        target("mvtec", {}, {})


@pytest.fixture
def leg():
    def make(*overrides: str):
        with initialize_config_dir(config_dir(), version_base="1.3"):
            config = compose("train", overrides=["protocol=cross_dataset", *overrides])
            before = plain(config)
            job = training_job(config, Path("runs"), RECORD)
        assert plain(config) == before
        return job.legs[0]

    return make


PLACED = ["+protocol.roots.mpdd=/m", "+protocol.categories.isic=[skin]"]


def test_a_leg_is_the_job_of_a_training_of_its_own(composed, leg):
    keys = ("dataset=visa", "protocol.targets=[mpdd,isic]", *PLACED, "seed=3", "run_dir=runs/visa")
    with initialize_config_dir(config_dir(), version_base="1.3"):
        own = training_job(compose("train", overrides=[*keys]), Path("runs/visa"), RECORD)
    made = leg("protocol.legs.visa=[mpdd,isic]", *PLACED, "+protocol.roots.mvtec_ad=/a", "seed=3")
    assert (made.record.config, made) == (own.record.config, own)


@pytest.mark.parametrize(("method", "epochs"), [("april_gan", 15), ("ada_clip", 5)])
def test_a_recipe_that_depends_on_the_dataset_depends_on_that_of_the_leg(leg, method, epochs):
    made = leg(f"module={method}")
    assert (made.auxiliary.name, made.data.mosaic, made.trainer.max_epochs) == ("visa", 0.0, epochs)
    made = leg(f"module={method}", "~protocol.legs.visa")
    assert (made.auxiliary.name, made.data.mosaic) == ("mvtec_ad", 0.2)


def test_the_record_says_what_follows_from_the_dataset_and_was_not_typed(leg):
    assert leg().record.by_dataset == ()
    assert leg("module=april_gan").record.by_dataset == ("data.mosaic", "trainer.max_epochs")
    assert leg("module=april_gan", "data.mosaic=0.1").record.by_dataset == ("trainer.max_epochs",)


def test_roots_and_categories_reach_the_dataset_a_leg_is_trained_on(leg):
    made = leg("+protocol.roots.visa=/v", "+protocol.categories.visa=[pcb1]")
    assert (made.auxiliary.root, made.auxiliary.categories) == ("/v", ["pcb1"])
    assert not made.record.config["protocol"]["roots"]


def test_a_leg_of_an_unknown_dataset_is_refused():
    with initialize_config_dir(config_dir(), version_base="1.3"):
        config = compose("train", overrides=["~dataset", "+protocol.legs.unheard_of=[visa]"])
        with pytest.raises(ConfigError, match=r"must name datasets .*, got unheard_of\..*roots\.unheard_of=DIR"):
            training_job(config, Path("runs"), RECORD)


def test_a_job_says_that_it_resumes_in_its_record_too(leg):
    made = leg().resuming(True)
    assert (made.resume, made.record.config["resume"]) == (True, True)
