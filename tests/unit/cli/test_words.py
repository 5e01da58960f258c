"""What arrives of what was typed."""

import os

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from afr_clip.cli.command import CommandLineError
from afr_clip.cli.words import read_words


def arrived(command: str, *words: str) -> dict[str, object]:
    """Read words and let Hydra's parser and OmegaConf make values of them, as composing does."""
    overrides = OverridesParser.create().parse_overrides(read_words(command, words).overrides)
    values = {override.key_or_group: override.value() for override in overrides}
    return {key: _of_omegaconf(value) for key, value in values.items()}


def _of_omegaconf(value: object) -> object:
    return OmegaConf.create({"x": value})._get_node("x")._value() if isinstance(value, str) else value


ODD = (
    "metal nut", "Haselnüsse (Los 7)", "driver's cap", 'the "big" one', "瓶子", "pcb #2", "p=1.png", "a, b", "[x]",
    "{y}",
    "2026_11_28", "1_2", "1e3", "007", "+5", "true", "1.", "inf", "nan", "~home", "a:b", "$x", "a\\b", "back\\",
    "'half",
    "two\nlines", " edge ", "choice(a)", "${", "b\udcff", "100%", "a=b=c", "-x", "@", "null and void", "\t",
)  # fmt: skip


@pytest.mark.parametrize("text", ODD, ids=ascii)
@pytest.mark.parametrize("key", ["category", "run_dir", "images", "checkpoint", "data_dir"])
def test_text_arrives_as_it_was_typed(key, text):
    if key == "images" and text == "[x]":
        assert arrived("predict", f"images={text}") == {"images": ["x"]}  # brackets make a list
        return
    value = arrived("predict", f"{key}={text}")[key]
    assert str(value).replace("\\${", "${") == text


@pytest.mark.parametrize(
    "text", [text for text in ODD if not set(text) & set(",'\"[]{}") and text.strip() == text], ids=ascii
)
def test_names_in_a_list_arrive_as_they_were_typed(text):
    value = arrived("evaluate", f"dataset.categories=[{text},other]")["dataset.categories"]
    assert [str(name).replace("\\${", "${") for name in value] == [text, "other"]


printable = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=20)


@settings(max_examples=300, deadline=None)
@given(
    printable.filter(
        lambda text: "$" not in text and text.strip("'\"") == text and text.lower() not in ("null", "none")
    )
)
def test_any_text_arrives_as_it_was_typed(text):
    assert str(arrived("predict", f"category={text}")["category"]) == text


@pytest.mark.parametrize(
    ("words", "value"),
    [
        (["'metal nut'"], "metal nut"),
        (['"metal nut"'], "metal nut"),
        (["a.png", "b c.png"], ["a.png", "b c.png"]),
        (["[a b, 'c, d', 1_2]"], ["a b", "c, d", "1_2"]),
    ],
)
def test_quotes_and_lists_of_ones_own_are_kept(words, value):
    typed = [f"images={words[0]}"] if len(words) == 1 else words
    assert arrived("predict", *typed)["images"] == value


def test_a_list_of_one_name_that_is_on_disk_is_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkdir("[x]")  # noqa: PTH102 - a name, not a path
    assert str(arrived("predict", "images=[x]")["images"]) == "[x]"
    assert arrived("predict", "[x]", "category=a=b")["images"] == "[x]"


@pytest.mark.parametrize(
    ("command", "words", "overrides"),
    [
        ("predict", ["photos", "--category", "metal nut"], ["category=metal nut", "images=photos"]),
        ("predict", ["a", "--category=b", "--map-format", "tiff"], ["category=b", "map_format=tiff", "images=a"]),
        ("evaluate", ["RUN", "dataset=visa", "--save-maps"], ["dataset=visa", "save_maps=true", "checkpoint=RUN"]),
        ("diagnose", ["RUN"], ["run_dir=RUN"]),
        ("train", ["protocol.roots.visa=/data"], ["++protocol.roots.visa=/data"]),
        ("train", ["+protocol.roots.visa=/data"], ["+protocol.roots.visa=/data"]),
        ("train", ["run_dir=outputs/${dataset.name}"], ["run_dir=outputs/${dataset.name}"]),
        ("train", ["num_threads=null", "~recipe"], ["num_threads=null", "~recipe"]),
        ("train", ["+protocol.legs.a=[b]"], ["+protocol.legs.a=[b]"]),
        ("train", ["-m", "seed=0,1", "run_dir=a b,2026_1"], ["seed=0,1", "run_dir=a b,'2026_1'"]),
        ("train", ["optimizer.lr=1e-4", "optimizer.betas=[0, .9]"], ["optimizer.lr=1e-4", "optimizer.betas=[0, .9]"]),
        ("train", ["hydra.verbose=true", "hydra/launcher=basic"], ["hydra.verbose=true", "hydra/launcher=basic"]),
    ],
)  # fmt: skip
def test_words_become_the_overrides_that_old_records_hold(command, words, overrides):
    assert read_words(command, words).overrides == overrides


def test_switches_of_hydra_are_handed_on(tmp_path):
    typed = read_words("train", ["--config-dir", str(tmp_path), "--cfg", "job", "seed=1"])
    assert (typed.options, typed.config_dir, typed.is_run) == (["--cfg", "job"], str(tmp_path), False)
    assert read_words("train", ["--multirun", "seed=1,2"]).is_multirun


@pytest.mark.parametrize("word", ["--config-name=x", "-cp", "--experimental-rerun", "hydra.searchpath=[pkg://os]"])
def test_what_would_run_something_else_is_not_taken(word):
    with pytest.raises(CommandLineError):
        read_words("train", [word])
