import copy
import functools
import gzip
import io
import math
import operator
import os
import pickle
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from afr_clip.data.disk.separation import TrainedOn
from afr_clip.models.checkpoint import Checkpoint, CheckpointError, load_adapters, read_checkpoint, read_epochs
from afr_clip.training import checkpoint as checkpoint_module
from afr_clip.training.checkpoint import CheckpointWriter, checkpoint_sha256, read_progress, resume_path
from afr_clip.training.loggers import MetricsCSV
from afr_clip.training.module import TrainingDivergedError
from helpers.tiny import tiny_network

MANIFEST = {
    "backbone": {"name": "tiny", "fingerprint": "f" * 64},
    "seed": 3,
    "config": {"a": [1, None, "b"], "backbone": {"name": "tiny"}, "module": {"name": "afr_clip"}},
    "trained_on": {"name": "demo", "root": "drawn", "categories": None, "images": ["0" * 16]},
}


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


def test_every_epoch_is_kept_on_request(make_module, fit, batches, run_folder):
    writer = CheckpointWriter(run_folder / "checkpoints", MANIFEST, keep_every_epoch=True)
    fit(make_module(), batches, callbacks=[writer], max_epochs=3)
    last = read_checkpoint(run_folder)
    kept = read_epochs(last)
    assert [(one.path.name, one.manifest["epochs"]) for one in kept] == [
        (f"epoch_{epoch:04d}.ckpt", epoch) for epoch in (1, 2, 3)
    ]
    assert_same(kept[-1].state_dict, last.state_dict)
    assert any(not torch.equal(value, last.state_dict[name]) for name, value in kept[0].state_dict.items())


def test_a_training_that_kept_no_epochs_is_told_how(train, run_folder):
    train()
    with pytest.raises(FileNotFoundError, match=r"Train with keep_every_epoch=true\."):
        read_epochs(read_checkpoint(run_folder))


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


class Break(pl.Callback):
    """Sets a weight after the last step of the second epoch, as a step that was too large would."""

    def __init__(self, value: float, batch: int) -> None:
        self.value = value
        self.batch = batch

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == (1, self.batch):
            with torch.no_grad():
                pl_module.trainable_parameters()[0].fill_(self.value)


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e38])
def test_a_last_step_that_diverges_leaves_the_checkpoint_of_the_epoch_before(train, run_folder, value):
    sentence = r"became NaN or infinite with step 4, in epoch 2\. Lower optimizer\.lr .* of the last full epoch is kept"
    with pytest.raises(TrainingDivergedError, match=sentence):
        train(max_epochs=2, callbacks=[Break(value, batch=1)])
    assert read_checkpoint(run_folder).manifest["epochs"] == 1
    assert read_progress(run_folder / "checkpoints" / "resume.ckpt") == 2


def test_a_first_step_that_diverges_leaves_no_checkpoint(make_module, fit, batches, run_folder):
    writer = CheckpointWriter(run_folder / "checkpoints", MANIFEST)
    with pytest.raises(TrainingDivergedError, match=r"with step 1, in epoch 1\."):
        fit(make_module(lr=1e30), batches, callbacks=[writer], limit_train_batches=1)
    assert not run_folder.exists()


