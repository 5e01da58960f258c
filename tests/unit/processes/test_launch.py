import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from afr_clip.cli.command import LOST, SpokenExit
from afr_clip.processes.launch import Member, _arguments, _faults, _watch


def asked(devices: int = 1, num_nodes: int = 1, run_dir: str | None = "run"):
    return OmegaConf.create({"trainer": {"devices": devices, "num_nodes": num_nodes}, "run_dir": run_dir})


def faults(config, environment: dict[str, str]) -> list[str]:
    return list(_faults(config, config.trainer.devices * config.trainer.num_nodes, environment))


MEETING = {"NODE_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
STARTED = {"RANK": "1", "WORLD_SIZE": "4"}


@pytest.mark.parametrize(
    ("config", "environment"),
    [
        (asked(run_dir=None), {}),
        (asked(devices=2, run_dir=None), {}),
        (asked(devices=2, num_nodes=2), MEETING),
        (asked(devices=2, num_nodes=2), STARTED),
        (asked(devices=4), STARTED),
    ],
)
def test_what_was_asked_for_can_be_started(config, environment):
    assert faults(config, environment) == []


@pytest.mark.parametrize(
    ("config", "environment", "sentence"),
    [
        (asked(), STARTED, "must be the number of processes that were started, 4, got trainer.devices=1"),
        (asked(devices=4, run_dir=None), STARTED, "run_dir must be given where processes are started one by one"),
        (asked(num_nodes=2, run_dir=None), MEETING, "run_dir must be given where processes are started one by one"),
        (asked(num_nodes=2), {"NODE_RANK": "0"}, "got no MASTER_ADDR, MASTER_PORT"),
    ],
)
def test_what_cannot_be_started_is_said(config, environment, sentence):
    (fault,) = faults(config, environment)
    assert sentence in fault


def test_processes_get_what_was_typed_and_the_folder_that_was_decided():
    sources = [SimpleNamespace(provider="main", path="conf"), SimpleNamespace(provider="command-line", path="mine")]
    typed = SimpleNamespace(
        task=["seed=1", "dataset.categories=[a,b]"],
        hydra=["hydra.mode=MULTIRUN", "hydra.sweep.dir=x", "hydra/launcher=ray", "hydra.verbose=true"],
    )
    runtime = SimpleNamespace(output_dir="runs/it's/0", config_sources=sources)
    assert _arguments(SimpleNamespace(runtime=runtime, overrides=typed)) == [
        *("--config-dir", "mine", "seed=1", "dataset.categories=[a,b]", "hydra.verbose=true"),
        r"hydra.run.dir='runs/it\'s/0'",
    ]


def member(rank: int, tmp_path: Path, source: str, sentence: str | None = None) -> Member:
    file = tmp_path / str(rank)
    if sentence is not None:
        file.write_text(sentence)
    return Member(rank, subprocess.Popen([sys.executable, "-S", "-c", source]), file)


FOREVER = "import time; time.sleep(600)"


def test_where_all_end_well_nothing_is_said(tmp_path, capsys):
    _watch([member(rank, tmp_path, "") for rank in range(3)])
    assert capsys.readouterr() == ("", "")


def test_the_first_failure_ends_all(tmp_path, capsys):
    others = member(1, tmp_path, FOREVER)
    with pytest.raises(SpokenExit) as end:
        _watch([member(0, tmp_path, "raise SystemExit(3)", "It broke."), others])
    assert (end.value.code, capsys.readouterr().err) == (3, "error: It broke.\n")
    assert others.code == -signal.SIGTERM


def test_who_still_saves_when_another_one_has_stopped_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr("afr_clip.processes.launch.GRACE", 0.2)
    saving = "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(2)"
    process = subprocess.Popen([sys.executable, "-S", "-c", saving], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    with pytest.raises(SpokenExit) as end:
        _watch([member(0, tmp_path, "raise SystemExit(75)", "Stopped."), Member(1, process, tmp_path / "1")])
    process.stdout.close()
    assert (end.value.code, process.returncode) == (75, 0)


def test_a_process_that_only_lost_another_one_does_not_speak_for_it(tmp_path, capsys):
    slow = member(1, tmp_path, "import time; time.sleep(0.5); raise SystemExit(1)", "The cause.")
    with pytest.raises(SpokenExit):
        _watch([member(0, tmp_path, "raise SystemExit(1)", f"{LOST}."), slow])
    assert capsys.readouterr().err == "error: The cause.\n"


def test_a_killed_process_is_said_to_be_killed(tmp_path, capsys):
    with pytest.raises(SpokenExit) as end:
        _watch([member(0, tmp_path, "import os; os.kill(os.getpid(), 9)"), member(1, tmp_path, FOREVER)])
    assert end.value.code == 1
    assert "Process 0 of the run was killed by signal 9." in capsys.readouterr().err


def test_a_signal_reaches_the_processes(tmp_path, capsys):
    listening = (
        "import os, signal, time; signal.signal(signal.SIGUSR1, lambda *_: os._exit(75)); print(flush=True);" + FOREVER
    )
    process = subprocess.Popen([sys.executable, "-S", "-c", listening], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    (tmp_path / "0").write_text("Stopped.")
    asks = subprocess.Popen([sys.executable, "-S", "-c", f"import os, time; time.sleep(1); os.kill({os.getpid()}, 10)"])
    with pytest.raises(SpokenExit) as end:
        _watch([Member(0, process, tmp_path / "0")])
    asks.wait()
    process.stdout.close()
    assert (end.value.code, capsys.readouterr().err) == (75, "error: Stopped.\n")
