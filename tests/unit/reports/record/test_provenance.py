import pytest

from afr_clip.config.nodes import method_names
from afr_clip.reports.record.provenance import PAPER_ARCHITECTURE, PUBLISHED_ARCHITECTURES, TITLES, checklist
from helpers.configs import _compose, plain
from helpers.results import CONFIG, FACTS, source


def manifest(**changed):
    known = FACTS | {"config": CONFIG, "seed": 0, "auxiliary": source("VisA"), "targets": {"mpdd": source("MPDD")}}
    return known | changed


def test_every_method_has_a_name_for_people():
    assert set(method_names()) <= TITLES.keys()


@pytest.mark.parametrize("method", sorted(PUBLISHED_ARCHITECTURES))
def test_a_method_runs_on_the_backbone_of_its_published_numbers(method):
    assert plain(_compose(f"module={method}"))["backbone"]["architecture"] == PUBLISHED_ARCHITECTURES[method]


@pytest.mark.parametrize("method", sorted(set(method_names()) - set(PUBLISHED_ARCHITECTURES)))
def test_every_other_method_runs_on_the_backbone_of_the_paper(method):
    assert plain(_compose(f"module={method}"))["backbone"]["architecture"] == PAPER_ARCHITECTURE


def test_a_fact_of_all_runs_is_said_once_and_others_with_their_number():
    commits = [{"hash": digit * 40, "dirty": digit == "b"} for digit in "aab"]
    found = checklist([manifest(seed=seed, commit=commit) for seed, commit in enumerate(commits)])
    assert [fact for term, fact in found if term == "Commit"] == [
        f"{'a' * 40} (2 of 3 runs)",
        f"{'b' * 40}, with uncommitted changes (1 of 3 runs)",
    ]
    facts = dict(found)
    assert facts["Seed"] == "0; 1; 2"
    assert facts["Selection"] == "the weights after the last epoch (100); none was chosen by a score on a target"
    assert facts["Precision"] == "32-true"
    assert facts["Trained on"].endswith("962 normal and 1200 anomalous images, SHA-256 aaaaaaaaaaaa")
    assert "2 threads, no GPU" in facts["Machine"]
    assert "torch 2.6.0" in facts["Versions"]
    assert not {"Command", "Started"} & facts.keys()


def test_time_is_added_up_and_weights_are_named():
    runs = [
        manifest(seconds_training=60.0, seconds_scoring={"mpdd": 5.5}, scored_with={"checkpoint_sha256": digit * 64})
        for digit in "cd"
    ]
    facts = dict(checklist(runs))
    assert facts["Time"] == "training 0:02:00, scoring 0:00:11 in all"
    assert facts["Trained weights"] == "SHA-256 cccccccccccc; SHA-256 dddddddddddd"


def test_a_run_that_scored_has_the_seed_of_its_training_and_no_time_of_it():
    checkpoint = {"path": "run/last.ckpt", "seed": 3, "epochs": 100, "auxiliary": source("VisA"), "config": CONFIG}
    scored = {key: value for key, value in manifest(checkpoint=checkpoint).items() if key != "auxiliary"}
    facts = dict(checklist([scored | {"seconds_scoring": {"mpdd": 5.0}}]))
    assert facts["Seed"] == "3 (training), 0 (scoring)"
    assert facts["Time"] == "scoring 0:00:05 in all"


def test_what_was_not_recorded_or_not_trained_is_said():
    facts = dict(checklist([{key: value for key, value in manifest().items() if key != "auxiliary"}]))
    assert facts["Time"] == "not recorded in all"
    assert facts["Selection"].startswith("nothing was trained")
    assert "Trained weights" not in facts
    assert checklist([]) == []
