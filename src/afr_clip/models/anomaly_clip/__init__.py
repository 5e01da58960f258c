"""AnomalyCLIP: learn what normal and damaged mean for any object, and look at patches apart (arXiv:2310.18961)."""
