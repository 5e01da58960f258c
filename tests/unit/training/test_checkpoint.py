import os
import pickle
from dataclasses import replace
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from safetensors.torch import save_file

from afr_clip.training import checkpoint as checkpoint_module
from afr_clip.training.checkpoint import (
    Checkpoint,
    CheckpointError,
    CheckpointWriter,
    checkpoint_sha256,
    load_adapters,
    read_checkpoint,
    resume_path,
)
from afr_clip.training.loggers import MetricsCSV
from helpers.tiny import tiny_network

MANIFEST = {"backbone": {"name": "tiny", "fingerprint": "f" * 64}, "seed": 3, "config": {"a": [1, None, "b"]}}


@pytest.fixture
def train(make_module, fit, batches, tmp_path):
    """Train a module and write its checkpoints; return it."""

    def run(folder: Path = tmp_path / "run", **changes):
        module = make_module()
        callbacks = [CheckpointWriter(folder / "checkpoints", MANIFEST), *changes.pop("callbacks", [])]
        fit(module, batches, callbacks=callbacks, **changes)
        return module

    return run


@pytest.fixture
def run_folder(tmp_path):
    return tmp_path / "run"


def adapters(network) -> dict[str, torch.Tensor]:
    names = network.trainable_parameter_names()
    return {name: p.detach().clone() for name, p in network.named_parameters() if name in names}


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def test_the_file_to_share_holds_exactly_the_trained_weights_and_the_manifest(train, run_folder):
    module = train(max_epochs=2)
    content = torch.load(run_folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert content.keys() == {"format", "state_dict", "manifest"}
    assert_same(content["state_dict"], adapters(module.network))
    assert content["manifest"] == MANIFEST | {"epochs": 2}
    assert content["format"] == "afr-clip-adapters-1"


def test_both_files_are_written_after_every_epoch_and_nothing_else_stays(train, run_folder):
    seen = []

    class Look(pl.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            seen.append(sorted(path.name for path in (run_folder / "checkpoints").glob("*")))

    train(max_epochs=2, callbacks=[Look()])
    assert seen == [[], ["last.ckpt", "resume.ckpt"]]
    assert sorted(path.name for path in (run_folder / "checkpoints").iterdir()) == ["last.ckpt", "resume.ckpt"]


@pytest.mark.parametrize("failing", ["last.ckpt in memory", "last.ckpt on disk", "resume.ckpt"])
def test_a_write_that_fails_leaves_the_file_of_the_epoch_before(train, run_folder, monkeypatch, failing):
    train()
    folder = run_folder / "checkpoints"
    before = {name: (folder / name).read_bytes() for name in ("last.ckpt", "resume.ckpt")}
    write = Path.write_bytes

    def half(first, second, *args, **kwargs):
        for path in (first, second):
            if isinstance(path, Path):
                write(path, b"half")
        raise OSError(28, "No space left on device")

    owner, name = {
        "last.ckpt in memory": (checkpoint_module.torch, "save"),
        "last.ckpt on disk": (Path, "write_bytes"),
        "resume.ckpt": (pl.Trainer, "save_checkpoint"),
    }[failing]
    monkeypatch.setattr(owner, name, half)
    with pytest.raises(OSError, match="No space left"):
        train()
    assert (folder / failing.split()[0]).read_bytes() == before[failing.split()[0]]
    # Wherever it failed, training resumes from the epoch before and writes both again.
    assert (folder / "resume.ckpt").read_bytes() == before["resume.ckpt"]
    assert read_checkpoint(run_folder).manifest["epochs"] == 1
    assert sorted(path.name for path in folder.iterdir()) == ["last.ckpt", "resume.ckpt"]


def test_a_resumed_training_ends_where_an_uninterrupted_one_does(make_module, fit, batches, tmp_path):
    class Interrupt(pl.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            if trainer.current_epoch == 1:
                raise RuntimeError

    def run(name: str, *callbacks, resume: Path | None = None):
        module, step = make_module(), 0
        if resume is not None:
            step = torch.load(resume, weights_only=True)["global_step"]
        writer = CheckpointWriter(tmp_path / name / "checkpoints", MANIFEST)
        logger = MetricsCSV(tmp_path / name / "metrics.csv", step)
        fit(module, batches, resume, max_epochs=3, callbacks=[writer, *callbacks], logger=logger)
        return module

    whole = run("whole")
    with pytest.raises(RuntimeError):
        run("parts", Interrupt())
    resumed = run("parts", resume=resume_path(tmp_path / "parts" / "checkpoints"))
    assert_same(adapters(resumed.network), adapters(whole.network))
    assert (tmp_path / "parts" / "metrics.csv").read_text() == (tmp_path / "whole" / "metrics.csv").read_text()
    first, second = (read_checkpoint(tmp_path / name) for name in ("parts", "whole"))
    assert_same(dict(first.state_dict), dict(second.state_dict))
    assert first.manifest == second.manifest == MANIFEST | {"epochs": 3}


def test_there_is_nothing_to_resume_before_the_first_epoch_ends(tmp_path):
    assert resume_path(tmp_path) is None
    (tmp_path / "resume.ckpt").touch()
    assert resume_path(tmp_path) == tmp_path / "resume.ckpt"


def test_the_hash_of_the_weights_changes_with_them_and_with_nothing_else(train, run_folder):
    assert checkpoint_sha256(run_folder / "checkpoints") is None
    train()
    first = checkpoint_sha256(run_folder / "checkpoints")
    assert checkpoint_sha256(run_folder / "checkpoints") == first
    path = run_folder / "checkpoints" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    next(iter(content["state_dict"].values())).view(-1)[0] += 1
    torch.save(content, path)
    assert checkpoint_sha256(run_folder / "checkpoints") != first


def test_a_run_folder_and_its_file_are_the_same_checkpoint(train, run_folder):
    train()
    file = run_folder / "checkpoints" / "last.ckpt"
    by_folder, by_file = read_checkpoint(run_folder), read_checkpoint(file)
    assert by_folder.path == by_file.path == file
    assert_same(dict(by_folder.state_dict), dict(by_file.state_dict))
    assert by_folder.manifest == MANIFEST | {"epochs": 1}


@pytest.mark.parametrize("name", ["", "checkpoints/last.ckpt", "other.ckpt"])
def test_a_missing_checkpoint_is_refused_with_where_it_should_be(tmp_path, name):
    expected = tmp_path / name if name else tmp_path / "checkpoints" / "last.ckpt"
    with pytest.raises(FileNotFoundError, match=f"no checkpoint at {expected}. Pass checkpoint=RUN"):
        read_checkpoint(tmp_path / name)


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


OTHER_FILES = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("hello world"),
    "a config": lambda path: path.write_text("seed: 0\nbackbone:\n  name: tiny\n"),
    "json": lambda path: path.write_text('{"format": "afr-clip-adapters-1"}'),
    "a picture": lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(64)),
    "a pickle": lambda path: path.write_bytes(pickle.dumps({"format": "afr-clip-adapters-1"}, protocol=2)),
    "safetensors": lambda path: save_file({"a": torch.zeros(2)}, path),
    "a list": lambda path: torch.save([1, 2], path),
    "other weights": lambda path: torch.save({"state_dict": {"a": torch.zeros(2)}}, path),
    "another format": lambda path: torch.save({"format": "afr-clip-adapters-0", "state_dict": {}}, path),
    "an array": lambda path: torch.save(torch.zeros(2), path),
}


@pytest.mark.parametrize("write", OTHER_FILES.values(), ids=OTHER_FILES.keys())
def test_another_file_is_refused(tmp_path, write):
    path = tmp_path / "some.ckpt"
    write(path)
    with pytest.raises(
        CheckpointError, match=r"some\.ckpt is not a last\.ckpt written by afr_clip\.train, or it is damaged"
    ):
        read_checkpoint(path)


def test_neither_a_damaged_file_nor_the_one_to_resume_from_can_be_scored(train, run_folder):
    train()
    path = run_folder / "checkpoints" / "last.ckpt"
    path.write_bytes(path.read_bytes()[:-100])
    for broken, name in ((run_folder, "last"), (path.with_name("resume.ckpt"), "resume")):
        with pytest.raises(CheckpointError, match=rf"{name}\.ckpt is not a last\.ckpt .* Pass the run folder"):
            read_checkpoint(broken)


def test_a_file_that_would_run_code_is_refused_and_runs_none(tmp_path):
    path, trace = tmp_path / "evil.ckpt", tmp_path / "it_ran"
    torch.save({"format": "afr-clip-adapters-1", "state_dict": {}, "manifest": Evil(trace)}, path)
    with pytest.raises(CheckpointError, match=r"evil\.ckpt is not"):
        read_checkpoint(path)
    assert not trace.exists()


@pytest.fixture
def trained(towers) -> Checkpoint:
    """Weights of another seed than the networks of these tests have."""
    return Checkpoint(Path("last.ckpt"), adapters(tiny_network(towers, seed=5)), MANIFEST)


def test_adapters_are_restored_exactly_and_the_towers_stay(towers, trained):
    network, fingerprint = tiny_network(towers), towers.fingerprint()
    load_adapters(network, trained, "f" * 64)
    assert_same(adapters(network), dict(trained.state_dict))
    assert towers.fingerprint() == fingerprint
    assert all(p.requires_grad == (n in trained.state_dict) for n, p in network.named_parameters())


def test_other_frozen_weights_are_refused_and_nothing_is_loaded(towers, trained):
    network = tiny_network(towers)
    before = adapters(network)
    sentence = (
        r"last\.ckpt was trained on other .* \(backbone tiny, ffffffffffff\) than .* \(eeeeeeeeeeee\)\. Pass the same"
    )
    with pytest.raises(CheckpointError, match=sentence):
        load_adapters(network, trained, "e" * 64)
    assert_same(adapters(network), before)


def missing(state: dict) -> dict:
    return {name: value for name, value in state.items() if name != "text_adapter.bias"}


def extra(state: dict) -> dict:
    return state | {"text_adapter.bias_too": torch.zeros(1)}


def reshaped(state: dict) -> dict:
    return state | {"text_adapter.bias": torch.zeros(3)}


def frozen(state: dict) -> dict:
    return state | {"backbone.clip.logit_scale": torch.zeros(())}


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (missing, "text_adapter.bias"),
        (extra, "text_adapter.bias_too"),
        (reshaped, "text_adapter.bias"),
        (frozen, "backbone.clip.logit_scale"),
    ],
)
def test_weights_that_do_not_fit_are_refused_and_nothing_is_loaded(towers, trained, change, name):
    network = tiny_network(towers)
    before = adapters(network)
    other = replace(trained, state_dict=change(dict(trained.state_dict)))
    with pytest.raises(CheckpointError, match=rf"exactly the weights of this network; 1 differ, .* {name}\."):
        load_adapters(network, other, "f" * 64)
    assert_same(adapters(network), before)


def test_weights_of_another_variant_are_refused(towers, trained):
    with pytest.raises(CheckpointError, match=r"\d+ differ, for example cmfr\..* Remove module\.\* overrides"):
        load_adapters(tiny_network(towers, cmfr={"enabled": False}), trained, "f" * 64)
