"""Typed config, its validation, and how a command starts and ends. Only this package and the commands use Hydra."""
