"""`python -m afr_clip.evaluate`: score a dataset with a trained checkpoint."""

import hydra
from omegaconf import DictConfig

from afr_clip.cli.command import config_dir, ends_in_a_sentence, run_command, start_processes
from afr_clip.config.schema import register
from afr_clip.config.validate import validate

register()


@hydra.main(version_base="1.3", config_path=config_dir(), config_name="evaluate")
@ends_in_a_sentence
def main(config: DictConfig) -> None:
    """Check the composed config, then evaluate."""
    validate(config)
    if start_processes(config, "afr_clip.evaluate"):
        return
    # Loading torch takes seconds, and a wrong config should not wait for it.
    from afr_clip.run.evaluate import evaluate  # noqa: PLC0415

    evaluate(config)


if __name__ == "__main__":
    run_command(main)
