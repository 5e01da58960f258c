"""Train the adapters on the auxiliary dataset, then score the targets; or do so for every leg of a protocol."""

from pathlib import Path

from omegaconf import DictConfig

from afr_clip.config.assemble import compose_target
from afr_clip.config.restore import output_dir
from afr_clip.data.disk.loaded import LoadedDataset, load_dataset
from afr_clip.data.disk.separation import TrainedOn, refuse_overlap
from afr_clip.processes.signals import stoppable
from afr_clip.processes.stopping import resumes
from afr_clip.processes.together import from_first, meet, require_same
from afr_clip.run.fit import RunData, train_and_score
from afr_clip.run.parts import check_model, dataset_spec, describe, finish_run, start_run
from afr_clip.run.protocol import train_legs


def train(config: DictConfig) -> None:
    """Run ``python -m afr_clip.train``.

    Args:
        config: The composed and validated config.
    """
    check_model(config)
    with stoppable(requeue=config.requeue):
        _train(config, Path(output_dir()))


def _train(config: DictConfig, folder: Path) -> None:
    meet(config.trainer.accelerator)
    if config.protocol.legs:
        page = train_legs(config, folder)
        finish_run(folder, page)
        return
    config.resume = from_first(lambda: resumes(folder, resume=config.resume, requeue=config.requeue))
    run = start_run(config, folder, resume=config.resume)
    auxiliary = load_dataset(dataset_spec(config.dataset, config))
    targets = _load_targets(config)
    require_same({dataset.spec.name: dataset.digest.sha256 for dataset in (auxiliary, *targets)})
    for target in targets:  # before the weights, which take longer
        refuse_overlap(TrainedOn.of(auxiliary), target)
    facts = {target.spec.name: describe(target) for target in targets}
    train_and_score(config, run, RunData(auxiliary, targets, facts))
    finish_run(folder)


def _load_targets(config: DictConfig) -> tuple[LoadedDataset, ...]:
    nodes = [compose_target(name, config.protocol, config.dataset) for name in config.protocol.targets]
    return tuple(load_dataset(dataset_spec(node, config)) for node in nodes)
