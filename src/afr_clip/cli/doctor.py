"""The checks of `afr-clip doctor`: each returns plain facts, or becomes a sentence where it fails."""

import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from functools import partial
from importlib.metadata import PackageNotFoundError, metadata, version
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from afr_clip import __version__
from afr_clip.cli.command import CommandLineError, describe
from afr_clip.config.nodes import config_dir, register
from afr_clip.config.restore import known_group
from afr_clip.files import counted, first_few, shown

PACKAGES = (
    "torch",
    "torchvision",
    "lightning",
    "open_clip_torch",
    "timm",
    "hydra-core",
    "omegaconf",
    "numpy",
    "pillow",
)

EXTRAS = {
    "openvino": "engine=openvino of predict, calibrate and load, often faster on a CPU; afr-clip export to=openvino",
    "export": "afr-clip export, which writes ONNX files; engine=onnxruntime of predict, calibrate and load",
    "runtime": "exported models in afr_clip.load, also without torch",
    "serve": "afr-clip serve",
    "watch": "afr-clip watch --mqtt",
    "demo": "afr-clip demo, a page to try a model",
    "sweep": "searches with Optuna, and sweeps on SLURM",
    "ray": "predictions and sweeps on a Ray cluster",
    "dashboards": "logger=tensorboard and logger=mlflow, and dashboards of Weights & Biases as code",
    "xlsx": "xlsx=true of predict",
    "parquet": "afr-clip report --parquet",
    "docs": "make docs",
    "test": "make test",
    "dev": "make check",
}
"""What the extras of the package add."""

BENCHMARK_SECONDS = 2.5
"""For each of the two halves of the benchmark."""

SIDE = 512
"""Of the matrices that are multiplied."""

LITTLE_DISK = 20e9
LITTLE_MEMORY = 12 * 2**30
"""Below this a training of ViT-L/14@336 may not fit."""

Facts = dict[str, Any]


def refuse_unknown(suite: str, backbone: str) -> None:
    """Refuse a suite or backbone that has no config file.

    Raises:
        CommandLineError: If there is none of that name.
    """
    suites = sorted(path.stem for path in (Path(config_dir()) / "suite").glob("*.yaml"))
    for group, name, known in (("suite", suite, suites), ("backbone", backbone, _backbones())):
        if name not in known:
            near = get_close_matches(name, known, n=1)
            advice = f"Did you mean {near[0]}?" if near else ""
            msg = f"--{group} must be one of {', '.join(known)}, got {shown(name)}. {advice}".rstrip()
            raise CommandLineError(msg)


def examine(data_dir: Path | None, suite: str, backbone: str, weights: Path | None) -> Facts:
    """Check everything.

    Args:
        data_dir: The folder that holds datasets; ``None`` if there is none.
        weights: A weight file of the backbone to check, in addition to what is found.

    Returns:
        Plain values by section, a section that could not be checked as ``{"fault": sentence}``, and ``advice``.
    """
    checks: dict[str, Callable[[], Facts]] = {
        "versions": _versions,
        "machine": _machine,
        "device": _device,
        "disk": _disk,
        "weights": lambda: _weights(backbone, weights),
        "datasets": lambda: _datasets(data_dir, suite),
        "extras": _extras,
        "benchmark": _benchmark,
    }
    found: Facts = {}
    for name, check in checks.items():
        try:
            found[name] = check()
        except Exception as error:
            found[name] = {"fault": describe(error)}
    found["advice"] = list(_advice(found, suite, backbone))
    return found


