"""`python -m afr_clip.diagnose RUN`: measure what the text does in a network. The same as `afr-clip diagnose`."""

from functools import partial

from afr_clip.cli.main import console, run

if __name__ == "__main__":
    console(partial(run, "diagnose"))
