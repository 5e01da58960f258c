"""The run folder, and results written and read."""
