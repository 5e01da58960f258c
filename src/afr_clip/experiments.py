"""`python -m afr_clip.experiments`: list the experiments."""

from afr_clip.cli.command import run_command


def main() -> None:
    """List them."""
    from afr_clip.cli.listings import experiments  # noqa: PLC0415 - not for `--version`

    experiments()


if __name__ == "__main__":
    run_command(main)
