"""From the words of a command line to Hydra's overrides: text stays as it was typed, and every typo gets advice.

The schema decides how a value is read. A key that holds text takes exactly what was typed (spaces, brackets, quotes,
``2026_11_28``), even where Hydra's grammar would read something else. All other keys, and lists, ``${...}``, ``~key``,
``+key`` and sweeps, keep that grammar.
"""

import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from enum import Enum
from pathlib import Path
from typing import Any, NoReturn

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, QuotedString, Sweep
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from afr_clip.cli.command import CommandLineError
from afr_clip.config.axes import quoted
from afr_clip.config.keys import ALIASES, Key, groups_of, is_node, key_of, keys_of, nearest
from afr_clip.config.nodes import COMMANDS
from afr_clip.files import for_shell, shown

POSITIONAL = {"predict": "images", "calibrate": "good", "evaluate": "checkpoint", "diagnose": "run_dir"}
"""The key that a word without ``=`` stands for."""

_REFUSED = {
    "--config-name": "the command decides which config is used",
    "-cn": "the command decides which config is used",
    "--config-path": "the configs of this package are used. Add yours with --config-dir DIR",
    "-cp": "the configs of this package are used. Add yours with --config-dir DIR",
    "--experimental-rerun": "it would run a pickle. Repeat the command that manifest.json records",
}
_WITH_VALUE = {"--config-dir": "config_dir", "-cd": "config_dir", "--cfg": "cfg", "-c": "cfg", "--package": "package"}
_SWITCHES = {"--multirun", "-m", "--run", "--resolve", "--hydra-help", "--shell-completion", "-sc"}
_FOLDERS_OF_HYDRA = ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir")
_INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")

OPTIONS = ("--help", "--help-all", "--version", "--debug", "--multirun", "--config-dir", "--cfg", "--info")

_KEY = re.compile(r"(?P<sign>\+{0,2}|~)(?P<name>[A-Za-z_$][\w.$/@:-]*)")
_SWEEP = re.compile(
    r"(choice|choices|range|interval|glob|shuffle|sort|tag|extend_list|int|float|str|bool|json_str)\(.*\)"
)
_OPEN, _CLOSED = "([{", ")]}"


@dataclass
class Typed:
    """A parsed command line: overrides for Hydra's parser, and options for its own command line."""

    overrides: list[str] = field(default_factory=list)
    options: list[str] = field(default_factory=list)
    config_dir: str | None = None
    is_multirun: bool = False

    @property
    def is_run(self) -> bool:
        """Whether the command runs, instead of only showing its config."""
        return not {"--cfg", "--info", "--hydra-help", "--shell-completion"} & set(self.options)


def read_words(command: str, words: Sequence[str]) -> Typed:
    """Read the words that were typed after a command.

    Raises:
        CommandLineError: If a word does not fit; the message says what to write instead.
    """
    typed = Typed(is_multirun=bool({"-m", "--multirun"} & set(words)) or "hydra.mode=MULTIRUN" in words)
    loose: list[str] = []
    before = ""
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word.startswith("-") and len(word) > 1 and not word[1:2].isdigit():
            _read_option(command, word, rest, typed)
        elif _is_override(command, word):
            typed.overrides.append(_read_override(command, word, typed.is_multirun, rest))
        else:
            _refuse_slip(command, word, before, rest)
            loose.append(word)
        before = word
    _refuse_repeated(typed.overrides)
    if loose:
        typed.overrides.append(_positional(command, loose, typed.overrides))
    return typed


def _refuse_repeated(overrides: Sequence[str]) -> None:
    """Refuse a key that was typed twice: the second value would win without a word."""
    values: dict[str, str] = {}
    for override in overrides:
        name, _, value = override.lstrip("+").partition("=")
        if name in values and not name.startswith(("~", "hydra")):
            msg = f"{name} was typed twice, got {shown(values[name])} and {shown(value)}. Leave one of them out."
            raise CommandLineError(msg)
        values[name] = value


def _is_override(command: str, word: str) -> bool:
    """Whether a word is ``key=value``, and not a path that holds a ``=``."""
    name, equals, _ = word.partition("=")
    match = _KEY.fullmatch(name)
    if match is None:
        return False
    if not equals:
        return match["sign"] == "~"
    known = key_of(command, match["name"]) or match["name"] in groups_of(command)
    return bool(known) or not os.path.lexists(word)


