import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

import afr_clip
import drawn_anomalies

PACKAGE = Path(afr_clip.__file__).parent
ROOT = PACKAGE.parents[1]
FILES = sorted(PACKAGE.rglob("*.py"))
ROOMS = (
    "cli",
    "clip",
    "config",
    "data",
    "demo_page",
    "inspection",
    "losses",
    "metrics",
    "models",
    "processes",
    "prompts",
    "reports",
    "run",
    "serving",
    "sweep",
    "training",
    "watching",
)

SETTINGS = (
    "afr_clip.clip.settings",
    "afr_clip.models.method_settings",
    "afr_clip.inspection.settings",
    "afr_clip.models.scoring_settings",
    "drawn_anomalies.settings",
)
"""The modules outside `prompts` that say what can be chosen, and need no torch to say it."""

SHARED = ("files", "kinds", "settings", "processes.place", "processes.signals", "__version__")
"""What lies beside the rooms for all of them, and itself needs nothing but the standard library."""

BELOW_THE_DOOR = (
    "afr_clip.clip",
    "afr_clip.data",
    "afr_clip.inspection",
    "afr_clip.losses",
    "afr_clip.metrics",
    "afr_clip.models",
    "afr_clip.processes",
    "afr_clip.reports",
    "afr_clip.training",
    "drawn_anomalies",
)

MAY_IMPORT = {
    "config": (*SETTINGS, "afr_clip.prompts", "afr_clip.reports.record", "afr_clip.run.job", "afr_clip.sweep.job"),
    "run": BELOW_THE_DOOR,
    "sweep": (*BELOW_THE_DOOR, "afr_clip.run"),
    "processes": ("afr_clip.reports.record.run_folder",),
    "training": (
        "afr_clip.clip.tensor_file",
        "afr_clip.models",
        "afr_clip.losses",
        "afr_clip.metrics",
        "afr_clip.data.records",
    ),
    "models": ("afr_clip.clip", "afr_clip.prompts"),
    "clip": ("afr_clip.prompts",),
    "reports": ("afr_clip.data.records", "afr_clip.inspection", "afr_clip.metrics"),
    "inspection": (
        "afr_clip.clip",
        "afr_clip.data",
        "afr_clip.metrics",
        "afr_clip.models",
        "afr_clip.prompts",
        "afr_clip.reports.record",
    ),
    "serving": ("afr_clip.data", "afr_clip.inspection"),
    "watching": ("afr_clip.data", "afr_clip.inspection"),
    "demo_page": ("afr_clip.api", "afr_clip.data.errors", "afr_clip.inspection", "afr_clip.reports"),
    "prompts": (),
    "losses": (),
    "metrics": (),
    "data": (),
}
"""What a room may import of ours in addition to itself; `cli` and the commands may import everything."""

ONLY_IN = {
    "open_clip": {"clip"},
    "timm": {"clip"},
    "huggingface_hub": {"clip"},
    "safetensors": {"clip"},
    "torchmetrics": {"metrics"},
    "hydra": {"config", "cli"},
    "omegaconf": {"config", "cli"},
    "lightning": {"training", "data", "processes", "run"},
    "wandb": {"training"},
    "wandb_workspaces": {"reports"},
    "mlflow": {"training"},
    "tensorboard": {"training"},
    "gradio": {"demo_page"},
    "jinja2": {"reports"},
    "xlsxwriter": {"reports"},
    "pandas": {"reports"},
    "optuna": {"sweep"},
    "submitit": {"sweep"},
    "ray": {"run", "sweep"},
    "fastapi": {"demo_page", "serving"},
    "starlette": {"demo_page", "serving"},
    "uvicorn": {"demo_page", "serving"},
    "paho": {"watching"},
}
"""Third parties that only some rooms know."""


def name_of(path: Path) -> str:
    """Return the dotted name of a source file."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str:
    """Return the room of a module; what lies beside the rooms is shared or a command."""
    _, *rest = module.split(".")
    if any(is_within(module, f"afr_clip.{name}") for name in SHARED):
        return "shared"
    if module.endswith(".__main__"):
        return "commands"
    return rest[0] if rest and rest[0] in ROOMS else "commands"


def imported(source: str) -> Iterator[str]:
    """Name everything a source imports, wherever in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            # `from afr_clip import data` names a room by what it imports.
            names = {f"{base}.{alias.name}" for alias in node.names} if base in {"afr_clip", "afr_clip.models"} else ()
            yield from names or (base,)


