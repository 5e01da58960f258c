"""Compare exported models with their networks: differences, AUROC and seconds, for every method and runtime.

python benchmarks/export.py --data-dir ../shared/data
python benchmarks/export.py --methods afr_clip --int8
python benchmarks/export.py --large --int8
"""

import argparse
import statistics
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import open_clip
import torch
from sklearn.metrics import roc_auc_score
from timing import seconds

import afr_clip
from afr_clip.clip.load import load_towers
from afr_clip.config.nodes import method_names
from afr_clip.config.plan import composed_model, composed_training
from afr_clip.data.disk.loaded import list_normal, load_dataset
from afr_clip.inspection.detector import as_rgb
from afr_clip.inspection.export import (
    adversarial_pictures,
    convert_model,
    finish_model,
    largest_differences,
    size_of,
    write_model,
)
from afr_clip.inspection.exported import FORMAT, ExportedScanner, read_exported
from afr_clip.inspection.quantise import quantise
from afr_clip.inspection.scan import WHOLE, PhotographScanner, Scanning
from afr_clip.inspection.scanner import Scanner
from afr_clip.run.build import dataset_spec

SCANNING = Scanning("cpu", "32-true", None, 0.25, 1)

ROUNDS = 7

DATASETS = ("mvtec_ad", "mpdd")

Photograph = tuple[str, bool, np.ndarray]
"""Category, whether it is anomalous, and its pixels."""

LARGE = (
    "backbone=vit_l_14_336",
    "backbone.random_weights=true",
    "backbone.cnn.random_weights=true",
    "backbone.cnn.pretrained=false",
    "backbone.pretrained=null",
    "backbone.image_size=518",
)


