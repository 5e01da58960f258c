"""The LightningModule: one ``forward`` for training and scoring of any method."""

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any
from zlib import crc32

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.types import STEP_OUTPUT, OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from afr_clip.data.records import AnomalyBatch, Share
from afr_clip.files import shown
from afr_clip.losses.total import LossTerms
from afr_clip.metrics.average import CategoryResult
from afr_clip.metrics.log_keys import LEARNING_RATE, LOSS, LOSS_EPOCH, LOSS_STEP, target_key
from afr_clip.metrics.protocol import DatasetMetrics
from afr_clip.models.interface import FewShotNetwork, StagedNetwork, UpgradingNetwork, learned_tensors
from afr_clip.models.method_settings import CategoryNames
from afr_clip.models.prediction import AnomalyPrediction, on_cpu, require_finite_scores
from afr_clip.training.schedule import optimizer_of

OptimizerFactory = Callable[[Iterable[Any]], Optimizer]
ScheduleFactory = Callable[[Optimizer], LRScheduler]
Loss = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor | None], LossTerms]

logger = logging.getLogger(__name__)

DIVERGED = "Lower optimizer.lr or set trainer.gradient_clip_val. The checkpoint of the last full epoch is kept."
"""What to do about a training that diverged."""


class TrainingDivergedError(ValueError):
    """The loss, the weights or what they predict became NaN or infinite."""


