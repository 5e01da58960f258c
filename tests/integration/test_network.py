"""Where everything is on disk, no command asks the network for anything."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.integration

WATCHED = """
import socket, sys
asked = []

def watch(event, arguments):
    if event in ("socket.getaddrinfo", "socket.gethostbyname"):
        asked.append((event, arguments[0]))
    elif event in ("socket.connect", "socket.sendto") and arguments[0].family != socket.AF_UNIX:
        asked.append((event, arguments[1]))

sys.addaudithook(watch)
from afr_clip.cli.main import run

for line in sys.argv[1].splitlines():
    name, *overrides = line.split()
    sys.argv = [f"afr_clip.{name}", *overrides]
    code = 0
    try:
        run(name)
    except SystemExit as end:
        code = end.code or 0
    sys.stderr.write(f"ASKED {name} {code} {asked}\\n")
with socket.socket() as probe:
    probe.connect_ex(("127.0.0.1", 9))
sys.stderr.write(f"ASKED nothing 0 {asked}\\n")
"""

COMMANDS = """
predict images=aux/bolt/test/good category=bolt run_dir=p QUICK
train dataset=folder dataset.name=aux dataset.root=aux TINY logger=all run_dir=t
evaluate checkpoint=t dataset=folder dataset.name=other dataset.root=x run_dir=e QUICK
diagnose t QUICK
report t e --out page
datasets check folder --root x
"""


def test_no_command_asks_the_network(auxiliary, unseen, tmp_path):
    (tmp_path / "aux").symlink_to(auxiliary)
    (tmp_path / "x").symlink_to(unseen)
    quick = "num_threads=1 data.num_workers=0"
    tiny = f"backbone=tiny backbone.image_size=64 trainer.max_epochs=1 data.augment=true {quick} "
    tiny += "protocol.targets=[x] +protocol.roots.x=x"
    lines = COMMANDS.strip().replace("QUICK", quick).replace("TINY", tiny)
    told = {"WANDB_MODE", "WANDB_API_KEY", "HF_HUB_OFFLINE", "MLFLOW_DISABLE_TELEMETRY", "NO_ALBUMENTATIONS_UPDATE"}
    environment = {name: value for name, value in os.environ.items() if name not in told} | {"WANDB_MODE": "offline"}
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, lines],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    said = [line for line in done.stderr.splitlines() if line.startswith("ASKED ")]
    expected = [f"ASKED {line.split()[0]} 0 []" for line in lines.splitlines()]
    assert said == [*expected, "ASKED nothing 0 [('socket.connect', ('127.0.0.1', 9))]"], done.stderr[-3000:]
