"""`python -m afr_clip.methods`: list the methods."""

from afr_clip.cli.command import run_command


def main() -> None:
    """List them."""
    from afr_clip.cli.listings import methods  # noqa: PLC0415 - not for `--version`

    methods()


if __name__ == "__main__":
    run_command(main)
