from pathlib import Path

import pytest

from afr_clip.cli.command import CommandLineError
from afr_clip.cli.detectors import by_model, load_model, require_extra
from afr_clip.serve import build_parser, named, read_models, read_settings
from afr_clip.serving.settings import ServingSettings


def test_values_belong_to_the_model_they_name():
    assert by_model("--category", ["a=x=y", "b=z"], ["a", "b"]) == {"a": ["x=y"], "b": ["z"]}
    assert by_model("--category", ["a=size=big"], ["a"]) == {"a": ["size=big"]}
    assert by_model("--calibration", ["runs/lr=1/c.json"], ["a"]) == {"a": ["runs/lr=1/c.json"]}
    for names in (["a"], ["a", "b"]):
        with pytest.raises(
            CommandLineError,
            match=rf"--category c=x must begin with one of {', '.join(names)}, got c\. Write --category a=c=x if that",
        ):
            by_model("--category", ["c=x"], names)


def test_a_category_that_is_blank_is_refused_before_anything_is_loaded():
    typed = build_parser().parse_args(["nowhere", "--category", " "])
    with pytest.raises(CommandLineError, match=r"--category must be words for what the photographs show, got none\."):
        load_model("nowhere", "nowhere", typed.category, None, typed)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["a/model.onnx", "b/model.onnx"], r"Two models are called model\. Give each a name"),
        (["/"], r"The name of a model must be of letters, digits and _.-, got \. Write NAME=/\."),
        (["a b=x"], r"The name of a model must be of letters"),
    ],
)
def test_names_of_models_are_different_words(words, sentence):
    with pytest.raises(CommandLineError, match=sentence):
        named(words)


def test_a_model_has_one_calibration():
    typed = build_parser().parse_args(["a=x", "b=y", "--calibration", "a=1.json", "--category", "nut"])
    a, b = read_models(typed)
    assert (a.checkpoint, a.categories, a.calibration) == ("x", ["nut"], Path("1.json"))
    assert (b.checkpoint, b.categories, b.calibration) == ("y", ["nut"], None)
    typed = build_parser().parse_args(["a=x", "--calibration", "1.json", "--calibration", "2.json"])
    with pytest.raises(CommandLineError, match=r"A model has one calibration, got several for a\."):
        read_models(typed)


def test_the_defaults_of_the_command_line_are_those_of_the_settings():
    assert read_settings(build_parser().parse_args([]), None) == ServingSettings()
    typed = build_parser().parse_args(["--open", "--host", "0.0.0.0", "--wait", "0.5"])
    assert read_settings(typed, None) == ServingSettings(host="0.0.0.0", is_open=True, wait=0.5)


def test_an_extra_that_is_missing_is_a_sentence():
    require_extra("serve", ("json",))
    with pytest.raises(
        CommandLineError, match=r"needs nowhere_x, which is not installed\. Run pip install 'afr-clip\[s"
    ):
        require_extra("serve", ("json", "nowhere_x"))
