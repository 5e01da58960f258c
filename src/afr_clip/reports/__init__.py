"""Run folders, manifests, result tables, maps and figures. Never runs a model."""
