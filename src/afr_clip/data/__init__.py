"""Datasets on disk in, `AnomalyBatch` out."""
