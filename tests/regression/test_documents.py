"""The commands in the documents: those that need no download are run as they stand, the others are composed."""

import pkgutil
import re
import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from afr_clip import demo, doctor, figure, hub, serve, validate, watch
from afr_clip.cli.words import read_words
from afr_clip.clip.hub import parse_place
from afr_clip.config.nodes import config_dir, method_names, register
from afr_clip.dashboard import build_parser as dashboard_parser
from afr_clip.data.disk.layouts import DATASETS
from afr_clip.datasets import build_parser
from afr_clip.report import read_arguments

REPOSITORY = Path(__file__).parents[2]
PAGES = [path for path in (REPOSITORY / "docs").rglob("*.md") if not {"_build", "generated"} & set(path.parts)]
DOCUMENTS = sorted([*REPOSITORY.glob("*.md"), *PAGES, *(REPOSITORY / "experiments").rglob("*.md")])
OURS = r"(?:afr-clip |python -m afr_clip\.)"
TAKES_A_CONFIG = {"train", "evaluate", "predict", "calibrate", "export", "diagnose", "sweep"}


def lines(pattern: str) -> list[str]:
    """Every line of a shell block that matches, and every such command in a sentence."""
    found = []
    for text in [path.read_text() for path in DOCUMENTS]:
        blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
        found += [line for block in blocks for line in block.splitlines() if re.match(pattern, line)]
        found += [code for code in re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text) if re.match(pattern, code)]
    return list(dict.fromkeys(found))


def split(line: str) -> list[str]:
    """Split a command of ours into its name and its arguments, without the comment."""
    return shlex.split(re.sub(OURS, "", line, count=1), comments=True)


COMMANDS = [split(line) for line in lines(OURS + r"[a-z]+ [^ ]")]
# test_contributing.py composes the example method.
COMPOSED = [words for words in COMMANDS if words[0] in TAKES_A_CONFIG and "module=linear_probe" not in words]
REPORTS = [words for words in COMMANDS if words[0] == "report"]
FIGURES = [words for words in COMMANDS if words[0] == "figure"]
ON_DATASETS = [words for words in COMMANDS if words[0] == "datasets" and (len(words) > 2 or words[1] == "list")]
ON_DASHBOARDS = [words for words in COMMANDS if words[0] == "dashboard"]
OFFLINE = [split(line) for line in lines(r"python -m afr_clip.*run_dir=outputs/(first|second|third)")]


def test_every_command_exists():
    assert {words[0] for words in COMMANDS} == TAKES_A_CONFIG | {
        *("figure", "report", "datasets", "dashboard", "demo", "hub", "doctor", "serve", "validate", "watch")
    }


@pytest.fixture(scope="module")
def schemas():
    register()


@pytest.mark.usefixtures("schemas")
@pytest.mark.parametrize("words", COMPOSED, ids=" ".join)
def test_every_command_composes(words):
    command, *overrides = words
    if "-m" in overrides:  # a multirun: the first job of it
        overrides = [word.split(",")[0] for word in overrides if word != "-m"]
    typed = read_words(command, [word for word in overrides if word != "..."])
    with initialize_config_dir(config_dir(), version_base="1.3"):
        config = compose(command, overrides=typed.overrides)
    assert config.task_name == command


@pytest.mark.parametrize("words", REPORTS, ids=" ".join)
def test_every_report_can_be_typed_so(words):
    assert read_arguments(words[1:]).runs


@pytest.mark.parametrize("words", ON_DATASETS, ids=" ".join)
def test_every_command_on_datasets_can_be_typed_so(words):
    typed = [{"NAME": "btad"}.get(word, word) for word in words[1:]]
    assert getattr(build_parser("DIR").parse_args(typed), "name", "btad") in {*DATASETS, "widgets"}


@pytest.mark.parametrize("words", FIGURES, ids=" ".join)
def test_every_figure_can_be_typed_so(words):
    arguments = figure.read_arguments(words[1:])
    figure.refuse_what_has_no_effect(arguments)
    assert arguments.number in (1, 3, 4)


@pytest.mark.parametrize("words", [words for words in COMMANDS if words[0] == "doctor"], ids=" ".join)
def test_every_check_of_the_machine_can_be_typed_so(words):
    assert doctor.build_parser(None).parse_args(words[1:]).suite == "afr11"