def test_progress_that_diverged_is_not_saved_between_two_steps(train, run_folder):
    class Stop(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if (trainer.current_epoch, batch_idx) == (1, 1):
                trainer.callbacks[0].save_progress(trainer)

    with pytest.raises(TrainingDivergedError, match=r"with step 3, in epoch 2\."):
        train(max_epochs=2, callbacks=[Break(math.nan, batch=0), Stop()])
    assert read_progress(run_folder / "checkpoints" / "resume.ckpt") == 2


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


def zip_of_text(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "b")


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


NOT_OURS = r"is not a last\.ckpt written by afr_clip\.train, or it is damaged: "
OTHER_FILES = {
    "empty": (lambda path: path.write_bytes(b""), "could not be read: it is empty"),
    "text": (lambda path: path.write_text("hello world, größer"), "could not be read: it is a text file"),
    "a page": (lambda path: path.write_text("\n<!DOCTYPE html><p>404"), "could not be read: it is a web page"),
    "a pointer": (
        lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\n"),
        "could not be read: it is a Git LFS pointer",
    ),
    "json": (lambda path: path.write_text('{"format": "afr-clip-adapters-1"}'), "could not be read: it is a text file"),
    "a picture": (
        lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(64)),
        "could not be read: it is a picture",
    ),
    "a gzip": (lambda path: path.write_bytes(gzip.compress(b"1")), "could not be read: it is a compressed archive"),
    "a cut zip": (
        lambda path: path.write_bytes(b"PK\x03\x04" + bytes(99)),
        "could not be read: it is a damaged or incomplete archive",
    ),
    "another zip": (zip_of_text, "could not be read: it is a zip archive of something else"),
    "a pickle": (
        lambda path: path.write_bytes(pickle.dumps({"format": "afr-clip-adapters-1"}, protocol=2)),
        "could not be read: it is a pickle",
    ),
    "safetensors": (
        lambda path: save_file({"a": torch.zeros(2)}, path),
        NOT_OURS + "format is missing",
    ),
    "a list": (lambda path: torch.save([1, 2], path), NOT_OURS + "the content must be an object, got \\[1, 2\\]"),
    "other weights": (
        lambda path: torch.save({"state_dict": {"a": torch.zeros(2)}}, path),
        NOT_OURS + "format is missing",
    ),
    "another format": (
        lambda path: torch.save(content_of({}) | {"format": "afr-clip-adapters-0"}, path),
        NOT_OURS + 'format must be afr-clip-adapters-1, got "afr-clip-adapters-0"',
    ),
    "an array": (lambda path: torch.save(torch.zeros(2), path), NOT_OURS + "the content must be an object, got a t"),
}


@pytest.mark.parametrize(("write", "sentence"), OTHER_FILES.values(), ids=OTHER_FILES.keys())
def test_another_file_is_refused_as_what_it_is(tmp_path, write, sentence):
    path = tmp_path / "some.ckpt"
    write(path)
    with pytest.raises(CheckpointError, match=rf"some\.ckpt {sentence}.*[Pp]ass the run folder") as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_neither_a_damaged_file_nor_the_one_to_resume_from_can_be_scored(train, run_folder):
    train()
    path = run_folder / "checkpoints" / "last.ckpt"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"last\.ckpt could not be read: it is a damaged or incomplete archive"):
        read_checkpoint(run_folder)
    with pytest.raises(CheckpointError, match=r"resume\.ckpt is not a last\.ckpt .* format is missing.* Pass the run"):
        read_checkpoint(path.with_name("resume.ckpt"))


def test_a_file_that_would_run_code_is_refused_and_runs_none(tmp_path):
    path, trace = tmp_path / "evil.ckpt", tmp_path / "it_ran"
    torch.save({"format": "afr-clip-adapters-1", "state_dict": {}, "manifest": Evil(trace)}, path)
    with pytest.raises(CheckpointError, match=r"evil\.ckpt could not be read: it refers to posix\.mkdir"):
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


def content_of(weights: dict[str, torch.Tensor]) -> dict:
    facts = {
        "epochs": 1,
        "started": "2026-11-28T17:46:12+0000",
        "commit": {"hash": "c" * 40, "dirty": False},
        "precision": {"asked": "auto", "chosen": "32-true"},
        "auxiliary": {"name": "demo", "categories": ["a"], "num_normal": 1, "num_anomalous": 1, "sha256": "a" * 64},
    }
    return {"format": "afr-clip-adapters-1", "state_dict": weights, "manifest": MANIFEST | facts}


@pytest.mark.parametrize(
    ("place", "value", "fault"),
    [
        ("state_dict", None, "state_dict must be an object, got null"),
        ("state_dict.a", None, r"state_dict\.a must be a tensor, got null"),
        ("state_dict.a", [1.0], r"state_dict\.a must be a tensor, got \[1\.0\]"),
        ("manifest", "x\ny", r'manifest must be an object, got "x\\ny"'),
        ("manifest.config", None, r"manifest\.config must be an object, got null"),
        ("manifest.config.module", 3, r"manifest\.config\.module must be an object, got 3"),
        ("manifest.backbone", 1.5, r"manifest\.backbone must be an object, got 1\.5"),
        ("manifest.backbone.fingerprint", 7, r"manifest\.backbone\.fingerprint must be text, got 7"),
        ("manifest.trained_on.images", {}, r"manifest\.trained_on\.images must be a list, got {}"),
        ("manifest.trained_on.categories", ["a", 1], r"manifest\.trained_on\.categories\[1\] must be text, got 1"),
        ("manifest.epochs", True, r"manifest\.epochs must be a whole number, got true"),
        ("manifest.epochs", 0, r"nothing was trained, because manifest\.epochs is 0"),
        ("manifest.auxiliary", [], r"manifest\.auxiliary must be an object, got \[\]"),
        ("manifest.commit", "abc", r'manifest\.commit must be an object, got "abc"'),
    ],
)
def test_what_is_missing_or_of_another_kind_is_named(tmp_path, place, value, fault):
    content = copy.deepcopy(content_of({"a": torch.ones(2)}))
    torch.save(content, tmp_path / "a.ckpt")
    assert read_checkpoint(tmp_path / "a.ckpt").manifest == content["manifest"]
    *path, name = place.split(".")
    owner = functools.reduce(operator.getitem, path, content)
    owner[name] = value
    torch.save(content, tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match=rf"a\.ckpt is not a last\.ckpt .* or it is damaged: {fault}\. Pass the"):
        read_checkpoint(tmp_path / "a.ckpt")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite_are_refused(tmp_path, value):
    torch.save(content_of({"a": torch.ones(2), "b": torch.tensor([[1.0, value]])}), tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match=r"a\.ckpt holds NaN or infinity in b: that training diverged\. Train"):
        read_checkpoint(tmp_path / "a.ckpt")


