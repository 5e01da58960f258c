"""Training from what a frozen image tower gave before, against training from the images."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from afr_clip.clip.backbone import CLIPBackbone
from afr_clip.data.disk.pixels import SampleReader

pytestmark = pytest.mark.integration

SWITCHED_ON = "data.feature_cache=true"


@pytest.fixture
def taps(monkeypatch) -> list[int]:
    """The size of every batch of images that the tower is shown."""
    shown: list[int] = []
    embed = CLIPBackbone.embed

    def seen(self: CLIPBackbone, image: torch.Tensor) -> object:
        shown.append(len(image))
        return embed(self, image)

    monkeypatch.setattr(CLIPBackbone, "embed", seen)
    return shown


@pytest.fixture
def decoded(monkeypatch) -> list[str]:
    """Every image that is decoded with its mask."""
    names: list[str] = []
    read = SampleReader.read
    monkeypatch.setattr(SampleReader, "read", lambda self, sample: names.append(sample.name) or read(self, sample))
    return names


def losses(run_dir: Path) -> list[float]:
    with (run_dir / "metrics.csv").open(newline="") as file:
        return [float(row["value"]) for row in csv.DictReader(file) if row["metric"].startswith("train/loss")]


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    return torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


@pytest.mark.parametrize(
    "method",
    [["ablation=no_sp"], ["module=april_gan", "data.mosaic=0"], ["module=anomaly_clip"], ["module=adapt_clip"]],
    ids=lambda m: m[0],
)
def test_training_is_the_same_from_features(run, small, tmp_path, taps, decoded, method):
    small = [*method, *small, "num_figures=0"]
    assert run("train", *small, f"run_dir={tmp_path / 'images'}") == 0
    for name, seen in {"fills": 16, "reads": 0}.items():
        taps.clear()
        decoded.clear()
        assert run("train", *small, SWITCHED_ON, f"run_dir={tmp_path / name}") == 0
        assert sum(taps) == len(decoded) == seen
        assert_close(losses(tmp_path / name), losses(tmp_path / "images"), rtol=0, atol=1e-5)
        assert_close(weights(tmp_path / name), weights(tmp_path / "images"), rtol=0, atol=1e-5)
    noted = [
        json.loads((tmp_path / name / "manifest.json").read_text())["feature_cache"] for name in ("fills", "reads")
    ]
    assert noted[0] == noted[1]


def test_workers_read_features_and_figures_show_the_pictures(run, small, tmp_path):
    small = ["ablation=no_sp", *(override for override in small if "num_workers" not in override)]
    assert run("train", *small, "data.num_workers=0", f"run_dir={tmp_path / 'images'}") == 0
    assert run("train", *small, "data.num_workers=1", SWITCHED_ON, f"run_dir={tmp_path / 'features'}") == 0
    assert_close(weights(tmp_path / "features"), weights(tmp_path / "images"), rtol=0, atol=1e-5)
    paths = [tmp_path / name / "figures/training/epoch_0001.png" for name in ("images", "features")]
    figures = [np.asarray(Image.open(path).convert("RGB"), dtype=float) for path in paths]
    assert np.abs(figures[0] - figures[1]).max() < 8  # a rounding may move a colour of the map by a step


@pytest.mark.parametrize(
    "other", ["backbone.tap_layers=[1,2,3]", "data.feature_dtype=float16", "trainer.precision=bf16-mixed"]
)
def test_what_gives_other_features_gets_a_cache_of_its_own(run, small, tmp_path, other):
    small = ["ablation=no_sp", *small, SWITCHED_ON, "trainer.max_epochs=1", "num_figures=0"]
    assert run("train", *small, f"run_dir={tmp_path / 'one'}") == 0
    assert run("train", *small, other, f"run_dir={tmp_path / 'other'}") == 0
    folders = [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]
    assert len(folders) == 2
    assert all(path.name.startswith("generated-features-tiny-") for path in folders)


def test_a_filling_that_is_stopped_goes_on(run, small, tmp_path, taps, monkeypatch, capsys):
    small = ["ablation=no_sp", *small, SWITCHED_ON, "num_figures=0"]
    embed = CLIPBackbone.embed

    def failing(self: CLIPBackbone, image: torch.Tensor) -> object:
        if sum(taps) == 8:
            raise OSError(28, "No space left on device")
        return embed(self, image)

    with monkeypatch.context() as patched:
        patched.setattr(CLIPBackbone, "embed", failing)
        assert run("train", *small, f"run_dir={tmp_path / 'r'}") == 1
    assert "Cannot write the feature cache to" in capsys.readouterr().err
    taps.clear()
    assert run("train", *small, f"run_dir={tmp_path / 'r'}") == 0
    assert sum(taps) == 8


def test_checkpointed_activations_train_the_same_and_may_be_chosen_anew(run, small, tmp_path):
    assert run("train", *small, f"run_dir={tmp_path / 'plain'}") == 0
    assert run("train", *small, "activation_checkpointing=true", f"run_dir={tmp_path / 'saving'}") == 0
    assert all(torch.equal(a, weights(tmp_path / "saving")[name]) for name, a in weights(tmp_path / "plain").items())
    assert run("train", *small, "resume=true", f"run_dir={tmp_path / 'saving'}") == 0
