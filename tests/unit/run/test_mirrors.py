import json

import pytest

from afr_clip.reports.record.run_folder import write_json
from afr_clip.run.mirrors import build_mirrors, facts_of, read_manifest, read_published
from helpers.results import write_run

WANDB = {"project": "afr-clip", "entity": None, "group": "table3", "tags": ["mine"]}
MLFLOW = {"experiment": "afr-clip", "tracking_uri": None}


def manifest(**changed) -> dict:
    config = {"module": {"name": "afr_clip"}, "backbone": {"name": "tiny"}, "seed": 1}
    usual = {"command": "train", "config": config, "overrides": [], "commit": {"hash": "c0ffee", "dirty": False}}
    return usual | changed


def test_there_is_one_mirror_for_each_that_is_chosen(tmp_path):
    for package in ("tensorboard", "mlflow"):
        pytest.importorskip(package)
    chosen = {"wandb": WANDB, "tensorboard": {"flush_secs": 3}, "mlflow": MLFLOW}
    names = [mirror.name for mirror in build_mirrors(chosen, tmp_path, manifest())]
    assert names == ["Weights & Biases", "TensorBoard", "MLflow"]
    assert build_mirrors(dict.fromkeys(chosen), tmp_path, manifest()) == []
    assert list(tmp_path.iterdir()) == []  # none of them is open yet


def test_a_run_is_labelled_by_what_it_is(tmp_path):
    facts = facts_of(tmp_path, manifest(auxiliary={"name": "visa"}), ["mine", "mine"])
    assert facts.tags == ("mine", "method:afr_clip", "backbone:tiny", "trained_on:visa")
    assert facts.job_type == "train"
    untrained = facts_of(tmp_path, manifest(command="evaluate", checkpoint=None))
    assert untrained.tags == ("method:afr_clip", "backbone:tiny")


def test_a_run_has_the_name_that_reports_give_its_setting(tmp_path):
    backbone = {"name": "tiny", "architecture": "afr-clip-tiny", "random_weights": True}
    known = manifest(auxiliary={"name": "visa"}, backbone=backbone, choices={"ablation": "no_cmfr"}, seed=1)
    assert facts_of(tmp_path, known).name == "AFR-CLIP (tiny, random weights): no CMFR (visa, seed 1)"
    assert facts_of(tmp_path, manifest()).name == ""


def test_a_scored_checkpoint_is_labelled_by_what_it_was_trained_on(tmp_path):
    facts = facts_of(tmp_path, manifest(checkpoint={"auxiliary": {"name": "mvtec_ad"}}))
    assert facts.config["trained_on"] == "mvtec_ad"


@pytest.mark.parametrize(
    ("facts", "expected"),
    [({}, "full"), ({"choices": {"ablation": "table3_cmfr"}}, "table3_cmfr"), ({"choices": {"module": "m"}}, "full")],
)
def test_a_run_knows_its_ablation(tmp_path, facts, expected):
    assert facts_of(tmp_path, manifest(**facts)).config["ablation"] == expected


def test_the_config_is_kept_with_the_facts_beside_it(tmp_path):
    config = facts_of(tmp_path, manifest(auxiliary={"name": "visa", "sha256": "a"})).config
    assert config["module"] == {"name": "afr_clip"}
    assert config["manifest"]["commit"] == {"hash": "c0ffee", "dirty": False}
    assert config["manifest"]["auxiliary"]["sha256"] == "a"
    assert "config" not in config["manifest"]


def test_a_finished_run_is_read_from_its_folder(tmp_path):
    write_run(tmp_path, {"MPDD": 0.75})
    write_json(tmp_path / "manifest.json", json.loads((tmp_path / "results.json").read_text())["manifest"])
    published = read_published(tmp_path)
    assert len(published.rows) == 7
    assert published.rows[-1][:3] == ["mpdd", "mean", 0.75]
    assert published.means["mean/mpdd/i_auroc"] == 0.75
    assert [path.name for path in published.files] == ["results.json", "results.csv"]
    assert published.checkpoint is None
    assert published.heat_maps == {}


def test_a_run_without_results_is_read_as_far_as_it_got(tmp_path):
    write_json(tmp_path / "manifest.json", manifest())
    published = read_published(tmp_path)
    assert (list(published.rows), list(published.files)) == ([], [])


def test_a_folder_of_something_else_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"not a run folder: it holds no manifest\.json"):
        read_manifest(tmp_path)
