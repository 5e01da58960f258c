import pytest
from hydra import initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser

from afr_clip.config.axes import Axes, Interval, keys_of_file, quoted, read_axes, typed_values
from afr_clip.config.nodes import config_dir
from afr_clip.config.validate import ConfigError


def test_lists_are_choices_and_intervals_are_a_space():
    params = {"ablation": "a, b", "seed": "range(2)"}
    params |= {"loss.w": "interval(0, 2)", "optimizer.lr": "tag(log, interval(1e-4, 1))"}
    axes = read_axes(params)
    assert axes.choices == {"ablation": ("a", "b"), "seed": ("0", "1")}
    assert axes.space == {"loss.w": Interval(0.0, 2.0, False), "optimizer.lr": Interval(1e-4, 1.0, True)}
    assert axes.keys == params.keys()


def test_one_value_is_a_choice_too_and_nothing_varies_nothing():
    assert read_axes({"ablation": "full"}).choices == {"ablation": ("full",)}
    assert read_axes(None).keys == set()


def test_a_setting_is_named_after_its_ablation_or_else_after_everything():
    assert list(Axes({"ablation": ("a", "b")}, {}).settings()) == [("a", ("ablation=a",)), ("b", ("ablation=b",))]
    (several,) = read_axes({"ablation": "[a, b]"}).choices["ablation"]
    assert list(Axes({"ablation": (several,)}, {}).settings()) == [("a+b", ("ablation=[a,b]",))]
    names = [name for name, _ in Axes({"ablation": ("a",), "data.augment": ("true", "false")}, {}).settings()]
    assert names == ["ablation=a,data.augment=true", "ablation=a,data.augment=false"]


@pytest.mark.parametrize("interval", ["interval(2, 1)", "tag(log, interval(0, 1))", "glob(*)"])
def test_what_is_neither_is_refused(interval):
    with pytest.raises(ConfigError, match=r"needs|must be"):
        read_axes({"optimizer.lr": interval})


@pytest.mark.parametrize("value", ["/a b/c", "x=y,z", "it's", "1", "null", "[a]"])
def test_a_quoted_value_is_read_back_as_it_was(value):
    (override,) = OverridesParser.create().parse_overrides([f"run_dir={quoted(value)}"])
    assert override.value() == value


def test_typed_keys_are_read_with_their_values():
    assert typed_values(["a.b=1", "+c=[x]", "~d"]) == [("a.b", 1), ("c", ["x"]), ("d", None)]


def test_the_keys_of_an_ablation_are_named():
    with initialize_config_dir(config_dir(), version_base="1.3"):
        assert keys_of_file("ablation", "table5_both") == {
            "module.network.self_prompting.image_prompt",
            "module.network.self_prompting.shared_prompt",
        }
        assert keys_of_file("ablation", "full") == set()