def is_within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def is_allowed(room: str, module: str) -> bool:
    """Whether a module of a room may import another module, ours or not."""
    top = module.split(".", maxsplit=1)[0]
    if top == "":
        return False  # a relative import hides where its arrow points
    if (room, module) == ("shared", "drawn_anomalies.settings"):
        return True  # the node ``dataset.drawn``
    if room in {"prompts", "shared"} and top != "afr_clip":
        return top in sys.stdlib_module_names
    if top not in {"afr_clip", "drawn_anomalies"}:
        return room in ONLY_IN.get(top, {room})
    if room in {"cli", "commands"} or (room_of(module) == "shared" and room != "prompts"):
        return True
    return any(is_within(module, allowed) for allowed in (f"afr_clip.{room}", *MAY_IMPORT.get(room, ())))


def wrong_arrows(module: str, source: str) -> list[str]:
    """Name every import of a module that points the wrong way."""
    room = room_of(module)
    return [f"{module} -> {other}" for other in imported(source) if not is_allowed(room, other)]


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_every_arrow_points_the_right_way(path):
    assert wrong_arrows(name_of(path), path.read_text(encoding="utf-8")) == []


def test_the_painter_knows_nothing_of_the_framework():
    files = sorted(Path(drawn_anomalies.__file__).parent.rglob("*.py"))
    names = {name.partition(".")[0] for path in files for name in imported(path.read_text(encoding="utf-8"))}
    assert names - sys.stdlib_module_names == {"PIL", "cv2", "drawn_anomalies", "jaxtyping", "numpy", "rich"}


def test_the_rooms_of_the_rules_are_the_rooms_of_the_package():
    folders = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert folders == {*ROOMS} == {*MAY_IMPORT, "cli"}


@pytest.mark.parametrize(
    ("module", "source", "offence"),
    [
        ("afr_clip.losses.terms", "from afr_clip.data.records import AnomalyBatch", "afr_clip.data.records"),
        ("afr_clip.losses.terms", "from afr_clip import data", "afr_clip.data"),
        ("afr_clip.losses.terms", "from ..data import records", "..data"),
        ("afr_clip.losses.terms", "def f():\n    import afr_clip.models.scoring", "afr_clip.models.scoring"),
        ("afr_clip.prompts.words", "import torch", "torch"),
        ("afr_clip.clip.text", "import afr_clip.models.scoring_settings", "afr_clip.models.scoring_settings"),
        ("afr_clip.models.scoring", "import lightning.pytorch as pl", "lightning.pytorch"),
        ("afr_clip.models.scoring", "import open_clip", "open_clip"),
        ("afr_clip.models.afr_clip.network", "from timm.layers import Mlp", "timm.layers"),
        ("afr_clip.training.module", "from omegaconf import DictConfig", "omegaconf"),
        ("afr_clip.training.module", "from afr_clip.data.feed.datamodule import X", "afr_clip.data.feed.datamodule"),
        ("afr_clip.training.module", "from afr_clip.training_extras import X", "afr_clip.training_extras"),
        ("afr_clip.config.nodes", "from afr_clip.models.scoring import X", "afr_clip.models.scoring"),
        ("afr_clip.config.nodes", "from afr_clip.models import scoring", "afr_clip.models.scoring"),
        ("afr_clip.reports.pictures.maps", "from afr_clip.data.feed.dataset import X", "afr_clip.data.feed.dataset"),
        ("afr_clip.sweep.search", "import hydra", "hydra"),
        ("afr_clip.sweep.search", "from afr_clip.config.plan import X", "afr_clip.config.plan"),
        ("afr_clip.processes.launch", "from omegaconf import DictConfig", "omegaconf"),
        ("afr_clip.processes.launch", "from afr_clip.cli.command import X", "afr_clip.cli.command"),
        ("afr_clip.train", "import timm", "timm"),
        ("afr_clip.files", "import torch", "torch"),
        ("afr_clip.files", "from afr_clip.data.errors import DataError", "afr_clip.data.errors"),
        ("afr_clip.prompts.words", "from afr_clip.files import written_whole", "afr_clip.files"),
    ],
)
def test_the_walker_sees_a_wrong_arrow(module, source, offence):
    assert wrong_arrows(module, f"import math\n{source}\n") == [f"{module} -> {offence}"]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("afr_clip.cli.hydra_commands", "import hydra\nfrom afr_clip.run.train import train"),
        ("afr_clip.run.train", "import lightning.pytorch as pl\nfrom afr_clip.data.disk.separation import TrainedOn"),
        ("afr_clip.reports.record.manifest", "import torch\nfrom afr_clip import __version__"),
        ("afr_clip.data.feed.cache", "from afr_clip.files import written_whole"),
        ("afr_clip.data.feed.cache", "from afr_clip import files"),
        ("afr_clip.config.nodes", "from afr_clip.models import scoring_settings"),
        ("afr_clip.models.afr_clip.cmfr", "from afr_clip.clip.load import Towers\nfrom afr_clip.models import scoring"),
    ],
)
def test_the_walker_lets_right_arrows_pass(module, source):
    assert wrong_arrows(module, source) == []


