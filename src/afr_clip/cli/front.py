"""What happens before Hydra makes a folder: command line, config, files and folders are checked."""

import itertools
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import run_job
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from afr_clip import __version__
from afr_clip.cli.command import CommandLineError
from afr_clip.cli.environment import load_torch_ahead
from afr_clip.cli.help import help_of
from afr_clip.cli.places import faults_of_output, faults_of_places
from afr_clip.cli.words import Typed, as_text, read_words
from afr_clip.config.axes import typed_values
from afr_clip.config.keys import groups_of
from afr_clip.config.nodes import (
    COMMANDS,
    CalibrateConfig,
    EvaluateConfig,
    ExportConfig,
    PredictConfig,
    config_dir,
    method_names,
)
from afr_clip.config.plan import group_options
from afr_clip.config.trusted import refuse_untrusted
from afr_clip.config.validate import ConfigError, MissingKeyError, is_unchosen, read, sentences
from afr_clip.files import for_shell, shown
from afr_clip.processes.place import is_first
from afr_clip.processes.signals import SpokenExit
from afr_clip.reports.record.run_folder import HOLDER, LOCK, MANIFEST, RunFolderError, holds_run
from afr_clip.reports.record.schema import RecordError, Setup, read_record

_HELP = ("-h", "--help", "-help", "-?", "help")


Command = Callable[..., None]
"""A function decorated with ``@hydra.main``; it composes its config unless it is given one."""


def run_composed(command: str, main: Command) -> None:
    """Check the words in ``sys.argv``, then run a command under Hydra.

    Raises:
        CommandLineError: If the words do not fit the command.
        ConfigError: If the config is wrong, or names a file that does not exist.
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
    typed.overrides[:0] = _method_of_checkpoint(typed.overrides)
    hydra = [*typed.options, *(["--config-dir", typed.config_dir] if typed.config_dir else [])]
    sys.argv[1:] = [*hydra, *typed.overrides]
    if not typed.is_run:
        main()
        return
    load_torch_ahead()
    is_started = "RANK" in os.environ  # by a process that has chosen the folder
    with initialize_config_dir(config_dir(), version_base="1.3", job_name=command):
        config, folder, is_named_after_time = _checked(command, typed)
        chosen = nullcontext(folder) if is_started else _run_folder(folder, is_named_after_time)
        if not is_started and command != "sweep" and "torch" not in sys.modules:
            sys.stderr.write("loading: PyTorch and the model\n")  # for some seconds, the only sign of life
        if not (typed.is_multirun or typed.config_dir or config.hydra.mode is RunMode.MULTIRUN):
            with chosen as own:
                _run(main, config, own)
            return
    # A multirun, or a run with --config-dir, is left to Hydra, which composes again.
    with chosen as own:
        if not is_started:
            key = "hydra.sweep.dir" if typed.is_multirun else "hydra.run.dir"
            sys.argv.append(f"{key}={as_text(str(own))}")
        main()
    if typed.is_multirun and not is_started:
        sys.stdout.write(f"runs: {own}\n")


def _method_of_checkpoint(overrides: Sequence[str]) -> list[str]:
    """Choose the method of the run that ``checkpoint=`` names, where keys of a method were typed without one."""
    typed = dict(typed_values(overrides))
    if "module" in typed or not any(key.startswith("module.") for key in typed):
        return []
    path = Path(str(typed.get("checkpoint")))
    folder = path.parent.parent if path.is_file() else path  # RUN/checkpoints/last.ckpt, or a run
    try:
        recorded = read_record(folder / MANIFEST, Setup)["config"]["module"]["name"]
    except (KeyError, TypeError, OSError, RecordError):
        return []  # it is refused later, in words that say why
    return [f"module={recorded}"] if recorded in method_names() else []


class _NoCallbacks:
    """No callbacks: `refuse_untrusted` refuses all of Hydra's."""

    def on_job_start(self, **_: Any) -> None:  # noqa: ANN401 - as Hydra declares it
        pass

    on_job_end = on_job_start


def _run(main: Command, config: DictConfig, folder: Path) -> None:
    """Run a command with the config that was checked; Hydra would compose it twice more."""
    with read_write(config.hydra):
        config.hydra.run.dir = str(folder)
    loader, callbacks = GlobalHydra.instance().config_loader(), cast("Any", _NoCallbacks())
    done = run_job(main, config, "hydra.run.dir", None, HydraContext(loader, callbacks))
    _ = done.return_value  # raises what the command raised


