"""Mistakes at the command line: each ends in one sentence that says what to write, before anything is loaded."""

import re
import shlex
import sys
from pathlib import Path

import pytest

from afr_clip.cli import hydra_commands
from afr_clip.cli.main import main

PAGE = (Path(__file__).parents[3] / "docs" / "mistakes.md").read_text(encoding="utf-8")
TYPICAL = re.findall(r"^\| `(.*?)` \| (.*) \|$", PAGE, re.MULTILINE)


@pytest.fixture
def answered(tmp_path, monkeypatch, capsys):
    """Type a line in a folder with a few things in it; returns exit code and error."""
    for name in ("photos/a.png", "parts/bolt/test/good/000.png", "done/checkpoints/last.ckpt", "notes.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AFR_CLIP_DATA_DIR", raising=False)
    monkeypatch.setenv("AFR_CLIP_DEBUG", "")
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    for command in ("train", "evaluate", "predict", "export", "diagnose", "sweep"):
        monkeypatch.setattr(hydra_commands, command, lambda: pytest.fail("the command was started"))

    def type_line(line: str) -> tuple[int, str]:
        words = shlex.split(line)
        monkeypatch.setattr(sys, "argv", ["afr-clip", *words])
        with pytest.raises(SystemExit) as end:
            main(words)
        printed = capsys.readouterr()
        assert printed.out == ""
        assert sorted(tmp_path.rglob("*")) == before
        assert printed.err.startswith("error: ")
        return end.value.code, printed.err.removeprefix("error: ").removesuffix("\n")

    return type_line


def test_the_page_has_forty_mistakes():
    assert len(dict(TYPICAL)) >= 40


@pytest.mark.parametrize(("line", "answer"), TYPICAL, ids=[line for line, _ in TYPICAL])
def test_a_typical_mistake_is_answered_as_the_page_says(answered, line, answer):
    code, said = answered(line)
    assert said == answer
    assert code in (1, 2)