def _read_option(command: str, word: str, rest: list[str], typed: Typed) -> None:
    name, equals, value = word.partition("=")
    if name in _REFUSED:
        msg = f"{name} is not supported: {_REFUSED[name]}."
        raise CommandLineError(msg)
    if name in _SWITCHES:
        typed.options.append({"-m": "--multirun", "-sc": "--shell-completion"}.get(name, name))
    elif name in _WITH_VALUE:
        if not equals:
            if not rest:
                msg = f"{name} needs a value, got nothing after it."
                raise CommandLineError(msg)
            value = rest.pop(0)
        if _WITH_VALUE[name] == "config_dir":
            if not Path(value).is_dir():
                msg = f"--config-dir must be a folder with config files, but {shown(value)} is not a directory."
                raise CommandLineError(msg)
            typed.config_dir = str(Path(value).resolve())
        else:
            if _WITH_VALUE[name] == "cfg" and value not in ("job", "hydra", "all"):
                msg = f"--cfg must be one of job, hydra, all, got {shown(value)}. Write --cfg job."
                raise CommandLineError(msg)
            typed.options += [f"--{_WITH_VALUE[name]}", value]
    elif name == "--info":
        kind = value if equals else (rest.pop(0) if rest and rest[0] in _INFO else "all")
        typed.options += ["--info", kind]
    else:
        typed.overrides.append(_option_as_override(command, word, rest, typed.is_multirun))


def _option_as_override(command: str, word: str, rest: list[str], is_multirun: bool) -> str:
    """Take ``--category "metal nut"`` for ``category='metal nut'``, if it is a key of the command."""
    option, equals, value = word.partition("=")
    name = option.lstrip("-").replace("-", "_")
    key = key_of(command, name)
    if not name or (key is None and name not in groups_of(command)):
        options = get_close_matches(option, OPTIONS, n=1, cutoff=0.7)
        if options:
            msg = f"{shown(option)} is not an option of {command}. Did you mean {options[0]}?"
            raise CommandLineError(msg)
        near = nearest(command, name)
        follows = (
            value if equals else (rest[0] if rest and not rest[0].startswith("-") and "=" not in rest[0] else "VALUE")
        )
        advice = f"Write {near[0]}={shlex.quote(shown(follows))}." if near else f"See afr-clip {command} --help."
        msg = f"{shown(option)} is not an option of {command}. {advice}"
        raise CommandLineError(msg)
    if not equals and key is not None and key.kind is bool and (not rest or rest[0].lower() not in ("true", "false")):
        value = "true"
    elif not equals:
        if not rest:
            msg = f"{option} needs a value, got nothing after it. Write {name}=VALUE."
            raise CommandLineError(msg)
        value = rest.pop(0)
    return _read_override(command, f"{name}={value}", is_multirun, [])


def _refuse_slip(command: str, word: str, before: str, rest: Sequence[str]) -> None:
    """Refuse a word without ``=`` that looks like a typing mistake, and say how to correct it."""
    key_before, equals_before, value_before = before.partition("=")
    name = word.strip().rstrip("=").rstrip()
    is_key = bool(key_of(command, name)) or name in groups_of(command)
    if rest and (rest[0] == "=" or (is_key and rest[0].startswith("="))):
        value = " ".join(rest[1:2]) if rest[0] == "=" else rest[0][1:]
        written = f"{shown(name)}={for_shell(value)}"
        msg = f"There must be no space around =, got {shown(name)} = {shown(value)}. Write {written}."
        raise CommandLineError(msg)
    spaced = re.fullmatch(r"\s*([\w.]+)\s+=\s*(.*)|\s*([\w.]+)\s*=\s+(.*)", word, re.DOTALL)
    if spaced:
        name, value = (spaced[1], spaced[2]) if spaced[1] else (spaced[3], spaced[4])
        msg = f"There must be no space around =, got {shown(word)}. Write {name}={for_shell(value)}."
        raise CommandLineError(msg)
    colon = re.fullmatch(r"([\w.]+):\s*(.*)", word, re.DOTALL)
    if colon and (key_of(command, colon[1]) or colon[1] in groups_of(command)) and not os.path.lexists(word):
        msg = f"A value follows =, not a colon, got {shown(word)}. Write {colon[1]}={for_shell(colon[2] or 'VALUE')}."
        raise CommandLineError(msg)
    if is_key and not os.path.lexists(word):
        is_switch = (key_of(command, name) or Key(str)).kind is bool
        msg = f"{name} needs a value, got nothing. Write {name}={'true' if is_switch else 'VALUE'}."
        raise CommandLineError(msg)
    named = key_of(command, key_before) if equals_before else None
    if named is not None and named.kind is str and not os.path.lexists(word):
        both = f"{value_before} {word}"
        msg = (
            f"{shown(word)} stands alone after {key_before}={shown(value_before)}. If they belong together, quote "
            f"them: {key_before}={for_shell(both)}."
        )
        raise CommandLineError(msg)
    if command not in POSITIONAL or (word.startswith(("=", "[", "{")) and not os.path.lexists(word)):
        msg = f"{shown(word)} is not KEY=VALUE. {_advice_on_word(command, word)}"
        raise CommandLineError(msg)


