"""The method that the documentation adds as an example works as it stands there."""

import re
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

import afr_clip.models
from afr_clip.config.nodes import config_dir, method_names, register
from afr_clip.config.validate import ConfigError
from afr_clip.losses.total import AnomalyLoss
from helpers import methods
from helpers.configs import validate
from helpers.tiny import assert_probabilities, random_batch

EXAMPLE = (Path(__file__).parents[2] / "docs" / "extend" / "method.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"(?<=\n\n)`([\w./]+)`(?:(?!^```).)*^```\w+\n(.*?)^```$", EXAMPLE, re.DOTALL | re.MULTILINE))


@pytest.fixture
def example(tmp_path, monkeypatch):
    """The example's files where a method's files are looked for; composes a config of it."""
    for name, content in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    monkeypatch.setattr(afr_clip.models, "__path__", afr_clip.models.__path__)
    afr_clip.models.__path__.append(str(tmp_path / "src" / "afr_clip" / "models"))
    register()
    searched = f"hydra.searchpath=[file://{tmp_path / 'conf'}]"

    def composed(command: str, *overrides: str):
        with initialize_config_dir(config_dir(), version_base="1.3"):
            return compose(command, overrides=[searched, "module=linear_probe", *overrides])

    yield composed
    afr_clip.models.__path__.pop()
    for name in [name for name in sys.modules if name.startswith("afr_clip.models.linear_probe")]:
        del sys.modules[name]


def test_every_file_of_the_example_is_named():
    assert {Path(name).name for name in FILES} == {
        "__init__.py", "settings.py", "network.py", "linear_probe.yaml", "test_network.py",
    }  # fmt: skip
    assert len(FILES) == 6


def test_it_is_found_checked_trained_and_told_apart_by_its_own_test(example, towers, tmp_path, monkeypatch):
    assert "linear_probe" in method_names()
    config = validate(example("train", "dataset=mvtec_ad"))
    assert (config.trainer.max_epochs, config.data.batch_size) == (5, 8)
    with pytest.raises(ConfigError, match="smoothing_sigma must not be negative"):
        validate(example("train", "module.network.smoothing_sigma=-1"))

    network, batch = config.module.network.build(towers), random_batch()
    prediction = network(batch.image, batch.category)
    assert_probabilities(prediction)
    loss = AnomalyLoss(**vars(config.loss))
    loss(prediction.trained_maps, prediction.image_score, batch.mask, batch.is_anomalous).total.backward()
    assert {name for name, p in network.named_parameters() if p.grad is not None} == network.trainable_parameter_names()
    assert loss == AnomalyLoss()

    monkeypatch.setattr(methods, "composed_module", lambda method: OmegaConf.to_object(example("evaluate").module))
    (path,) = tmp_path.rglob("test_network.py")
    spec = spec_from_file_location("example_test", path)
    own = module_from_spec(spec)
    spec.loader.exec_module(own)
    (test,) = [value for name, value in vars(own).items() if name.startswith("test_")]
    test(towers)
