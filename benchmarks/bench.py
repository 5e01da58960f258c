"""Measure what AFR-CLIP costs on this machine, next to its peers, and compare it with the last record.

    python benchmarks/bench.py [--tables tower step pocket evaluation metrics start] [--record]

All work of a table runs in turn, round by round, so that ratios do not depend on what else the machine does.
ViT-L/14@336 has random weights: times do not depend on their values.
"""

import argparse
import io
import json
import statistics
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, redirect_stdout
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import open_clip
import pixel_metrics
import pocket_speed
import start
import torch
from timing import Work, seconds
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import afr_clip
from afr_clip.clip.load import DEFAULT, Towers, load_towers
from afr_clip.clip.packed import PackedLinear, is_usable
from afr_clip.config.plan import composed_evaluation, composed_training
from afr_clip.config.restore import named_checkpoint
from afr_clip.data.disk.loaded import load_dataset
from afr_clip.data.feed.datamodule import AnomalyDataModule
from afr_clip.inspection.engine import PRECISIONS, CompiledNetwork, is_installed
from afr_clip.losses.total import AnomalyLoss
from afr_clip.models.checkpoint import Checkpoint, load_adapters
from afr_clip.reports.record.manifest import build_manifest
from afr_clip.run.build import data_settings, dataset_spec
from afr_clip.run.evaluate import evaluate
from afr_clip.run.model import read_named
from afr_clip.settings import ScoringEngine

RECORDS = Path(__file__).resolve().parents[1] / "experiments" / "benchmarks" / "records"

LARGE = (
    "dataset=visa",
    "protocol.targets=[mvtec_ad]",
    "backbone.random_weights=true",
    "backbone.cnn.random_weights=true",
)
CATEGORY = "screw"
SLOWER = 1.15
"""A ratio that has grown by this much since the last record is reported."""

FULL, HALF = "32-true", "bf16-mixed"

Table = tuple[dict[str, Work], dict[str, float], str]
"""What runs, of which the first is the base of all ratios; how much each does in one run; and the unit of that."""


def autocast(precision: str) -> AbstractContextManager[Any]:
    """Cast to bfloat16 if that is the precision."""
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == HALF)


def build_network(precision: str, library: str | None = None) -> tuple[Towers, nn.Module]:
    """Build AFR-CLIP on ViT-L/14@336 at 518 px; ``library`` is what multiplies, or the faster one."""
    job = composed_training(*LARGE)
    choose = (lambda measured: measured()) if library is None else (lambda _: library)
    towers = load_towers(job.backbone, needs_cnn=True, precision=precision, choose=choose)
    torch.manual_seed(0)
    return towers, job.module.network.build(towers).eval()


def forward(network: nn.Module, image: torch.Tensor, precision: str, names: list[str] | None = None) -> object:
    """Score an image; a bare tower takes no names."""
    with torch.inference_mode(), autocast(precision):
        return network(image) if names is None else network(image, names)


def tower() -> Table:
    """Time the full method next to the bare open_clip tower, with every engine, and what the machine can do at most."""
    towers, network = build_network(FULL, DEFAULT)
    settings = towers.settings
    image = torch.randn(1, 3, settings.image_size, settings.image_size)
    bare = open_clip.create_model(settings.architecture, force_image_size=settings.image_size).visual.eval()
    work: dict[str, Work] = {"bare open_clip tower, float32": partial(forward, bare, image, FULL)}
    blocks, attention = block_gigaflop(towers)
    amount = {"bare open_clip tower, float32": blocks + attention}
    full = gigaflop(partial(network, image, [CATEGORY])) + attention
    work["bare open_clip tower, bfloat16"] = partial(forward, bare, image, HALF)
    for precision, name in ((FULL, "float32"), (HALF, "bfloat16")):
        work[f"AFR-CLIP, PyTorch, {name}"] = partial(forward, network, image, precision, [CATEGORY])
        chosen, own = build_network(precision)
        if chosen.multiplication != DEFAULT:
            work[f"AFR-CLIP, PyTorch, packed weights, {name}"] = partial(forward, own, image, precision, [CATEGORY])
        del chosen, own
        size = (settings.image_size, settings.image_size)
        for engine, title in engines(precision).items():
            compiled = CompiledNetwork(network, CATEGORY, size, precision, 1, engine)
            work[f"AFR-CLIP, {title}, {name}"] = partial(compiled, image)
    amount |= {name: full for name in work if name not in amount}
    amount["bare open_clip tower, bfloat16"] = amount["bare open_clip tower, float32"]
    peaks, its_amount = multiplications()
    return work | peaks, amount | its_amount, "GFLOP"


