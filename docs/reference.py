"""Write the reference pages from the code: datasets, methods, config keys, exit codes and the API's table of contents."""

import inspect
import pkgutil
import re
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from enum import Enum
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, get_args, get_origin

from hydra import compose, initialize_config_dir
from omegaconf import Container, DictConfig, Node, OmegaConf
from sphinx.pycode import ModuleAnalyzer

import afr_clip
from afr_clip.config.nodes import config_dir, known_methods, register
from afr_clip.data.disk.layouts import DATASETS
from afr_clip.data.disk.rows.row import DatasetRow

CONF = Path(config_dir())
ROOMS = (
    ("afr_clip.models", "Methods"), ("afr_clip.clip", "Frozen towers"), ("afr_clip.prompts", "Prompts"),
    ("afr_clip.losses", "Losses"), ("afr_clip.metrics", "Metrics"), ("afr_clip.data", "Data"),
    ("afr_clip.training", "Training"), ("afr_clip.inspection", "Inspection"), ("afr_clip.reports", "Reports"), ("drawn_anomalies", "Drawn pictures"),
)  # fmt: skip
SHOWN = {
    "backbone": "vit_l_14_336", "dataset": "demo", "logger": "all", "loss": "anomaly", "optimizer": "adam",
    "protocol": "no_targets", "schedule": "cosine",
}  # fmt: skip
"""The file of a group whose keys are shown."""


def write(folder: Path) -> None:
    """Write every generated page; a page that has not changed keeps its date, so that Sphinx need not read it again."""
    register()
    pages = {"datasets": datasets(), "methods": methods(), "config": config(), "exit-codes": exit_codes(), **api()}
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages.items():
        path = folder / f"{name}.md"
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def table(header: tuple[str, ...], rows: Iterator[tuple[str, ...]] | list[tuple[str, ...]]) -> str:
    """Write a Markdown table."""
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines) + "\n\n"


# Datasets


def datasets() -> str:
    """Describe every row of the table of datasets."""
    text = (
        "# Datasets\n\nEvery dataset is one row of `afr_clip.data.disk.rows`; this page shows them. Numbers are test images, "
        "normal + anomalous, as published. `afr-clip datasets list` shows the same with what is on your disk.\n\n"
    )
    overview = [
        (
            f"[`{row.name}`](#{row.name.replace('_', '-')})",
            row.title or "your own",
            row.domain.value,
            total(row),
            " and ".join(row.levels) or "depends",
        )
        for row in DATASETS.values()
    ]
    text += table(("`dataset=`", "name", "domain", "test images", "scored on"), overview)
    return text + "".join(map(dataset, DATASETS.values()))


def total(row: DatasetRow) -> str:
    return "" if row.total is None else f"{row.total.normal:,} + {row.total.anomalous:,}"


def dataset(row: DatasetRow) -> str:
    """Describe one dataset."""
    text = f"({row.name.replace('_', '-')})=\n## `{row.name}`\n\n"
    folders = " or ".join(f"`{name}`" for name in row.folders)
    text += f"Looked for below the data folder as {folders}.\n\n" if folders else "Needs `dataset.root=DIR`.\n\n"
    forms = "".join(f"- images at `{layout.where}`\n" for layout in row.layouts)
    text += f"{forms}\n"
    if row.provenance is not None:
        text += f"**Source:** <{row.provenance.source}>. **Licence:** {row.provenance.licence}. **Cite:** {row.provenance.citation}.\n\n"
        text += (
            "".join(
                f"1. {re.sub(r'python -m afr_clip[.][^,]+', lambda step: f'`{step[0].rstrip(chr(46))}`', step)}\n"
                for step in row.provenance.steps
            )
            + "\n"
        )
        text += "".join(f":::{{note}}\n{note}\n:::\n\n" for note in row.provenance.notes)
    named = {category for category, name in row.prompt_names.items() if name != category}
    if row.counts:
        rows = [
            (f"`{name}`", f"{count.normal}", f"{count.anomalous}", row.prompt_names.get(name, name.replace("_", " ")))
            for name, count in row.counts.items()
        ]
        text += table(("category", "normal", "anomalous", "in prompts"), rows)
    elif named:
        text += (
            "In prompts: " + ", ".join(f"`{name}` is *{row.prompt_names[name]}*" for name in sorted(named)) + ".\n\n"
        )
    return text


# Config


@cache
def composed(command: str, *overrides: str) -> DictConfig:
    """Compose the defaults of a command."""
    with initialize_config_dir(config_dir(), version_base="1.3"):
        return compose(command, overrides=list(overrides))


