"""`python -m afr_clip.calibrate`: find thresholds from good parts. The same as `afr-clip calibrate`."""

from functools import partial

from afr_clip.cli.main import console, run

if __name__ == "__main__":
    console(partial(run, "calibrate"))
