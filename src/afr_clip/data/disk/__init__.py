"""Datasets as they are stored on disk."""
