"""Workspace and report at Weights & Biases, built from code over the keys that runs log."""
