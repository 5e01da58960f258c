"""`python -m afr_clip.evaluate`: score a dataset with a trained checkpoint. The same as `afr-clip evaluate`."""

from functools import partial

from afr_clip.cli.main import console, run

if __name__ == "__main__":
    console(partial(run, "evaluate"))