def as_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Write what was found for a terminal: a line for each fact, then the advice."""
    for section, facts in found.items():
        if section == "advice":
            continue
        yield section
        for key, value in facts.items():
            words = (
                ", ".join(f"{k} {v}" for k, v in value.items() if v is not None) if isinstance(value, dict) else value
            )
            yield f"  {key:<18} {'-' if words in (None, '') else words}"
        yield ""
    yield "advice"
    yield from (f"  - {sentence}" for sentence in found["advice"])


def _versions() -> Facts:
    return {"afr-clip": __version__, "python": platform.python_version()} | {name: _version(name) for name in PACKAGES}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _machine() -> Facts:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    usable = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    limit = Path("/sys/fs/cgroup/memory.max")
    limited = limit.read_text().strip() if limit.is_file() else ""
    memory = min(total, int(limited)) if limited.isdecimal() else total
    return {
        "system": platform.platform(),
        "cores": usable,
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
        "memory_gib": round(memory / 2**30, 1),
    }


def _device() -> Facts:
    import torch  # noqa: PLC0415 - takes seconds, and may not be importable

    facts: Facts = {"torch": torch.__version__, "built_for": torch.version.cuda or torch.version.hip or "cpu"}
    facts |= {"threads": torch.get_num_threads(), "gpu_driver": shutil.which("nvidia-smi")}
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        facts[f"gpu_{number}"] = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    facts["device"] = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    return facts


def _disk() -> Facts:
    places = {"here": Path.cwd(), "caches": Path.home()}
    return {name: f"{shutil.disk_usage(path).free / 1e9:.0f} GB free" for name, path in places.items()}


def _weights(backbone: str, given: Path | None) -> Facts:
    from afr_clip.clip.found import check_cnn, check_weights, find_weights, fitting_backbones  # noqa: PLC0415 - torch

    known = {name: _backbone(name) for name in _backbones()}

    def fit(path: Path, settings: Any) -> Facts:  # noqa: ANN401 - a class that needs torch
        one = _checked(partial(check_weights, path, settings))
        if "fault" in one:
            one["fits"] = first_few([f"backbone={name}" for name in fitting_backbones(path, known)]) or None
        return one

    facts: Facts = {}
    for name in dict.fromkeys((backbone, "pocket")):
        for weights in find_weights(known[name]):
            one: Facts = {"source": weights.source, "key": weights.key, "file": weights.path and str(weights.path)}
            if weights.path is not None and weights.key == "backbone.weights":
                one |= fit(weights.path, known[name])
            elif weights.path is not None:
                one |= _checked(partial(check_cnn, known[name].cnn, weights.path))
            facts[f"{name} {weights.key.split('.')[-2]}"] = one
    if given is not None:
        facts[f"{backbone} --weights"] = {"file": str(given)} | fit(given, known[backbone])
    return facts


def _backbones() -> list[str]:
    return sorted(path.stem for path in (Path(config_dir()) / "backbone").glob("*.yaml"))


def _backbone(name: str) -> Any:  # noqa: ANN401 - settings, as their schema says
    return OmegaConf.to_object(known_group("backbone", name))


def _checked(check: Callable[[], str]) -> Facts:
    try:
        return {"sha256": check()}
    except Exception as error:
        return {"fault": describe(error)}


def _datasets(data_dir: Path | None, suite: str) -> Facts:
    from afr_clip.cli.datasets import on_disk  # noqa: PLC0415 - needs torch
    from afr_clip.data.disk.layouts import dataset_row  # noqa: PLC0415
    from afr_clip.data.disk.reading import DatasetSpec  # noqa: PLC0415

    facts: Facts = {}
    legs = OmegaConf.to_container(_composed(f"suite={suite}").protocol.legs)
    assert isinstance(legs, dict), "as its schema is"
    for name in dict.fromkeys((*legs, *(one for scored in legs.values() for one in scored))):
        images, where = on_disk(DatasetSpec(str(name), str(name), data_dir=data_dir))
        total = dataset_row(str(name)).total
        published = None if total is None else f"{total.normal} + {total.anomalous}"
        state = "absent" if where == "absent" else _state(images, published)
        facts[str(name)] = {"state": state, "images": images, "published": published, "where": where}
    return facts


def _state(images: str, published: str | None) -> str:
    """Compare what is on disk with published numbers, where there are any."""
    return "present" if published is None else "complete" if images == published else "other numbers"


def _extras() -> Facts:
    from packaging.requirements import Requirement  # noqa: PLC0415 - only here

    wanted: dict[str, list[str]] = {}
    for line in metadata("afr-clip").get_all("Requires-Dist") or ():
        requirement = Requirement(line)
        for extra in metadata("afr-clip").get_all("Provides-Extra") or ():
            marker = requirement.marker
            if marker is not None and marker.evaluate({"extra": extra}) and not marker.evaluate({"extra": ""}):
                wanted.setdefault(extra, []).append(requirement.name)
    facts: Facts = {}
    for extra, packages in wanted.items():
        lacking = [name for name in packages if name != "afr-clip" and _version(name) is None]
        state = f"not installed ({first_few(lacking)})" if lacking else "installed"
        facts[extra] = {"state": state, "for": EXTRAS.get(extra)}
    return facts


def _benchmark() -> Facts:
    """Multiply matrices, then run the shipped model on noise, for some seconds each."""
    import torch  # noqa: PLC0415

    import afr_clip  # noqa: PLC0415

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    facts: Facts = {"on": device.type}
    for dtype in (torch.float32, torch.bfloat16):
        one = torch.ones(SIDE, SIDE, device=device, dtype=dtype)
        seconds = _seconds_of(partial(_multiply, one), BENCHMARK_SECONDS / 2)
        facts[f"{str(dtype).removeprefix('torch.')}_gflops"] = round(2 * SIDE**3 / seconds / 1e9, 1)
    detector = afr_clip.load("pocket")
    noise = torch.randint(256, (3, 160, 160), dtype=torch.uint8)
    seconds = _seconds_of(lambda: detector.inspect(noise, category="object"), BENCHMARK_SECONDS)
    facts["pocket_ms_an_image"] = round(1e3 * seconds, 1)
    return facts


def _multiply(matrix: Any) -> None:  # noqa: ANN401 - a tensor
    float((matrix @ matrix)[0, 0])  # waits for the GPU


def _seconds_of(work: Callable[[], object], at_least: float) -> float:
    begun, times = time.perf_counter(), 0
    work()  # the first time takes longer, and counts only if there is no time for another
    if (first := time.perf_counter() - begun) > at_least:
        return first
    begun = time.perf_counter()
    while time.perf_counter() - begun < at_least:
        work()
        times += 1
    return (time.perf_counter() - begun) / times


def _composed(*overrides: str) -> Any:  # noqa: ANN401 - a config node
    register()
    with initialize_config_dir(config_dir(), version_base="1.3"):
        return compose("train", list(overrides))


def _advice(found: Mapping[str, Any], suite: str, backbone: str) -> Iterator[str]:
    for section, facts in found.items():
        if "fault" in facts:
            yield f"The section {section} could not be checked: {facts['fault']}"
    yield from _advice_on_machine(found["device"], found["machine"], found["disk"])
    yield from _advice_on_weights(found["weights"], backbone)
    yield from _advice_on_data(found["datasets"], suite)
    lacking = [name for name, one in found["extras"].items() if name != "fault" and one["state"] != "installed"]
    if lacking:
        yield f"Optional extras that are not installed: {', '.join(lacking)}. Write pip install -e '.[{lacking[0]}]'."
    if found["device"].get("device") == "cuda":
        yield "Ask for a plan and what it costs here: afr-clip sweep experiment=paper sweep_dir=DIR dry_run=true."


def _advice_on_machine(device: Mapping[str, Any], machine: Mapping[str, Any], disk: Mapping[str, Any]) -> Iterator[str]:
    if device.get("gpu_driver") and device.get("device") == "cpu":
        yield (
            f"There is a GPU driver, but torch {device['torch']} is built for {device['built_for']} or sees no GPU. "
            f"Install a build for your driver, see https://pytorch.org/get-started."
        )
    elif device.get("device") == "cpu":
        yield (
            "Without a GPU, pocket trains and predicts in minutes, but the paper's backbone is slow: afr-clip sweep "
            "experiment=paper sweep_dir=DIR dry_run=true says how long its tables would take here."
        )
    if machine.get("memory_gib", LITTLE_MEMORY) * 2**30 < LITTLE_MEMORY:
        yield f"{machine['memory_gib']} GiB of memory may be too little to train with ViT-L/14@336; pocket fits."
    if machine.get("cores") and device.get("threads", machine["cores"]) < machine["cores"]:
        few = f"{device['threads']} of {machine['cores']} cores"
        yield f"torch uses {few}; num_threads=N or OMP_NUM_THREADS changes it."
    for name, free in disk.items():
        if name != "fault" and float(free.split()[0]) * 1e9 < LITTLE_DISK:
            yield f"Only {free} ({name}); the runs of experiment=paper need more, as its dry run says."


def _advice_on_weights(facts: Mapping[str, Any], backbone: str) -> Iterator[str]:
    for name, one in facts.items():
        if name == "fault":
            continue
        if one.get("fault"):
            yield f"{name}: {one['fault']}" + (f" This file fits {one['fits']}." if one.get("fits") else "")
        elif one["file"] is None:
            yield (
                f"{name}: {one['source']} is not on this machine. It is downloaded once when it is first used; without "
                f"a network, copy it here and pass {one['key']}=FILE (backbone={backbone})."
            )


def _advice_on_data(facts: Mapping[str, Any], suite: str) -> Iterator[str]:
    known = {name: one for name, one in facts.items() if name != "fault"}
    absent = [name for name, one in known.items() if one["state"] == "absent"]
    other = [name for name, one in known.items() if one["state"] == "other numbers"]
    if absent:
        yield (
            f"Of the {counted(len(known), 'dataset')} of {suite}, {len(absent)} are not on disk: {', '.join(absent)}. "
            f"afr-clip datasets show {absent[0]} says how to get one. "
            f"Set --data-dir or AFR_CLIP_DATA_DIR if they lie elsewhere."
        )
    if other:
        yield (
            f"{', '.join(other)} {'have' if len(other) > 1 else 'has'} other numbers of images than published. Run "
            f"afr-clip datasets check {other[0]}."
        )
