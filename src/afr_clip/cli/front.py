"""The front of the commands that take keys: words, config and places are checked before Hydra makes a folder."""

import itertools
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict

from afr_clip import __version__
from afr_clip.cli.command import CommandLineError
from afr_clip.cli.help import help_of
from afr_clip.cli.places import faults_of_output, faults_of_places
from afr_clip.cli.words import Typed, as_text, read_words
from afr_clip.config.keys import groups_of
from afr_clip.config.nodes import COMMANDS, config_dir
from afr_clip.config.plan import group_options
from afr_clip.config.trusted import refuse_untrusted
from afr_clip.config.validate import ConfigError, MissingKeyError, is_unchosen, read, sentences
from afr_clip.files import shown
from afr_clip.processes.place import is_first
from afr_clip.processes.signals import SpokenExit
from afr_clip.reports.record.run_folder import HOLDER, LOCK

_HELP = ("-h", "--help", "-help", "-?", "help")


def run_composed(command: str, main: Callable[[], None]) -> None:
    """Run a command under Hydra with the words in ``sys.argv``, once they are known to be good.

    Raises:
        CommandLineError: If the words do not fit the command.
        ConfigError: If the config is wrong, or what it names is not there.
    """
    _close_logs()  # of a command that this process ran before
    words = sys.argv[1:]
    if words and (words[0] in _HELP or {"-h", "--help"} & set(words)):
        sys.stdout.write(help_of(command))
        return
    if "--version" in words:
        sys.stdout.write(f"afr-clip {__version__}\n")
        return
    if {"-sc", "--shell-completion"} & set(words):
        main()
        return
    if "--help-all" in words:
        sys.argv[1:] = ["--help", *(word for word in words if word != "--help-all")]
        main()
        return
    typed = read_words(command, words)
    hydra = [*typed.options, *(["--config-dir", typed.config_dir] if typed.config_dir else [])]
    sys.argv[1:] = [*hydra, *typed.overrides]
    if not typed.is_run:
        main()
        return
    folder, key = _checked(command, typed)
    chosen = [f"{key}={as_text(str(folder))}"] if folder is not None else []
    sys.argv[1:] += chosen
    with _leaving_no_trace_of_a_refusal(folder):
        main()
    if typed.is_multirun and folder is not None:
        sys.stdout.write(f"runs: {folder}\n")


def _checked(command: str, typed: Typed) -> tuple[Path | None, str]:
    """Compose and check the config of every run of a command line.

    Returns:
        Where the run goes, or all runs of a multirun, and the key of Hydra that says so.
    """
    searched = [f"hydra.searchpath=[{as_text(f'file://{typed.config_dir}')}]"] if typed.config_dir else []
    if searched and any(override.lstrip("+").startswith("hydra.searchpath=") for override in typed.overrides):
        msg = "--config-dir and hydra.searchpath= name folders of config files, got both. Leave hydra.searchpath= out."
        raise CommandLineError(msg)
    with initialize_config_dir(config_dir(), version_base="1.3", job_name=command):
        runs = list(_runs(command, typed, searched))
        faults: dict[str, None] = {}
        config = None
        for overrides in runs:
            _refuse_unknown_choices(command, overrides, searched)
            own = _composed(command, searched, overrides)
            refuse_untrusted(own, overrides)
            config = own if config is None else config
            values = own.copy()
            with open_dict(values):
                del values["hydra"]
            if command == "sweep":  # its cells have configs of their own, which it checks before the first starts
                faults |= dict.fromkeys(faults_of_output("sweep_dir", Path(values.sweep_dir)))
                continue
            if command == "diagnose":
                _complete_diagnosis(values)
            settings = read(values, COMMANDS[command])
            if is_first():
                faults |= dict.fromkeys(faults_of_places(settings))
        if faults:
            raise ConfigError(sentences(list(faults)))
        assert config is not None, "there is at least one run"
        key = "hydra.sweep.dir" if typed.is_multirun else "hydra.run.dir"
        if "RANK" in os.environ or (typed.is_multirun and command == "sweep"):
            return None, key
        return _folder(config, typed, key), key


def _composed(command: str, searched: Sequence[str], overrides: Sequence[str]) -> DictConfig:
    try:
        return compose(command, [*searched, *overrides], return_hydra_config=True)
    except AssertionError:  # OmegaConf's, where a key below a node of null is set; it does not say which
        plain = [override for override in overrides if override.partition("=")[0].count(".") < 2]
        config = compose(command, [*searched, *plain])
        for override in overrides:
            key = override.lstrip("+").partition("=")[0]
            node = key.rpartition(".")[0]
            if key.count(".") > 1 and OmegaConf.select(config, node) is None:
                group, _, name = node.partition(".")
                choice = f"logger={name}" if group == "logger" else f"another {group}"
                msg = f"{key} has no effect, because {node} is null. Choose {choice} too, or leave {key}= out."
                raise CommandLineError(msg) from None
        raise


