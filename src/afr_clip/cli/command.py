"""How a command starts and ends: where its config is, and how an error becomes one sentence."""

import argparse
import errno
import functools
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn, ParamSpec

from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from afr_clip.config.axes import quoted
from afr_clip.config.validate import ConfigError, MissingKeyError
from afr_clip.processes.launch import World, launch
from afr_clip.processes.place import adopt_srun, is_first, place
from afr_clip.processes.signals import (
    EXIT_STOPPED,
    LOST,
    SpokenExit,
    Stopped,
    end_with,
    forget_run,
    how_to_resume,
    interrupted,
    stoppable,
)
from afr_clip.settings import TrainerSettings

EXIT_ERROR = 1
"""Any error whose class has no ``exit_code``."""

EXIT_BAD_COMMAND_LINE = 2
"""The command line cannot be read: an unknown key or file, a wrong type, a missing argument."""

logger = logging.getLogger(__name__)

DEBUG_SWITCH = "--debug"
DEBUG_VARIABLE = "AFR_CLIP_DEBUG"
"""Switch and variable show the traceback behind an error's sentence."""

WORKER_TERMINATED = "is killed by signal: Terminated"
"""PyTorch's message if SIGTERM reached the loading processes first."""

_LOST_PEER = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "gloo", "NCCL", "TCPStore")
"""Found in the messages of libraries that carry data between processes, when the other end is gone."""

Arguments = ParamSpec("Arguments")

_TYPED = (
    "Could not override",
    "Error merging override",
    "Could not append",
    "Could not delete",
    "You must specify",
    "Config group override must be",
    "Unexpected type for root: NoneType",
    "Ambiguous value for argument",
)
"""How messages of Hydra and OmegaConf begin when what was typed does not fit, as opposed to what a file says."""


class CommandLineError(ValueError):
    """A command line that does not fit the command."""


class CommandLine(argparse.ArgumentParser):
    """A command line without Hydra, whose errors are sentences like those of the other commands."""

    def error(self, message: str) -> NoReturn:
        """Raise an error that explains what is wrong with the command line."""
        usage = " ".join(self.format_usage().removeprefix("usage: ").split())
        msg = f"{self._in_plain_words(message)} The usage is {usage}."
        raise CommandLineError(msg)

    def _in_plain_words(self, message: str) -> str:
        """Reword argparse's message, with the nearest word that would be right."""
        if choice := re.match(r"argument (.+): invalid choice: '?(.*?)'? \(choose from (.*)\)", message):
            names = re.findall(r"[\w-]+", choice[3])
            near = get_close_matches(choice[2], names, n=1, cutoff=0.5)
            advice = f" Did you mean {near[0]}?" if near else ""
            return f"The word after {self.prog} must be one of {', '.join(names)}, got {choice[2]}.{advice}"
        if unknown := re.match(r"unrecognized arguments: (\S+)", message):
            word = unknown[1].partition("=")[0]
            known = [option for option in self._options() if option.startswith("--")]
            near = get_close_matches(f"--{word.lstrip('-').replace('_', '-')}", known, n=1, cutoff=0.6)
            advice = f" Write {near[0]}." if near else f" It takes {', '.join(known) or 'no options'}."
            return f"{unknown[1]} is not known to {self.prog}.{advice}"
        if missing := re.match(r"the following arguments are required: (.*)", message):
            return f"{self.prog} needs {missing[1]}, got nothing."
        if value := re.match(r"argument (.+): expected (.*)", message):
            return f"{value[1]} needs {'a value' if value[2] == 'one argument' else value[2]}, got nothing after it."
        return f"The command line is wrong: {message}."

    def _options(self) -> list[str]:
        options = list(self._option_string_actions)
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                for parser in action.choices.values():
                    options += parser._option_string_actions
        return list(dict.fromkeys(options))


def run_command(main: Callable[[], None]) -> None:
    """Run a Hydra command.

    Args:
        main: The function under ``@hydra.main``.
    """
    if DEBUG_SWITCH in sys.argv:
        sys.argv.remove(DEBUG_SWITCH)
        os.environ[DEBUG_VARIABLE] = "1"  # processes that a run starts show theirs too
    # Makes Hydra hand errors on instead of printing them with a hint of its own.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    adopt_srun(os.environ)
    if not is_first():
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - for good; the first process speaks
    forget_run()
    try:
        stoppable()(ends_in_a_sentence(main))()
    except Stopped as stopped:
        end_with(str(stopped), EXIT_STOPPED)


_OF_THE_TYPED = ("hydra.mode", "hydra.run", "hydra.sweep", "hydra/sweeper", "hydra.launcher", "hydra/launcher")
"""How overrides begin that are for the typed command only, not for the processes it starts."""


def start_processes(command: str, trainer: TrainerSettings, *, has_run_dir: bool) -> bool:
    """Start the processes of a run if it has several and this is not one of them; see `launch`.

    Args:
        command: The module that is run, for example ``afr_clip.train``.
        has_run_dir: Whether a run folder was typed, which processes on several machines must share.
    """
    world = World(int(trainer.devices), trainer.num_nodes, has_run_dir)
    return launch(command, retyped(HydraConfig.get()), world)


def retyped(hydra: Any) -> list[str]:  # noqa: ANN401 - Hydra's own config
    """Return the arguments that repeat a command for one run in the folder that was chosen."""
    typed = [source.path for source in hydra.runtime.config_sources if source.provider == "command-line"]
    searched = [argument for path in typed for argument in ("--config-dir", path)]
    for_hydra = [override for override in hydra.overrides.hydra if not override.lstrip("+~").startswith(_OF_THE_TYPED)]
    return [*searched, *hydra.overrides.task, *for_hydra, f"hydra.run.dir={quoted(hydra.runtime.output_dir)}"]


