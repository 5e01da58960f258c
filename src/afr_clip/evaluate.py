"""`python -m afr_clip.evaluate`: score a dataset with a trained checkpoint. The same as `afr-clip evaluate`."""

from afr_clip.cli.main import run

if __name__ == "__main__":
    run("evaluate")