def engines(precision: str) -> dict[ScoringEngine, str]:
    """Return the engines next to PyTorch that are installed and compute in a precision, by their names."""
    titles = {ScoringEngine.openvino: "OpenVINO", ScoringEngine.onnxruntime: "ONNX Runtime"}
    return {one: titles[one] for one, own in PRECISIONS.items() if precision in own and is_installed(one)}


def block_gigaflop(towers: Towers) -> tuple[float, float]:
    """Return what the linear layers of the image tower's blocks take, and what their attention does, in 1e9."""
    backbone = towers.backbone
    num_tokens, width = 1 + backbone.grid_size[0] * backbone.grid_size[1], backbone.token_dim
    return backbone.depth * 24 * num_tokens * width**2 / 1e9, backbone.depth * 4 * num_tokens**2 * width / 1e9


def gigaflop(work: Work) -> float:
    """Count the floating-point operations of matrix products and convolutions, in 1e9.

    PyTorch's counter does not know the fused attention of CPUs, see `block_gigaflop`.
    """
    counter = FlopCounterMode(display=False)
    with torch.inference_mode(), counter:
        work()
    return counter.get_total_flops() / 1e9


def multiplications() -> tuple[dict[str, Work], dict[str, float]]:
    """Return one large product of matrices for each library that works here: the most that a machine was seen to do."""
    rows, width = 2048, 2048
    tokens = torch.randn(rows, width)
    linear = nn.Linear(width, width, bias=False).requires_grad_(requires_grad=False)
    packed = PackedLinear(linear.weight, None)
    work: dict[str, Work] = {
        f"one product, {how}, {name}": partial(forward, layer, tokens, precision)
        for precision, name, dtype in ((FULL, "float32", torch.float32), (HALF, "bfloat16", torch.bfloat16))
        for how, layer in (("PyTorch", linear), ("packed weights", packed))
        if layer is linear or is_usable(dtype)
    }
    return work, dict.fromkeys(work, 2 * rows * width * width / 1e9)


def step() -> Table:
    """Time one training step of one image at 518 px: forward, backward, Adam."""
    work: dict[str, Work] = {}
    for precision, name in ((FULL, "float32"), (HALF, "bfloat16")):
        for library in (DEFAULT, None):
            towers, network = build_network(precision, library)
            if library is None and towers.multiplication == DEFAULT:
                continue
            how = "" if library else "packed weights, "
            work[f"training step, {how}{name}"] = partial(train_once, network.train(), optimizer_of(network), precision)
    return work, dict.fromkeys(work, 1.0), "images"


def optimizer_of(network: Any) -> torch.optim.Optimizer:  # noqa: ANN401 - an AnomalyNetwork
    """Return Adam over what is trained."""
    names = network.trainable_parameter_names()
    return torch.optim.Adam([parameter for name, parameter in network.named_parameters() if name in names], lr=0.001)


def train_once(network: nn.Module, optimizer: torch.optim.Optimizer, precision: str) -> None:
    """Take one step."""
    image = torch.randn(1, 3, 518, 518)
    mask = torch.zeros(1, 518, 518, dtype=torch.bool)
    mask[:, :50, :50] = True
    with autocast(precision):
        scored = network(image, [CATEGORY])
    loss = AnomalyLoss()(scored.trained_maps, scored.image_score, mask, mask.any(dim=2).any(dim=1))
    optimizer.zero_grad()
    loss.total.backward()
    optimizer.step()


