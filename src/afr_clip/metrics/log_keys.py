"""The names under which values are logged and shown."""

from collections.abc import Sequence

from afr_clip.metrics.average import METRICS

EPOCH = "epoch"
STEP = "trainer/global_step"
"""Axes: finished epochs, and optimiser steps."""

LOSS = "train/loss"
"""Logged as ``train/loss_step`` and ``train/loss_epoch``; its terms are ``train/loss_NAME``."""

LOSS_STEP, LOSS_EPOCH = f"{LOSS}_step", f"{LOSS}_epoch"
LEARNING_RATE = "train/lr"
TRAINING = "train/*"
TARGETS = "target/*"
MEANS = "mean/*"

RESULTS_TABLE = "results"

SHEETS = ("highest", "lowest", "worst_ranked")
"""The picture sheets of a dataset, by what makes their images worth a look."""


def short_name(metric: str) -> str:
    """Shorten the name of one of ``METRICS``.

    Example:
        >>> short_name("pixel_f1_max")
        'p_f1_max'
    """
    level, name = metric.split("_", 1)
    return f"{level[0]}_{name}"


def target_key(dataset: str, category: str, metric: str) -> str:
    """Name a metric of one category, for example ``target/visa/pcb1/i_auroc``."""
    return f"target/{dataset}/{category}/{short_name(metric)}"


def mean_key(dataset: str, metric: str) -> str:
    """Name a macro average, for example ``mean/visa/i_auroc``; its group is not the categories'."""
    return f"mean/{dataset}/{short_name(metric)}"


def figure_key(group: str, name: str) -> str:
    """Name a picture of ``figures/``, for example ``figures/visa/highest``."""
    return f"figures/{group}/{name}"


def heat_map_key(dataset: str, sheet: str) -> str:
    """Name images of a dataset with truth and anomaly map over them, for example ``heat_maps/visa/highest``."""
    return f"heat_maps/{dataset}/{sheet}"


def table_columns() -> Sequence[str]:
    """Name the columns of the results table: one row per category, and one per macro average."""
    return ("dataset", "category", *map(short_name, METRICS), "num_normal", "num_anomalous")
