"""The LightningModule: one ``forward`` for training, scoring and prediction of any method."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.types import STEP_OUTPUT, OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from afr_clip.data.records import AnomalyBatch, Share
from afr_clip.losses.total import LossTerms
from afr_clip.metrics.log_keys import LEARNING_RATE, LOSS, LOSS_EPOCH, LOSS_STEP, target_key
from afr_clip.metrics.protocol import CategoryResult, DatasetMetrics
from afr_clip.models.method_settings import CategoryNames
from afr_clip.models.prediction import AnomalyPrediction
from afr_clip.training.means import EpochMeans

OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]
ScheduleFactory = Callable[[Optimizer], LRScheduler]
Loss = Callable[[Tensor, Tensor, Tensor, Tensor], LossTerms]


@runtime_checkable
class AnomalyNetwork(Protocol):
    """What a method offers to training; every network in ``models/`` does."""

    def __call__(self, image: Tensor, category: tuple[str, ...]) -> AnomalyPrediction:
        """Score images of named categories."""

    def trainable_parameter_names(self) -> set[str]:
        """Name the parameters that learn."""

    def named_parameters(self) -> Iterable[tuple[str, nn.Parameter]]:
        """Name all parameters."""


@runtime_checkable
class TappedNetwork(Protocol):
    """What a method offers besides whose image tower reads nothing that learns: the two halves of its forward."""

    @property
    def tapped_from(self) -> str:
        """What is read out; the same words mean the same numbers of the same frozen weights and images."""

    def tapped(self, image: Tensor) -> tuple[Tensor, ...]:
        """Read out the image tower; one row per image in every tensor."""

    def score(self, tapped: tuple[Tensor, ...], category: tuple[str, ...]) -> AnomalyPrediction:
        """Score what was read out."""


@runtime_checkable
class FewShotNetwork(Protocol):
    """What a method offers besides that looks at normal images of a category before it scores any other."""

    shots: int
    """How many of each category; 0 for none."""

    def observe(self, image: Tensor, category: str) -> None:
        """Look at the normal images of a category, in place of any before."""


class TrainingDivergedError(ValueError):
    """The loss is no longer a number."""


class AnomalyDetectionModule(pl.LightningModule):
    """Train a network on the auxiliary dataset and score target datasets with it.

    Args:
        network: Any method; a module that is an ``AnomalyNetwork``.
        loss: Maps prediction and truth to the loss and its terms; ``None`` where nothing is trained.
        optimizer: Makes the optimiser of the trainable parameters.
        schedule: Makes the learning-rate schedule, stepped once an epoch.
        category_names: Whether the network is told a category in words, or as the dataset spells it.
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
        self.metrics: DatasetMetrics | None = None
        self.results: tuple[CategoryResult, ...] = ()
        self._means = EpochMeans()
        self._target = ""
        self._references: tuple[AnomalyBatch, ...] = ()
        # Only the adapters are in checkpoints; on_load_checkpoint demands that they are all there and nothing else.
        self.strict_loading = False

    @property
    def shots(self) -> int:
        """How many normal images of each category the network looks at before it scores."""
        return self.network.shots if isinstance(self.network, FewShotNetwork) else 0

    def score_next(self, dataset: str, metrics: DatasetMetrics, references: Sequence[AnomalyBatch] = ()) -> None:
        """Name the target dataset that the next test run scores.

        Args:
            dataset: Name under which metrics are logged.
            metrics: Fresh metrics of that dataset.
            references: ``shots`` normal images of each of its categories, where the network looks at any.

        Raises:
            ValueError: If two categories have references and go by the same name.
        """
        names = [self._names(batch)[0] for batch in references]
        if len(set(names)) < len(names):
            msg = (
                f"Categories with reference images must go by names of their own, got {names} for {dataset!r}. "
                f"Set module.category_names=raw, or score one at a time with dataset.categories."
            )
            raise ValueError(msg)
        self._target, self.metrics, self.results, self._references = dataset, metrics, (), tuple(references)

    def forward(self, batch: AnomalyBatch) -> AnomalyPrediction:
        """Score a batch."""
        if batch.tapped:  # the first half of the network's own forward was done before
            return self.network.score(batch.tapped, self._names(batch))
        return self.network(batch.pictures, self._names(batch))

    def _names(self, batch: AnomalyBatch) -> tuple[str, ...]:
        return batch.prompt_name if self._category_names is CategoryNames.words else batch.category

    def training_step(self, batch: AnomalyBatch, batch_idx: int) -> STEP_OUTPUT:
        """Return the loss of one batch, and its prediction for the figures."""
        assert self._loss is not None, "training needs a loss"
        prediction = self(batch)
        # Scores that are no numbers would be refused inside the loss with words that name no image.
        self._refuse_divergence(prediction.trained_maps.mean() + prediction.image_score.mean(), batch)
        terms = self._loss(prediction.trained_maps, prediction.image_score, batch.mask, batch.is_anomalous)
        self._refuse_divergence(terms.total, batch)
        share = batch.share or Share(own=len(batch.samples), whole=len(batch.samples))
        # DDP takes the mean over processes. So weighted, it is the mean over images, however they are spread.
        weight = self.trainer.world_size * share.own / share.whole
        self._log_training(terms, weight, share)
        return {"loss": weight * terms.total, "prediction": prediction}

    def _log_training(self, terms: LossTerms, weight: float, share: Share) -> None:
        # At once and not by sync_dist: the progress bar, which only one process has, would ask for sums by itself.
        mean = self.trainer.strategy.reduce(weight * terms.total.detach(), reduce_op="mean")
        self.log(LOSS_STEP, mean, prog_bar=True, on_step=True, on_epoch=False, batch_size=share.whole)
        names = {name: LOSS_EPOCH if name == "total" else f"{LOSS}_{name}" for name in terms._fields}
        values = {names[name]: value for name, value in terms._asdict().items()}
        rate = torch.tensor(self.trainer.optimizers[0].param_groups[0]["lr"], device=self.device)
        self._means.add(values | {LEARNING_RATE: rate}, share.own)

    def on_train_epoch_start(self) -> None:
        """Begin the means of an epoch; one that goes on in the middle does not come here."""
        self._means.restart()

    def on_train_epoch_end(self) -> None:
        """Log the means of the epoch."""
        means = self._means.compute(self._add_up)
        self.log(LOSS_EPOCH, means.pop(LOSS_EPOCH), prog_bar=True)
        self.log_dict(means)

    def _add_up(self, value: Tensor) -> Tensor:
        return self.trainer.strategy.reduce(value.to(self.device), reduce_op="sum")

    def _refuse_divergence(self, value: Tensor, batch: AnomalyBatch) -> None:
        if torch.isfinite(value):
            return
        images = ", ".join(str(sample.image_path) for sample in batch.samples)
        msg = (
            f"The loss must stay a finite number, got {value.item()} in epoch {self.current_epoch} on {images}. "
            f"Lower optimizer.lr or set trainer.gradient_clip_val; the checkpoint of the last whole epoch is kept."
        )
        raise TrainingDivergedError(msg)

    def on_test_start(self) -> None:
        """Let the network look at the references, once it lies where it will score."""
        with self.trainer.precision_plugin.test_step_context():  # as the targets will be
            for batch in self._references:
                self.network.observe(batch.pictures.to(self.device), self._names(batch)[0])

    def test_step(self, batch: AnomalyBatch, batch_idx: int) -> Any:
        """Score one batch of a target dataset; nothing where it only stands in for one."""
        assert self.metrics is not None, "score_next() names the target first"
        if not batch.counts:
            return None
        prediction = self(batch)
        self.metrics.update(prediction.anomaly_map, prediction.image_score, batch.mask, batch.has_mask, batch.index)
        return prediction

    def on_test_epoch_end(self) -> None:
        """Compute and log the metrics of the target dataset."""
        assert self.metrics is not None, "score_next() names the target first"
        self.results = self.metrics.compute()
        for result in self.results:
            self.log_dict(
                {target_key(self._target, result.category, metric): value for metric, value in result.values.items()}
            )

    def predict_step(self, batch: AnomalyBatch, batch_idx: int) -> AnomalyPrediction:
        """Score one batch of photographs without truth."""
        return self(batch)

    def trainable_parameters(self) -> list[nn.Parameter]:
        """Return what the optimiser gets: the adapters, never the towers."""
        names = self.network.trainable_parameter_names()
        return [parameter for name, parameter in self.network.named_parameters() if name in names]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Make the optimiser and its schedule, stepped once an epoch."""
        assert self._optimizer is not None, "training needs an optimizer"
        assert self._schedule is not None, "training needs a schedule"
        optimizer = self._optimizer(self.trainable_parameters())
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self._schedule(optimizer), "interval": "epoch"},
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep only what learns, and the means of the epoch so far."""
        checkpoint["means"] = self._means.state_dict(self._add_up)
        names = self._saved_names()
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in names}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Demand all of what learns, and nothing else."""
        differing = self._saved_names() ^ checkpoint["state_dict"].keys()
        if differing:
            msg = (
                f"A resumed training must find exactly its own weights, got {len(differing)} that are missing or "
                f"unknown, for example {sorted(differing)[0]}. Choose another run_dir and train anew."
            )
            raise ValueError(msg)
        if "means" in checkpoint and self.trainer.is_global_zero:
            self._means.load_state_dict(checkpoint["means"])

    def _saved_names(self) -> set[str]:
        return {f"network.{name}" for name in self.network.trainable_parameter_names()}
