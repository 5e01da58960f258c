"""`python -m afr_clip.export`: write a model as a file that runs without PyTorch. The same as `afr-clip export`."""

from functools import partial

from afr_clip.cli.main import console, run

if __name__ == "__main__":
    console(partial(run, "export"))