def _complete_diagnosis(config: DictConfig) -> None:
    """Take the datasets of the run for those of the diagnosis, if there is a run."""
    if config.run_dir is None and not config.untrained:
        msg = "diagnose needs the folder of a run or untrained=true, got neither. Write afr-clip diagnose RUN."
        raise MissingKeyError(msg)
    if config.run_dir is not None and not config.untrained and not Path(config.run_dir).is_dir():
        msg = (
            f"RUN must be the folder of a run, but {shown(config.run_dir)} is not a directory. Write afr-clip diagnose "
            f"RUN."
        )
        raise CommandLineError(msg)
    if config.run_dir is not None and is_unchosen(config.dataset):
        config.dataset = None


def _runs(command: str, typed: Typed, searched: Sequence[str]) -> Iterator[list[str]]:
    """Yield the overrides of every run: of a multirun, each combination of its values."""
    if not typed.is_multirun:
        yield typed.overrides
        return
    parsed = OverridesParser.create().parse_overrides(typed.overrides)
    # The mode is this function's own business.
    fixed = [str(one.input_line) for one in parsed if one.key_or_group != "hydra.mode" and not one.is_sweep_override()]
    swept = [one for one in parsed if one.is_sweep_override()]
    config = compose(command, [*searched, *fixed], return_hydra_config=True)
    params = config.hydra.sweeper.params or {}
    named = {one.key_or_group for one in swept}
    more = OverridesParser.create().parse_overrides(
        [f"{key}={value}" for key, value in params.items() if key not in named]
    )
    axes = [
        [f"{one.get_key_element()}={value}" for value in one.sweep_string_iterator()]
        for one in (*swept, *more)
        if one.is_sweep_override() and one.is_discrete_sweep()
    ]
    yield from ([*fixed, *values] for values in itertools.product(*axes))


def _folder(config: DictConfig, typed: Typed, key: str) -> Path:
    """Choose a folder; one that is named after the time is this command's alone, however many start in a second."""
    folder = Path(str(OmegaConf.select(config, key)))
    given = any(override.lstrip("+").startswith((f"{key}=", "run_dir=", "sweep_dir=")) for override in typed.overrides)
    if given or OmegaConf.select(config, "run_dir") is not None or "sweep_dir" in config:
        return folder
    for number in itertools.count(1):
        own = folder if number == 1 else folder.with_name(f"{folder.name}_{number}")
        try:
            own.mkdir(parents=True)
        except FileExistsError:
            continue
        break
    return own


@contextmanager
def _leaving_no_trace_of_a_refusal(folder: Path | None) -> Iterator[None]:
    """Remove a folder to which nothing was written but the log of a refusal, and those above that were made for it."""
    # One that this command has just made is empty; one that the user filled stays as it is.
    is_new = folder is not None and is_first() and not (folder.is_dir() and any(folder.iterdir()))
    made = [folder, *(above for above in folder.parents if not above.exists())] if folder is not None and is_new else []
    try:
        yield
    except SpokenExit as end:
        if folder is not None and is_new and isinstance(end.__context__, ValueError | OSError):
            inside = list(folder.iterdir())
            if all(path.suffix == ".log" or path.name in (LOCK, HOLDER) for path in inside):
                _close_logs()
                for path in inside:
                    path.unlink()
        raise
    finally:
        if made and not any(made[0].glob("*")):
            _close_logs()
        for empty in made:
            try:
                empty.rmdir()
            except OSError:
                break  # it holds something, or was never made


def _close_logs() -> None:
    for handler in logging.root.handlers[:]:
        if isinstance(handler, logging.FileHandler):
            logging.root.removeHandler(handler)
            handler.close()


def _refuse_unknown_choices(command: str, overrides: Sequence[str], searched: Sequence[str]) -> None:
    """Refuse ``group=name`` where there is no such file."""
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        group = override.key_or_group
        if group not in groups_of(command) or override.is_delete():
            continue
        value = override.value()
        names = value if isinstance(value, list) else [value]
        known = [name for name in group_options(group, searched) if not name.endswith("schema")]
        for name in names:
            if name is None or str(name) not in known:
                raise CommandLineError(_unknown_choice(group, name, known))


def _unknown_choice(group: str, name: object, known: Sequence[str]) -> str:
    if name is None or name == "":
        got = "null" if name is None else "nothing"
        return f"{group} must name a choice, got {got}. Leave {group}= out, or write {group}={' or '.join(known[:2])}."
    plain = str(name).replace("_", "").replace("-", "").lower()
    near = [one for one in known if one.replace("_", "") == plain] or get_close_matches(str(name), known, cutoff=0.5)
    advice = f"Did you mean {group}={near[0]}? " if near else ""
    shortest = f"There are {len(known)}: {', '.join([*near[1:], *known][:8])}, ..."
    listed = f"It can be {', '.join(known)}." if len(known) <= 25 else shortest
    return f"There is no {group}={shown(str(name))}. {advice}{listed}"
