"""Metrics as pure functions of counts or scores."""
