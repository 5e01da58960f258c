from copy import deepcopy
from pathlib import Path

import pytest

import afr_clip
from afr_clip.config.nodes import config_dir
from afr_clip.config.plan import composed_evaluation, composed_training
from afr_clip.config.restore import is_packaged, known_group, named_checkpoint, recorded_model
from afr_clip.config.validate import ConfigError
from afr_clip.models.checkpoint import read_checkpoint

POCKET = Path(afr_clip.__file__).parent / "pocket" / "demo.ckpt"


@pytest.fixture
def recorded():
    return deepcopy(dict(read_checkpoint(POCKET).manifest["config"]))


def test_a_recorded_model_is_what_hydra_would_compose(recorded):
    backbone, module = recorded_model(recorded)
    job = composed_training("experiment=demo")
    assert (backbone, module.network) == (job.backbone, job.module.network)


def test_an_evaluation_has_the_model_of_its_checkpoint(recorded, tmp_path):
    job = composed_evaluation(recorded, "checkpoint=pocket", "dataset=mvtec_ad", "num_figures=7", folder=tmp_path)
    assert (job.backbone, job.module.network) == (recorded_model(recorded)[0], recorded_model(recorded)[1].network)
    assert (job.folder, job.num_figures, job.record.command) == (tmp_path, 7, "evaluate")


GROUPS = [path for group in ("backbone", "module") for path in sorted(Path(config_dir(), group).glob("*.yaml"))]


@pytest.mark.parametrize("path", GROUPS, ids=lambda path: path.stem)
def test_a_packaged_group_is_read_as_hydra_would_compose_it(composed, path):
    group, name = path.parent.name, path.stem
    assert is_packaged(group, name)
    assert not is_packaged(group, f"../{group}/{name}")
    assert known_group(group, name) == composed(f"{group}={name}", command="evaluate")[group]


def test_a_key_that_is_newer_than_the_record_has_todays_default(recorded):
    del recorded["backbone"]["cnn_stem"]
    assert recorded_model(recorded)[0].cnn_stem


def test_a_file_that_only_the_checkpoint_names_is_not_read(recorded):
    recorded["backbone"]["weights"] = "/stranger/weights.bin"
    with pytest.raises(ConfigError, match=r"backbone\.weights=/stranger/weights\.bin\. A file that a checkpoint names"):
        recorded_model(recorded)
    backbone, _ = recorded_model(recorded, {"backbone.weights": "mine.safetensors"})
    assert backbone.weights == "mine.safetensors"


@pytest.mark.parametrize(
    ("group", "key", "value", "sentence"),
    [
        ("module", "name", "../../evil", "module=../../evil, which this version does not have"),
        ("backbone", "image_size", "large", "a backbone that this version cannot build"),
        ("backbone", "unheard_of", 1, "a backbone that this version cannot build"),
        ("backbone", "architecture", "${oc.env:HOME}", "stands for something else"),
    ],
)
def test_a_record_that_does_not_fit_is_refused(recorded, group, key, value, sentence):
    recorded[group][key] = value
    with pytest.raises(ConfigError, match=sentence.replace(".", r"\.").replace("$", r"\$")):
        recorded_model(recorded)


def test_the_shipped_name_gives_way_to_a_file_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert named_checkpoint("pocket").startswith("package:")
    Path("pocket").mkdir()
    assert named_checkpoint("pocket") == "pocket"
    assert named_checkpoint("outputs/run") == "outputs/run"
