"""Train the adapters on the auxiliary dataset, then score the targets; or do so for every leg of a protocol."""

from afr_clip.data.disk.loaded import load_dataset
from afr_clip.data.disk.separation import TrainedOn, refuse_overlap
from afr_clip.processes.signals import stoppable
from afr_clip.processes.stopping import resumes
from afr_clip.processes.together import from_first, meet, require_same
from afr_clip.run.build import dataset_spec, describe
from afr_clip.run.fit import RunData, train_and_score
from afr_clip.run.job import ProtocolJob, TrainingJob
from afr_clip.run.model import check_model
from afr_clip.run.protocol import train_legs
from afr_clip.run.run import finish_run, start_run


def train(job: TrainingJob | ProtocolJob) -> None:
    """Run ``afr-clip train``."""
    first = job.legs[0] if isinstance(job, ProtocolJob) else job
    check_model(first)
    with stoppable(requeue=job.requeue):
        meet(first.trainer.accelerator)
        if isinstance(job, ProtocolJob):
            page = train_legs(job)
            finish_run(job.folder, page)
            return
        resume = resumes(job.folder, resume=job.resume, requeue=job.requeue)
        job = job.resuming(from_first(lambda: resume))
        run = start_run(job)
        auxiliary = load_dataset(dataset_spec(job.auxiliary, job))
        targets = tuple(load_dataset(dataset_spec(target, job)) for target in job.targets)
        require_same({dataset.spec.name: dataset.digest.sha256 for dataset in (auxiliary, *targets)})
        for target in targets:  # before the weights, which take longer
            refuse_overlap(TrainedOn.of(auxiliary), target)
        facts = {target.spec.name: describe(target) for target in targets}
        train_and_score(job, run, RunData(auxiliary, targets, facts))
        finish_run(job.folder)