def _advice_on_word(command: str, word: str) -> str:
    if command == "sweep":
        return f"If it is the experiment to run, write experiment={shown(word)}."
    near = nearest(command, word)
    return f"Did you mean {near[0]}=VALUE?" if near else f"See afr-clip {command} --help."


def _positional(command: str, loose: Sequence[str], overrides: Sequence[str]) -> str:
    key = POSITIONAL[command]
    if any(override.lstrip("+").startswith(f"{key}=") for override in overrides):
        msg = (
            f"{shown(loose[0])} stands alone, but {key}= was given too. Leave one of them out, or quote a value that "
            f"contains spaces."
        )
        raise CommandLineError(msg)
    if key == "images":
        values = [as_text(word) for word in loose]
        return f"images={values[0] if len(values) == 1 else '[' + ','.join(values) + ']'}"
    if len(loose) > 1:
        got = ", ".join(map(shown, loose))
        msg = f"{command} takes one word without =, for {key}, got {got}. Write KEY=VALUE for the others."
        raise CommandLineError(msg)
    return f"{key}={as_text(loose[0])}"


def as_text(text: str) -> str:
    """Write text so that Hydra's parser reads it back unchanged: bare where that is enough, quoted otherwise."""
    try:
        bare = _parsed(f"x={text}").value()
        # A backslash would escape the comma that follows it in a list.
        if (
            text
            and "\\" not in text
            and not isinstance(bare, QuotedString | Sweep | list | dict)
            and bare is not None
            and str(bare) == text
        ):
            return text
    except HydraException:
        pass
    return quoted(_escaped(text))


def _escaped(text: str) -> str:
    """Keep OmegaConf from seeing an interpolation in text that only looks like one."""
    if "${" not in text:
        return text
    try:
        node = OmegaConf.create({"x": text})
        is_broken = not OmegaConf.is_interpolation(node, "x")
    except OmegaConfBaseException:
        is_broken = True
    return text.replace("${", "\\${") if is_broken else text


def _parsed(word: str) -> Override:
    return OverridesParser.create().parse_override(word)


def _read_override(command: str, word: str, is_multirun: bool, rest: list[str]) -> str:
    """Return one override in Hydra's grammar, checked against the schema."""
    match = _KEY.match(word)
    assert match is not None, "the caller has looked"
    sign, name = match["sign"], match["name"]
    value = word[match.end() :].removeprefix("=")
    if name in _FOLDERS_OF_HYDRA:
        return f"{sign}{name}={_text_value(name, Key(str), value, is_multirun)}"
    if name.startswith("hydra") or "@" in name or sign == "~":
        if sign == "~":
            _require_known(command, name, value, word)
        return _readable(name, value, word)
    key = _require_known(command, name, value, word)
    if key is None:
        return _readable(name, value, word)
    follows = rest[0] if rest and "=" not in rest[0] and rest[0][:1] not in ("-", "+", "~", "") else None
    if not value and follows and (name == POSITIONAL.get(command) or not os.path.lexists(follows)):
        msg = f"There must be no space after =, got {name}= {shown(rest[0])}. Write {name}={for_shell(rest[0])}."
        raise CommandLineError(msg)
    if value.startswith("[") and not _is_balanced(value) and rest:
        _refuse_broken_list(name, value, rest)
    if key.is_table and not value.startswith("{"):
        msg = f"{name} takes one value for each dataset, got {shown(value) or 'nothing'}. Write {name}.NAME=VALUE."
        raise CommandLineError(msg)
    if key.is_table:
        return _readable(name, value, word)  # the whole table, which the schema checks
    is_below_table = name not in keys_of(command)
    head = f"{'++' if is_below_table and not sign else sign}{name}="
    if name == "images" and value.startswith("[") and value.endswith("]") and not os.path.lexists(value):
        return head + _list_of_text(value)
    parts = _split(value) if is_multirun and not _SWEEP.fullmatch(value) else [value]
    return head + ",".join(_checked(name, key, part, is_multirun, command) for part in parts)


