"""`python -m afr_clip.calibrate`: find thresholds from good parts. The same as `afr-clip calibrate`."""

from afr_clip.cli.main import run

if __name__ == "__main__":
    run("calibrate")
