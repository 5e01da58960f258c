"""Command lines with slips of every kind: a job, or a sentence and nothing on disk."""

import logging
import shutil

import pytest
from hydra import compose, initialize_config_dir
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from PIL import Image

from afr_clip.config.nodes import config_dir, register
from helpers.fuzzing import fuzzed, guarded
from helpers.mutations import HOSTILE_TEXTS
from helpers.trees import write_mvtec_tree

TINY = ("backbone=tiny", "backbone.image_size=64", "data.num_workers=0", "num_threads=1")
COMMANDS = {
    "train": ("dataset=folder", "dataset.root=tree", *TINY, "run_dir=run"),
    "evaluate": ("dataset=folder", "dataset.root=tree", "module=clip_similarity", *TINY, "run_dir=run"),
    "predict": ("images=photographs", "category=thing", "module=clip_similarity", *TINY, "run_dir=run"),
    "export": ("categories=[thing]", "module=clip_similarity", *TINY, "run_dir=run"),
    "calibrate": ("good=photographs", "category=thing", "module=clip_similarity", *TINY, "run_dir=run"),
}


def keys_of(command: str) -> list[str]:
    """Every key of a command's config, group choices included."""
    register()
    with initialize_config_dir(config_dir(), version_base="1.3", job_name="fuzz"):
        config = compose(command, overrides=["dataset=folder"] if command in ("train", "evaluate") else [])

    def below(node, prefix=""):
        for key in node:
            name = f"{prefix}{key}"
            yield name
            if OmegaConf.is_dict(node) and not OmegaConf.is_missing(node, key) and OmegaConf.is_dict(node[key]):
                yield from below(node[key], f"{name}.")

    return [name for name in below(config) if name != "hydra"]


KEYS = {command: keys_of(command) for command in COMMANDS}

OPTIONS = ("--epochs", "-e", "--help", "--lr=1", "--cfg", "-p", "--", "-", "-x")

ODD = (
    "null", "true", "none", "None", "True", "1e-4", "1,000", "0..2", "-1", "1.5", "inf", "-inf", "nan", "1e38", "1_0",
    "0x10", "[a, b]", "[a,b", "a,b", "[]", "[0.9]", "{a: 1}", "{", "}", "'", '"', "'a", "a b", "a=b", "a:b", "a#b",
    "(a)", "a\\b", "~", "@", "???", "${seed}", "${oc.env:HOME}", "${a", "Haselnüsse (Los 7)", "range(3)",
    "choice(1,2)", "glob(*)", "sort(1,2)",
)  # fmt: skip

values = st.one_of(
    st.sampled_from(HOSTILE_TEXTS[:-1]),
    st.sampled_from(ODD),
    st.text(max_size=12),
    st.integers().map(str),
    st.floats().map(str),
    st.lists(st.integers(-2, 300), max_size=4).map(str),
)


@st.composite
def slipped(draw: st.DrawFn, text: str) -> str:
    """A word with one letter dropped, doubled, swapped or in the other case."""
    at = draw(st.integers(0, max(len(text) - 2, 0)))
    before, letter, after = text[:at], text[at : at + 1], text[at + 1 :]
    swapped = before + after[:1] + letter + after[1:]
    others = (text, text.upper(), text.replace("_", "-"), text.replace(".", "/"))
    return draw(st.sampled_from((before + after, before + letter * 2 + after, swapped, *others)))


@st.composite
def command_lines(draw: st.DrawFn) -> tuple[str, list[str]]:
    """A sound command line with one to three slips."""
    command = draw(st.sampled_from(tuple(COMMANDS)))
    words = list(COMMANDS[command])
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(("value", "value", "value", "key", "option", "drop", "split", "whole", "join")))
        at = draw(st.integers(0, len(words) - 1)) if words else 0
        if kind == "value":
            words.append(f"{draw(st.sampled_from(KEYS[command]))}={draw(values)}")
        elif kind == "key":
            key = draw(slipped(draw(st.sampled_from(KEYS[command]))))
            words.append(f"{draw(st.sampled_from(('', '', '+', '++', '~')))}{key}={draw(values)}")
        elif kind == "option":
            words.append(draw(st.sampled_from(("--epochs", "-e", "--help", "--lr=1", "--cfg", "-p", "--", "-", "-x"))))
        elif kind == "whole":
            words.append(draw(values))
        elif words and kind == "drop":
            words.pop(at)
        elif words and kind == "split":
            words[at : at + 1] = words[at].replace("=", " = ", 1).split(" ")
        elif words:
            words[at : at + 2] = ["".join(words[at : at + 2])]
    return command, [word.replace("\0", "") for word in words]


@pytest.fixture
def told(tmp_path, monkeypatch, run, capsys):
    """Type a command line; returns the exit code, the job if there is one, and what was printed on stderr."""
    folder = tmp_path / "work"
    write_mvtec_tree(folder / "tree", ("bolt",), num_normal=1, num_anomalous=1, size=(32, 32))
    (folder / "photographs").mkdir()
    Image.new("RGB", (8, 8)).save(folder / "photographs" / "a.png")
    monkeypatch.chdir(folder)
    jobs = []
    for command in COMMANDS:
        monkeypatch.setattr(f"afr_clip.run.{command}.{command}", lambda job, *_: jobs.append(job))

    def typed(command, words):
        for path in set(folder.iterdir()) - {folder / "tree", folder / "photographs"}:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        jobs.clear()
        for handler in [handler for handler in logging.root.handlers if isinstance(handler, logging.FileHandler)]:
            logging.root.removeHandler(handler)  # of the folder that has just gone
        with guarded(folder):
            code = run(command, *words)
        return code, (jobs or [None])[0], capsys.readouterr().err

    return typed


@fuzzed(2600)
@given(line=command_lines())
def test_a_slip_is_a_job_or_a_sentence(told, tmp_path, line):
    code, job, said = told(*line)
    assert code in {0, 1, 2}, said
    assert "Traceback" not in said
    assert "Unexpected" not in said, said
    if code:
        assert job is None
        assert sum(line.startswith("error: ") for line in said.splitlines()) == 1, said
        left = {path.name for path in (tmp_path / "work").iterdir()}
        assert left == {"tree", "photographs"}, left


plain = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=16)


@fuzzed(400)
@given(text=plain.filter(lambda text: text == text.strip() and not set(text) & set("'\"\\${}")))
def test_words_arrive_as_they_were_typed(told, text):
    code, job, said = told("predict", [*COMMANDS["predict"][:1], *COMMANDS["predict"][2:], f"category={text}"])
    assert code == 0, said
    assert job.category == text
