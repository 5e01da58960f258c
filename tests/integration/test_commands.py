"""The main job from the command line: train, evaluate, predict, and what each leaves behind."""

import csv
import json
import os
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from afr_clip.inspection.scanner import Scanner
from helpers.trees import write_mvtec_tree, write_visa_tree

pytestmark = pytest.mark.integration

REPOSITORY = Path(__file__).parents[2]
PLANS = ("methods", "paper")
"""Experiments of several trainings, which only a sweep runs."""

EXPERIMENTS = sorted(p.stem for p in (REPOSITORY / "conf" / "experiment").glob("*.yaml") if p.stem not in PLANS)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    return torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def assert_same_weights(one: Path, other: Path) -> None:
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def agrees_with_scikit_learn(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(sys, "argv", ["agreement.py", str(run_dir)])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(REPOSITORY / "benchmarks" / "agreement.py"), run_name="__main__")
    return end.value.code == 0


def test_train_scores_its_targets_and_evaluate_gives_the_same(run, small, unseen, tmp_path, capsys, monkeypatch):
    trained, scored = tmp_path / "trained", tmp_path / "scored"
    targets = ["protocol.targets=[parts]", f"+protocol.roots.parts={unseen}"]
    assert run("train", *small, *targets, f"run_dir={trained}", "save_maps=true") == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"run: {trained}"
    for name in ("config.yaml", "manifest.json", "metrics.csv", "checkpoints/last.ckpt", "results.json", "scores.csv"):
        assert (trained / name).stat().st_size > 0, name

    assert run("evaluate", f"checkpoint={trained}", "dataset=folder", "dataset.name=parts", f"dataset.root={unseen}",
               f"run_dir={scored}", "save_maps=true", "map_format=tiff", "published_pro=true",
               "data.num_workers=0") == 0  # fmt: skip
    assert (scored / "scores.csv").read_text() == (trained / "scores.csv").read_text()
    published = [row for row in rows(scored / "results.csv") if row["metric"] == "pixel_aupro_published"]
    assert [row["category"] for row in published] == ["fabric", "metal_plate", "mean"]
    assert [row for row in rows(scored / "results.csv") if row not in published] == rows(trained / "results.csv")
    assert agrees_with_scikit_learn(scored, monkeypatch)

    table = rows(scored / "results.csv")
    assert {row["category"] for row in table} == {"fabric", "metal_plate", "mean"}
    assert {row["num_normal"] for row in table if row["category"] == "mean"} == {"8"}
    for run_dir, name, mode in ((trained, "001.png", "I;16"), (scored, "001.tiff", "F")):
        with Image.open(run_dir / "maps" / "parts" / "fabric" / "spot" / name) as saved:
            assert (saved.mode, saved.size) == (mode, (64, 64))
    assert {path.name for path in (scored / "figures" / "parts").iterdir()} == {
        "highest.png", "lowest.png", "worst_ranked.png",
    }  # fmt: skip
    results = json.loads((scored / "results.json").read_text())
    assert results["manifest"]["backbone"]["random_weights"] is True
    assert results["manifest"]["checkpoint"]["auxiliary"]["name"] == "generated"


def test_the_manifest_names_what_a_number_needs(run, small, tmp_path):
    assert run("train", *small, f"run_dir={tmp_path / 'r'}", "seed=7") == 0
    manifest = json.loads((tmp_path / "r" / "manifest.json").read_text())
    assert manifest["seed"] == 7
    assert "seed=7" in manifest["overrides"]
    assert manifest["auxiliary"]["num_normal"] == manifest["auxiliary"]["num_anomalous"] == 8
    assert len(manifest["auxiliary"]["sha256"]) == len(manifest["backbone"]["fingerprint"]) == 64
    config = yaml.safe_load((tmp_path / "r" / "config.yaml").read_text())
    assert config == manifest["config"]
    assert torch.load(tmp_path / "r" / "checkpoints" / "last.ckpt", weights_only=True)["manifest"]["config"] == config


def test_training_is_the_same_however_images_are_loaded(run, small, tmp_path):
    variants = {
        "plain": [],
        "workers": ["data.num_workers=2"],
        "fills_the_cache": ["data.cache=true"],
        "reads_the_cache": ["data.cache=true"],
    }
    for name, overrides in variants.items():
        others = [override for override in small if not overrides or "num_workers" not in override]
        assert run("train", *others, *overrides, "data.augment=true", f"run_dir={tmp_path / name}") == 0
    for name in variants:
        assert_same_weights(tmp_path / "plain", tmp_path / name)


