import subprocess
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from afr_clip.run.job import ProtocolJob, TrainingJob
from afr_clip.sweep import figures
from afr_clip.sweep.figures import draw_figures
from helpers.results import name_of
from helpers.sweeps import write_cell

DATASET = name_of("MVTec AD")


@pytest.fixture
def methods(sweep_of, cell):
    """A sweep over two methods with two seeds, each with a protocol of one leg."""
    cells = []
    for seed in (0, 1):
        for name in ("winclip", "afr_clip"):
            made = cell(name, seed)
            leg = Mock(spec=TrainingJob, folder=made.folder / "visa", module=SimpleNamespace(name=name), data_dir=None)
            object.__setattr__(made, "job", ProtocolJob(made.folder, (leg,)))
            cells.append(made)
    for made in cells[:3]:
        write_cell(made.folder / "visa", [0.5])
    return sweep_of(*cells, axes={"module": ["winclip", "afr_clip"]})


@pytest.fixture
def drawn(monkeypatch):
    """Record what is drawn; the second figure fails."""
    calls: list[list[str]] = []

    def run(command, **_):
        calls.append(command[3:-2])
        return subprocess.CompletedProcess(command, int(len(calls) == 2), "", "log\nerror: No defect fills a patch.\n")

    monkeypatch.setattr(figures.subprocess, "run", run)
    return calls


def test_figures_show_the_first_seed_and_are_drawn_until_they_are_there(methods, drawn, tmp_path):
    winclip, afr_clip = (str(one.folder / "visa") for one in methods.cells[:2])
    faults = draw_figures([methods], tmp_path / "out")
    words = ["--dataset", DATASET]
    assert drawn == [["1", afr_clip, *words], ["3", afr_clip, *words], ["4", winclip, afr_clip, *words]]
    assert faults == [f"Figure 3 of {DATASET} could not be drawn: No defect fills a patch."]
    assert draw_figures([methods], tmp_path / "out") == []
    assert drawn[3:] == [["3", afr_clip, *words]]


def test_figures_of_fewer_runs_are_drawn_again(methods, drawn, tmp_path):
    (methods.cells[0].folder / "visa" / "results.json").rename(tmp_path / "away.json")
    draw_figures([methods], tmp_path)
    (tmp_path / "away.json").rename(methods.cells[0].folder / "visa" / "results.json")
    del drawn[:]
    draw_figures([methods], tmp_path)
    assert [words[0] for words in drawn] == ["3", "4"]


def test_other_sweeps_have_no_figures(sweep_of, cell, drawn, tmp_path):
    assert draw_figures([sweep_of(cell())], tmp_path / "out") == []
    assert drawn == []