RUNS_CODE = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen", "torch.jit.load", "torch.hub.load"),
    *(f"{name}.{call}" for name in ("pickle", "joblib", "dill", "marshal", "yaml") for call in ("load", "loads")),
    *("yaml.unsafe_load", "yaml.full_load", "shelve.open", "pandas.read_pickle", "runpy.run_path"),
}
"""Calls that run what a file or a text says."""


def calls(source: str) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func).removeprefix("np.").removeprefix("numpy."), node


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_nothing_that_is_read_is_run(path):
    source = path.read_text(encoding="utf-8")
    assert [name for name, _ in calls(source) if name in RUNS_CODE] == []
    loads = [(name, ast.unparse(call)) for name, call in calls(source) if name in {"torch.load", "load"}]
    assert [call for name, call in loads if name == "torch.load" and "weights_only=True" not in call] == []
    assert [call for _, call in loads if "allow_pickle" in call] == []
    assert (not loads) or name_of(path) in {"afr_clip.clip.tensor_file", "afr_clip.data.feed.store"}


def run_python(source: str) -> str:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHONWARNINGS", "COV"))}
    done = subprocess.run([sys.executable, "-c", source], check=True, capture_output=True, text=True, env=environment)
    return done.stdout.strip()


def test_composing_a_config_does_not_wait_for_torch():
    heavy = "{'torch', 'lightning', 'open_clip', 'timm', 'numpy', 'cv2', 'afr_clip.data.records', 'afr_clip.run.build'}"
    source = f"import sys, afr_clip.cli.front, afr_clip.cli.hydra_commands\nprint(sorted({heavy} & sys.modules.keys()))"
    assert run_python(source) == "[]"


@pytest.mark.parametrize("module", ["afr_clip", "afr_clip.config.nodes"])
def test_importing_changes_nothing_but_the_modules(module):
    source = (
        "import logging, os, random, sys, warnings\n"
        "def state():\n"
        "    return (list(warnings.filters), dict(os.environ), random.getstate(), list(sys.path),\n"
        "            list(logging.root.handlers), logging.root.level)\n"
        f"before = state()\nimport {module}\nprint(state() == before)"
    )
    assert run_python(source) == "True"


def test_importing_the_package_imports_nothing_else():
    source = "import sys\nbefore = set(sys.modules)\nimport afr_clip\nprint(sorted(set(sys.modules) - before))"
    assert run_python(source) == "['afr_clip']"


def undocumented(tree: ast.Module, module: str) -> list[str]:
    """Name the public definitions without a docstring, methods of public classes included."""
    missing = [] if ast.get_docstring(tree) else [module]
    scopes: list[tuple[str, ast.Module | ast.ClassDef]] = [(module, tree)]
    while scopes:
        owner, scope = scopes.pop()
        for node in scope.body:
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) or node.name[0] == "_":
                continue
            if any(isinstance(one, ast.Name) and one.id == "overload" for one in node.decorator_list):
                continue
            name = f"{owner}.{node.name}"
            missing += [] if ast.get_docstring(node) else [name]
            scopes += [(name, node)] if isinstance(node, ast.ClassDef) else []
    return missing


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_every_public_name_has_a_docstring(path):
    assert undocumented(ast.parse(path.read_text(encoding="utf-8")), name_of(path)) == []


def test_the_walker_sees_what_has_no_docstring():
    tree = ast.parse('def f():\n    """Doc."""\nclass A:\n    def g(self): pass\n    def _h(self): 0\n')
    assert undocumented(tree, "m") == ["m", "m.A", "m.A.g"]


SCRIPTS = sorted(
    [*(ROOT / "benchmarks").rglob("*.py"), *(ROOT / "experiments").rglob("*.py"), *(ROOT / "docs").glob("*.py")]
)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_what_a_script_imports_from_us_exists(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(("afr_clip", "drawn_anomalies")):
            module = import_module(node.module)
            for alias in node.names:
                assert hasattr(module, alias.name) or find_spec(f"{node.module}.{alias.name}"), alias.name