def config() -> str:
    """Describe every config key: its type, its default and what it does."""
    text = (
        "# Config keys\n\nEvery key can be set on the command line (`trainer.max_epochs=5`), in an experiment file, or by choosing "
        "another file of a group (`backbone=pocket`). The defaults below are those of a plain `afr-clip train`; a recipe, an "
        "experiment or an ablation may replace them, and what you type wins over all of them. The keys of `module` depend on "
        "the method: see [Methods](methods.md).\n\n## Groups\n\n"
    )
    groups = sorted(
        path.name for path in CONF.iterdir() if path.is_dir() and path.name not in {"hydra", "paths", "recipe"}
    )
    text += table(("group", "choices"), [(f"`{group}=`", choices(group)) for group in groups])
    train = composed("train")
    text += "## Every command\n\n" + keys(train, CONF / "train.yaml", common(train))
    for command, overrides in {
        "train": (),
        "evaluate": (),
        "predict": (),
        "calibrate": (),
        "export": (),
        "diagnose": (),
        "sweep": (),
    }.items():
        node = composed(command, *overrides)
        own = [
            key
            for key in node
            if key not in common(train) and not (command == "sweep" and key in train) and not is_group(node, key)
        ]
        text += f"## `afr-clip {command}`\n\n" + keys(node, CONF / f"{command}.yaml", own)
    for key in train:
        if is_group(train, key) and key != "module":
            chosen = SHOWN.get(key)
            node = composed("train", *([f"{key}={chosen}"] if chosen else []))
            text += f"## `{key}`\n\n" + (f"Shown for `{key}={chosen}`.\n\n" if chosen else "")
            text += subtree(node[key], key, comments(CONF / key / f"{chosen or 'default'}.yaml"))
    said = {path.removeprefix("search."): comment for path, comment in comments(CONF / "sweep.yaml").items()}
    text += "## `search`\n\nOnly for `afr-clip sweep`.\n\n" + subtree(composed("sweep").search, "search", said)
    return text


def common(train: DictConfig) -> list[str]:
    """Name the plain keys that every command has."""
    others = [set(composed(command)) for command in ("evaluate", "predict", "calibrate", "export", "diagnose", "sweep")]
    return [key for key in train if all(key in other for other in others) and not is_group(train, key)]


def is_group(node: DictConfig, key: str) -> bool:
    return (CONF / key).is_dir() or isinstance(node._get_node(key), DictConfig)


def choices(group: str) -> str:
    return " ".join(f"`{path.stem}`" for path in sorted((CONF / group).glob("*.yaml")))


def keys(node: DictConfig, file: Path, names: list[str]) -> str:
    said = comments(file) | comments(CONF / "paths" / "default.yaml")
    return table(("key", "type", "default", "meaning"), [row(node, name, name, said.get(name, "")) for name in names])


def subtree(node: DictConfig, path: str, said: Mapping[str, str]) -> str:
    """Describe the keys of a node and of the nodes below it."""
    return table(("key", "type", "default", "meaning"), list(walk(node, path, said)))


def walk(node: DictConfig, path: str, said: Mapping[str, str], within: str = "") -> Iterator[tuple[str, ...]]:
    explained = attributes(OmegaConf.get_type(node))
    for key in node:
        child, name = node._get_node(key), f"{path}.{key}"
        if str(key).startswith("_") or child is None:
            continue
        if isinstance(child, DictConfig) and is_dataclass(OmegaConf.get_type(child)) and not child._is_none():
            yield from walk(child, name, said, f"{within}{key}.")
        else:
            yield row(node, key, name, said.get(f"{within}{key}") or explained.get(str(key), ""))


def row(node: DictConfig, key: Any, name: str, meaning: str) -> tuple[str, ...]:
    child = node._get_node(key)
    if child._is_missing():
        value = "required"
    elif isinstance(child, Container):
        value = f"`{OmegaConf.to_container(child, resolve=False)}`" if not child._is_none() else "`null`"
    else:
        raw = child._value()
        value = f"`{shown(raw)}`"
    return f"`{name}`", kind(child._metadata.ref_type, optional=child._metadata.optional), value, meaning


def shown(value: Any) -> str:
    while isinstance(value, Node):  # a union holds a node of its own
        value = value._value()
    if isinstance(value, Enum):
        return value.name
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value) or '""'


def kind(hint: Any, *, optional: bool) -> str:
    """Write a type as a reader of YAML would."""
    if isinstance(hint, type) and issubclass(hint, Enum):
        text = " or ".join(f"`{member.name}`" for member in hint)
    elif get_origin(hint) is list:
        text = f"list of {kind(get_args(hint)[0], optional=False)}"
    elif get_origin(hint) is dict:
        text = f"{kind(get_args(hint)[1], optional=False)} by name"
    elif get_args(hint):
        text = " or ".join(kind(part, optional=False) for part in get_args(hint) if part is not type(None))
    else:
        text = {int: "integer", float: "number", bool: "`true` or `false`", str: "text"}.get(
            hint, getattr(hint, "__name__", "any")
        )
    return f"{text} or `null`" if optional and "null" not in text and hint is not Any else text


def comments(file: Path) -> dict[str, str]:
    """Read the comment behind each key of a YAML file, by the key's path."""
    found: dict[str, str] = {}
    above: list[tuple[int, str]] = []
    path = ""
    for line in file.read_text(encoding="utf-8").splitlines():
        if key := re.match(r"( *)(\w+):", line):
            above = [(indent, name) for indent, name in above if indent < len(key[1])] + [(len(key[1]), key[2])]
            path = ".".join(name for _, name in above)
        said = re.search(r"(?:^|\s)# (.*)", line)
        if said and key:
            found[path] = said[1]
        elif said and path in found and line.startswith(" "):  # the comment goes on below
            found[path] += " " + said[1]
        else:
            path = path if line.strip() else ""
    return found


