"""The console command ends its process itself: codes, output and what libraries do at the end must survive."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import atexit, sys, threading, time
from afr_clip.cli import main
thread = threading.Thread(target=lambda: (time.sleep(0.2), print("the end of a thread")))
def command():
    atexit.register(lambda: print("the end of a library"))
    thread.start()
    print("the end of the command")
    {ending}
main.main = command
sys.exit(main.console())
"""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is always full")
def test_output_that_could_not_be_written_is_an_error():
    command = f"{sys.executable} -m afr_clip --version > /dev/full"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 120
    assert done.stderr == "error: The output could not be written: No space left on device.\n"


@pytest.mark.parametrize(
    ("ending", "code", "error"),
    [
        ("pass", 0, ""),
        ("sys.exit()", 0, ""),
        ("sys.exit(3)", 3, ""),
        ("sys.exit('a sentence')", 1, "a sentence\n"),
        ("raise RuntimeError('a bug')", 1, "RuntimeError: a bug\n"),
    ],
)
def test_codes_and_output_are_those_of_an_ordinary_end(ending, code, error):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(ending=ending)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == code
    assert done.stdout.splitlines() == ["the end of the command", "the end of a thread", "the end of a library"]
    assert done.stderr.endswith(error)


def test_a_closed_pipe_ends_the_command_quietly():
    words = ["bash", "-o", "pipefail", "-c", f"{sys.executable} -m afr_clip --help | true"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("seconds", [0.02, 0.1])
def test_a_process_that_ends_while_torch_is_loaded_does_not_crash(seconds):
    source = (
        "import sys, time\nfrom afr_clip.cli.environment import load_torch_ahead\n"
        f"load_torch_ahead()\ntime.sleep({seconds})\nsys.exit(2)"
    )
    assert subprocess.run([sys.executable, "-c", source], check=False).returncode == 2
