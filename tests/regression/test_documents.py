"""The commands in the documents: those that need no download are run as they stand, the others are composed."""

import re
import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from afr_clip.cli.command import config_dir
from afr_clip.config.schema import register
from afr_clip.dashboard import build_parser as dashboard_parser
from afr_clip.data.disk.layouts import DATASETS
from afr_clip.datasets import build_parser
from afr_clip.report import read_arguments

REPOSITORY = Path(__file__).parents[2]
DOCUMENTS = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "experiments").rglob("*.md")])


def typed(pattern: str) -> list[list[str]]:
    """Every line of a shell block that matches, as words without its comment."""
    blocks = [block for path in DOCUMENTS for block in re.findall(r"```sh\n(.*?)```", path.read_text(), re.DOTALL)]
    lines = [line for block in blocks for line in block.splitlines()]
    return [shlex.split(line, comments=True) for line in lines if re.match(pattern, line)]


COMMANDS = typed(r"python -m afr_clip\.")
REPORTS = [words for words in COMMANDS if words[2] == "afr_clip.report"]
ON_DATASETS = [words for words in COMMANDS if words[2] == "afr_clip.datasets"]
ON_DASHBOARDS = [words for words in COMMANDS if words[2] == "afr_clip.dashboard"]
COMPOSED = [words for words in COMMANDS if words not in [*REPORTS, *ON_DATASETS, *ON_DASHBOARDS]]
OFFLINE = [words for words in COMMANDS if any("outputs/" in word for word in words)]


@pytest.mark.parametrize("words", COMPOSED, ids=" ".join)
def test_every_command_composes(words):
    register()
    with initialize_config_dir(config_dir(), version_base="1.3"):
        config = compose(words[2].removeprefix("afr_clip."), overrides=words[3:])
    assert config.task_name == words[2].removeprefix("afr_clip.")


@pytest.mark.parametrize("words", REPORTS, ids=" ".join)
def test_every_report_can_be_typed_so(words):
    assert read_arguments(words[3:]).runs


@pytest.mark.parametrize("words", ON_DATASETS, ids=" ".join)
def test_every_command_on_datasets_can_be_typed_so(words):
    assert getattr(build_parser("DIR").parse_args(words[3:]), "name", "btad") in DATASETS


@pytest.mark.parametrize("words", ON_DASHBOARDS, ids=" ".join)
def test_every_command_on_dashboards_can_be_typed_so(words):
    assert dashboard_parser().parse_args(words[3:]).verb == words[3]


def test_every_step_to_a_dataset_can_be_typed_so():
    rows = [row for row in DATASETS.values() if row.provenance is not None]
    steps = [(row, step.split(", or ")[0]) for row in rows for step in row.provenance.steps if "afr_clip." in step]
    assert len(steps) > 10
    assert all(build_parser("DIR").parse_args(step.split()[3:]).name == row.name for row, step in steps)


def test_every_make_target_and_script_exists():
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    assert {words[1] for words in typed("make ")} <= targets
    assert all((REPOSITORY / words[1]).is_file() for words in typed(r"python [a-z]+/"))


@pytest.mark.data
def test_the_readmes_offline_commands_run_one_after_the_other(run, data_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert [words[2] for words in OFFLINE] == ["afr_clip.train", "afr_clip.evaluate", "afr_clip.predict"]
    for words in OFFLINE:
        overrides = [word.replace("../shared/data", str(data_dir)) for word in words[3:]]
        assert run(words[2].removeprefix("afr_clip."), *overrides) == 0
    assert (tmp_path / "outputs" / "second" / "results.csv").is_file()
    assert list((tmp_path / "outputs" / "third" / "overlays").rglob("*.jpg"))
