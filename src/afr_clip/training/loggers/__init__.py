"""Where a run is logged: metrics.csv in its folder, and Lightning's loggers for W&B, TensorBoard and MLflow."""

from afr_clip.training.loggers.metrics_csv import MetricsCSV
from afr_clip.training.loggers.mirror import Mirror, closing_mirrors, has_mirror, log_figures, publish

__all__ = ["MetricsCSV", "Mirror", "closing_mirrors", "has_mirror", "log_figures", "publish"]
