"""`python -m afr_clip.predict`: score photographs of your own. The same as `afr-clip predict`."""

from functools import partial

from afr_clip.cli.main import console, run

if __name__ == "__main__":
    console(partial(run, "predict"))
