"""What the text does in the network of a run, from the command line."""

import csv
import json
import os
import shutil
from pathlib import Path

import pytest

from afr_clip.metrics.average import METRICS
from drawn_anomalies import tree
from helpers.html import Tree
from helpers.methods import FOR_FOUR_BLOCKS

pytestmark = pytest.mark.integration

LATER = ("data.num_workers=0", "num_threads=1")
"""What does not come from the run."""


@pytest.fixture(scope="module")
def trained(trained_into, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_into(tmp_path_factory.mktemp("trained") / "it's a run")


@pytest.fixture
def own(trained: Path, tmp_path: Path) -> Path:
    """A copy of the run, to be written into; not of what another test diagnosed."""
    return Path(shutil.copytree(trained, tmp_path / "run", ignore=shutil.ignore_patterns("diagnosis*.json")))


def found_in(folder: Path, name: str = "diagnosis.json") -> dict:
    (found,) = json.loads((folder / name).read_text())["datasets"]
    return found


def values(found: dict, text: str) -> dict[tuple[str, str], float]:
    return {(row["category"], row["metric"]): row["value"] for row in found["metrics"] if row["text"] == text}


def differences(found: dict, text: str) -> dict[str, dict]:
    return {row["metric"]: row for row in found["differences"] if row["text"] == text}


def results(folder: Path) -> dict[tuple[str, str], float]:
    with (folder / "results.csv").open(newline="") as file:
        return {(row["category"], row["metric"]): float(row["value"]) for row in csv.DictReader(file)}


def test_a_run_is_diagnosed_on_what_it_scored_and_its_own_files_stay(run, trained, capsys):
    before = {path.name: path.read_bytes() for path in trained.iterdir() if path.is_file()}
    assert run("diagnose", str(trained), *LATER) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == f"run: {trained}"
    assert "prototypes swapped" in out
    after = {path.name: path.read_bytes() for path in trained.iterdir() if path.is_file()}
    changed = {name for name in after if before.get(name) != after[name]}
    assert changed - {"diagnose.log", "train.log"} == {"diagnosis.json", "report.html"}

    found = found_in(trained)
    assert values(found, "as_it_is") == {key: value for key, value in results(trained).items() if key[0] != "mean"}
    swapped = values(found, "swapped_prototypes")
    for (category, metric), value in values(found, "as_it_is").items():
        if metric.endswith("auroc"):
            assert swapped[category, metric] == pytest.approx(1 - value, abs=1e-3)
    for text in ("no_stateless_term", "no_stateless", "wrong_category", "other_category", "swapped_prototypes"):
        changes, by_metric = values(found, text), differences(found, text)
        for metric in METRICS:
            points = [100 * (changes[c, metric] - results(trained)[c, metric]) for c in ("fabric", "metal_plate")]
            row = by_metric[metric]
            assert row["points"] == pytest.approx(sum(points) / 2)
            assert (row["low"], row["high"]) == (pytest.approx(min(points)), pytest.approx(max(points)))
    assert found["left_out"] == {}
    assert [(row["stage"], row["tokens"]) for row in found["terms"]] == [
        (stage, kind) for stage in (1, 2, 3, 4) for kind in ("class token", "patches")
    ]
    assert [row["category"] for row in found["prototypes"]] == ["fabric", "metal plate"]

    page = (trained / "report.html").read_text()
    assert "Does the text matter?" in page
    assert ["1", "class token"] in [cells[:2] for _, cells in Tree(page).rows]


def test_a_name_typed_as_the_wrong_one_is_the_one_that_scores(run, own, unseen, tmp_path):
    """Named like the third category of a dataset whose folder is called so, every image scores the same."""
    renamed = tmp_path / "renamed"
    shutil.copytree(unseen, renamed)
    (renamed / "fabric").rename(renamed / "banana")
    shutil.rmtree(renamed / "metal_plate")
    target = ["dataset=folder", "dataset.name=parts", f"dataset.root={renamed}", *LATER]
    scored = tmp_path / "scored"
    assert run("evaluate", f"checkpoint={own}", *target, f"run_dir={scored}") == 0
    assert run("diagnose", str(own), *LATER) == 0
    wrong = values(found_in(own), "wrong_category")
    assert {metric: wrong["fabric", metric] for metric in METRICS} == {
        metric: results(scored)["banana", metric] for metric in METRICS
    }


def test_an_evaluation_is_diagnosed_and_another_dataset_may_be_typed(run, own, unseen, tmp_path):
    scored = tmp_path / "scored"
    target = ["dataset=folder", "dataset.name=cloth", f"dataset.root={unseen}", "dataset.categories=[fabric]"]
    assert run("evaluate", f"checkpoint={own}", *target, *LATER, f"run_dir={scored}") == 0
    assert run("diagnose", str(scored), *LATER) == 0
    found = found_in(scored)
    assert values(found, "as_it_is") == {key: value for key, value in results(scored).items() if key[0] != "mean"}
    assert set(found["left_out"]) == {"other_category"}
    assert all(row["low"] is None and row["num_categories"] == 1 for row in found["differences"])
    assert run("diagnose", str(own), *target, *LATER) == 0
    assert found_in(own)["metrics"] == found["metrics"]


def test_an_untrained_network_needs_no_run(run, own, unseen, tmp_path):
    assert run("diagnose", str(own), "untrained=true", *LATER) == 0
    start = tmp_path / "start"
    target = ["dataset=folder", "dataset.name=parts", f"dataset.root={unseen}"]
    keys = ["module=afr_clip", "backbone=tiny", "backbone.image_size=64", "seed=3", "untrained=true", *LATER]
    assert run("diagnose", *keys, *target, f"run_dir={start}") == 0
    others = {".lock", ".lock.json"}
    assert {path.name for path in start.iterdir() if path.suffix != ".log"} - others == {"diagnosis_untrained.json"}
    of_run, fresh = (found_in(folder, "diagnosis_untrained.json") for folder in (own, start))
    assert of_run["terms"] == fresh["terms"]
    assert of_run["metrics"] == fresh["metrics"]
    assert "parts, untrained" in (own / "report.html").read_text()
    assert run("diagnose", str(own), *LATER) == 0
    assert found_in(own)["terms"] != fresh["terms"]


@pytest.mark.parametrize("object_agnostic", [False, True])
def test_names_that_share_pictures_are_compared_with_the_bound_of_image_only_methods(
    run, tmp_path, monkeypatch, capsys, object_agnostic
):
    two = {drawn_set: categories[:2] for drawn_set, categories in tree.NAMED_CATEGORIES.items()}
    monkeypatch.setattr(tree, "NAMED_CATEGORIES", two)
    drawn = ["dataset.drawn.size=64", "dataset.drawn.images_per_category=6", f"drawn_dir={tmp_path / 'drawn'}"]
    keys = ["module=afr_clip", f"module.network.prompts.object_agnostic={str(object_agnostic).lower()}", "seed=3"]
    tiny = ["backbone=tiny", "backbone.image_size=64", "untrained=true", *LATER]
    folder = tmp_path / "run"
    assert run("diagnose", *keys, *tiny, "dataset=demo_names_unseen", *drawn, f"run_dir={folder}") == 0
    found = found_in(folder, "diagnosis_untrained.json")
    names = found["names"]
    assert (names["image_only_bound"], names["num_categories"]) == (pytest.approx(0.75), 2)
    assert [names["partners"][name] for name in names["partners"]] == [*names["partners"]][::-1]
    for metric in METRICS:
        own = [value for (_, one), value in values(found, "as_it_is").items() if one == metric]
        assert names["right"][metric] == pytest.approx(sum(own) / 2)
    out = capsys.readouterr().out
    assert "bound of image-only methods" in out
    assert ("name gap" in out) == (not object_agnostic)
    if object_agnostic:
        assert {"partner", "object"} <= set(found["left_out"])
        assert not {"partner", "object", "gap"} & set(names)
        return
    # Of two names, the next is the partner.
    assert values(found, "partner") == values(found, "other_category") != values(found, "as_it_is")
    for metric in METRICS:
        assert names["gap"][metric] == pytest.approx(names["right"][metric] - names["partner"][metric])
        assert names["gap"][metric] == pytest.approx(-differences(found, "partner")[metric]["points"] / 100)
        assert names["object"][metric] is not None


NO_STATELESS = {"terms", "no_stateless_term", "no_stateless"}


@pytest.mark.parametrize(
    ("module", "left_out"),
    [
        (["module=april_gan"], NO_STATELESS),
        (["module=ada_clip"], NO_STATELESS),
        (["module=winclip"], NO_STATELESS),
        (["module=winclip", "module.network.shots=1"], NO_STATELESS),
        (["module=clip_similarity"], NO_STATELESS),
        (["module=anomaly_clip"], NO_STATELESS | {"wrong_category", "other_category"}),
        (["module=afr_clip", "module.network.cmfr.enabled=false"], NO_STATELESS),
        (["module=afr_clip", "module.network.prompts.object_agnostic=true"], {"wrong_category", "other_category"}),
    ],
    ids=lambda value: " ".join(sorted(value)),
)
def test_what_a_method_does_not_have_is_left_out_with_a_reason(run, unseen, tmp_path, module, left_out):
    keys = [*module, *FOR_FOUR_BLOCKS.get(module[0].split("=")[1], ()), "backbone=tiny", "backbone.image_size=64"]
    target = ["dataset=folder", "dataset.name=parts", f"dataset.root={unseen}"]
    assert run("diagnose", *keys, *target, *LATER, "untrained=true", f"run_dir={tmp_path / 'run'}") == 0
    found = found_in(tmp_path / "run", "diagnosis_untrained.json")
    assert set(found["left_out"]) == left_out
    assert all(reason.endswith(".") for reason in found["left_out"].values())
    assert {row["text"] for row in found["differences"]}.isdisjoint(left_out)
    assert (found["terms"] == []) is ("terms" in left_out)
    assert len(found["prototypes"]) == 2


def said(run, capsys, *typed: str) -> tuple[int, str]:
    code = run("diagnose", *typed)
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return code, error


def test_what_cannot_be_diagnosed_is_one_sentence(run, own, trained, unseen, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert said(run, capsys, "nowhere")[0] == 2
    assert not Path("nowhere").exists()
    code, error = said(run, capsys)
    assert (code, "or untrained=true, got neither" in error) == (2, True)
    code, error = said(run, capsys, "untrained=true", "backbone=tiny")
    assert (code, "dataset must be given" in error) == (2, True)
    assert "Pass the folder of a train or evaluate run" in said(run, capsys, str(unseen))[1]
    assert f"for example {trained}" in said(run, capsys, str(trained.parent))[1]
    assert "trainer.devices=2" in said(run, capsys, str(own), "trainer.devices=2")[1]
    assert "belongs to the trained network" in said(run, capsys, str(own), "module.network.mpfa_window=1")[1]
    assert "wrong_category must be a word" in said(run, capsys, str(own), "wrong_category=' '")[1]
    assert "missing" in said(run, capsys, str(own), "dataset=mvtec_ad", f"data_dir={tmp_path}")[1]

    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda path, mode: False)
        assert "cannot be written to" in said(run, capsys, str(own))[1]
    with monkeypatch.context() as patch:
        patch.setattr("afr_clip.run.diagnose.has_text", lambda network: False)
        assert "module=afr_clip has no text to diagnose" in said(run, capsys, str(own), *LATER)[1]
    (own / "results.json").unlink()
    assert "continue it with the same command and resume=true" in said(run, capsys, str(own))[1]
    assert "has not finished" in said(run, capsys, str(own), "untrained=true")[1]
    assert not list(own.glob("diagnosis*.json"))


def test_a_run_without_targets_asks_for_a_dataset(run, own, unseen, capsys):
    content = json.loads((own / "results.json").read_text())
    content["manifest"]["targets"] = {}
    (own / "results.json").write_text(json.dumps(content | {"results": []}))
    assert "scored no dataset. Add dataset=NAME." in said(run, capsys, str(own))[1]
    (own / "report.html").unlink()
    chosen = ("dataset=folder", "dataset.name=parts", f"dataset.root={unseen}")
    assert said(run, capsys, str(own), *LATER, *chosen)[0] == 0
    assert (own / "diagnosis.json").exists()
    assert not (own / "report.html").exists()  # a page is about what a run scored


def test_images_that_changed_since_are_noticed(run, own, capsys):
    content = json.loads((own / "results.json").read_text())
    content["manifest"]["targets"]["parts"]["sha256"] = "0" * 64
    (own / "results.json").write_text(json.dumps(content))
    code, error = said(run, capsys, str(own), *LATER)
    assert (code, "parts has changed since the run scored it" in error) == (0, True)