def test_a_learning_rate_of_one_over_epoch_is_logged(run, small, tmp_path):
    assert run("train", *small, f"run_dir={tmp_path / 'r'}", "trainer.max_epochs=3") == 0
    logged = [float(row["value"]) for row in rows(tmp_path / "r" / "metrics.csv") if row["metric"] == "train/lr"]
    assert logged == pytest.approx([0.001, 0.001 / 2, 0.001 / 3])


def test_predict_writes_map_overlay_and_score_of_every_photograph(run, small, tmp_path):
    photographs = tmp_path / "photographs"
    for name, size in {"a.png": (40, 90), "a.jpg": (90, 40), "deep/b c.bmp": (64, 64)}.items():
        path = photographs / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((*size, 3), 120, dtype=np.uint8)).save(path)
    (photographs / "notes.txt").write_text("no picture")
    trained, predicted = tmp_path / "trained", tmp_path / "predicted"
    assert run("train", *small, f"run_dir={trained}") == 0
    assert run("predict", f"checkpoint={trained / 'checkpoints' / 'last.ckpt'}", f"images={photographs}",
               "category=metal nut", f"run_dir={predicted}", "data.num_workers=0") == 0  # fmt: skip
    for kind, suffix in (("maps", "png"), ("overlays", "jpg")):
        written = {str(path.relative_to(predicted / kind)) for path in (predicted / kind).rglob("*.*")}
        assert written == {f"a.png.{suffix}", f"a.jpg.{suffix}", f"deep/b c.{suffix}"}
    scores = rows(predicted / "scores.csv")
    assert [row["image"] for row in scores] == ["a.jpg", "a.png", "deep/b c.bmp"]
    assert all(row["is_anomalous"] == "" and 0 <= float(row["image_score"]) <= 1 for row in scores)


def contents(folder: Path) -> dict[str, bytes]:
    """What a prediction left that does not tell when it was made."""
    files = [
        path
        for name in ("maps", "overlays", "thumbnails", "*.csv", "regions.json", "*.html")
        for path in folder.glob(name)
        for path in (path, *path.rglob("*"))
    ]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files if path.is_file()}