def main() -> None:
    """Print a row for each method and runtime."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, default=Path("../shared/data"))
    parser.add_argument("--methods", nargs="+", default=method_names())
    parser.add_argument("--most", type=int, default=1000, help="photographs of each dataset")
    parser.add_argument("--threads", type=int, default=2, help="threads of PyTorch and of the other runtimes")
    parser.add_argument("--int8", action="store_true", help="also in 8 bits")
    parser.add_argument(
        "--large", action="store_true", help="ViT-L/14@336 at 518 px with random weights, afr_clip only"
    )
    typed = parser.parse_args()
    torch.set_num_threads(typed.threads)
    print("| method | runtime | differences: score | map | image AUROC | seconds | times as fast as torch | MB |")
    print("|---|---|---|---|---|---|---|---|")
    if typed.large:
        scanner, photographs = built("afr_clip", *LARGE), [("part", False, made_up(0))]
        good = [("part", False, made_up(seed)) for seed in range(1, 5)] if typed.int8 else []
        compare("afr_clip", scanner, photographs, good, is_large=True)
        return
    photographs = [one for name in DATASETS for one in read(name, typed.data_dir, typed.most)]
    good = list(read(DATASETS[0], typed.data_dir, typed.most, is_train=True)) if typed.int8 else []
    for method in typed.methods:
        scanner = afr_clip.load("pocket", batch_size=1).scanner if method == "afr_clip" else built(method)
        assert isinstance(scanner, Scanner)
        compare(method, scanner, photographs, good, is_large=False)


def built(method: str, *overrides: str) -> Scanner:
    """Build an untrained method on pocket, or on another backbone."""
    backbone, module = composed_model(f"module={method}", *(overrides or ("backbone=pocket",)))
    torch.manual_seed(0)
    towers = load_towers(backbone, needs_cnn=module.network.needs_cnn)
    return Scanner(module.network.build(towers), towers, SCANNING, {})


def made_up(seed: int) -> np.ndarray:
    """Return noise of the size of a photograph."""
    return np.random.default_rng(seed).integers(0, 256, (700, 700, 3), dtype=np.uint8)


def read(dataset: str, data_dir: Path, most: int, *, is_train: bool = False) -> Iterator[Photograph]:
    """Read photographs of a dataset, evenly from all there are; of its good training images if asked for."""
    job = composed_training("backbone=pocket", f"dataset={dataset}", f"data_dir={data_dir}")
    loaded = load_dataset(dataset_spec(job.auxiliary, job))
    samples = [one for few in list_normal(loaded).values() for one in few] if is_train else loaded.samples
    for sample in samples[:: max(1, -(-len(samples) // most))]:
        yield sample.prompt_name, sample.is_anomalous, as_rgb(sample.image_path).transpose(1, 2, 0)


def compare(
    method: str, scanner: Scanner, photographs: Sequence[Photograph], good: Sequence[Photograph], *, is_large: bool
) -> None:
    """Export to both runtimes, compare on all pictures, and time one photograph with each in turn.

    Args:
        good: Photographs that show the range of values, if the network is exported in 8 bits too.
    """
    categories = list(dict.fromkeys(name for name, _, _ in photographs))
    with TemporaryDirectory() as folder:
        files = exported_files(scanner, categories, good, Path(folder))
        found = {
            name: ExportedScanner(read_exported(path, torch.get_num_threads()), SCANNING)
            for name, path in files.items()
        }
        assert all(name.startswith(one.exported.engine) for name, one in found.items())
        compared: dict[str, PhotographScanner] = {"torch": scanner, **found}
        name, _, picture = photographs[0]
        work: dict[str, Callable[[], object]] = {
            runtime: partial(look, one, name, picture) for runtime, one in compared.items()
        }
        if is_large:
            work["open_clip, image tower alone"] = bare_tower()
        times: dict[str, list[float]] = {name: [] for name in work}
        for _ in range(1 + (3 if is_large else ROUNDS)):
            for runtime, one in work.items():
                times[runtime].append(seconds(one))
        looked = {
            runtime: [one.look((name,), [view.transpose(2, 0, 1)], [name], WHOLE) for name, _, view in photographs]
            for runtime, one in compared.items()
        }
        for runtime in work:
            ratios = [base / own for base, own in zip(times["torch"][1:], times[runtime][1:], strict=True)]
            cells = ["", "", "", f"{statistics.median(times[runtime][1:]):.3g}", f"{statistics.median(ratios):.2f}", ""]
            if runtime in compared and not is_large:
                scores = [float(one.scores[0]) for one in looked[runtime]]
                cells[2] = f"{100 * auroc(photographs, scores):.3f}"
            if runtime in found:
                pairs = list(zip(looked["torch"], looked[runtime], strict=True))
                adversarial = adversarial_pictures(scanner.input_size[0])
                if is_large:  # each takes seconds
                    adversarial = {key: adversarial[key] for key in ("white", "noise", "one pixel")}
                of_scores, of_maps = largest_differences(found[runtime], scanner, adversarial, photographs[0][0])
                of_scores |= {str(i): float(abs(own.scores - its.scores).max()) for i, (own, its) in enumerate(pairs)}
                of_maps |= {str(i): float(abs(own.maps - its.maps).max()) for i, (own, its) in enumerate(pairs)}
                cells[:2] = f"{max(of_scores.values()):.1e}", f"{max(of_maps.values()):.1e}"
                cells[5] = f"{size_of(files[runtime]) / 1e6:.1f}"
            print(f"| {method} | {runtime} | {' | '.join(cells)} |", flush=True)


def exported_files(
    scanner: Scanner, categories: Sequence[str], good: Sequence[Photograph], folder: Path
) -> dict[str, Path]:
    """Export a network for both runtimes, and also in 8 bits if there are photographs for it."""
    about, plain, rounded = metadata(scanner, categories), folder / "model.onnx", folder / "rounded.onnx"
    write_model(scanner, categories, plain, about)
    files = {"onnxruntime": plain, "openvino": folder / "openvino.xml"}
    convert_model(plain, files["openvino"], about)
    if good:
        shown = ((picture.transpose(2, 0, 1), categories.index(name)) for name, _, picture in good)
        quantise(plain, rounded, shown)
        files |= {"onnxruntime, int8": folder / "int8.onnx", "openvino, int8": folder / "openvino_int8.xml"}
        for name in ("onnxruntime, int8", "openvino, int8"):
            finish_model(rounded, files[name], about)
    return files


@torch.inference_mode()
def bare_tower() -> Callable[[], object]:
    """Return a forward pass of open_clip's own tower over one image."""
    clip = open_clip.create_model("ViT-L-14-336-quickgelu", force_image_size=518).eval()
    image = torch.zeros(1, 3, 518, 518)
    return torch.inference_mode()(lambda: clip.encode_image(image))


def look(scanner: PhotographScanner, name: str, picture: np.ndarray) -> float:
    """Return the image score of a picture."""
    return float(scanner.look((name,), [picture.transpose(2, 0, 1)], ["photograph"], WHOLE).scores[0])


def auroc(photographs: Sequence[Photograph], scores: Sequence[float]) -> float:
    """Return the mean over categories."""
    by_category: dict[str, list[tuple[bool, float]]] = {}
    for (name, is_anomalous, _), score in zip(photographs, scores, strict=True):
        by_category.setdefault(name, []).append((is_anomalous, score))
    return statistics.mean(roc_auc_score(*zip(*pairs, strict=True)) for pairs in by_category.values())


def metadata(scanner: Scanner, categories: Sequence[str]) -> dict[str, object]:
    """Return the least that a file must say of itself."""
    plain = {"format": FORMAT, "config": {}, "backbone": {}, "identity": {}, "calibration": None}
    return plain | {"categories": list(categories), "reads_category": True, "image_size": scanner.input_size[0]}


if __name__ == "__main__":
    main()
