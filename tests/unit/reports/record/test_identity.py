import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from afr_clip.reports.record.identity import WITHOUT_INFLUENCE, differing_keys, flat

FIXTURES = Path(__file__).parents[3] / "fixtures" / "version_0_1"

OLD = {
    "optimizer": {"_target_": "torch.optim.AdamW", "_partial_": True, "lr": 0.001},
    "schedule": {"_target_": "afr_clip.training.schedule.cosine", "_partial_": True, "num_epochs": 3},
    "backbone": {"_target_": "afr_clip.clip.settings.BackboneSettings", "name": "tiny", "cnn": {"_target_": "x"}},
    "protocol": {"roots": {}},
}
NEW = {
    "optimizer": {"name": "adamw", "lr": 0.001},
    "schedule": {"name": "cosine", "num_epochs": 3},
    "backbone": {"name": "tiny"},
}


def test_a_record_of_version_0_1_says_the_same_as_one_of_today():
    assert flat(OLD) == flat(NEW)
    assert differing_keys(OLD, NEW) == []


@pytest.mark.parametrize(("key", "name"), [("optimizer", "torch.optim.Adam"), ("schedule", "my.own")])
def test_another_choice_of_an_old_record_is_another(key, name):
    assert differing_keys({**OLD, key: {**OLD[key], "_target_": name}}, NEW) == [f"{key}.name"]


@pytest.mark.parametrize("changed", [{}, {"dice_per": "image"}])
def test_a_record_from_before_a_key_means_what_was_done_then(changed):
    old = {"loss": {"image_weight": 1.0}}
    now = {"loss": {"image_weight": 1.0, "focal_smoothing": 0.0, "image_smoothing": 0.0, **changed}}
    assert flat(old) == flat(now)
    assert differing_keys(old, {"loss": {**now["loss"], "dice_per": "row"}}) == ["loss.dice_per"]
    assert "loss.dice_per" not in flat({"module": {"name": "winclip"}})


def test_towers_of_old_records_have_open_clips_position_embeddings():
    old, now = {"name": "tiny"}, {"name": "tiny", "position_embeddings": "bicubic_antialias"}
    assert flat({"backbone": old}) == flat({"backbone": now})


def test_a_record_from_before_a_methods_key_means_what_the_method_did_then():
    old, now = {"shots": 1}, {"shots": 1, "released_weights": None}
    old, now = ({"module": {"name": "april_gan", "network": network}} for network in (old, now))
    assert flat(old) == flat(now)
    assert "module.network.released_weights" not in flat({"module": {"name": "anomaly_clip", "network": {"shots": 1}}})


def test_an_old_record_of_afr_clip_means_the_readings_of_today_with_their_defaults(composed):
    now = OmegaConf.to_container(composed("dataset=visa").module, enum_to_str=True)
    old = json.loads((FIXTURES / "half" / "manifest.json").read_text())["config"]["module"]
    assert flat({"module": old}).keys() == flat({"module": now}).keys()
    assert differing_keys({"module": old}, {"module": now}) == [
        "module.network.cmfr.inner_dim",
        "module.network.self_prompting.num_prompts",
    ]


def test_a_key_that_only_one_of_them_has_differs():
    assert differing_keys({"a": {"b": 1}}, {"a": {"b": 1, "c": None, "d": 2}}) == ["a.d"]


def test_a_prediction_from_before_clusters_ran_on_one_machine_and_stays_there():
    old = {"images": "photos"}
    assert differing_keys(old, {"images": "photos", "runs_on": "local"}) == []
    assert differing_keys(old, {"images": "photos", "runs_on": "ray"}) == ["runs_on"]
    assert "runs_on" not in WITHOUT_INFLUENCE


@pytest.mark.parametrize("command", ["images", "good"])
def test_a_record_from_before_engines_is_one_of_pytorch(command):
    old = {command: "photos"}
    assert differing_keys(old, {command: "photos", "engine": "torch"}) == []
    assert differing_keys(old, {command: "photos", "engine": "openvino"}) == ["engine"]
    assert "engine" not in flat({"task_name": "train"})