def attributes(node: Any) -> dict[str, str]:
    """Read what a dataclass and those it derives from say of their fields, in Markdown."""
    said: dict[str, str] = {}
    for base in reversed(inspect.getmro(node) if isinstance(node, type) else ()):
        section = re.search(r"(?:Args|Attributes):\n((?:    .*\n|\n)+)", inspect.cleandoc(base.__doc__ or "") + "\n")
        entries = re.findall(r"^    (\w+): ((?:.*\n)(?:     +.*\n)*)", section[1] if section else "", re.MULTILINE)
        said |= {name: re.sub(r"\s+", " ", text).strip().replace("``", "`") for name, text in entries}
    return said


# Methods


def methods() -> str:
    """Describe every method: its paper, its sentences, its keys and how it is trained."""
    text = (
        "# Methods\n\nChoose one with `module=NAME`. Each brings its own default backbone and training recipe; what you type wins over "
        "both. Below, every key of `module.network` with the default of the published setting.\n\n"
    )
    own = [name for name, method in known_methods().items() if method.conf == CONF]
    for method in sorted(own, key=lambda name: (name != "afr_clip", name)):
        train = composed("train", f"module={method}")
        settings = known_methods()[method].settings
        network = getattr(import_module(f"afr_clip.models.{method}.network"), settings.network_class)
        file = known_methods()[method].file
        header = re.match(r"(?:#.*\n)+", file.read_text(encoding="utf-8"))
        prose = [line.removeprefix("#").strip() for line in (header[0] if header else "").splitlines()]
        text += (
            f"({method.replace('_', '-')})=\n## `{method}`\n\n"
            + " ".join(line for line in prose if not line.startswith(("python -m", "afr-clip", "|")))
            + "\n\n"
        )
        text += f"Backbone: `{train.backbone.name}`. "
        text += f"Code: {{py:class}}`{network.__module__}.{network.__name__}`.\n\n"
        if settings.trains:
            text += (
                f"Trained for {train.trainer.max_epochs} epochs in batches of {train.data.batch_size}, learning rate "
                f"{train.optimizer.lr}, loss weights {loss(train.loss)}; on another auxiliary dataset a recipe may differ "
                f"(`conf/recipe/{method}.yaml`; the values here are for VisA).\n\n"
            )
        else:
            text += "Nothing is trained.\n\n"
        text += subtree(train.module, "module", comments(file))
    return text


def loss(node: DictConfig) -> str:
    return ", ".join(
        f"{str(key).removesuffix('_weight')} {value}" for key, value in node.items() if str(key).endswith("_weight")
    )


# Exit codes and API


def exit_codes() -> str:
    """List the constants ``EXIT_...`` with their docstrings."""
    found: dict[int, str] = {0: "Success."}
    for info in pkgutil.walk_packages(afr_clip.__path__, "afr_clip."):
        source = Path(info.module_finder.path) / f"{info.name.rsplit('.', 1)[1]}.py"  # type: ignore[union-attr]
        if not info.ispkg and "\nEXIT_" in source.read_text(encoding="utf-8"):
            analyzer = ModuleAnalyzer.for_module(info.name)
            said = analyzer.find_attr_docs()
            for name, value in vars(import_module(info.name)).items():
                if name.startswith("EXIT_") and ("", name) in said:
                    found[value] = " ".join(said["", name]).strip().replace("``", "`")
    return (
        "# Exit codes\n\nEvery command ends with one of these. An error is one message on stderr: what is wrong, what was expected, what "
        "to try. `--debug` adds the traceback, and the run folder's log always has it.\n\n"
        + table(("code", "meaning"), [(f"`{code}`", text) for code, text in sorted(found.items())])
    )


def api() -> dict[str, str]:
    """Write a page per room with every module in it."""
    pages = {}
    for room, title in ROOMS:
        package = import_module(room)
        modules = [room, *(info.name for info in pkgutil.walk_packages(package.__path__, f"{room}."))]
        text = f"# {title}\n\n"
        for name in modules:
            if name.endswith("__main__"):
                continue
            text += f"## `{name}`\n\n" if name != room else ""
            text += f"```{{eval-rst}}\n.. automodule:: {name}\n```\n\n"
        pages[f"api-{room.replace('afr_clip.', '').replace('_', '-')}"] = text
    listed = "\n".join(pages)
    pages["api"] = (
        "# API reference\n\nEvery public module, room by room, from its docstrings. Shapes are part of the types: "
        '`Float[Tensor, "batch patches dim"]` is a float tensor with these three axes, and the tests enforce them.\n\n'
        f"```{{toctree}}\n:maxdepth: 1\n\n{listed}\n```\n"
    )
    return pages
