"""The method that the documentation adds as an example works as it stands there, as a package of its own."""

import logging
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from afr_clip.cli.main import main
from afr_clip.config.nodes import config_dir, known_methods, method_names, register
from afr_clip.config.restore import is_packaged, known_group
from afr_clip.config.validate import ConfigError
from afr_clip.losses.total import AnomalyLoss
from afr_clip.reports.record.manifest import build_manifest
from afr_clip.run.validation import CHECKS, Subject
from helpers.configs import validate
from helpers.method_package import FILES, declare, importable, write_files
from helpers.tiny import assert_probabilities, random_batch


@pytest.fixture
def example(tmp_path):
    """The example, installed; composes a config of it."""
    write_files(tmp_path)
    declare(tmp_path, "linear_probe", "linear_probe")

    def composed(command: str, *overrides: str):
        register()
        with initialize_config_dir(config_dir(), version_base="1.3"):
            return compose(command, overrides=["module=linear_probe", *overrides])

    with importable(tmp_path):
        yield composed


def test_every_file_of_the_example_is_named():
    assert set(FILES) == {
        "pyproject.toml",
        "linear_probe/__init__.py",
        "linear_probe/settings.py",
        "linear_probe/network.py",
        "linear_probe/conf/module/linear_probe.yaml",
        "linear_probe/conf/recipe/linear_probe.yaml",
        "tests/test_linear_probe.py",
    }
    assert '[project.entry-points."afr_clip.methods"]\nlinear_probe = "linear_probe"' in FILES["pyproject.toml"]


def test_it_is_found_checked_trained_and_told_apart_by_its_own_test(example, towers, tmp_path):
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

    spec = spec_from_file_location("example_test", tmp_path / "tests" / "test_linear_probe.py")
    own = module_from_spec(spec)
    spec.loader.exec_module(own)
    (test,) = [value for name, value in vars(own).items() if name.startswith("test_")]
    test()
    subject = Subject(config.module, towers)
    assert all(CHECKS[check](subject) for check in CHECKS if check not in ("export", "frozen taps"))


def test_it_is_listed_restored_and_recorded_like_a_method_of_this_package(example, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [""])
    main(["methods"])
    printed = capsys.readouterr().out
    assert " linear_probe " in printed
    assert "one trained direction" in printed
    config = example("evaluate", "dataset=mvtec_ad", "checkpoint=pocket")
    assert is_packaged("module", "linear_probe")
    assert known_group("module", "linear_probe") == config.module
    manifest = build_manifest("train", (), OmegaConf.to_container(config))
    assert manifest["packages"]["linear_probe"] == "0.1.0"


def test_nothing_is_left_of_a_method_that_is_removed(tmp_path):
    write_files(tmp_path)
    declare(tmp_path, "linear_probe", "linear_probe")
    with importable(tmp_path):
        assert "linear_probe" in method_names()
    assert "linear_probe" not in method_names()


@pytest.mark.parametrize(
    ("name", "package", "remove", "fault"),
    [
        ("linear_probe", "absent", "", "its entry point must name a package, got absent"),
        ("april_gan", "linear_probe", "", "its name must be an identifier that no other method has"),
        ("linear_probe", "linear_probe", "linear_probe/conf/module/linear_probe.yaml", "it has no file"),
        ("other_name", "linear_probe", "", "it has no file"),
        ("linear_probe", "linear_probe", "linear_probe/settings.py", "ModuleNotFoundError: No module named"),
    ],
)
def test_a_package_that_is_no_method_is_left_out_with_a_sentence(tmp_path, caplog, name, package, remove, fault):
    write_files(tmp_path)
    declare(tmp_path, name, package)
    (tmp_path / remove).unlink() if remove else None
    own = [key for key, method in known_methods().items() if method.package.startswith("afr_clip.")]
    with importable(tmp_path), caplog.at_level(logging.WARNING):
        assert method_names() == own
        assert known_methods()["april_gan"].package == "afr_clip.models.april_gan"
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith(f"module={name} of {name} is left out: {fault}")
    assert said.endswith("Repair or remove that package.")


def test_a_method_without_the_base_class_is_left_out(tmp_path, caplog):
    write_files(tmp_path)
    declare(tmp_path, "linear_probe", "linear_probe")
    Path(tmp_path, "linear_probe", "settings.py").write_text("class NetworkSettings: ...\n")
    with importable(tmp_path):
        assert "linear_probe" not in method_names()
    assert "NetworkSettings must derive from MethodSettings" in caplog.text
