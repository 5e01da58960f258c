"""What pytest leaves alone here: a program of its own, which needs atheris."""

collect_ignore = ["coverage_guided.py"]
