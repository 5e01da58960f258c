import json
import logging
import math
import platform
import subprocess
import sys
from contextlib import nullcontext

import pytest

from afr_clip.data.disk.folders import OUTPUT_FOLDERS
from afr_clip.files import LogFile, written_whole
from afr_clip.reports.record.run_folder import (
    HOLDER,
    LOCK,
    WRITTEN_BY_RUNS,
    RunFolderError,
    hold,
    holds_run,
    open_run,
    require_held,
    write_json,
    write_text,
)

CONFIG = {
    "seed": 0,
    "resume": False,
    "run_dir": "a",
    "data_dir": "/data",
    "drawn_dir": "/data",
    "cache_dir": "c",
    "num_threads": None,
    "save_maps": False,
    "data": {"batch_size": 4, "num_workers": 2, "cache": False},
    "logger": {"wandb": None},
    "optimizer": {"lr": 0.001, "betas": [0.9, 0.999]},
    "protocol": {"targets": ["mine"], "roots": {}},
}


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name not in (LOCK, HOLDER))


def test_a_file_appears_under_its_name_only_when_it_is_whole(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with written_whole(path) as unfinished:
        unfinished.write_text("half")
        assert not path.exists()
        assert unfinished.parent == path.parent
    assert path.read_text() == "half"
    assert names(path.parent) == ["a.txt"]


def write_half(path, error: type[BaseException]) -> None:
    with written_whole(path) as unfinished:
        unfinished.write_text("half")
        raise error


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, OSError])
@pytest.mark.parametrize("before", [None, "old"])
def test_a_failed_write_leaves_nothing_behind_and_the_old_file_alone(tmp_path, error, before):
    path = tmp_path / "a.txt"
    if before is not None:
        path.write_text(before)
    with pytest.raises(error):
        write_half(path, error)
    assert names(tmp_path) == ([] if before is None else ["a.txt"])
    assert before is None or path.read_text() == before


def test_a_write_that_never_began_leaves_nothing_behind(tmp_path):
    with pytest.raises(RuntimeError), written_whole(tmp_path / "a.txt"):
        raise RuntimeError
    assert names(tmp_path) == []


def test_text_and_json_come_back_as_they_went(tmp_path):
    write_text(tmp_path / "a.txt", "Größe\n")
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "Größe\n"
    content = {"a": 0.1 + 0.2, "b": [1, None, {"c": "é"}]}
    write_json(tmp_path / "a.json", content)
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == content
    assert text.endswith("}\n")


def test_nan_is_no_json(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"a": math.nan})
    assert names(tmp_path) == []


@pytest.fixture
def started(tmp_path):
    """The folder of a run with the config above that has trained for a while."""
    write_json(tmp_path / "manifest.json", {"config": CONFIG})
    (tmp_path / "checkpoints").mkdir()
    return tmp_path


def changed(key: str, value: object) -> dict:
    group, _, name = key.rpartition(".")
    return CONFIG | ({group: CONFIG[group] | {name: value}} if group else {key: value})


@pytest.mark.parametrize("resume", [True, False])
def test_a_new_folder_may_be_written_into(tmp_path, resume):
    open_run(tmp_path / "absent", resume=resume, config=CONFIG)
    open_run(tmp_path, resume=resume, config=CONFIG)
    assert names(tmp_path) == ["absent"]
    assert names(tmp_path / "absent") == []


@pytest.mark.parametrize("held", ["checkpoints", "results.csv", "scores.csv"])
def test_what_a_run_has_made_is_never_written_over(tmp_path, held):
    (tmp_path / held).touch()
    sentence = rf"run_dir must be new, but {tmp_path} contains {held} of a run\. Choose another run_dir"
    with pytest.raises(RunFolderError, match=rf"{sentence}, or continue that run with resume=true\.$"):
        open_run(tmp_path, resume=False, config=CONFIG)
    with pytest.raises(RunFolderError, match=rf"{sentence}\.$"):
        open_run(tmp_path, resume=False, config={key: value for key, value in CONFIG.items() if key != "resume"})


@pytest.mark.parametrize(
    ("name", "expected"), [("checkpoints", True), ("results.csv", True), ("manifest.json", False), ("train.log", False)]
)
def test_a_folder_holds_a_run_once_it_holds_what_cannot_be_lost(tmp_path, name, expected):
    assert not holds_run(tmp_path)
    (tmp_path / name).touch()
    assert holds_run(tmp_path) is expected


def test_a_run_that_failed_before_it_made_anything_leaves_its_folder_free(tmp_path):
    write_json(tmp_path / "manifest.json", {"config": CONFIG})
    assert open_run(tmp_path, resume=False, config=CONFIG | {"seed": 9}) is None


def test_a_run_may_be_continued(started):
    assert open_run(started, resume=True, config=CONFIG | {"resume": True})["config"] == CONFIG


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", 1),
        ("data.batch_size", 8),
        ("optimizer.lr", 0.002),
        ("optimizer.betas", [0.9, 0.99]),
        ("optimizer.eps", 1e-8),
        ("ablation", "x"),
        ("protocol.targets", ["mine", "visa"]),
    ],
)
def test_a_resumed_run_with_another_config_is_refused_and_the_key_is_named(started, key, value):
    with pytest.raises(RunFolderError, match=rf"but {key} changed since {started}/manifest\.json"):
        open_run(started, resume=True, config=changed(key, value))


@pytest.mark.parametrize(
    "chosen",
    [{}, {"wandb": {"project": "mine", "group": "table3"}, "mlflow": None}, {"tensorboard": {"flush_secs": 3}}],
)
def test_a_run_may_go_on_with_other_loggers(started, chosen):
    assert open_run(started, resume=True, config=CONFIG | {"logger": chosen}) is not None


