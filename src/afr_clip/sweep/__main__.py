"""`python -m afr_clip.sweep`: run the cells of an ablation table or a search. The same as `afr-clip sweep`."""

from afr_clip.cli.main import run

if __name__ == "__main__":
    run("sweep")