@pytest.mark.parametrize("words", [words for words in COMMANDS if words[0] == "hub" and len(words) > 2], ids=" ".join)
def test_every_command_on_the_hub_can_be_typed_so(words):
    typed = hub.build_parser().parse_args(words[1:])
    assert parse_place(typed.place) == ("OWNER/NAME", None)


@pytest.mark.parametrize("words", [words for words in COMMANDS if words[0] == "validate"], ids=" ".join)
def test_every_check_of_a_method_can_be_typed_so(words):
    assert validate.build_parser().parse_args(words[1:]).method in {*method_names(), "linear_probe", "METHOD"}


@pytest.mark.parametrize("words", [words for words in COMMANDS if words[0] == "serve"], ids=" ".join)
def test_every_server_can_be_typed_so(words, monkeypatch):
    monkeypatch.setenv("AFR_CLIP_TOKEN", "t" * 16)
    assert serve.read_models(serve.build_parser().parse_args(words[1:]))


@pytest.mark.parametrize("words", [words for words in COMMANDS if words[0] == "watch"], ids=" ".join)
def test_every_watch_can_be_typed_so(words, tmp_path):
    typed = watch.build_parser().parse_args(words[1:])
    assert len(watch.sinks_of(tmp_path, typed.webhook, typed.mqtt, {})) >= 2


@pytest.mark.parametrize("words", [words for words in COMMANDS if words[0] == "demo"], ids=" ".join)
def test_every_page_can_be_started_so(words):
    assert "pocket" in demo.build_parser().parse_args(words[1:]).checkpoint


@pytest.mark.parametrize("words", ON_DASHBOARDS, ids=" ".join)
def test_every_command_on_dashboards_can_be_typed_so(words):
    assert dashboard_parser().parse_args(words[1:]).verb == words[1]


def test_every_step_to_a_dataset_can_be_typed_so():
    rows = [row for row in DATASETS.values() if row.provenance is not None]
    steps = [(row, step.split(", or ")[0]) for row in rows for step in row.provenance.steps if re.match(OURS, step)]
    assert len(steps) > 10
    assert all(build_parser("DIR").parse_args(split(step)[1:]).name == row.name for row, step in steps)


def test_every_make_target_and_script_exists():
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    assert {line.split()[1] for line in lines("make ")} <= targets
    assert all((REPOSITORY / line.split()[1]).is_file() for line in lines(r"python [a-z]+/"))


def test_every_link_between_documents_leads_to_a_file():
    for path in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text()):
            assert "generated" in target or (path.parent / target).exists(), f"{path.name} links to {target}"


def test_every_file_and_object_of_ours_that_is_named_exists():
    example = ("linear_probe", "widgets", "METHOD", "NAME")
    for path in [path for path in DOCUMENTS if "experiments" not in path.parts]:  # records name files of their commit
        text = path.read_text()
        named = re.findall(r"`((?:src|tests|conf|experiments|benchmarks|docs)/[\w/.]+\.\w+)`", text)
        missing = [name for name in named if not (REPOSITORY / name).exists()]
        assert [name for name in missing if not any(word in name for word in example)] == [], path
        for name in re.findall(r"\{py:\w+\}`([\w.]+)`", text):
            pkgutil.resolve_name(name)


def test_the_readme_is_read_in_minutes():
    assert len((REPOSITORY / "README.md").read_bytes()) <= 8192


@pytest.mark.data
def test_the_readmes_offline_commands_run_one_after_the_other(run, data_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert [words[0] for words in OFFLINE] == ["train", "evaluate", "predict"]
    for command, *overrides in OFFLINE:
        assert run(command, *(word.replace("../shared/data", str(data_dir)) for word in overrides)) == 0
    outputs = tmp_path / "outputs"
    assert (outputs / "second" / "results.csv").is_file()
    assert list((outputs / "third" / "overlays").rglob("*.jpg"))
    described = (REPOSITORY / "docs" / "reference" / "run-folder.md").read_text()
    left = {path.name for folder in ("first", "second", "third") for path in (outputs / folder).iterdir()}
    assert {name for name in left if name not in described} == set()