def test_a_run_may_go_on_with_other_settings_of_a_logger(started):
    write_json(started / "manifest.json", {"config": CONFIG | {"logger": {"wandb": {"group": "a"}}}})
    assert open_run(started, resume=True, config=CONFIG | {"logger": {"wandb": {"group": "b"}}}) is not None


def test_all_changed_keys_are_named(started):
    config = changed("optimizer.lr", 1.0) | {"seed": 2, "num_threads": 5}
    with pytest.raises(RunFolderError, match=r"but optimizer\.lr, seed changed since"):
        open_run(started, resume=True, config=config)


def test_a_run_from_before_a_key_goes_on_with_what_was_done_then_and_the_error_names_it(started):
    write_json(started / "manifest.json", {"config": CONFIG | {"loss": {"image_weight": 1.0}}})
    now = {"image_weight": 1.0, "focal_smoothing": 0.0, "image_smoothing": 0.0}
    assert open_run(started, resume=True, config=CONFIG | {"loss": now | {"dice_per": "image"}}) is not None
    with pytest.raises(
        RunFolderError, match=r"written: loss\.dice_per was image and is row\. Run the same command, with"
    ):
        open_run(started, resume=True, config=CONFIG | {"loss": now | {"dice_per": "row"}})


def test_a_key_that_is_gone_is_named(started):
    config = {key: value for key, value in CONFIG.items() if key != "optimizer"}
    with pytest.raises(RunFolderError, match=r"but optimizer\.betas, optimizer\.lr changed since"):
        open_run(started, resume=True, config=config)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("resume", True),
        ("run_dir", "b"),
        ("data_dir", "/elsewhere"),
        ("drawn_dir", "/elsewhere"),
        ("cache_dir", "d"),
        ("num_threads", 4),
        ("save_maps", True),
        ("data.num_workers", 0),
        ("data.cache", True),
        ("data.feature_cache", True),
        ("activation_checkpointing", True),
        ("protocol.roots", {"mine": "/elsewhere"}),
    ],
)
def test_a_resumed_run_may_change_what_does_not_touch_the_weights(started, key, value):
    assert open_run(started, resume=True, config=changed(key, value))["config"] == CONFIG


def test_a_run_tidies_up_after_one_that_was_killed_in_its_folder(tmp_path):
    abandoned = tmp_path / "checkpoints" / f".resume.ckpt.unfinished-{platform.node()}-{2**22 + 1}"  # no such process
    abandoned.parent.mkdir()
    abandoned.write_text("half")
    with pytest.raises(RunFolderError):
        open_run(tmp_path, resume=False, config=CONFIG)
    assert abandoned.exists()  # a folder that is refused is left as it is
    open_run(tmp_path, resume=True, config=CONFIG)
    assert names(abandoned.parent) == []


HOLDING = """
import sys
from pathlib import Path
from afr_clip.reports.record.run_folder import hold
hold(Path(sys.argv[1]), "predict")
print("held", flush=True)
sys.stdin.read()
"""


def test_a_folder_has_one_writer_and_is_free_once_that_is_killed(tmp_path):
    log = LogFile(tmp_path / "train.log", delay=True)
    logging.getLogger().addHandler(log)
    line = [sys.executable, "-c", HOLDING, str(tmp_path)]
    other = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(
            RunFolderError, match=rf"^{tmp_path} is in use by predict \(process {other.pid} on .*run_dir=DIR"
        ):
            open_run(tmp_path, resume=True, config=CONFIG)
        assert log not in logging.getLogger().handlers  # the log there is the other's
    finally:
        other.kill()
        other.communicate()
        logging.getLogger().removeHandler(log)
    open_run(tmp_path, resume=True, config=CONFIG)
    hold(tmp_path, "train")  # again, by the same process
    require_held(tmp_path)
    (tmp_path / LOCK).unlink()
    with pytest.raises(RunFolderError, match="was removed while a run wrote into it"):
        require_held(tmp_path)


def test_a_folder_that_is_no_folder_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunFolderError, match=rf"^Nothing can be written to {tmp_path}/file/run: Not a directory\."):
        hold(tmp_path / "file" / "run", "train")


@pytest.mark.parametrize(("facts", "is_refused"), [
    ({"command": "evaluate", "finished": None}, False),
    ({"command": "evaluate", "finished": "2026-01-01"}, True),
    ({"command": "evaluate"}, True),  # version 0.1
    ({"command": "predict", "finished": None}, True),
    ({"command": "train", "finished": None}, True),
])  # fmt: skip
def test_an_evaluation_that_was_not_finished_begins_again_and_nothing_of_it_stays(tmp_path, facts, is_refused):
    write_json(tmp_path / "manifest.json", {"config": CONFIG} | facts)
    for name in ("scores.csv", "metrics.csv", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "maps").mkdir()
    with pytest.raises(RunFolderError, match=r"contains scores\.csv") if is_refused else nullcontext():
        open_run(tmp_path, resume=False, config=CONFIG)
    kept = ["maps", "metrics.csv", "scores.csv"] if is_refused else []
    assert names(tmp_path) == sorted(["manifest.json", "notes.txt", *kept])


def test_a_requeued_run_may_be_continued_by_hand(tmp_path):
    write_json(tmp_path / "manifest.json", {"config": CONFIG | {"requeue": True}})
    assert open_run(tmp_path, resume=True, config=CONFIG | {"requeue": False}) is not None


def test_what_a_run_writes_is_never_taken_for_photographs():
    folders = {name for name in WRITTEN_BY_RUNS if "." not in name}
    assert folders <= OUTPUT_FOLDERS
