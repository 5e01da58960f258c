"""`python -m afr_clip COMMAND ...`: the same as `afr-clip COMMAND ...`."""

from afr_clip.cli.main import main

if __name__ == "__main__":
    main()
