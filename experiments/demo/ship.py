"""Make the checkpoint that ships with the package: the adapters of a run, without anything specific to one machine.

python experiments/demo/ship.py outputs/demo_study/full_0 src/afr_clip/pocket/demo.ckpt
"""

import argparse
from pathlib import Path
from typing import Any

import torch

from afr_clip.files import written_whole
from afr_clip.models.checkpoint import FORMAT, read_checkpoint

KEPT = ("commit", "seed", "epochs", "started", "afr_clip", "python", "packages", "backbone", "auxiliary", "trained_on")
"""What a user of the checkpoint may want to know in addition to the model's config."""


def main() -> None:
    """Read a run, write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run folder, or its last.ckpt")
    parser.add_argument("file", type=Path, help="where to write")
    arguments = parser.parse_args()
    checkpoint = read_checkpoint(arguments.run)
    content = {
        "format": FORMAT,
        "state_dict": dict(checkpoint.state_dict),
        "manifest": shipped(dict(checkpoint.manifest)),
    }
    with written_whole(arguments.file) as unfinished:
        torch.save(content, unfinished)
    arguments.file.chmod(0o644)


def shipped(manifest: dict[str, Any]) -> dict[str, Any]:
    """Keep what is valid on every machine.

    Args:
        manifest: The run's.

    Returns:
        A copy without folders, machine and command line.
    """
    kept = {key: manifest[key] for key in KEPT}
    kept["config"] = {group: manifest["config"][group] for group in ("backbone", "module")}
    for key in ("auxiliary", "trained_on"):
        kept[key] = kept[key] | {"root": "drawn"}
    return kept


if __name__ == "__main__":
    main()
