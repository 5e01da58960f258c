"""`afr-clip COMMAND ...`: one console command; `python -m afr_clip.COMMAND ...` is the same."""

import atexit
import io
import logging
import os
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from importlib import import_module

from afr_clip import __version__
from afr_clip.cli.command import EXIT_BAD_COMMAND_LINE, run_command
from afr_clip.cli.environment import finish_loading, settle
from afr_clip.files import shown

COMMANDS = {
    "train": "train the adapters on one dataset, then score others",
    "evaluate": "score a dataset with a trained checkpoint",
    "predict": "score photographs of your own",
    "calibrate": "find thresholds from good parts, with a budget of false alarms",
    "export": "write a model as an ONNX or OpenVINO file, checked against its checkpoint",
    "diagnose": "measure what the text does in a trained network",
    "sweep": "run the cells of an ablation table or a search",
    "figure": "draw figure 1, 3 or 4 of the paper from runs",
    "report": "write the paper's tables next to what runs measured",
    "methods": "list the methods",
    "validate": "check that a method does what every method must",
    "backbones": "list the backbones",
    "experiments": "list the experiments",
    "datasets": "list, show, check, convert and unpack datasets",
    "dashboard": "upload runs to Weights & Biases and build dashboards",
    "demo": "show a page in the browser to try a model",
    "hub": "share trained weights on the Hugging Face Hub, and get those of others",
    "serve": "inspect photographs over HTTP",
    "watch": "inspect what a camera writes into a folder, once each",
    "doctor": "check this machine, and say what is missing",
}

COMPOSED = ("train", "evaluate", "predict", "calibrate", "export", "diagnose", "sweep")
"""The commands that take ``key=value``; the others take options."""

SYNONYMS = {
    "eval": "evaluate",
    "test": "evaluate",
    "score": "predict",
    "infer": "predict",
    "inference": "predict",
    "detect": "predict",
    "fit": "train",
    "dataset": "datasets",
    "check": "datasets check",
    "version": "--version",
    "help": "--help",
}
"""What users of other programs call our commands."""

HELP = (
    "usage: afr-clip COMMAND ...\n\n"
    + "\n".join(f"  {name:<11} {what}" for name, what in COMMANDS.items())
    + "\n\nafr-clip COMMAND --help lists what a command takes. Example:\n"
    "  afr-clip predict images=FOLDER category='metal nut'\n"
)

EXIT_LOST_OUTPUT = 120
"""The code with which Python itself ends if output could not be written."""

COMPLETION_FLAGS = ("-sc", "--shell-completion")


def console(command: Callable[[], None] | None = None) -> None:
    """Run ``afr-clip``, or one command, as a process of its own, and exit without tearing down torch.

    That would take half a second.
    """
    code = 1

    def leave() -> None:
        status = code
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (BrokenPipeError, ValueError):  # the reader has gone
                pass
            except OSError:
                status = status or EXIT_LOST_OUTPUT
        os._exit(status)

    atexit.register(leave)  # handlers are called in reverse order, so this one comes last
    try:
        (command or main)()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        raise
    except BrokenPipeError:  # `| head` has read enough
        code = 0
    except OSError as error:  # of `--help`, whose output goes to a full disk; commands report their own
        sys.stderr.write(f"error: The output could not be written: {error.strerror}.\n")
        code = EXIT_LOST_OUTPUT
    finally:
        atexit.unregister(finish_loading)  # nothing is torn down


def main(typed: Sequence[str] | None = None) -> None:
    """Run the subcommand in the arguments of ``afr-clip``.

    Args:
        typed: The words; by default those of this process.
    """
    never_fail_to_print()
    words = list(sys.argv[1:] if typed is None else typed)
    if words[:1] in ([], ["-h"], ["--help"], ["help"]):
        if not words[1:]:
            sys.stdout.write(HELP)
            return
        words = [words[1], "--help"]  # afr-clip help predict
    if words[0] in ("--version", "-V", "version"):
        sys.stdout.write(f"afr-clip {__version__}\n")
        return
    if words[0] in COMPLETION_FLAGS:
        # The shell asks `afr-clip`, and the command that is being typed stands in the line to be completed.
        program, _, line = os.environ.get("COMP_LINE", "").partition(" ")
        command, _, rest = line.lstrip().partition(" ")
        os.environ["COMP_LINE"] = f"{program} {rest}"
        words = [command if command in COMPOSED else "train", *words]
    command, *arguments = words
    if command not in COMMANDS:
        sys.stderr.write(f"error: {_unknown_command(command, arguments)}\n")
        sys.exit(EXIT_BAD_COMMAND_LINE)
    run(command, arguments)


def _unknown_command(word: str, rest: Sequence[str]) -> str:
    """Suggest a command for a word that is not one."""
    later = next((other for other in rest if other in COMMANDS), None)
    near = get_close_matches(word.lower().lstrip("-"), [*COMMANDS, *SYNONYMS], n=1)
    if later is not None:
        advice = f"The command comes first: afr-clip {later} {shown(word)} ..."
    elif near:
        advice = f"Did you mean {SYNONYMS.get(near[0], near[0])}?"
    else:
        advice = "afr-clip --help lists all."
    return f"afr-clip has no command {shown(word)}. {advice}"


def run(command: str, arguments: Sequence[str] | None = None) -> None:
    """Run one command.

    Args:
        arguments: What was typed after it; by default what was typed after ``python -m afr_clip.COMMAND``.
    """
    never_fail_to_print()
    settle()
    if arguments is not None:
        sys.argv = [f"afr-clip {command}" if command not in COMPOSED else "afr-clip", *arguments]
    if command in COMPOSED:
        from afr_clip.cli import hydra_commands  # noqa: PLC0415 - the other commands need no Hydra
        from afr_clip.cli.front import run_composed  # noqa: PLC0415
        from afr_clip.config.nodes import register  # noqa: PLC0415

        register()
        run_command(lambda: run_composed(command, getattr(hydra_commands, command)))
    else:
        run_command(import_module(f"afr_clip.{command}").main)


def never_fail_to_print() -> None:
    """Escape what a terminal or pipe cannot encode, instead of ending a run that took hours."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
