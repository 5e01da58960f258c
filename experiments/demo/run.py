"""Run the demo: on the real photographs below a folder, or on a small generated tree where that folder is absent."""

import argparse
import subprocess
import sys
from pathlib import Path

from afr_clip.data.generated import write_mvtec_tree

NEEDED = ("mvtec_anomaly_detection", "MPDD")


def main() -> int:
    """Choose the data, train and score, say what comes next."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help=f"folder that holds {' and '.join(NEEDED)}")
    parser.add_argument("--generated", action="store_true", help="use the generated tree in any case")
    parser.add_argument("overrides", nargs="*", help="passed on to afr_clip.train")
    arguments = parser.parse_args()
    is_there = arguments.data is not None and all((arguments.data / name).is_dir() for name in NEEDED)
    if arguments.generated or not is_there:
        data, experiment = Path("outputs", "generated"), "smoke"
        write_mvtec_tree(data / "auxiliary", ("bolt", "tile"), num_normal=8, num_anomalous=8, size=(128, 128))
        write_mvtec_tree(data / "unseen", ("fabric", "plate"), num_normal=6, num_anomalous=6, size=(128, 128), seed=1)
    else:
        data, experiment = arguments.data, "demo"
    command = [
        sys.executable,
        "-m",
        "afr_clip.train",
        f"experiment={experiment}",
        f"data_dir={data}",
        *arguments.overrides,
    ]
    sys.stderr.write(f"{' '.join(['python', *command[1:]])}\n")
    code = subprocess.run(command, check=False).returncode
    if code == 0:
        sys.stderr.write(
            "Pictures are in the run's figures/, numbers in results.csv. With the paper's backbone and data:\n"
            "  python -m afr_clip.train dataset=visa protocol.targets=[mvtec_ad] data_dir=DIR\n"
        )
    return code


if __name__ == "__main__":
    sys.exit(main())
