"""`python -m afr_clip.predict`: score photographs of your own. The same as `afr-clip predict`."""

from afr_clip.cli.main import run

if __name__ == "__main__":
    run("predict")
