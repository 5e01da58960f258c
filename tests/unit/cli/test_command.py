import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hydra import errors

from afr_clip.cli import command
from afr_clip.cli.command import describe, ends_in_a_sentence, retyped, run_command
from afr_clip.config import nodes
from afr_clip.config.nodes import config_dir
from afr_clip.config.validate import ConfigError, MissingKeyError
from afr_clip.processes.signals import Stopped, forget_run, interrupted
from helpers.configs import validate


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """No debugging asked for, and whatever a command sets is undone."""
    monkeypatch.setenv("AFR_CLIP_DEBUG", "")
    monkeypatch.setenv("HYDRA_FULL_ERROR", "")
    forget_run()


@pytest.fixture
def end_of(capsys):
    """Run a function as a command; return its exit code and what it said on stderr."""

    def run(function) -> tuple[int, str]:
        with pytest.raises(SystemExit) as caught:
            ends_in_a_sentence(function)()
        said = capsys.readouterr()
        assert said.out == ""
        return caught.value.code, said.err

    return run


def raising(error: BaseException):
    def command() -> None:
        raise error

    return command


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["optimizer.lrr=1"], "Did you mean lr?"),
        (["optimzer.lr=1"], "Did you mean optimizer?"),
        (["loss.qqq=1"], "Known here: image_weight, focal_weight"),
        (["protocol.roots.visa=/data"], "Write +protocol.roots.visa=VALUE to add it."),
        (["optimizer.lr=abc"], "Value 'abc' of type 'str' could not be converted to Float (key optimizer.lr)"),
        (
            ["module.network.prompts.style=poetic"],
            "expected one of [single, winclip, winclip_21, april_gan, ada_clip, aa_clip, clip_ad]",
        ),
        (
            ["backbone=vit_x"],
            "Could not find 'backbone/vit_x' Available options in 'backbone': dinov2_l_14_reg dinov3_l_16",
        ),
        (["seed"], "Error parsing override 'seed'"),
        (["dataset=null"], "Config group override must be a string or a list"),
        (
            ["logger.wandb.project=mine"],
            "belongs to a group that is null. Choose the group too, for example logger=wandb.",
        ),
    ],
)
def test_a_bad_override_ends_with_2_and_says_what_would_do(composed, end_of, overrides, sentence):
    code, said = end_of(lambda: composed(*overrides))
    assert code == 2
    assert sentence in said
    assert said.startswith("error: ")
    assert said.count("\n") == 1


def test_a_group_that_must_be_chosen_is_named_once(composed):
    with pytest.raises(MissingKeyError, match=r"^dataset must be given, got nothing\. Write dataset=NAME"):
        validate(composed("checkpoint=run", command="evaluate"))


def test_a_fault_in_a_file_is_no_fault_of_the_command_line(composed, end_of, tmp_path):
    path = tmp_path / "loss" / "mine.yaml"
    path.parent.mkdir()
    path.write_text("defaults:\n  - schema\n  - _self_\n\nimage_wieght: 1\n", encoding="utf-8")
    code, said = end_of(lambda: composed(f"hydra.searchpath=[file://{tmp_path}]", "loss=mine"))
    assert code == 1
    assert said.startswith("error: In 'loss/mine': ConfigKeyError while composing the config: Key 'image_wieght' not")


@pytest.mark.parametrize("choice", ["recipe=recommended", "ablation=no_cmfr"])
def test_a_file_for_one_method_says_that_another_lacks_the_key(composed, end_of, choice):
    _, said = end_of(lambda: composed("module=april_gan", "dataset=visa", choice))
    assert said.startswith(f"error: {choice} sets module.network.cmfr, which the chosen module does not have. Choose")


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (ConfigError("seed must be 0 or more."), 1, "seed must be 0 or more."),
        (MissingKeyError("images must be given."), 2, "images must be given."),
        (FileNotFoundError("A checkpoint must lie at a."), 1, "A checkpoint must lie at a."),
        (
            RuntimeError("CUDA error"),
            1,
            "Unexpected RuntimeError: CUDA error. Run again with --debug and report what it shows.",
        ),
        (errors.MissingConfigException("Could not find 'a'."), 2, "Could not find 'a'."),
        (
            PermissionError(errno.EACCES, "Permission denied", "/data/a.png"),
            1,
            "/data/a.png could not be used: Permission denied. Check the path and its permissions.",
        ),
        (
            OSError(errno.EROFS, "Read-only file system", "/data/a.png"),
            1,
            "/data/a.png could not be used: Read-only file system. Choose another folder.",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device", "results.csv"),
            1,
            "The disk is full: results.csv could not be written. Files already written are complete. Free some space. "
            "Nothing was begun that could be resumed; run the same command again.",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            1,
            "The disk is full: the results could not be written. Files already written are complete. Free some space. "
            "Nothing was begun that could be resumed; run the same command again.",
        ),
        *(
            (
                error,
                1,
                "There is not enough memory. Choose a smaller data.batch_size (in training), data.eval_batch_size (in "
                "scoring) or backbone.image_size.",
            )
            for error in (
                MemoryError(),
                RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 80000000512 bytes."),
                torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
            )
        ),
        (KeyError("a"), 1, "Unexpected KeyError: 'a'. Run again with --debug and report what it shows."),
        (ValueError(), 1, "Unexpected ValueError: . Run again with --debug and report what it shows."),
        (AssertionError("b"), 1, "Unexpected AssertionError: b. Run again with --debug and report what it shows."),
        (
            KeyboardInterrupt(),
            1,
            interrupted(),
        ),
    ],
    ids=repr,
)
def test_every_error_ends_in_one_sentence_and_no_traceback(end_of, error, code, sentence):
    assert end_of(raising(error)) == (code, f"error: {sentence}\n")