def _checked(command: str, typed: Typed) -> tuple[DictConfig, Path, bool]:
    """Compose and check the config of every run of a command line.

    Returns:
        The config of the first run, the folder of the run, or of all runs of a multirun, and whether it is named after
        the time instead of by the user.
    """
    searched = [f"hydra.searchpath=[{as_text(f'file://{typed.config_dir}')}]"] if typed.config_dir else []
    if searched and any(override.lstrip("+").startswith("hydra.searchpath=") for override in typed.overrides):
        msg = "--config-dir and hydra.searchpath= name folders of config files, got both. Leave hydra.searchpath= out."
        raise CommandLineError(msg)
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
        if isinstance(settings, EvaluateConfig | PredictConfig | CalibrateConfig | ExportConfig):
            _refuse_needless_checkpoint(settings, overrides)
        if is_first():
            faults |= dict.fromkeys(faults_of_places(settings))
    assert config is not None, "there is at least one run"
    key = "hydra.sweep.dir" if typed.is_multirun else "hydra.run.dir"
    named = ("run_dir=", "sweep_dir=", f"{key}=")
    is_named = any(override.lstrip("+").startswith(named) for override in typed.overrides)
    is_named = is_named or command == "sweep" or OmegaConf.select(config, "run_dir") is not None
    folder = Path(str(OmegaConf.select(config, key)))
    if not is_named and OmegaConf.select(config, "resume"):
        faults |= dict.fromkeys([_nothing_to_resume(folder.parent)])
    if faults:
        raise ConfigError(sentences(list(faults)))
    return config, folder, not is_named


def _nothing_to_resume(runs: Path) -> str:
    """Ask for the run to resume. The folders below ``runs`` are named after their time."""
    there = [path for path in runs.iterdir() if path.is_dir() and holds_run(path)] if runs.is_dir() else []
    newest = max(there, default=None)
    advice = f"The newest run is {for_shell(f'run_dir={newest}')}." if newest else f"There is none in {shown(runs)}."
    return f"resume=true needs the run to resume, got no run_dir. Write run_dir=DIR. {advice}"


def _refuse_needless_checkpoint(
    settings: EvaluateConfig | PredictConfig | CalibrateConfig | ExportConfig, overrides: Sequence[str]
) -> None:
    is_typed = any(override.lstrip("+").startswith("checkpoint=") for override in overrides)
    if is_typed and settings.checkpoint is not None and not settings.module.network.needs_checkpoint:
        msg = (
            f"module={settings.module.name} takes no checkpoint, because it has nothing to train or has published "
            f"weights, got {settings.checkpoint}. Leave out checkpoint= or module=."
        )
        raise ConfigError(msg)


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
    """Leave ``dataset`` to the run that is diagnosed, unless it was typed."""
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
    # The mode is on the command line already.
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


@contextmanager
def _run_folder(folder: Path, is_named_after_time: bool) -> Iterator[Path]:
    """Choose a folder, and remove it again if the run is refused before anything but its log is written.

    Yields:
        The folder. One that is named after the time gets a number if another command started in the same second.
    """
    missing = [above for above in folder.parents if not above.exists()]
    made = [] if folder.exists() and not is_named_after_time else [folder, *missing]
    for number in itertools.count(1) if is_named_after_time else ():
        own = folder if number == 1 else folder.with_name(f"{folder.name}_{number}")
        try:
            own.mkdir(parents=True)
        except FileExistsError:
            continue
        folder, made = own, [own, *missing]
        break
    try:
        yield folder
    except SpokenExit as end:
        # Keep the log of a bug, or one next to results. A folder that another process holds is not ours to clear.
        refusal = end.__context__
        if made and isinstance(refusal, ValueError | OSError) and not isinstance(refusal, RunFolderError):
            written = sorted(folder.rglob("*"), reverse=True)  # what lies in a folder comes before it
            if all(path.suffix == ".log" or path.name in (LOCK, HOLDER) or path.is_dir() for path in written):
                _close_logs()
                for path in written:
                    path.rmdir() if path.is_dir() else path.unlink()
        raise
    finally:
        for empty in made:
            try:
                empty.rmdir()
            except OSError:
                break  # it is not empty, or was never made


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
    if group == "dataset" and ("/" in str(name) or Path(str(name)).is_dir()):
        return (
            f"There is no dataset={shown(str(name))}. For a folder of your own write dataset=folder "
            f"{for_shell(f'dataset.root={name}')}."
        )
    plain = str(name).replace("_", "").replace("-", "").lower()
    near = [one for one in known if one.replace("_", "") == plain] or get_close_matches(str(name), known, cutoff=0.5)
    advice = f"Did you mean {group}={near[0]}? " if near else ""
    shortest = f"There are {len(known)}: {', '.join([*near[1:], *known][:8])}, ..."
    listed = f"It can be {', '.join(known)}." if len(known) <= 25 else shortest
    return f"There is no {group}={shown(str(name))}. {advice}{listed}"
