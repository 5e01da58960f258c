"""The keys of each command and the kind of value each takes, read from the schema; and the key nearest to a typo."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from difflib import get_close_matches
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from afr_clip.config.nodes import COMMANDS, GROUPS, method_names, module_schema
from afr_clip.settings import CosineScheduleSettings, StepScheduleSettings

KINDS: dict[type, str] = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}

_UNIONS = {
    frozenset((int, float)): "a number",
    frozenset((int, str)): "a whole number",
    frozenset((bool, str)): "true, false or a word",
}

ALIASES = {
    "augmentation": "data.augment",
    "batch": "data.batch_size",
    "bs": "data.batch_size",
    "categories": "dataset.categories",
    "category": "dataset.categories",
    "ckpt": "checkpoint",
    "ckpt_path": "checkpoint",
    "class": "category",
    "class_name": "category",
    "classes": "dataset.categories",
    "cuda": "trainer.accelerator",
    "data_path": "dataset.root",
    "data_root": "dataset.root",
    "device": "trainer.accelerator",
    "epoch": "trainer.max_epochs",
    "epochs": "trainer.max_epochs",
    "folder": "images",
    "gpu": "trainer.accelerator",
    "gpus": "trainer.devices",
    "i": "images",
    "img_size": "backbone.image_size",
    "input": "images",
    "learning_rate": "optimizer.lr",
    "method": "module",
    "model": "checkpoint",
    "num_epochs": "trainer.max_epochs",
    "o": "run_dir",
    "object": "category",
    "out": "run_dir",
    "out_dir": "run_dir",
    "output": "run_dir",
    "output_dir": "run_dir",
    "path": "images",
    "prompt": "category",
    "resolution": "backbone.image_size",
    "save_dir": "run_dir",
    "save_path": "run_dir",
    "size": "backbone.image_size",
    "source": "images",
    "threads": "num_threads",
    "weights": "checkpoint",
    "workers": "data.num_workers",
}
"""What other programs call some of our keys."""

FILE_GROUPS = ("suite", "experiment", "ablation", "recipe", "paths")
"""Groups of files that set keys all over the config."""


@dataclass(frozen=True)
class Key:
    """What a key takes.

    Attributes:
        kind: ``str``, ``int``, ``float``, ``bool`` or an enum; ``None`` if several are allowed, see ``union``.
        is_table: Whether it takes one value for each name below it, for example ``protocol.roots.NAME``.
    """

    kind: type | None
    is_list: bool = False
    is_table: bool = False
    may_be_null: bool = False
    union: tuple[type, ...] = ()

    @property
    def words(self) -> str:
        """Describe the values."""
        if self.kind is not None and issubclass(self.kind, Enum):
            one = f"one of {', '.join(self.choices)}"
        else:
            one = KINDS[self.kind] if self.kind else _UNIONS[frozenset(self.union)]
        return f"a list, each {one}" if self.is_list else one

    @property
    def choices(self) -> list[str]:
        """The words that an enum offers."""
        return [str(member.value) for member in self.kind] if self.kind and issubclass(self.kind, Enum) else []


@cache
def keys_of(command: str) -> Mapping[str, Key]:
    """Return the keys of a command, with those of all methods, by their dotted names."""
    keys = dict(_keys(COMMANDS[command], ""))
    for method in method_names():
        keys |= dict(_keys(module_schema(method), "module."))
    if "schedule.name" in keys:
        for schedule in (CosineScheduleSettings, StepScheduleSettings):
            keys |= dict(_keys(schedule, "schedule."))
    if "images" in keys:
        keys["images"] = Key(str)  # or a list, which is told by its brackets
    return keys


def _keys(schema: Any, prefix: str) -> Iterator[tuple[str, Key]]:  # noqa: ANN401 - a dataclass
    hints = get_type_hints(schema)
    for field in fields(schema):
        hint = hints[field.name]
        options = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        kinds = tuple(kind for kind in options if kind is not NoneType)
        kind, may_be_null = kinds[0], len(kinds) < len(options)
        if is_dataclass(kind):
            yield from _keys(kind, f"{prefix}{field.name}.")
            continue
        is_table = get_origin(kind) is dict
        kind = get_args(kind)[1] if is_table else kind
        is_list = get_origin(kind) is list
        kind = get_args(kind)[0] if is_list else kind
        union = kinds if len(kinds) > 1 else ()
        yield f"{prefix}{field.name}", Key(None if union else kind, is_list, is_table, may_be_null, union)


def key_of(command: str, name: str) -> Key | None:
    """Return what a key takes, also one below a table; ``None`` if the command has no such key."""
    keys = keys_of(command)
    if name in keys:
        return keys[name]
    table = keys.get(name.rpartition(".")[0])
    return Key(table.kind, table.is_list) if table is not None and table.is_table else None


def groups_of(command: str) -> tuple[str, ...]:
    """Name the config groups of a command."""
    own = [group for group in (*GROUPS, "module") if any(key.startswith(f"{group}.") for key in keys_of(command))]
    return (*own, *(FILE_GROUPS if command in ("train", "sweep") else FILE_GROUPS[-1:]))


def is_node(command: str, name: str) -> bool:
    """Whether a name stands for several keys, as ``module.network`` does."""
    return any(key.startswith(f"{name}.") for key in keys_of(command))


def nearest(command: str, name: str) -> list[str]:
    """Return at most three keys or groups that a wrong name may have meant, the likeliest first."""
    keys = [*keys_of(command), *groups_of(command)]
    wanted = name.lower().replace("-", "_")
    if ALIASES.get(wanted) in keys:
        return [ALIASES[wanted]]
    if wanted.rpartition(".")[2].startswith("_"):
        return []
    last = wanted.rpartition(".")[2]
    by_last = [key for key in keys if key.rpartition(".")[2] == last]
    if by_last:
        return _shortest(by_last, wanted)
    close = get_close_matches(wanted, keys, n=1, cutoff=0.75)
    if close:
        return close
    aliases = get_close_matches(wanted, [alias for alias, key in ALIASES.items() if key in keys], n=1, cutoff=0.8)
    if aliases:
        return [ALIASES[aliases[0]]]
    lasts: dict[str, list[str]] = {}
    for key in keys:
        lasts.setdefault(key.rpartition(".")[2], []).append(key)
    found = [key for match in get_close_matches(last, lasts, n=2, cutoff=0.75) for key in lasts[match]]
    return _shortest(found, wanted) or get_close_matches(wanted, keys, n=1, cutoff=0.55)


def _shortest(keys: list[str], wanted: str) -> list[str]:
    node = wanted.rpartition(".")[0]
    return sorted(keys, key=lambda key: (key.rpartition(".")[0] != node, key.count("."), key))[:3]
