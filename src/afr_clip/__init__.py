"""AFR-CLIP: zero-shot visual anomaly detection that compares text with text."""

__version__ = "0.1.0"