def _readable(name: str, value: str, word: str) -> str:
    if name == "hydra.searchpath" and "pkg://" in word:
        msg = "hydra.searchpath takes folders (file://DIR); pkg:// would import a package. Write --config-dir DIR."
        raise CommandLineError(msg)
    try:
        _parsed(word)
    except HydraException:
        quoted = for_shell(f"{name}={as_text(value)}")
        msg = f"The value of {name} cannot be read, got {shown(value)}. Put it in quotes: {quoted}."
        raise CommandLineError(msg) from None
    return word


def _require_known(command: str, name: str, value: str, word: str) -> Key | None:
    """Return what a key takes; ``None`` for a group or a node."""
    key = key_of(command, name)
    if key is not None:
        return key
    if name in groups_of(command) or is_node(command, name):
        return None
    near = nearest(command, name)
    others = [other for other in COMMANDS if other != command and (key_of(other, name) or name in groups_of(other))]
    if others and ALIASES.get(name) not in near and not (name == "category" and near):
        advice = f"It is a key of {', '.join(others)}. Leave it out."
    elif len(near) == 1:
        known = key_of(command, near[0])
        if near[0] == "trainer.accelerator" and value not in ("auto", "cpu", "gpu"):
            value = "cpu" if value.lower() in ("false", "0", "-1") else "gpu"
        whole = f"[{value}]" if known and known.is_list and not value.startswith("[") else value
        replaced = f"{near[0]}={whole}" if "=" in word else f"~{near[0]}"
        advice = f"Did you mean {near[0]}? Write {for_shell(replaced)}."
    elif near:
        advice = f"Did you mean one of {', '.join(near)}?"
    elif name.rpartition(".")[2].startswith("_"):
        advice = "A config cannot name code to run. Leave it out."
    else:
        advice = f"See afr-clip {command} --help."
    msg = f"{shown(name)} is not a key of {command}. {advice}"
    raise CommandLineError(msg)


def _refuse_broken_list(name: str, value: str, rest: Sequence[str]) -> None:
    joined = value
    for word in rest:
        joined += f" {word}"
        if _is_balanced(joined):
            whole = re.sub(r"\s*,\s*", ",", joined)
            msg = f"A list must be one word, got {name}={shown(joined)} with spaces. Write {name}={shown(whole)}."
            raise CommandLineError(msg)
    msg = f"{name} must be a list, but its ] is missing, got {shown(value)}. Write {name}={shown(value.rstrip(','))}]."
    raise CommandLineError(msg)


def _is_balanced(value: str) -> bool:
    return value.count("[") == value.count("]")


def _split(text: str) -> list[str]:
    """Split at the commas that stand outside brackets and quotes."""
    parts, depth, quote, start = [], 0, "", 0
    for at, character in enumerate(text):
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"" and text[start:at].strip() in ("", *_OPEN):
            quote = character
        elif character in _OPEN:
            depth += 1
        elif character in _CLOSED:
            depth = max(0, depth - 1)
        elif character == "," and depth == 0:
            parts.append(text[start:at].strip())
            start = at + 1
    last = text[start:].strip()
    return [*parts, last] if parts or last else []


def _checked(name: str, key: Key, value: str, is_multirun: bool, command: str) -> str:
    """Return one value in Hydra's grammar."""
    if key.kind is str and not key.is_list:
        return _text_value(name, key, value, is_multirun)
    if key.is_list and key.kind is str:
        if value.startswith("[") and value.endswith("]"):
            return _list_of_text(value)
        if (value.lower() == "null" and key.may_be_null) or _SWEEP.fullmatch(value) or value.startswith("${"):
            return value
        _refuse_value(name, key, value, command)
    try:
        parsed = _parsed(f"x={value}")
        values = list(parsed.sweep_iterator()) if parsed.is_discrete_sweep() else [parsed.value()]
        is_sweep = parsed.is_sweep_override()
    except (HydraException, ValueError):
        _refuse_value(name, key, value, command)
    if is_sweep and not parsed.is_discrete_sweep():
        return value
    if (is_sweep and not is_multirun) or not all(_fits(key, one) for one in values):
        _refuse_value(name, key, value, command)
    return value