def ends_in_a_sentence(command: Callable[Arguments, None]) -> Callable[Arguments, None]:
    """Let a function end the process on an error: 1 and one sentence, or 2 where the command line itself was bad.

    Returns:
        The same function, which raises nothing but ``SystemExit``.
    """

    @functools.wraps(command)
    def spoken(*args: Arguments.args, **kwargs: Arguments.kwargs) -> None:
        logging.raiseExceptions = False  # a log that cannot be written must not end in tracebacks
        try:
            command(*args, **kwargs)
        except KeyboardInterrupt:
            end_with(interrupted(), EXIT_ERROR)
        except (SpokenExit, Stopped):  # `run_command` reports a stop, once earlier handlers have been called
            raise
        except SystemExit as end:
            # Lightning turns an interrupt and SIGTERM into exits of its own, without a word.
            if isinstance(end.__context__, KeyboardInterrupt) or type(end) is not SystemExit:
                end_with(interrupted(), EXIT_ERROR)
            raise
        except Exception as error:
            if not isinstance(error, CommandLineError | ConfigError | HydraException | OmegaConfBaseException):
                logger.debug("The run ended here.", exc_info=True)  # for the log in the run folder
            if os.environ.get(DEBUG_VARIABLE):
                traceback.print_exc()
            code = EXIT_BAD_COMMAND_LINE if _is_bad_command_line(error) else getattr(error, "exit_code", EXIT_ERROR)
            end_with(_sentence(error), code)

    return spoken


_NO_MEMORY = re.compile("out of memory|can't allocate memory|not enough memory", re.IGNORECASE)


def describe(error: Exception) -> str:
    """Describe an error in plain words.

    Returns:
        A sentence; our own errors already are one.
    """
    if isinstance(error, HydraException | OmegaConfBaseException):
        return _describe_config_error(error)
    if isinstance(error, AssertionError) and _is_bad_command_line(error):  # OmegaConf's, and it does not name the key
        return "A typed key belongs to a group that is null. Choose the group too, for example logger=wandb."
    if isinstance(error, OSError) and error.errno is not None:
        return _describe_os_error(error)
    if isinstance(error, ValueError | FileNotFoundError) and str(error):
        return str(error)
    # PyTorch's own kind of error is a RuntimeError too, and a CPU has no kind of its own.
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _NO_MEMORY.search(str(error))):
        return (
            "There is not enough memory. Choose a smaller data.batch_size (in training), data.eval_batch_size (in "
            "scoring) or backbone.image_size."
        )
    return f"Unexpected {type(error).__name__}: {error}. Run again with {DEBUG_SWITCH} and report what it shows."


def _describe_os_error(error: OSError) -> str:
    if error.errno == errno.ENOSPC:
        return (
            f"The disk is full: {error.filename or 'the results'} could not be written. "
            f"Files already written are complete. Free some space. {how_to_resume()}"
        )
    advice = "Choose another folder" if error.errno == errno.EROFS else "Check the path and its permissions"
    return f"{error.filename or 'A file'} could not be used: {error.strerror}. {advice}."


def _sentence(error: Exception) -> str:
    if WORKER_TERMINATED in str(error):
        return interrupted()
    if isinstance(error, RuntimeError) and place().world_size > 1 and any(said in str(error) for said in _LOST_PEER):
        return f"{LOST}, and this one cannot continue without it. Its own log says why."
    return describe(error)


def _is_bad_command_line(error: Exception) -> bool:
    if isinstance(error, CommandLineError | OverrideParseException | MissingConfigException | MissingKeyError):
        return True
    kinds = ConfigCompositionException | ValueError | AssertionError  # Hydra raises all three
    return isinstance(error, kinds) and str(error).startswith(_TYPED)


_OTHER_PARTS = re.compile(
    r"In '(experiment|ablation|recipe)/([^']+)': ConfigKeyError .*full_key: (module\.\S+)", re.DOTALL
)
"""Hydra's words for a file that sets a key of another method."""


def _describe_config_error(error: Exception) -> str:
    if found := _OTHER_PARTS.match(str(error)):
        group, name, key = found.groups()
        return f"{group}={name} sets {key}, which the chosen module does not have. Choose another {group}."
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    said = str(error).split("Config search path:")[0]
    lines = [line.strip() for line in said.splitlines() if line.strip() not in {"", "schema"}]
    text = " ".join(line for line in lines if not line.startswith(("full_key:", "object_type=", "reference_type=")))
    if isinstance(cause, OmegaConfBaseException):
        detail = str(cause.msg or cause).splitlines()[0]
        text = f"{text.rstrip('.')}. {detail}" if detail not in text else text
        text += f" (key {cause.full_key})" if cause.full_key else ""
        text += _suggest(cause) if isinstance(cause, ConfigKeyError | ConfigAttributeError) else ""
    text = re.sub(r"To append to your config use \S+", "", text)
    return re.sub(r"\s+", " ", text).replace("raised while composing config:", "while composing the config:").strip()


def _suggest(error: OmegaConfBaseException) -> str:
    parent = error.parent_node
    if not isinstance(parent, DictConfig) or parent._is_none() or parent._is_missing():
        return ""
    if OmegaConf.get_type(parent) is dict:
        return f". Write +{error.full_key}=VALUE to add it."
    near = get_close_matches(str(error.key), [str(key) for key in parent], n=1)
    return f". Did you mean {near[0]}?" if near else f". Known here: {', '.join(map(str, parent))}."
