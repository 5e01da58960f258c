"""`python -m afr_clip.train`: train the adapters on one dataset, then score others. The same as `afr-clip train`."""

from afr_clip.cli.main import run

if __name__ == "__main__":
    run("train")