def pocket(folder: Path) -> Table:
    """Time pocket from JPEG files of 256 px to results, in batches of 16."""
    files = pocket_speed.write_files(folder)
    work: dict[str, Work] = {}
    for size in pocket_speed.SIZES:
        for precision, name in ((FULL, "float32"), (HALF, "bfloat16")):
            for engine in ("torch", *(one.value for one in engines(precision))):
                options: dict[str, Any] = {"precision": precision, "engine": engine, "image_size": size}
                detector = afr_clip.load("pocket", category="bottle", batch_size=16, **options)
                work[f"pocket, {size} px, {engine}, {name}"] = partial(pocket_speed.inspect, detector, files)
    return work, dict.fromkeys(work, float(len(files))), "images"


def evaluation(folder: Path, data_dir: Path) -> Table:
    """Time an evaluation of photographs with pocket, without its imports, next to its forward passes alone.

    Resized pixels are in the cache, which is filled first.
    """
    checkpoint, numbers = read_named(named_checkpoint("pocket")), count()
    assert isinstance(checkpoint, Checkpoint), "it ships with the package"
    chosen = ("checkpoint=pocket", "dataset=mvtec_ad", f"data_dir={data_dir}", "data.num_workers=0", "data.cache=true")
    overrides = (*chosen, f"cache_dir={folder}/cache", f"num_threads={torch.get_num_threads()}")
    job = composed_evaluation(checkpoint.manifest["config"], *overrides)
    loaded = load_dataset(dataset_spec(job.targets[0], job))
    towers = load_towers(job.backbone, needs_cnn=job.module.network.needs_cnn)
    network = job.module.network.build(towers).eval()
    load_adapters(network, checkpoint, towers.fingerprint())
    data = AnomalyDataModule(None, [loaded], data_settings(job, towers))
    batches = list(data.target_dataloader(loaded.spec.name))

    def forward_passes() -> None:
        with torch.inference_mode():
            for batch in batches:
                network(batch.pictures, batch.prompt_name)

    def whole() -> None:
        own = folder / f"run_{next(numbers)}"
        own.mkdir()
        with redirect_stdout(io.StringIO()):  # its tables
            evaluate(replace(job, folder=own), checkpoint)

    work: dict[str, Work] = {
        "forward passes alone": forward_passes,
        "afr-clip evaluate, pixels cached": whole,
    }
    return work, dict.fromkeys(work, float(len(loaded.samples))), "images"


def metrics() -> Table:
    """Time all pixel metrics over 20 maps of 518 px."""
    maps, masks = pixel_metrics.make_data(20, 518, 1.0, 0)
    work = {name: partial(method, maps, masks) for name, method in pixel_metrics.METHODS.items()}
    return dict(work), dict.fromkeys(work, 20.0), "maps"


def starts(folder: Path) -> Table:
    """Time processes from their start to their end."""
    source, numbers = Path(afr_clip.__file__).parents[1], count()

    def once(name: str) -> object:
        return start.seconds(start.processes(folder, source, str(next(numbers)))[name])

    work: dict[str, Work] = {name: partial(once, name) for name in start.processes(folder, source, "")}
    return work, dict.fromkeys(work, 1.0), "runs"


def run(table: Table, rounds: int) -> dict[str, Any]:
    """Run all work of a table in turn; the first round warms up and does not count."""
    work, amount, unit = table
    took: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(1 + rounds):
        for name, one in work.items():
            took[name].append(seconds(one))
    base = next(iter(work))
    rows = {}
    for name, column in took.items():
        ratios = [own / other for own, other in zip(column[1:], took[base][1:], strict=True)]
        middle = statistics.median(column[1:])
        rows[name] = {
            "seconds": middle,
            "ratio": statistics.median(ratios),
            "lowest": min(ratios),
            "highest": max(ratios),
            "per_second": amount[name] / middle,
        }
    return {"unit": unit, "rows": rows}