class EpochMeans:
    """Means of logged values over the images of an epoch.

    Lightning's own means are lost with the process, so a resumed epoch would log the mean over its second part only.
    ``add_up`` sums a tensor over the processes of a training.

    Example:
        >>> means = EpochMeans()
        >>> means.add({"loss": torch.tensor(1.0)}, num_images=3)
        >>> means.add({"loss": torch.tensor(5.0)}, num_images=1)
        >>> means.compute()
        {'loss': tensor(2.)}
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._num_images = 0

    def restart(self) -> None:
        """Start the next epoch with nothing."""
        self._sums, self._num_images = {}, 0

    def add(self, values: Mapping[str, Tensor], num_images: int) -> None:
        """Add the means over a batch, weighted by its images; every batch has the same names."""
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, torch.zeros(())) + value.detach().float() * num_images
        self._num_images += num_images

    def compute(self, add_up: Callable[[Tensor], Tensor] = lambda value: value) -> dict[str, Tensor]:
        """Return the means in the order in which their names were first added."""
        totals = {name: add_up(value.clone()) for name, value in self._sums.items()}
        images = {name: add_up(torch.full_like(value, self._num_images)) for name, value in totals.items()}
        return {name: value / images[name] for name, value in totals.items()}

    def state_dict(self, add_up: Callable[[Tensor], Tensor] = lambda value: value) -> dict[str, Any]:
        """Return the sums over all processes, for a checkpoint."""
        return {
            "sums": {name: add_up(value.clone()) for name, value in self._sums.items()},
            "num_images": int(add_up(torch.tensor(self._num_images))),
        }

    def load_state_dict(self, state: Mapping[str, Any], *, counts: bool = True) -> None:
        """Continue from a checkpoint.

        Args:
            state: What ``state_dict`` returned.
            counts: Whether to take over the sums, as the first of several processes does. The others take the names
                alone, because ``add_up`` needs the same names in all of them.
        """
        self._sums = {name: value if counts else torch.zeros_like(value) for name, value in state["sums"].items()}
        self._num_images = state["num_images"] if counts else 0


class AnomalyDetectionModule(pl.LightningModule):
    """Train a network on the auxiliary dataset and score target datasets with it.

    Args:
        network: Any method; a module that is an ``AnomalyNetwork``.
        loss: Maps prediction and truth to the loss and its terms; ``None`` for scoring only.
        optimizer: Makes the optimiser of the trainable parameters.
        schedule: Makes the learning-rate schedule, stepped once an epoch.
        category_names: Whether the network gets a category in words, or as the dataset spells it.

    Attributes:
        results: What the last test run gave.
        seconds_per_image: Of the forward pass, for each batch of the last test run in this process.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: Loss | None = None,
        optimizer: OptimizerFactory | None = None,
        schedule: ScheduleFactory | None = None,
        category_names: CategoryNames = CategoryNames.words,
    ) -> None:
        super().__init__()
        self.network: Any = network
        self._loss = loss
        self._optimizer = optimizer
        self._schedule = schedule
        self._category_names = category_names
        # In a list, not a submodule, so that they stay on the CPU. A thread adds a batch to them while the next one is
        # scored.
        self._metrics: list[DatasetMetrics] = []
        self._counting: tuple[ThreadPoolExecutor, Future[None]] | None = None
        self.results: tuple[CategoryResult, ...] = ()
        self.seconds_per_image: list[float] = []
        self._means = EpochMeans()
        self._seed = torch.initial_seed()
        self._target = ""
        self._references: tuple[AnomalyBatch, ...] = ()
        # Checkpoints hold only the adapters; on_load_checkpoint checks that they are complete.
        self.strict_loading = False

    @property
    def shots(self) -> int:
        """How many normal images of each category the network looks at before it scores."""
        return self.network.shots if isinstance(self.network, FewShotNetwork) else 0

    def score_next(self, dataset: str, metrics: DatasetMetrics, references: Sequence[AnomalyBatch] = ()) -> None:
        """Set the target dataset that the next test run scores.

        Args:
            dataset: Name under which metrics are logged.
            references: ``shots`` normal images of each category, for a few-shot network.

        Raises:
            ValueError: If the network is told the same name for two categories that have references.
        """
        names = [self.names_of(batch)[0] for batch in references]
        if len(set(names)) < len(names):
            msg = (
                f"Categories with reference images must have different names, got {names} for {dataset!r}. "
                f"Set module.category_names=raw, or score one category at a time with dataset.categories."
            )
            raise ValueError(msg)
        if self._counting is not None:  # an earlier scoring failed
            self._counting[0].shutdown()
            self._counting = None
        self._target, self._metrics, self.results, self._references = dataset, [metrics], (), tuple(references)
        self.seconds_per_image = []

    @property
    def metrics(self) -> DatasetMetrics:
        """The metrics of the target dataset, on the CPU."""
        assert self._metrics, "score_next() names the target first"
        return self._metrics[0]

    def forward(self, batch: AnomalyBatch) -> AnomalyPrediction:
        """Score a batch. Outside training, map and image score are returned on the CPU.

        Raises:
            ScoreError: If a score is NaN or infinite; in training the loss tells.
        """
        is_cached = bool(batch.tapped)  # the feature cache holds the first half of the forward
        both = (batch,) if batch.reference is None else (batch, batch.reference)
        seen, *reference = (one.tapped if is_cached else one.pictures for one in both)
        score = self.network.score if is_cached else self.network
        prediction: AnomalyPrediction = score(seen, self.names_of(batch), *reference)
        if not self.training:
            prediction = on_cpu(prediction)
            require_finite_scores(prediction, [shown(sample.image_path) for sample in batch.samples])
        return prediction

    def is_sound(self, batch: AnomalyBatch | None) -> bool:
        """Whether the learned tensors, and the predictions for a training batch, are finite."""
        if not all(learned.isfinite().all() for learned in learned_tensors(self.network).values()):
            return False
        if batch is None:
            return True
        # Weights of 1e30 are finite and of no use.
        with torch.no_grad(), self.trainer.precision_plugin.train_step_context():
            prediction = self(batch)
        return bool(prediction.trained_maps.isfinite().all() and prediction.image_score.isfinite().all())

    def names_of(self, batch: AnomalyBatch) -> tuple[str, ...]:
        """Name the category of each image as the network gets it."""
        return batch.prompt_name if self._category_names is CategoryNames.words else batch.category

    def training_step(self, batch: AnomalyBatch, batch_idx: int) -> STEP_OUTPUT:
        """Return the loss of one batch, and its prediction for the figures."""
        assert self._loss is not None, "training needs a loss"
        if isinstance(self.network, StagedNetwork):  # in each step: Lightning announces no epoch that it resumes midway
            self.network.begin_epoch(self.current_epoch)
        # What a step draws follows from its place, so that a resumed training draws the same.
        torch.manual_seed(crc32(f"{self._seed} {self.current_epoch} {batch_idx} {self.global_rank}".encode()))
        prediction = self(batch)
        # The loss would refuse NaN scores with a message that names no image.
        self._refuse_divergence(prediction.trained_maps.mean() + prediction.image_score.mean(), batch)
        seen, truth = (prediction.trained_maps, prediction.trained_scores), (batch.mask, batch.is_anomalous)
        terms = self._loss(*seen, *truth, prediction.patch_tokens, prediction.prototypes)
        self._refuse_divergence(terms.total, batch)
        share = batch.share or Share(own=len(batch.samples), whole=len(batch.samples))
        # DDP takes the mean over processes. With this weight it is the mean over images, however they are spread.
        weight = self.trainer.world_size * share.own / share.whole
        # Not sync_dist: the progress bar, which only the first process has, would wait for the others' sums.
        mean = self.trainer.strategy.reduce(weight * terms.total.detach(), reduce_op="mean")
        self.log(LOSS_STEP, mean, prog_bar=True, on_step=True, on_epoch=False, batch_size=share.whole)
        values = {LOSS_EPOCH if name == "total" else f"{LOSS}_{name}": one for name, one in terms.by_name().items()}
        rates = [group["lr"] for group in self.trainer.optimizers[0].param_groups]  # the fastest part has all of it
        rate = torch.tensor(max(rates), device=self.device)
        self._means.add(values | {LEARNING_RATE: rate}, share.own)
        return {"loss": weight * terms.total, "prediction": prediction}

    def on_train_epoch_start(self) -> None:
        """Restart the means; Lightning does not call this for an epoch resumed in its middle."""
        self._means.restart()

    def on_train_epoch_end(self) -> None:
        """Log the means of the epoch."""
        means = self.epoch_means()
        self.log(LOSS_EPOCH, means.pop(LOSS_EPOCH), prog_bar=True)
        self.log_dict(means)

    def epoch_means(self) -> dict[str, Tensor]:
        """Return the means of the current epoch so far, over all processes, as they are logged at its end."""
        return self._means.compute(self._add_up)

    def _add_up(self, value: Tensor) -> Tensor:
        return self.trainer.strategy.reduce(value.to(self.device), reduce_op="sum")

    def _refuse_divergence(self, value: Tensor, batch: AnomalyBatch) -> None:
        if torch.isfinite(value):
            return
        images = ", ".join(shown(sample.image_path) for sample in batch.samples)
        step = self.trainer.global_step + 1
        msg = f"The loss became {value.item()} in epoch {self.current_epoch + 1}, step {step}, on {images}. {DIVERGED}"
        raise TrainingDivergedError(msg)

    def on_test_start(self) -> None:
        """Show the references to the network, now that it is on its device."""
        with self.trainer.precision_plugin.test_step_context():  # the precision of scoring
            for batch in self._references:
                self.network.observe(batch.pictures.to(self.device), self.names_of(batch)[0])

    def test_step(self, batch: AnomalyBatch, batch_idx: int) -> Any:
        """Score one batch of a target dataset; ``None`` for a batch that only keeps processes in step."""
        if not batch.counts:
            return None
        started = time.perf_counter()
        prediction = self(batch)  # on the CPU, so the GPU has finished
        self.seconds_per_image.append((time.perf_counter() - started) / len(batch.samples))
        self._count(prediction.anomaly_map, prediction.image_score, batch.mask, batch.has_mask, batch.index)
        return prediction

    def _count(self, *scored: Tensor) -> None:
        """Add a batch to the metrics on a thread, once the batch before has been added."""
        if self._counting is not None:
            self._counting[1].result()
        pool = ThreadPoolExecutor(1) if self._counting is None else self._counting[0]
        self._counting = pool, pool.submit(self.metrics.update, *scored)

    def _finish_counting(self) -> None:
        """Wait for the last batch and end the thread: forking with a live thread can deadlock."""
        if self._counting is not None:
            (pool, last), self._counting = self._counting, None
            pool.shutdown()
            last.result()

    def on_test_epoch_end(self) -> None:
        """Compute and log the metrics of the target dataset."""
        self._finish_counting()
        self.results = self.metrics.compute()
        for result in self.results:
            self.log_dict(
                {target_key(self._target, result.category, metric): value for metric, value in result.values.items()}
            )
        tied = self.metrics.tied()
        if tied and self.trainer.is_global_zero:
            logger.warning(
                "All image scores of %s are equal: the image-level metrics are those of a tie and rank nothing. At "
                "low temperatures scores can saturate in float32; see module.network.scoring.",
                ", ".join(map(shown, tied)),
            )

    def trainable_parameters(self) -> list[nn.Parameter]:
        """Return what the optimiser gets: the adapters, never the towers."""
        names = self.network.trainable_parameter_names()
        return [parameter for name, parameter in self.network.named_parameters() if name in names]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Make the optimiser and its schedule, stepped once an epoch."""
        assert self._optimizer is not None, "training needs an optimizer"
        assert self._schedule is not None, "training needs a schedule"
        optimizer = optimizer_of(self.network, self._optimizer)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self._schedule(optimizer), "interval": "epoch"},
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep only the trainable weights and the current epoch's running means."""
        checkpoint["means"] = self._means.state_dict(self._add_up)
        names = self._saved_names()
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in names}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the checkpoint holds exactly the trainable weights, and give old ones today's shape."""
        differing = self._saved_names() ^ checkpoint["state_dict"].keys()
        if differing:
            msg = (
                f"The checkpoint to resume from must hold exactly this network's weights; {len(differing)} are missing "
                f"or unknown, for example {sorted(differing)[0]}. Choose another run_dir and train from the start."
            )
            raise ValueError(msg)
        trained = self.network.trainable_parameter_names()
        names = [name for name, _ in self.network.named_parameters() if name in trained]
        if isinstance(self.network, UpgradingNetwork):
            weights = checkpoint["state_dict"]
            weights |= {f"network.{name}": self.network.upgraded(name, weights[f"network.{name}"]) for name in names}
            for optimizer in checkpoint["optimizer_states"]:
                for index, moments in optimizer["state"].items():
                    moments |= {key: self.network.upgraded(names[index], value) for key, value in moments.items()}
        shapes = [self.network.get_parameter(name).shape for name in names]
        for optimizer in checkpoint["optimizer_states"]:
            for index, moments in optimizer["state"].items():
                if any(moment.ndim and moment.shape != shapes[index] for moment in moments.values()):
                    msg = (
                        f"The checkpoint to resume from must hold an optimizer's moments of the shape of "
                        f"{names[index]}, got another. Choose another run_dir and train from the start."
                    )
                    raise ValueError(msg)
        if "means" in checkpoint:
            self._means.load_state_dict(checkpoint["means"], counts=self.trainer.is_global_zero)

    def _saved_names(self) -> set[str]:
        return {f"network.{name}" for name in learned_tensors(self.network)}
