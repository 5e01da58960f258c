"""`python -m afr_clip.diagnose RUN`: measure what the text does in a network. The same as `afr-clip diagnose`."""

from afr_clip.cli.main import run

if __name__ == "__main__":
    run("diagnose")