def test_a_broken_photograph_costs_only_itself_and_is_scored_once_it_is_mended(  # noqa: PLR0915 - one long story
    run, tmp_path, capsys, monkeypatch
):
    photographs, whole, predicted = tmp_path / "photographs", tmp_path / "whole", tmp_path / "predicted (2)"
    photographs.mkdir()
    for i in range(10):
        pixels = np.random.default_rng(i).integers(0, 255, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(photographs / f"{i + 1}.png")
    predict = ["predict", f"images={photographs}", "category=bolt", "data.num_workers=0", "data.eval_batch_size=4"]
    assert run(*predict, f"run_dir={whole}") == 0
    assert [row["image"] for row in rows(whole / "scores.csv")] == [f"{i}.png" for i in range(1, 11)]  # 10 after 9
    capsys.readouterr()

    broken = photographs / "3.png"
    sound = broken.read_bytes()
    broken.write_bytes(sound[:60])
    assert run(*predict, f"run_dir={predicted}") == 3
    said = capsys.readouterr().err
    assert "error: 1 of 10 photographs could not be scored: 3.png is not a valid image file (" in said
    assert "). skipped.csv lists all. The 9 others are in scores.csv." in said
    assert f"The same command with run_dir='{predicted}' resume=true scores only" in said
    assert [row["image"] for row in rows(predicted / "skipped.csv")] == ["3.png"]
    kinds = ("maps/", "overlays/")
    of_three = ("/3.png", "/3.jpg")
    others = {k: v for k, v in contents(whole).items() if k.startswith(kinds) and not k.endswith(of_three)}
    assert {k: v for k, v in contents(predicted).items() if k.startswith(kinds)} == others
    assert run(*predict, f"run_dir={predicted}") == 1
    assert "continue that run with resume=true" in capsys.readouterr().err
    of_nuts = [word.replace("bolt", "nut") for word in predict]
    assert run(*of_nuts, f"run_dir={predicted}", "resume=true") == 1
    assert "category was bolt and is nut" in capsys.readouterr().err

    broken.write_bytes(sound)
    (photographs / "4.png").rename(tmp_path / "4.png")
    assert run(*predict, f"run_dir={predicted}", "resume=true") == 1
    assert "Changed or removed since scored: 1 photograph, 4.png." in capsys.readouterr().err
    (tmp_path / "4.png").rename(photographs / "4.png")
    (predicted / "overlays" / "9.jpg").unlink()  # as a kill between map and overlay leaves it
    with (predicted / "scores.csv").open("a") as scores:
        scores.write("photographs,bolt,10")  # half a row
    scored, score = [], Scanner.score_under

    def noted(self, called, pictures, names):
        scored.append(names)
        return score(self, called, pictures, names)

    monkeypatch.setattr(Scanner, "score_under", noted)
    assert run(*predict, f"run_dir={predicted}", "resume=true") == 0
    assert scored == [
        ["1.png", "2.png", "3.png", "4.png"],
        ["9.png", "10.png"],
    ]  # as before, but for one that is done
    assert contents(predicted) == contents(whole)
    manifest = json.loads((predicted / "manifest.json").read_text())
    assert (manifest["photographs"], bool(manifest["finished"])) == ({"root": str(photographs), "number": 10}, True)


def test_a_category_is_optional_and_other_names_are_compared(run, auxiliary, tmp_path):
    predict = ["predict", f"images={auxiliary / 'bolt' / 'test' / 'good'}", "data.num_workers=0", "num_threads=1"]
    assert run(*predict, f"run_dir={tmp_path / 'plain'}") == 0
    log = (tmp_path / "plain" / "predict.log").read_text()
    assert "No category was given, so the photographs are called 'object'" in log
    assert {row["category"] for row in rows(tmp_path / "plain" / "scores.csv")} == {"object"}
    names = ["category=steel bolt", "compare_names=[object,red cup]", f"run_dir={tmp_path / 'named'}"]
    assert run(*predict, *names) == 0
    for plain, named in zip(*(rows(tmp_path / one / "scores.csv") for one in ("plain", "named")), strict=True):
        assert float(named["image_score[object]"]) == pytest.approx(float(plain["image_score"]), abs=1e-6)
        assert named["image_score[red cup]"] != named["image_score"]
    page = (tmp_path / "named" / "inspection.html").read_text()
    assert "What the name does" in page
    assert "Called <em>red cup</em>, the image score changes by" in page
    before = contents(tmp_path / "named")
    assert run(*predict, *names, "resume=true") == 0
    assert contents(tmp_path / "named") == before


def test_a_finished_prediction_is_written_in_more_formats_without_scoring(run, tmp_path, capsys, monkeypatch):
    pytest.importorskip("xlsxwriter")
    photographs, at_once, later = tmp_path / "photographs", tmp_path / "at_once", tmp_path / "later"
    photographs.mkdir()
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 255, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(photographs / f"{i}.png")
    predict = ["predict", f"images={photographs}", "category=bolt", "region_threshold=0.1", "data.num_workers=0"]
    more = ["formats=[coco,label_studio,cvat,labelme,yolo,fiftyone]", "xlsx=true"]
    assert run(*predict, *more, f"run_dir={at_once}") == 0
    assert run(*predict, "formats=[coco]", f"run_dir={later}") == 0
    monkeypatch.setattr(Scanner, "score", None)  # the network is not asked
    assert run(*predict, "formats=[labelme]", f"run_dir={later}") == 0
    assert {path.name for path in (later / "annotations").iterdir()} == {"coco", "labelme"}
    assert run(*predict, *more, f"run_dir={later}") == 0
    assert everything(later) == everything(at_once)
    assert b"polygons" in everything(later)["regions.json"]
    manifest = json.loads((later / "manifest.json").read_text())
    assert (len(manifest["resumed_from"]), bool(manifest["finished"])) == (2, True)

    capsys.readouterr()
    assert run(*predict, f"run_dir={later}") == 1  # nothing more is asked for
    assert "run_dir must be new" in capsys.readouterr().err
    of_nuts = [word.replace("bolt", "nut") for word in predict]
    assert run(*of_nuts, "xlsx=true", f"run_dir={later}") == 1
    assert "category was bolt and is nut" in capsys.readouterr().err
    assert everything(later) == everything(at_once)


def everything(folder: Path) -> dict[str, bytes]:
    """Every file of a prediction but those that tell when it was made, and links to photographs as links."""
    files = [path for path in folder.rglob("*") if path.is_symlink() or path.is_file()]
    dated = {"manifest.json", "config.yaml", "predict.log", ".lock", ".lock.json"}
    return {
        path.relative_to(folder).as_posix(): os.fsencode(path.readlink()) if path.is_symlink() else path.read_bytes()
        for path in files
        if path.name not in dated
    }


def test_a_resumed_prediction_writes_the_formats_of_before(run, tmp_path):
    photographs, folder = tmp_path / "photographs", tmp_path / "run"
    photographs.mkdir()
    for i in range(2):
        Image.fromarray(np.full((40, 50, 3), 60 * i, dtype=np.uint8)).save(photographs / f"{i}.png")
    predict = ["predict", f"images={photographs}", "category=bolt", "data.num_workers=0", f"run_dir={folder}"]
    assert run(*predict, "formats=[coco]") == 0
    Image.fromarray(np.full((40, 50, 3), 200, dtype=np.uint8)).save(photographs / "2.png")
    assert run(*predict, "resume=true") == 0
    content = json.loads((folder / "annotations" / "coco" / "annotations" / "instances_default.json").read_text())
    assert [image["file_name"] for image in content["images"]] == ["0.png", "1.png", "2.png"]


def test_a_prediction_leaves_files_alone_that_look_like_its_own(run, tmp_path):
    photographs, folder = tmp_path / "photographs", tmp_path / "project"
    for path in (photographs, folder / "annotations" / "coco"):
        path.mkdir(parents=True)
    Image.fromarray(np.full((40, 50, 3), 60, dtype=np.uint8)).save(photographs / "0.png")
    own = {folder / "annotations" / "coco" / "mine.json": b"{}", folder / "scores.xlsx": b"mine"}
    for path, content in own.items():
        path.write_bytes(content)
    assert run("predict", f"images={photographs}", "category=bolt", "data.num_workers=0", f"run_dir={folder}") == 0
    assert (folder / "scores.csv").is_file()
    assert {path: path.read_bytes() for path in own} == own
    assert [path.name for path in (folder / "annotations" / "coco").iterdir()] == ["mine.json"]


def test_scoring_can_be_read_another_way_without_training_again(run, small, unseen, tmp_path):
    trained = tmp_path / "trained"
    assert run("train", *small, f"run_dir={trained}") == 0
    target = ["dataset=folder", f"dataset.root={unseen}", "data.num_workers=0"]
    plain, smooth = tmp_path / "plain", tmp_path / "smooth"
    assert run("evaluate", f"checkpoint={trained}", *target, f"run_dir={plain}") == 0
    reading = ["module.network.scoring.image_score=map_max", "module.network.scoring.smoothing_sigma=4"]
    assert run("evaluate", f"checkpoint={trained}", *target, *reading, f"run_dir={smooth}") == 0
    assert (plain / "scores.csv").read_text() != (smooth / "scores.csv").read_text()
    config = yaml.safe_load((smooth / "config.yaml").read_text())
    assert config["module"]["network"]["scoring"]["smoothing_sigma"] == 4


DRAWN = ("demo", "smoke")
"""Experiments on drawn datasets, whose thousand pictures the test replaces by a handful."""

PAPERS = ("table3", "table4", "table5", "table6", "readings", "search")
"""Experiments with the paper's backbone, which the test replaces by the smallest, on VisA."""


def categories_of(search: str) -> list[str]:
    """Every category that a search names, whatever it does with it."""
    content = yaml.safe_load((REPOSITORY / "conf" / "experiment" / f"{search}.yaml").read_text())
    return [*content["dataset"]["categories"], *next(iter(content["protocol"]["categories"].values()))]


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_runs_a_step(run, experiment, tmp_path):
    for name, categories in {
        "mvtec_anomaly_detection": ("bottle", "grid", "pill"),
        "MPDD": ("metal_plate",),
        "auxiliary": ("bolt",),
        "unseen": ("plate",),
        "drawn": categories_of("search_demo"),
    }.items():
        write_mvtec_tree(tmp_path / name, categories, num_normal=1, num_anomalous=2, seed=len(name))
    write_visa_tree(tmp_path / "VisA", categories_of("search"))
    small = [f"dataset.root={tmp_path / 'auxiliary'}", f"+protocol.roots.demo_unseen={tmp_path / 'unseen'}"]
    own = dict.fromkeys(DRAWN, small) | {key: ["backbone=tiny", "backbone.image_size=64"] for key in PAPERS}
    own["mechanism"] = [small[0], f"+protocol.roots.demo_names_unseen={tmp_path / 'unseen'}",
                        "protocol.categories.demo_names_unseen=[plate]"]  # fmt: skip
    own["methods_pocket"] = [*small, "protocol.targets=[demo_unseen,mpdd]"]
    own["search_demo"] = [f"dataset.root={tmp_path / 'drawn'}"]
    assert run("train", f"experiment={experiment}", f"data_dir={tmp_path}", "trainer.max_epochs=1",
               *own.get(experiment, ()), "trainer.limit_train_batches=1", "data.num_workers=0",
               f"cache_dir={tmp_path / 'cache'}", f"run_dir={tmp_path / 'r'}") == 0  # fmt: skip
    assert rows(tmp_path / "r" / "results.csv")
