"""`python -m afr_clip.sweep`: every cell of an experiment or a search, each a training in a process of its own."""

import hydra
from omegaconf import DictConfig

from afr_clip.cli.command import config_dir, ends_in_a_sentence, run_command
from afr_clip.config.schema import register

register()


@hydra.main(version_base="1.3", config_path=config_dir(), config_name="sweep")
@ends_in_a_sentence
def main(config: DictConfig) -> None:
    """Run what is not finished; the cells' own configs are checked before the first of them runs."""
    from afr_clip.sweep.command import sweep  # noqa: PLC0415 - its checks load torch, which takes seconds

    sweep(config)


if __name__ == "__main__":
    run_command(main)
