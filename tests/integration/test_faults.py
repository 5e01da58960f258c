"""Every fault ends in one sentence, and what was written before it stays."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from helpers.overrides import last_of_each
from helpers.trees import write_mvtec_tree

pytestmark = pytest.mark.integration


@pytest.fixture
def sentence(run, capsys):
    """Run a command that must fail with ``code``; returns its error."""

    def failing(code: int, name: str, *overrides: str) -> str:
        assert run(name, *overrides) == code
        said = capsys.readouterr().err
        assert "Traceback" not in said
        errors = [line for line in said.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1, said
        return errors[0].removeprefix("error: ")

    return failing


@pytest.fixture
def trained(run, small, tmp_path) -> Path:
    assert run("train", *small, "trainer.max_epochs=1", f"run_dir={tmp_path / 'trained'}") == 0
    return tmp_path / "trained"


@pytest.mark.parametrize(
    ("overrides", "code", "words"),
    [
        (["datset=visa"], 2, "Did you mean dataset?"),
        (["trainer.max_epoch=1"], 2, "Did you mean trainer.max_epochs?"),
        (["dataset=viza"], 2, "Did you mean dataset=visa?"),
        (["optimizer.lr=fast"], 2, "optimizer.lr must be a number, got fast"),
        (["no_equals_sign"], 2, "no_equals_sign stands alone after cache_dir="),
        (["trainer.max_epochs=0"], 1, "trainer.max_epochs must be positive, got 0"),
        (["optimizer.name=adamant"], 1, "optimizer.name must be one of adam, adamw, got adamant"),
        (["protocol.targets=[parts]"], 1, "+protocol.roots.parts=DIR"),
        (["module.network.self_prompting.stages=[9]"], 1, "must lie in 1..4"),
        (["backbone.quick_gelu=false"], 1, "The activation must be the one the weights were trained with"),
        (["backbone.image_size=70"], 1, "multiple of the patch size 16"),
        (["dataset.categories=[bolts]"], 1, "bolt"),
        (["dataset.root=nowhere"], 1, "nowhere"),
    ],
)
def test_a_wrong_config_says_what_to_change(sentence, small, tmp_path, overrides, code, words):
    assert words in sentence(code, "train", *small, *overrides, f"run_dir={tmp_path / 'r'}")


def test_a_missing_dataset_says_where_it_was_expected(sentence, tmp_path):
    said = sentence(1, "train", "dataset=visa", "backbone=tiny", f"data_dir={tmp_path}", f"run_dir={tmp_path / 'r'}")
    assert str(tmp_path / "VisA") in said
    assert "data_dir=DIR" in said


def test_a_typo_in_a_file_is_found_too(sentence, small, tmp_path):
    folder = tmp_path / "more" / "experiment"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text("# @package _global_\ntrainer:\n  max_epoch: 3\n")
    said = sentence(1, "train", "--config-dir", str(folder.parent), "experiment=mine", *small)
    assert "max_epoch" in said
    assert "experiment/mine" in said


def test_a_missing_mask_names_image_and_mask(sentence, small, tmp_path):
    root = write_mvtec_tree(tmp_path / "tree")
    (root / "bolt" / "ground_truth" / "spot" / "001_mask.png").unlink()
    said = sentence(1, "train", *small, f"dataset.root={root}", f"run_dir={tmp_path / 'r'}")
    assert str(root / "bolt" / "test" / "spot" / "001.png") in said
    assert "ground_truth/spot/001_mask" in said


def test_a_mask_of_another_size_names_both(sentence, small, tmp_path):
    root = write_mvtec_tree(tmp_path / "tree")
    mask = root / "bolt" / "ground_truth" / "spot" / "001_mask.png"
    Image.new("L", (10, 10), 255).save(mask)
    assert str(mask) in sentence(1, "train", *small, f"dataset.root={root}", f"run_dir={tmp_path / 'r'}")


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_truncated_image_is_named_wherever_it_is_read(sentence, small, tmp_path, num_workers):
    root = write_mvtec_tree(tmp_path / "tree")
    image = root / "tile" / "test" / "good" / "002.png"
    image.write_bytes(image.read_bytes()[:700])
    overrides = [override for override in small if "num_workers" not in override]
    said = sentence(
        1, "train", *overrides, f"data.num_workers={num_workers}", f"dataset.root={root}", f"run_dir={tmp_path / 'r'}"
    )
    assert str(image) in said


def test_a_checkpoint_of_another_backbone_is_refused(sentence, trained, unseen, tmp_path):
    target = ["dataset=folder", f"dataset.root={unseen}", f"run_dir={tmp_path / 'e'}"]
    said = sentence(1, "evaluate", f"checkpoint={trained}", "backbone=vit_b_32", *target)
    assert said.startswith("The checkpoint was trained with backbone=tiny, got backbone=vit_b_32.")


def test_the_same_name_with_other_weights_is_refused(sentence, trained, unseen, tmp_path):
    checkpoint = torch.load(trained / "checkpoints" / "last.ckpt", weights_only=True)
    checkpoint["manifest"]["backbone"]["fingerprint"] = "0" * 64
    torch.save(checkpoint, tmp_path / "other.ckpt")
    said = sentence(1, "evaluate", f"checkpoint={tmp_path / 'other.ckpt'}", "dataset=folder",
                    f"dataset.root={unseen}", f"run_dir={tmp_path / 'e'}")  # fmt: skip
    assert "was trained on other frozen weights" in said


def test_what_was_trained_on_is_never_scored(sentence, run, small, trained, auxiliary, tmp_path):
    same = [f"checkpoint={trained}", "dataset=folder", f"dataset.root={auxiliary}", "data.num_workers=0"]
    assert "their categories must be given" in sentence(1, "evaluate", *same, f"run_dir={tmp_path / 'a'}")
    renamed = [*same, "dataset.categories=[bolt]", "dataset.name=else"]
    assert "their categories must be given" in sentence(1, "evaluate", *renamed, f"run_dir={tmp_path / 'b'}")
    part = tmp_path / "part"
    assert run("train", *small, "dataset.categories=[bolt]", "trainer.max_epochs=1", f"run_dir={part}") == 0
    other = [f"checkpoint={part}", *same[1:], "dataset.name=generated", "dataset.categories=[tile]"]
    assert run("evaluate", *other, f"run_dir={tmp_path / 'c'}") == 0


def test_missing_arguments_are_a_bad_command_line(sentence):
    assert sentence(2, "evaluate", "dataset=folder").startswith("checkpoint must be given")
    assert "category must be given" in sentence(2, "calibrate", "good=x")


def test_a_loss_that_is_no_number_keeps_the_last_good_checkpoint(sentence, run, small, tmp_path):
    run_dir = tmp_path / "r"
    diverging = ["optimizer.lr=1e30", "trainer.max_epochs=3", "schedule=constant"]
    said = sentence(1, "train", *small, *diverging, f"run_dir={run_dir}")
    assert "The loss became nan in epoch" in said
    assert ".png" in said
    assert not list((run_dir / "checkpoints").glob("*unfinished*"))


def test_progress_that_does_not_fit_is_not_resumed(sentence, small, trained):
    path = trained / "checkpoints" / "resume.ckpt"
    content = torch.load(path, weights_only=True)
    (trained / "results.json").unlink()
    moments = content["optimizer_states"][0]["state"][0]
    for damaged, words in (
        (content | {"loops": {"fit_loop": {"epoch_progress": 3}}}, "resume.ckpt does not fit this training"),
        (content | {"lr_schedulers": [{}]}, "resume.ckpt does not fit this training"),
        (content | {"state_dict": {}}, "must hold exactly this network's weights"),
        (content | {"optimizer_states": [content["optimizer_states"][0] | {"state": {0: moments | {
            "exp_avg": torch.zeros(3)}}}]}, "must hold an optimizer's moments of the shape of"),
    ):  # fmt: skip
        torch.save(damaged, path)
        said = sentence(1, "train", *small, "trainer.max_epochs=1", "resume=true", f"run_dir={trained}")
        assert words in said
        assert "train from the start" in said


def test_a_training_without_a_finite_step_reports_nothing(sentence, small, unseen, tmp_path):
    target = ["protocol.targets=[parts]", f"+protocol.roots.parts={unseen}", "trainer.max_epochs=1"]
    for number, (override, words) in enumerate(
        {
            "trainer.limit_train_batches=0": "trainer.limit_train_batches",
            "optimizer.lr=1e30": "NaN or infinite with step",
        }.items()
    ):
        run_dir = tmp_path / str(number)
        more = ["trainer.limit_train_batches=1"] if "lr" in override else []
        assert words in sentence(1, "train", *small, *target, *more, override, f"run_dir={run_dir}")
        assert not (run_dir / "results.json").exists()
        assert not (run_dir / "checkpoints").exists()


def test_a_full_disk_keeps_the_checkpoint_of_the_epoch_before(sentence, small, tmp_path, monkeypatch):
    write, calls = Path.write_bytes, []

    def full_from_the_second_epoch_on(path: Path, content: bytes) -> int:
        if "last.ckpt" in path.name:
            calls.append(path)
        if len(calls) > 1:
            write(path, content[:100])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full_from_the_second_epoch_on)
    said = sentence(1, "train", *small, f"run_dir={tmp_path / 'r'}")
    assert said.startswith("The disk is full:")
    kept = torch.load(tmp_path / "r" / "checkpoints" / "last.ckpt", weights_only=True)
    assert kept["manifest"]["epochs"] == 1
    assert {path.name for path in (tmp_path / "r" / "checkpoints").iterdir()} == {"last.ckpt", "resume.ckpt"}


def test_a_run_folder_is_never_overwritten(sentence, small, trained):
    before = (trained / "manifest.json").read_bytes()
    assert "choose another" in sentence(1, "train", *small, f"run_dir={trained}").lower()
    assert (trained / "manifest.json").read_bytes() == before


def test_a_resumed_run_keeps_its_config(sentence, small, trained):
    said = sentence(1, "train", *small, "trainer.max_epochs=1", "optimizer.lr=0.5", "resume=true", f"run_dir={trained}")
    assert "optimizer.lr" in said


def test_a_killed_training_goes_on_as_if_nothing_had_happened(run, small, tmp_path):
    overrides = [*small, "trainer.max_epochs=4", "data.augment=true"]
    assert run("train", *overrides, f"run_dir={tmp_path / 'whole'}") == 0
    killed = tmp_path / "killed"
    command = [sys.executable, "-m", "afr_clip.train", *last_of_each(overrides), f"run_dir={killed}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    first = killed / "checkpoints" / "last.ckpt"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (killed / "checkpoints" / "resume.ckpt").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    stopped_after = torch.load(first, weights_only=True)["manifest"]["epochs"]
    assert stopped_after < 4, "the training was over before it could be killed"
    assert run("train", *overrides, f"run_dir={killed}", "resume=true") == 0
    whole, resumed = (
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True) for folder in (tmp_path / "whole", killed)
    )
    assert resumed["manifest"]["epochs"] == 4
    assert all(torch.equal(value, resumed["state_dict"][name]) for name, value in whole["state_dict"].items())
    assert (tmp_path / "whole" / "metrics.csv").read_text() == (killed / "metrics.csv").read_text()


@pytest.fixture
def two_targets(small, unseen, tmp_path) -> list[str]:
    other = write_mvtec_tree(tmp_path / "other", ("cable",), seed=2)
    roots = [f"+protocol.roots.parts={unseen}", f"+protocol.roots.other={other}"]
    return [*small, "trainer.max_epochs=1", "num_figures=1", "protocol.targets=[parts,other]", *roots]


def test_a_run_killed_after_its_first_target_scores_the_second_only(run, killed, two_targets, tmp_path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert run("train", *two_targets, f"run_dir={whole}") == 0
    killed([*two_targets, f"run_dir={stopped}"], "other", "test_step", epoch=1)
    once = [stopped / "figures" / "parts" / "highest.png", stopped / "checkpoints" / "last.ckpt"]
    before = [path.stat().st_mtime_ns for path in once]
    seconds = json.loads((stopped / "manifest.json").read_text())["seconds_training"]
    assert run("train", *two_targets, f"run_dir={stopped}", "resume=true") == 0
    assert [path.stat().st_mtime_ns for path in once] == before
    for name in ("results.csv", "scores.csv", "metrics.csv"):
        assert (stopped / name).read_text() == (whole / name).read_text(), name
    assert json.loads((stopped / "manifest.json").read_text())["seconds_training"] == seconds


def test_a_resumed_run_scores_again_what_has_changed(run, two_targets, tmp_path):
    run_dir = f"run_dir={tmp_path / 'r'}"
    sheets = [tmp_path / "r" / "figures" / name / "highest.png" for name in ("parts", "other")]
    assert run("train", *two_targets, run_dir) == 0
    before = [sheet.stat().st_mtime_ns for sheet in sheets]
    (tmp_path / "other" / "cable" / "test" / "good" / "000.png").unlink()
    assert run("train", *two_targets, run_dir, "resume=true") == 0
    assert [sheet.stat().st_mtime_ns == drawn for sheet, drawn in zip(sheets, before, strict=True)] == [True, False]
    results = (tmp_path / "r" / "results.csv").read_text()
    assert {row.split(",")[4] for row in results.splitlines() if row.startswith("other,")} == {"3"}
    assert not (tmp_path / "r" / "maps").exists()
    assert run("train", *two_targets, run_dir, "resume=true", "save_maps=true") == 0
    assert {path.name for path in (tmp_path / "r" / "maps").iterdir()} == {"parts", "other"}
    assert (tmp_path / "r" / "results.csv").read_text() == results


def test_an_interrupted_run_says_how_to_go_on(sentence, small, tmp_path, monkeypatch):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("afr_clip.run.train.load_dataset", interrupt)
    assert "resume=true" in sentence(1, "train", *small, f"run_dir={tmp_path / 'r'}")


def test_the_traceback_shows_on_request(run, small, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("AFR_CLIP_DEBUG", "")
    assert run("train", *small, "dataset.root=nowhere", f"run_dir={tmp_path / 'r'}", "--debug") == 1
    assert "Traceback" in capsys.readouterr().err


def test_results_without_a_number_are_named(run, small, trained, tmp_path):
    root = write_mvtec_tree(tmp_path / "tree", ("bolt", "tile"), seed=5)
    for path in (root / "tile" / "test" / "good").iterdir():
        path.unlink()
    assert run("evaluate", f"checkpoint={trained}", "dataset=folder", "dataset.name=odd", f"dataset.root={root}",
               "data.num_workers=0", f"run_dir={tmp_path / 'e'}") == 0  # fmt: skip
    results = json.loads((tmp_path / "e" / "results.json").read_text())
    assert "odd/tile/image_auroc" in results["undefined"]
    assert results["categories_in_mean"]["odd"]["image_auroc"] == 1
    by_key = {(row["category"], row["metric"]): row["value"] for row in results["results"]}
    assert by_key["mean", "image_auroc"] == by_key["bolt", "image_auroc"]
