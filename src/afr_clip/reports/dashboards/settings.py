"""What the dashboards show, and of which runs."""

from collections.abc import Sequence
from dataclasses import dataclass

from afr_clip.metrics.log_keys import LEARNING_RATE, LOSS_EPOCH, mean_key
from afr_clip.metrics.protocol import METRICS
from afr_clip.reports.compare.ablation.paper import REFERENCES

TABLES = tuple(REFERENCES)
"""Groups of runs whose ablations are compared; a sweep's runs are grouped by the table they are for."""

SEARCH = "search"
"""Group of the runs of a search."""

SEARCHED = (
    "optimizer.lr",
    "module.network.scoring.temperature",
    "loss.image_weight",
    "loss.focal_weight",
    "loss.focal_gamma",
    "loss.dice_weight",
    "loss.complement_weight",
)
"""Config keys that a search varies, unless others are named."""

ABLATION, SEED, TRAINED_ON = "ablation", "seed", "trained_on"
"""Config keys of a run that the dashboards group by and show."""

SHOWN_IN_BARS = ("image_auroc", "pixel_auroc")
"""The metrics of the paper's ablation tables."""

CURVES = (LOSS_EPOCH, LEARNING_RATE)


@dataclass(frozen=True)
class DashboardSettings:
    """What the dashboards show.

    Attributes:
        project: Project at Weights & Biases.
        entity: User or team; empty for the one who is logged in.
        datasets: Target datasets.
        tables: Groups of runs, each an ablation table.
        searched: Config keys of a search.

    Raises:
        ValueError: If there is no dataset to show.
    """

    project: str
    entity: str
    datasets: Sequence[str]
    tables: Sequence[str] = TABLES
    searched: Sequence[str] = SEARCHED

    def __post_init__(self) -> None:
        if not self.datasets:
            msg = "A dashboard must show at least one dataset, got none. Name some with --datasets."
            raise ValueError(msg)

    def means(self, metrics: Sequence[str] = METRICS) -> list[str]:
        """Name the macro averages of metrics on all datasets."""
        return [mean_key(dataset, metric) for dataset in self.datasets for metric in metrics]