@pytest.mark.parametrize("error", [ConfigError("a"), KeyError("b")], ids=repr)
def test_debugging_shows_the_traceback_before_the_sentence(end_of, monkeypatch, error):
    monkeypatch.setenv("AFR_CLIP_DEBUG", "1")
    code, said = end_of(raising(error))
    assert code == 1
    assert said.startswith("Traceback (most recent call last)")
    assert "raise error" in said
    assert said.splitlines()[-1] == f"error: {describe(error)}"


def test_an_end_asked_for_is_left_alone():
    with pytest.raises(SystemExit, match="7"):
        ends_in_a_sentence(raising(SystemExit(7)))()


def test_a_command_gets_its_arguments_and_keeps_its_name():
    seen = []

    def main(first: int, *, second: int) -> None:
        seen.append((first, second))

    ends_in_a_sentence(main)(1, second=2)
    assert (seen, ends_in_a_sentence(main).__name__) == ([(1, 2)], "main")


@pytest.mark.parametrize(("switch", "expected"), [(["--debug"], "1"), ([], "")])
def test_the_debug_switch_is_taken_off_the_command_line(monkeypatch, switch, expected):
    monkeypatch.setattr(sys, "argv", ["train", *switch, "seed=1"])
    seen = []
    run_command(lambda: seen.append((list(sys.argv), os.environ["AFR_CLIP_DEBUG"], os.environ["HYDRA_FULL_ERROR"])))
    assert seen == [(["train", "seed=1"], expected, "1")]


def test_the_config_is_found_in_a_checkout_and_in_an_installed_package(monkeypatch, tmp_path):
    assert (Path(config_dir()) / "train.yaml").is_file()
    installed = tmp_path / "site-packages" / "afr_clip"
    (installed / "conf").mkdir(parents=True)
    monkeypatch.setattr(nodes, "__file__", str(installed / "config" / "nodes.py"))
    assert config_dir() == str(installed / "conf")


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["train", "optimizer.lrr=1"], 2, "Did you mean optimizer.lr?"),
        (["train", "seed=-1"], 1, "seed must be 0 or more, got -1."),
        (["predict"], 2, "images must be given, got nothing."),
    ],
)
def test_a_command_ends_with_its_code_before_it_has_written_anything(tmp_path, arguments, code, sentence):
    name, *overrides = arguments
    line = [sys.executable, "-m", f"afr_clip.{name}", *overrides]
    done = subprocess.run(line, check=False, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith("error: ")
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


class _Terminated(SystemExit):
    """As Lightning's own, which has no code."""


def _interrupt_as_lightning_does() -> None:
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        sys.exit(1)


def _terminate() -> None:
    raise _Terminated


def _lose_a_worker() -> None:
    msg = "DataLoader worker (pid 7) is killed by signal: Terminated. "
    raise RuntimeError(msg)


@pytest.mark.parametrize("stopped", [_interrupt_as_lightning_does, _terminate, _lose_a_worker])
def test_a_stopped_run_says_so_and_never_looks_finished(capsys, stopped):
    with pytest.raises(SystemExit) as end:
        command.ends_in_a_sentence(stopped)()
    assert end.value.code == 1
    assert capsys.readouterr().err == f"error: {interrupted()}\n"


def test_a_run_that_was_asked_to_stop_ends_with_a_code_of_its_own(capsys):
    stopped = Stopped(signal.SIGUSR1, "The training is finished and saved.")
    with pytest.raises(SystemExit) as caught:
        run_command(raising(stopped))
    assert (caught.value.code, capsys.readouterr().err) == (75, f"error: {stopped}\n")


def test_a_sentence_is_said_once_however_deep_it_was_said(capsys):
    with pytest.raises(SystemExit):
        command.ends_in_a_sentence(command.ends_in_a_sentence(_interrupt_as_lightning_does))()
    assert capsys.readouterr().err.count("error: ") == 1


def test_an_ordinary_exit_stays_as_it_is():
    with pytest.raises(SystemExit) as end:
        command.ends_in_a_sentence(lambda: sys.exit(3))()
    assert end.value.code == 3


def test_processes_get_what_was_typed_and_the_folder_that_was_chosen():
    sources = [SimpleNamespace(provider="main", path="conf"), SimpleNamespace(provider="command-line", path="mine")]
    typed = SimpleNamespace(
        task=["seed=1", "dataset.categories=[a,b]"],
        hydra=["hydra.mode=MULTIRUN", "hydra.sweep.dir=x", "hydra/launcher=ray", "hydra.verbose=true"],
    )
    runtime = SimpleNamespace(output_dir="runs/it's/0", config_sources=sources)
    assert retyped(SimpleNamespace(runtime=runtime, overrides=typed)) == [
        *("--config-dir", "mine", "seed=1", "dataset.categories=[a,b]", "hydra.verbose=true"),
        r"hydra.run.dir='runs/it\'s/0'",
    ]
