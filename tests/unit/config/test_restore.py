import copy

import pytest
from hydra import initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from afr_clip.cli.command import config_dir
from afr_clip.config.assemble import build, plain
from afr_clip.config.restore import output_dir, restore_model, typed_overrides
from afr_clip.config.validate import ConfigError, validate

KEYS = ("dataset=visa", "checkpoint=run")


def restore_at_hand(*arguments):
    """Restore with the config files within reach, as they are while a command runs."""
    with initialize_config_dir(config_dir(), version_base="1.3"):
        return restore_model(*arguments)


@pytest.fixture(scope="module")
def trained_with(composed):
    """What a checkpoint says of its training: another backbone than the default, and one module key changed."""
    return plain(composed("backbone=vit_b_16", "module.network.mpfa_window=5", "backbone.weights=there.pt"))


@pytest.fixture
def restored(composed, trained_with):
    def restore(*typed: str):
        config = composed(*KEYS, *typed, command="evaluate")
        return restore_at_hand(config, trained_with, [*KEYS, *typed])

    return restore


def test_the_checkpoints_model_wins_over_the_commands_defaults(restored, trained_with):
    config = restored()
    assert plain(config.backbone) == trained_with["backbone"]
    assert plain(config.module) == trained_with["module"]
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


def test_a_typed_enum_still_builds(restored):
    scoring = build(restored("module.network.scoring.image_score=map_max").module.network.scoring)
    assert scoring.image_score.name == "map_max"


@pytest.mark.parametrize(
    "typed",
    ["module.network.mpfa_window=3", "module.network.prompts.style=winclip", "backbone.tap_layers=[6,12]"],
)
def test_what_would_be_another_network_is_refused(restored, typed):
    with pytest.raises(ConfigError, match=f"^{typed.split('=')[0]} belongs to the network that was trained"):
        restored(typed)


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
    sentence = rf"^backbone must be vit_b_16, .* got {typed.split('=')[1]}\. Leave backbone= out\.$"
    with pytest.raises(ConfigError, match=sentence):
        restored(typed)


def test_the_same_backbone_may_be_typed(restored):
    assert plain(restored("backbone=vit_b_16")) == plain(restored())


def test_another_method_is_refused(composed, trained_with):
    other = trained_with | {"module": trained_with["module"] | {"name": "winclip"}}
    config = composed(*KEYS, "module=afr_clip", command="evaluate")
    with pytest.raises(ConfigError, match=r"^module must be winclip, .* got afr_clip\. Leave module= out\.$"):
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
    assert (typed_overrides(), output_dir()) == (["seed=3"], str(tmp_path))
