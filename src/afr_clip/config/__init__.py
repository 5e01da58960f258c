"""Typed config, its validation, and how a command starts and ends. Only this room and the commands know Hydra."""
