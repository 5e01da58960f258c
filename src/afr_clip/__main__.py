"""`python -m afr_clip COMMAND ...`: the same as `afr-clip COMMAND ...`."""

from afr_clip.cli.main import console

if __name__ == "__main__":
    console()
