"""`python -m afr_clip.backbones`: list the backbones."""

from afr_clip.cli.command import run_command


def main() -> None:
    """List them."""
    from afr_clip.cli.listings import backbones  # noqa: PLC0415 - not for `--version`

    backbones()


if __name__ == "__main__":
    run_command(main)