def _text_value(name: str, key: Key, value: str, is_multirun: bool) -> str:
    if not value or (value.lower() == "null" and key.may_be_null):
        return value
    if value == "None" and key.may_be_null:
        msg = f"{name}=None would be the text None. Write {name}=null for nothing."
        raise CommandLineError(msg)
    if is_multirun and _SWEEP.fullmatch(value):
        return value
    return _element(value)


def _list_of_text(value: str) -> str:
    return f"[{','.join(_element(part) for part in _split(value[1:-1]))}]"


def _element(value: str) -> str:
    """Return text in Hydra's grammar; what is quoted already stays."""
    try:
        if isinstance(_parsed(f"x={value}")._value, QuotedString):
            return value
    except HydraException:
        pass
    return as_text(value)


def _fits(key: Key, value: Any) -> bool:  # noqa: ANN401, PLR0911 - what Hydra's parser returns
    if isinstance(value, QuotedString):
        value = value.text
    if isinstance(value, str) and "${" in value:
        return True
    if value is None:
        return key.may_be_null
    if key.is_list:
        return isinstance(value, list) and all(_fits(Key(key.kind), one) for one in value)
    if key.kind is None:
        return type(value) in key.union and value != ""
    if issubclass(key.kind, Enum):
        return str(value) in key.choices
    if key.kind is bool:
        return isinstance(value, bool) or str(value).lower() in ("yes", "no", "on", "off", "y", "n", "0", "1")
    return _is_number(value, key.kind)


def _is_number(value: Any, kind: type) -> bool:  # noqa: ANN401 - what Hydra's parser returns
    if isinstance(value, bool) or (kind is int and isinstance(value, float)):
        return False
    try:
        kind(value)
    except (TypeError, ValueError):
        return False
    return True


def _refuse_value(name: str, key: Key, value: str, command: str) -> NoReturn:
    kind = key.words
    if not key.choices:
        kind = "a list" if key.is_list else f"{kind} or null" if key.may_be_null else kind
    got = shown(value) or "nothing"
    msg = f"{name} must be {kind}, got {got}. {_advice_on_value(name, key, value, command)}"
    raise CommandLineError(msg)


def _advice_on_value(name: str, key: Key, value: str, command: str) -> str:  # noqa: PLR0911
    example = "true" if bool in (key.kind, *key.union) else key.choices[0] if key.choices else "NUMBER"
    if not value.strip():
        return f"Write {name}={example}, or leave {name}= out."
    if value in ("None", "none", "NULL", "nil"):
        return f"Write {name}=null." if key.may_be_null else f"Leave {name}= out for its default."
    if key.is_list:
        inner = re.sub(r"\s*,\s*", ",", value.strip("[](){} "))
        near = [(get_close_matches(one, key.choices, 1) or key.choices or [one])[0] for one in inner.split(",")]
        return f"Write {name}=[{','.join(near)}]."
    if key.choices:
        near = get_close_matches(value.lower(), key.choices, n=1, cutoff=0.3)
        return f"Write {name}={near[0] if near else key.choices[0]}."
    if key.kind is float and re.fullmatch(r"[+-]?\d+,\d+", value):
        return f"Write {name}={value.replace(',', '.')} with a point."
    numbers = re.fullmatch(r"(-?\d+)\s*(?:\.\.|:|-|,\s*)\s*(-?\d+)(?:,.*)?", value) if key.kind is int else None
    if numbers or "," in value or value.startswith(("[", "range(", "choice(")):
        several = value.strip("[]()")
        if numbers and "," not in value:
            several = ",".join(
                str(number) for number in range(int(numbers[1]), min(int(numbers[2]), int(numbers[1]) + 4) + 1)
            )
        if name == "seed" and command == "sweep":
            return f"Write seeds=[{several}]."
        return f"To run once with each of several values, write -m {name}={several}."
    if key.kind is bool:
        return f"Write {name}=true or {name}=false."
    return f"Write {name}={example}."
