"""`python -m afr_clip.train`: train the adapters on one dataset, then score others. The same as `afr-clip train`."""

from functools import partial

from afr_clip.cli.main import console, run

if __name__ == "__main__":
    console(partial(run, "train"))