def places(content: object, path: tuple = ()) -> Iterator[tuple]:
    """Yield the place of everything inside."""
    entries = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in entries:
        yield (*path, key)
        yield from places(value, (*path, key))


VALUES = st.one_of(
    *(st.just(value) for value in (None, True, -1, 10**30, math.nan, "", "${oc.env:HOME}", b"\0", [], {}, ())),
    st.builds(torch.zeros, st.sampled_from([0, 1, (2, 3)])),
)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.data())
def test_a_changed_checkpoint_is_read_or_refused_in_a_sentence(tmp_path_factory, data):
    """Whatever is put in place of whatever: either it can be used, or the sentence names the file."""
    content = copy.deepcopy(content_of({"a": torch.ones(2), "b": torch.zeros(1)}))
    for _ in range(data.draw(st.integers(1, 3))):
        *path, name = data.draw(st.sampled_from(list(places(content))))
        owner = functools.reduce(operator.getitem, path, content)
        if data.draw(st.booleans()):
            del owner[name]
        else:
            owner[name] = data.draw(VALUES)
    buffer = io.BytesIO()
    torch.save(content, buffer)
    file = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(0, 2))):
        file[data.draw(st.integers(0, len(file) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("changed") / "a.ckpt"
    path.write_bytes(file[: data.draw(st.just(len(file)) | st.integers(0, len(file)))])
    sentence = None
    try:
        checkpoint = read_checkpoint(path)
    except CheckpointError as error:
        sentence = str(error)
    if sentence is None:
        assert all(weight.isfinite().all() for weight in checkpoint.state_dict.values())
        TrainedOn.from_plain(checkpoint.manifest["trained_on"])
    else:
        assert "a.ckpt" in sentence
        assert "\n" not in sentence


DAMAGES_OF_PROGRESS = {
    "no step": (lambda content: content.pop("global_step"), "global_step is missing"),
    "no optimizer": (lambda content: content.update(optimizer_states=None), "optimizer_states must be a list"),
    "other moments": (
        lambda content: content["optimizer_states"][0]["state"].update({0: 3}),
        r"optimizer_states\[0\]\.state\.0 must be an object, got 3",
    ),
}


@pytest.mark.parametrize(("damage", "fault"), DAMAGES_OF_PROGRESS.values(), ids=DAMAGES_OF_PROGRESS.keys())
def test_a_damaged_file_to_resume_from_is_refused(train, run_folder, damage, fault):
    train()
    path = run_folder / "checkpoints" / "resume.ckpt"
    content = torch.load(path, weights_only=True)
    assert read_progress(path) == content["global_step"] > 0
    whole = path.read_bytes()
    damage(content)
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=rf"resume\.ckpt is damaged, so .* cannot be resumed: .*{fault}"):
        read_progress(path)
    path.write_bytes(whole[:-50])
    with pytest.raises(CheckpointError, match=r"cannot be resumed: .* it is a damaged or incomplete archive"):
        read_progress(path)


def test_a_training_that_diverged_is_not_resumed(train, run_folder):
    train()
    path = run_folder / "checkpoints" / "resume.ckpt"
    content = torch.load(path, weights_only=True)
    content["optimizer_states"][0]["state"][0]["exp_avg"].view(-1)[0] = math.inf
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"resume\.ckpt holds NaN or infinity in exp_avg of parameter 0"):
        read_progress(path)
