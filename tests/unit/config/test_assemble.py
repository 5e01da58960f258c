from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from afr_clip.cli.command import config_dir
from afr_clip.clip.settings import BackboneSettings, CNNSettings
from afr_clip.config.assemble import build, compose_leg, compose_target, optional_path, plain
from afr_clip.config.schema import register
from afr_clip.config.validate import ConfigError, validate
from afr_clip.models.afr_clip.settings import CMFRSettings, Placement
from afr_clip.training.schedule import inverse_epoch
from helpers.tiny import CMFR, PROMPTS, SCORING, SELF_PROMPTING, TINY

CMFR_TARGET = "afr_clip.models.afr_clip.settings.CMFRSettings"
CMFR_NODE = {
    "_target_": CMFR_TARGET,
    "enabled": True,
    "inner_dim": None,
    "kernel_size": 1,
    "shared": False,
    "symmetric": False,
}


def test_settings_are_built_as_the_code_would_build_them(composed, default_config):
    network = default_config.module.network
    built = tuple(build(network[key]) for key in ("prompts", "cmfr", "self_prompting", "scoring"))
    assert built == (PROMPTS, CMFR, SELF_PROMPTING, SCORING)
    assert built[2].placement is Placement.replace
    assert build(composed("backbone=tiny", "backbone.image_size=64").backbone) == TINY


def test_nested_nodes_and_lists_become_plain(default_config):
    backbone = build(default_config.backbone)
    assert isinstance(backbone, BackboneSettings)
    assert isinstance(backbone.cnn, CNNSettings)
    assert type(backbone.cnn.stages) is tuple


def test_a_partial_node_waits_for_its_last_argument(default_config):
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = build(default_config.optimizer)([weight])
    assert type(optimizer) is torch.optim.Adam
    (group,) = optimizer.param_groups
    assert (group["params"], group["lr"], list(group["betas"]), group["weight_decay"]) == (
        [weight],
        0.001,
        [0.9, 0.999],
        0,
    )
    expected = inverse_epoch(optimizer).lr_lambdas[0](3)
    assert build(default_config.schedule)(optimizer).lr_lambdas[0](3) == expected == 0.25


def test_injected_objects_arrive_as_they_are():
    tensor, settings = torch.zeros(2), CMFR
    built = build(OmegaConf.create({"_target_": "builtins.dict", "a": [1], "b": CMFR_NODE}), x=tensor, y=settings)
    assert built["x"] is tensor
    assert built["y"] is settings
    assert (built["a"], built["b"]) == ([1], CMFR)
    assert type(built["a"]) is list


@pytest.mark.parametrize("injected", [{}, {"symmetric": False}], ids=["from config alone", "with something injected"])
def test_a_constructors_error_is_shown_unwrapped(injected):
    node = OmegaConf.create(CMFR_NODE | {"kernel_size": 2})
    with pytest.raises(ValueError, match=r"^cmfr\.kernel_size must be odd and positive, got 2\. Use 1, 3") as caught:
        build(node, **injected)
    assert caught.value.__cause__ is None


def test_a_nested_constructors_error_is_shown_unwrapped():
    node = OmegaConf.create({"_target_": "builtins.dict", "inner": CMFR_NODE | {"kernel_size": 2}})
    for injected in ({}, {"x": 1}):
        with pytest.raises(ValueError, match=r"^cmfr\.kernel_size must be odd"):
            build(node, **injected)


def test_a_wrong_argument_is_the_constructors_own_error():
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'foo'"):
        build(OmegaConf.create(CMFR_NODE | {"foo": 1}))
    assert isinstance(build(OmegaConf.create(CMFR_NODE)), CMFRSettings)


def test_a_plain_config_has_resolved_values_and_enums_by_name(composed):
    values = plain(composed("data_dir=/data", "+protocol.roots.a=${data_dir}/a"))
    assert values["protocol"]["roots"] == {"a": "/data/a"}
    assert values["module"]["network"]["self_prompting"]["placement"] == "replace"
    assert type(values["backbone"]["cnn"]["stages"]) is list


@pytest.mark.parametrize(("value", "expected"), [(None, None), ("a/b", Path("a/b"))])
def test_a_path_may_be_absent(value, expected):
    assert optional_path(value) == expected


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
        ConfigError, match=r"must name datasets \(br35h, .*mvtec_ad, .*visa\), got mvtec\..*roots\.mvtec=DIR"
    ):
        target("mvtec", {}, {})


@pytest.fixture
def leg():
    def make(*overrides: str):
        register()
        with initialize_config_dir(config_dir(), version_base="1.3"):
            config = compose("train", overrides=["protocol=cross_dataset", *overrides])
            before = plain(config)
            composed_leg = compose_leg("visa", config)
        assert plain(config) == before
        return composed_leg

    return make


PLACED = ["+protocol.roots.mpdd=/m", "+protocol.categories.isic=[skin]"]


def test_a_leg_has_the_config_of_a_training_of_its_own(composed, leg):
    own = composed("dataset=visa", "protocol.targets=[mpdd,isic]", *PLACED, "seed=3")
    made = leg("protocol.legs.visa=[mpdd,isic]", *PLACED, "+protocol.roots.mvtec_ad=/a", "seed=3")
    assert plain(made) == plain(own)
    assert validate(made) is None


def test_roots_and_categories_reach_the_dataset_a_leg_is_trained_on(leg):
    made = leg("+protocol.roots.visa=/v", "+protocol.categories.visa=[pcb1]")
    assert (made.dataset.root, list(made.dataset.categories)) == ("/v", ["pcb1"])
    assert not made.protocol.roots


def test_a_leg_of_an_unknown_dataset_is_refused(leg):
    with (
        pytest.raises(ConfigError, match=r"must name datasets .*, got unheard_of\..*roots\.unheard_of=DIR"),
        initialize_config_dir(config_dir(), version_base="1.3"),
    ):
        compose_leg("unheard_of", compose("train", overrides=["+protocol.legs.unheard_of=[visa]"]))
