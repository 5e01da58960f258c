import pytest
from omegaconf import OmegaConf

from afr_clip.config.keys import keys_of
from afr_clip.reports.compare.phrases import (
    WORDS,
    describe_choices,
    describe_setting,
    describe_value,
    has_usual,
    is_usual,
)
from helpers.configs import _compose, plain

NOT_IN_THE_CONFIG = {"epochs", "trainer.precision in scoring", "backbone.fingerprint"}
"""What a setting consists of in addition to its config."""


def test_every_key_with_words_is_one_of_the_config():
    assert WORDS.keys() - NOT_IN_THE_CONFIG <= keys_of("train").keys()


@pytest.mark.parametrize("key", [key for key in WORDS if has_usual(key)])
def test_what_names_leave_out_is_the_default(key, default_config):
    value = OmegaConf.select(OmegaConf.create(plain(default_config)), key)
    assert is_usual(key, value)


@pytest.fixture(scope="module")
def default_config():
    return _compose()


def test_values_are_named_in_the_words_of_people():
    assert describe_value("backbone.image_size", 320) == "320 px"
    assert describe_value("module.network.mpfa_window", 5) == "MPFA over 5 x 5"
    assert describe_value("module.network.mpfa_window", 1) == "no MPFA"
    assert describe_value("module.network.self_prompting.stages", [1, 2]) == "SP in stages [1, 2]"
    assert describe_value("module.network.scoring.temperature", None) == "scoring.temperature=null"
    assert describe_value("mine.odd.key", {"a": "b{}"}) == "odd.key={a: b{}}"


def test_the_files_that_every_run_chooses_are_left_out():
    usual = {"module": "ada_clip", "recipe": "ada_clip", "ablation": "full", "experiment": None}
    assert list(describe_choices(usual)) == []
    chosen = usual | {"recipe": "recommended", "ablation": ["no_sp", "reading_raw_text"], "experiment": "demo"}
    assert list(describe_choices(chosen)) == ["experiment demo", "recipe recommended", "no SP", "raw text"]


def test_the_settings_of_a_sweep_get_words_too():
    assert describe_setting("table3_cmfr") == "CMFR"
    assert describe_setting("ablation=[no_sp,no_cmfr],optimizer.lr=0.1") == "ablation=[no_sp,no_cmfr], lr 0.1"
    assert describe_setting('optimizer.lr="') == 'optimizer.lr="'
    assert describe_setting("module.network.cmfr.enabled=true") == "module.network.cmfr.enabled=true"
