"""What comes with the package works without a download, and is as good as it was when it was made."""

import csv
import json
import re
import shlex
import statistics
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import afr_clip
from afr_clip.clip.weights import weight_path
from drawn_anomalies.catalogue import CATEGORIES
from drawn_anomalies.kinds import GOOD, HELD_OUT
from drawn_anomalies.names import NAMED_CATEGORIES
from drawn_anomalies.pairs.captions import KINDS, SUBJECTS
from drawn_anomalies.settings import DrawnSet, DrawnSettings
from helpers.trees import write_mvtec_tree

SHIPPED = "package:afr_clip/pocket/demo.ckpt"


def test_the_shipped_model_finds_defects_on_categories_it_never_saw(run, tmp_path):
    drawn = ["dataset=demo_unseen", "dataset.drawn.images_per_category=6", "dataset.drawn.size=160"]
    assert run("evaluate", f"checkpoint={SHIPPED}", *drawn, f"drawn_dir={tmp_path}", "data.num_workers=0",
               "num_figures=1", "num_threads=1", f"run_dir={tmp_path / 'run'}") == 0  # fmt: skip
    with (tmp_path / "run" / "results.csv").open(newline="") as file:
        mean = {row["metric"]: float(row["value"]) for row in csv.DictReader(file) if row["category"] == "mean"}
    assert mean["image_auroc"] > 0.9
    assert mean["pixel_ap"] > 0.5
    assert mean["pixel_auroc"] > 0.95
    assert "Random weights" not in (tmp_path / "run" / "report.html").read_text()


def test_evaluate_prints_the_thresholds_that_the_documents_show(run, tmp_path, capsys):
    text = (Path(__file__).parents[2] / "docs" / "inspect.md").read_text()
    section = text.split("## From score to decision")[1]
    command = shlex.split(re.search(r"```sh\nafr-clip (.*)\n```", section)[1])
    assert run(*command, "data.num_workers=0", "num_figures=0", "num_threads=1", f"drawn_dir={tmp_path}",
               f"run_dir={tmp_path / 'run'}") == 0  # fmt: skip
    documented = re.search(r"```text\n(.*?)```", section, re.DOTALL)[1].split()
    printed = capsys.readouterr().out.split("(percent)")[1].split("Thresholds of")[1].split("page:")[0]
    for said, shown in zip(["Thresholds", "of", *printed.split()], documented, strict=True):
        if re.fullmatch(r"0\.\d+", shown):
            assert float(said) == pytest.approx(float(shown), rel=0.01)  # another processor rounds differently
        else:
            assert said == shown


def test_the_model_that_reads_names_finds_a_thing_worse_under_a_wrong_one():
    detector = afr_clip.load("pocket_names")
    settings = DrawnSettings(DrawnSet.names_unseen, 6, 256, 1.6, 0.3, 0.012, seed=0)
    is_worse = []
    for category in NAMED_CATEGORIES[DrawnSet.names_unseen][::3]:
        image, _ = category.picture(settings, "test", GOOD, 0)
        right, wrong = (detector.inspect(image, one.words).image_score for one in (category, category.partner))
        is_worse.append(wrong > right)
    assert statistics.fmean(is_worse) > 0.8


def test_photographs_are_scored_without_naming_a_checkpoint(run, tmp_path):
    tree = write_mvtec_tree(tmp_path / "tree", ("bolt",), num_normal=1, num_anomalous=1)
    photographs = tree / "bolt" / "test"
    assert run("predict", f"images={photographs}", "category=bolt", "data.num_workers=0", "num_threads=1",
               f"run_dir={tmp_path / 'run'}") == 0  # fmt: skip
    assert len((tmp_path / "run" / "scores.csv").read_text().splitlines()) == 3
    assert len(list((tmp_path / "run" / "overlays").rglob("*.jpg"))) == 2


def test_predict_imports_only_what_it_uses(tmp_path):
    tree = write_mvtec_tree(tmp_path / "tree", ("bolt",), num_normal=1, num_anomalous=0)
    words = ["predict", f"images={tree / 'bolt' / 'test'}", "category=bolt", f"run_dir={tmp_path / 'run'}"]
    unused = ["lightning", "pandas", "scipy", "wandb", "torch._dynamo", "sympy", "timm.optim", "matplotlib.pyplot"]
    source = (
        f"import sys\nfrom afr_clip.cli.main import main\nmain({words})\n"
        f"print([name for name in {unused} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert done.stderr.startswith("loading: PyTorch")


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["images=nowhere.png", "category=cap"], "images=nowhere.png does not exist."),
        (["images={here}", "category=cap", "checkpoint=nowhere"], "checkpoint=nowhere does not exist."),
        (["images={here}", "category=cap", "run_dir={here}/a.png"], "a.png is a file."),
        (["images={here}", "category=cap", "tile=-1"], "tile must be"),
    ],
)
def test_a_bad_argument_is_refused_without_torch(tmp_path, words, fault):
    (tmp_path / "a.png").touch()
    words = ["predict", *(word.format(here=tmp_path) for word in words)]
    source = (
        "import sys\nfrom afr_clip.cli.main import main\n"
        f"try:\n    main({words})\nfinally:\n    print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=False)
    assert (done.returncode in (1, 2), done.stdout) == (True, "False\n")
    assert done.stderr.startswith("error: ")
    assert fault in done.stderr


@pytest.mark.parametrize(("file", "most"), [("clip.safetensors", 12e6), ("demo.ckpt", 3e6), ("names.ckpt", 3e6)])
def test_what_is_shipped_stays_small(file, most):
    assert weight_path(f"package:afr_clip/pocket/{file}").stat().st_size <= most


def test_nothing_of_the_unseen_set_is_drawn_for_training():
    auxiliary, unseen = CATEGORIES[DrawnSet.auxiliary], CATEGORIES[DrawnSet.unseen]
    assert len(auxiliary) >= 10
    assert len(unseen) >= 8
    trained = {category.name for category in auxiliary} | {subject.words.replace(" ", "_") for subject in SUBJECTS}
    assert not trained & {category.name for category in unseen}
    shown = {kind for category in auxiliary for kind in category.defects} | set(KINDS)
    assert not shown & set(HELD_OUT)
    assert {kind for category in unseen for kind in category.defects} >= set(HELD_OUT)


@pytest.mark.skipif(find_spec("openvino") is None, reason="openvino is not installed")
def test_predict_with_openvino_gives_the_same_scores_and_keeps_its_engine(tmp_path):
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (60, 80, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")

    def predict(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "afr_clip", "predict", f"images={tmp_path}", "category=cap", *words]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)

    scores = {}
    for engine in ("torch", "openvino"):
        done = predict(f"engine={engine}", f"run_dir={tmp_path}/runs/{engine}")
        assert done.returncode == 0, done.stderr
        with (tmp_path / "runs" / engine / "scores.csv").open(newline="") as file:
            scores[engine] = {row["image"]: float(row["image_score"]) for row in csv.DictReader(file)}
    assert scores["openvino"] == pytest.approx(scores["torch"], abs=1e-4)
    manifest = json.loads((tmp_path / "runs" / "openvino" / "manifest.json").read_text())
    assert manifest["engine"] == {"asked": "openvino", "chosen": "openvino"}
    assert manifest["packages"]["openvino"]
    refused = predict("engine=torch", f"run_dir={tmp_path}/runs/openvino", "resume=true")
    assert refused.returncode != 0
    assert "engine" in refused.stderr