def lines(result: dict[str, Any]) -> Iterator[str]:
    """Yield a table in Markdown."""
    yield f"| | seconds | ratio to the first | smallest and largest | {result['unit']} a second |"
    yield "|---|---|---|---|---|"
    for name, row in result["rows"].items():
        spread = f"{row['lowest']:.3f} to {row['highest']:.3f}"
        yield f"| {name} | {row['seconds']:.3g} | {row['ratio']:.3f} | {spread} | {row['per_second']:.3g} |"


def slower(records: Sequence[dict[str, Any]], now: dict[str, Any]) -> Iterator[str]:
    """Yield what takes longer than in the last record of its table, relative to the table's base."""
    for table, result in now.items():
        earlier = [record["tables"][table]["rows"] for record in records if table in record["tables"]]
        if not earlier:
            yield f"no record of {table} yet"
            continue
        for name, row in result["rows"].items():
            old = earlier[-1].get(name)
            if old is not None and row["ratio"] > SLOWER * old["ratio"] and row["lowest"] > old["highest"]:
                yield f"slower: {name}: {row['ratio']:.3f} of the base, {old['ratio']:.3f} in the last record"


def machine_kind(threads: int) -> str:
    """Name what machines must share for their ratios to be compared."""
    name = build_manifest("bench", [], {"seed": 0})["machine"]["processor"]
    units = [torch.backends.cpu.get_cpu_capability()] + ["AMX"] * torch.cpu._is_amx_tile_supported()
    return " ".join(
        ["".join(letter for letter in name if letter.isalnum() or letter == " "), *units, f"{threads} threads"]
    )


def main(arguments: Iterable[str] | None = None) -> None:
    """Run the tables, print them, and compare them with the last record of this kind of machine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ("tower", "step", "pocket", "evaluation", "metrics", "start")
    parser.add_argument("--tables", nargs="+", choices=names, help="all, evaluation only if there are photographs")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--data-dir", type=Path, default=Path("../shared/data"), help="photographs, for evaluation")
    parser.add_argument("--record", action="store_true", help="keep the result in experiments/benchmarks/records")
    typed = parser.parse_args(None if arguments is None else list(arguments))
    tables = list(typed.tables or names)
    if "evaluation" in tables and not typed.data_dir.is_dir():
        if typed.tables:
            parser.error(f"evaluation needs photographs, got {typed.data_dir}, which is not a directory")
        tables.remove("evaluation")
        print(f"evaluation left out: no photographs at {typed.data_dir}")
    torch.set_num_threads(typed.threads)
    kind = machine_kind(typed.threads)
    manifest = build_manifest("bench", [f"rounds={typed.rounds}"], {"seed": 0})
    print(f"{kind}, torch {torch.__version__}, commit {(manifest['commit'] or {}).get('hash', 'unknown')[:8]}")
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        makers = {
            "tower": tower,
            "step": step,
            "pocket": partial(pocket, Path(folder)),
            "evaluation": partial(evaluation, Path(folder), typed.data_dir),
            "metrics": metrics,
            "start": partial(starts, Path(folder)),
        }
        for name in tables:
            results[name] = run(makers[name](), typed.rounds)
            print("", f"## {name}", "", *lines(results[name]), sep="\n", flush=True)
    file = RECORDS / f"{kind.replace(' ', '_')}.json"
    records = json.loads(file.read_text()) if file.is_file() else []
    print("", *(list(slower(records, results)) or ["nothing is slower than in the last record"]), sep="\n")
    if typed.record:
        kept = {key: manifest[key] for key in ("commit", "overrides", "started", "machine", "packages")}
        RECORDS.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps([*records, {"manifest": kept, "tables": results}], indent=1) + "\n")
        print(f"kept in {file}")


if __name__ == "__main__":
    sys.exit(main())