@pytest.mark.parametrize(
    ("line", "code", "cure"),
    [
        ("predict", 2, "images must be given, got nothing."),
        (
            "predict images= photos category=cap",
            2,
            "must be no space after =, got images= photos. Write images=photos.",
        ),
        ("predict images= category=cap", 1, "Write images=FOLDER, or images=[ONE,OTHER]."),
        (
            "predict images='photos/*.gif' category=cap",
            1,
            "images=photos/*.gif matches no file. Check the pattern, or write images=FOLDER.",
        ),
        ("predict photos --category", 2, "needs a value, got nothing after it. Write category=VALUE."),
        (
            "predict photos category=cap checkpoint=dne",
            1,
            "checkpoint=dne does not exist. Did you mean done? Name a run folder or a fil",
        ),
        (
            "predict photos category=cap seed=0,1",
            2,
            "seed must be a whole number, got 0,1. To run once with each of several values,",
        ),
        (
            "predict photos category=cap backbone=vit_l14",
            2,
            "There is no backbone=vit_l14. Did you mean backbone=vit_l_14? It can be dino",
        ),
        ("predict photos category=cap --category=nut", 2, "category was typed twice, got cap and nut. Leave one of"),
        ("train -m seed=1,2 seed=3", 2, "seed was typed twice, got 1,2 and 3. Leave one of them out."),
        ("calibrate photos category=cap trainer.devices=2", 1, "calibrate runs in one process, got trainer.devices=2"),
        ("evaluate", 2, "The config has 2 faults:"),
        (
            "evaluate checkpoint=pocket dataset=visa data_dir=nowhere",
            1,
            "is not a directory. It is the folder that holds the datasets.",
        ),
        ("train module=winclip", 1, "module=winclip has nothing to train. Run afr-clip evaluate module=winclip da"),
        ("train experiment=demos", 2, "There is no experiment=demos. Did you mean experiment=demo? It can be demo, "),
        (
            "export checkpoint=pocket categories=[cap] good=nowhere precision=int8 dataset=mpdd",
            1,
            "good=nowhere does not exist. Write good=FOLDER.",
        ),
        (
            "export checkpoint=pocket categories=[cap] good=.",
            1,
            "good is read for precision=int8 only, got precision=float32. Leave it out, or add precision=int8.",
        ),
        (
            "export checkpoint=pocket categories=[cap] precision=int8 dataset=mpdd calibration=calibration.json",
            1,
            "a calibration of the checkpoint does not hold for it. Leave out calibration,",
        ),
        ("train optimizer.lrr=1e-4", 2, "is not a key of train. Did you mean optimizer.lr? Write optimizer.lr=1e-4."),
        ("train optimizer.lr=fast", 2, "must be a number, got fast. Write optimizer.lr=NUMBER."),
        ("train optimizer.lr=1e38", 1, "must be at most 1e+30, got 1e+38. The paper's is 0.001."),
        ("train optimizer.lr=-1", 1, "must be positive, got -1.0. Change optimizer.lr=VALUE."),
        ("train optimizer=sgd", 2, "It can be adam, adamw."),
        ("train seed=0,1,2", 2, "seed must be a whole number, got 0,1,2. To run once with each of several value"),
        ("train seed=1.5", 2, "must be a whole number, got 1.5. Write seed=NUMBER."),
        ("train seed=", 2, "must be a whole number, got nothing. Write seed=NUMBER, or leave seed= out."),
        ("train --batch-size=8", 2, "is not an option of train. Write data.batch_size=8."),
        ("train epochs=3", 2, "Did you mean trainer.max_epochs? Write trainer.max_epochs=3."),
        ("train trainer.max_epochs=0", 1, "must be positive, got 0. Change trainer.max_epochs=VALUE."),
        ("train trainer.limit_train_batches=-1", 1, "Write trainer.limit_train_batches=1.0 for all."),
        (
            "train trainer.gradient_clip_val=nan",
            1,
            "must be a finite number, got nan. Change trainer.gradient_clip_val=VALUE.",
        ),
        ("train trainer.devices=", 2, "Write trainer.devices=NUMBER, or leave trainer.devices= out."),
        (
            "train trainer.devices=auto",
            1,
            "must be a whole number of 1 or more, got auto. It counts processes to start.",
        ),
        ("train run_dir=None", 2, "Write run_dir=null for nothing."),
        ("train save_maps=maybe", 2, "must be true or false, got maybe. Write save_maps=true or save_maps=false."),
        ("train protocol.targets=[mpdd", 2, "must be a list, got [mpdd. Write protocol.targets=[mpdd]."),
        ("train dataset=null", 2, "Leave dataset= out, or write dataset=bmad_brain or bmad_liver."),
        ("train dataset", 2, "needs a value, got nothing. Write dataset=VALUE."),
        ("train dataset.layout", 2, "needs a value, got nothing. Write dataset.layout=VALUE."),
        ("train --multi-run seed=0,1", 2, "is not an option of train. Did you mean --multirun?"),
        ("train --config-dir nowhere", 2, "must be a folder with config files, but nowhere is not a directory."),
        ("train --config-name mine", 2, "is not supported: the command decides which config is used."),
        ("train requeue=true", 1, "Add run_dir=DIR."),
        ("train qqq=1", 2, "is not a key of train. See afr-clip train --help."),
        ("train module.network.scoring.temperature=0", 1, "must be positive, got 0.0. AFR-CLIP's is 1.0, CLIP's 0.07."),
        ("train module.network.prompts.style=poetic", 2, "Write module.network.prompts.style=winclip."),
        ("train logger=wanbd", 2, "Did you mean logger=wandb? It can be all, csv, mlflow, tensorboard, wandb."),
        ("train logger.wandb.project=mine", 2, "Choose logger=wandb too, or leave logger.wandb.project= out."),
        ("diagnose nowhere", 2, "is not a directory. Write afr-clip diagnose RUN."),
        ("report --output here", 2, "Write --out. The usage is afr-clip report [-h] [--out DIR] [--parquet] "),
        ("datasets chek visa", 2, "The word after afr-clip datasets must be one of list, show, check, convert, "),
        ("dashboard", 2, "afr-clip dashboard needs sync | rebuild | build, got nothing. The usa"),
        ("predict photos category=cap --hepl", 2, "is not an option of predict. Did you mean --help?"),
        (
            "predict photos category=cap ouput=here",
            2,
            "is not a key of predict. Did you mean run_dir? Write run_dir=here.",
        ),
        (
            "predict photos category=cap data.eval_batch_size=0",
            1,
            "must be positive, got 0. Change data.eval_batch_size=VALUE.",
        ),
        ("predict photos category=cap checkpoint=None", 2, "Write checkpoint=null for nothing."),
        ("predict photos missing.png category=cap", 1, "Write images=FILE_OR_FOLDER."),
        ("predict photos category=cap run_dir=notes.txt/run", 1, "Choose a folder: run_dir=DIR."),
        ("predict photos category=cap trainer.accelerator=gpu0", 1, "Write trainer.accelerator=gpu or cpu."),
        ("predict photos category=' '", 1, "must say what the photographs show, got ' '. Write category='metal nut'."),
        (
            "predict photos category=cap 'images=[a, b'",
            2,
            "Leave one of them out, or quote a value that contains spaces.",
        ),
        ("evaluate done dataset=folder dataset.root=notes.txt", 1, "Write dataset.root=DIR."),
        ("evaluate one two", 2, "Write KEY=VALUE for the others."),
        (
            "evaluate checkpoint=pocket dataset=folder dataset.root=parts categories=[bolt]",
            2,
            "Did you mean dataset.categories? Write dataset.categories=[bolt].",
        ),
        (
            "evaluate checkpoint=pocket dataset=folder dataset.root=parts save_map=true",
            2,
            "is not a key of evaluate. Did you mean save_maps? Write save_maps=true.",
        ),
        (
            "evaluate checkpoint=pocket dataset=folder dataset.root=parts map_format=tiff",
            1,
            "must come with save_maps=true, got save_maps=false. Add it.",
        ),
        ("evaluate module=winclip checkpoint=done dataset=demo", 1, "Leave out checkpoint= or module=."),
        ("train data.mosaic=2", 1, "must be from 0 to 1, got 2.0. Change data.mosaic=VALUE."),
        ("train schedule=cosin", 2, "Did you mean schedule=cosine? It can be constant, cosine, inverse_epoch, steps."),
        ("train loss.focal_gamma=-1", 1, "must be 0 or more, got -1.0. Change loss.focal_gamma=VALUE."),
        ("train backbone.tap_layers=6,12", 2, "must be a list, got 6,12. Write backbone.tap_layers=[6,12]."),
        ("train backbone.image_size=big", 2, "must be a whole number, got big. Write backbone.image_size=NUMBER."),
        ("train trainer.strategy=dp trainer.devices=2", 1, "Use ddp."),
        ("train protocol.roots=/data", 2, "Write protocol.roots.NAME=VALUE."),
        ("train protocol.targets=[visa,visa]", 1, "must name each dataset once, got visa twice. Remove one."),
        (
            "train +optimizer._target_=os.system",
            2,
            "is not a key of train. A config cannot name code to run. Leave it out.",
        ),
        ("train +hydra.callbacks.x._target_=os.system", 1, "Leave hydra.callbacks.x._target_ out."),
        ("train hydra.searchpath=[pkg://mine]", 2, "Write --config-dir DIR."),
        ("train -m seed=0,x", 2, "must be a whole number, got x. Write seed=NUMBER."),
        ("train -m lr=0.1,0.2", 2, "Did you mean optimizer.lr? Write optimizer.lr=0.1,0.2."),
        (
            "train --experimental-rerun=config.pickle",
            2,
            "--experimental-rerun is not supported: it would run a pickle. Repeat the command",
        ),
        ("train '~datset'", 2, "is not a key of train. Did you mean dataset? Write '~dataset'."),
        ("photos", 2, "afr-clip has no command photos. afr-clip --help lists all."),
        ("images=photos predict", 2, "The command comes first: afr-clip predict images=photos ..."),
    ],
)
def test_other_mistakes_get_their_cure_too(answered, line, code, cure):
    ended, said = answered(line)
    assert cure in said
    assert ended == code
