"""Compare exported models with their networks: differences, AUROC and seconds, for every method and runtime.

python benchmarks/export.py --data-dir ../shared/data
python benchmarks/export.py --large
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
from afr_clip.data.disk.loaded import load_dataset
from afr_clip.inspection.detector import as_rgb
from afr_clip.inspection.export import adversarial_pictures, convert_model, largest_differences, write_model
from afr_clip.inspection.exported import FORMAT, ExportedScanner, read_exported
from afr_clip.inspection.scan import WHOLE, PhotographScanner, Scanning
from afr_clip.inspection.scanner import Scanner
from afr_clip.run.build import dataset_spec

SCANNING = Scanning("cpu", "32-true", None, 0.25, 1)

ROUNDS = 7

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
    parser.add_argument("--most", type=int, default=100, help="photographs")
    parser.add_argument(
        "--large", action="store_true", help="ViT-L/14@336 at 518 px with random weights, afr_clip only"
    )
    typed = parser.parse_args()
    torch.set_num_threads(2)
    print("| method | runtime | largest difference of a score | of a map | image AUROC of both | seconds an image |")
    print("|---|---|---|---|---|---|")
    if typed.large:
        compare("afr_clip", built("afr_clip", *LARGE), [("part", False, made_up())], typed.large)
        return
    photographs = list(read(typed.data_dir, typed.most))
    for method in typed.methods:
        scanner = afr_clip.load("pocket", batch_size=1).scanner if method == "afr_clip" else built(method)
        assert isinstance(scanner, Scanner)
        compare(method, scanner, photographs, typed.large)


def built(method: str, *overrides: str) -> Scanner:
    """Build an untrained method on pocket, or on another backbone."""
    backbone, module = composed_model(f"module={method}", *(overrides or ("backbone=pocket",)))
    torch.manual_seed(0)
    towers = load_towers(backbone, needs_cnn=module.network.needs_cnn)
    return Scanner(module.network.build(towers), towers, SCANNING, {})


def made_up() -> np.ndarray:
    """Return noise of the size of a photograph."""
    return np.random.default_rng(0).integers(0, 256, (700, 700, 3), dtype=np.uint8)


def read(data_dir: Path, most: int) -> Iterator[tuple[str, bool, np.ndarray]]:
    """Read photographs of MVTec AD, evenly from all there are."""
    job = composed_training("backbone=pocket", "dataset=mvtec_ad", f"data_dir={data_dir}")
    samples = load_dataset(dataset_spec(job.auxiliary, job)).samples
    for sample in samples[:: max(1, -(-len(samples) // most))]:
        yield sample.prompt_name, sample.is_anomalous, as_rgb(sample.image_path).transpose(1, 2, 0)


def compare(method: str, scanner: Scanner, photographs: Sequence[tuple[str, bool, np.ndarray]], is_large: bool) -> None:
    """Export to both runtimes, compare on all pictures, and time one photograph with each in turn."""
    categories = list(dict.fromkeys(name for name, _, _ in photographs))
    with TemporaryDirectory() as folder:
        found: dict[str, PhotographScanner] = {"torch": scanner}
        files = {"onnxruntime": Path(folder, "model.onnx"), "openvino": Path(folder, "model.xml")}
        write_model(scanner, categories, files["onnxruntime"], metadata(scanner, categories))
        convert_model(files["onnxruntime"], files["openvino"], metadata(scanner, categories))
        for runtime, path in files.items():
            exported = read_exported(path)
            assert exported.engine == runtime
            found[runtime] = ExportedScanner(exported, SCANNING)
        name, _, picture = photographs[0]
        work: dict[str, Callable[[], object]] = {
            runtime: partial(look, one, name, picture) for runtime, one in found.items()
        }
        if is_large:
            work["open_clip, image tower alone"] = bare_tower()
        times: dict[str, list[float]] = {name: [] for name in work}
        for _ in range(1 + (3 if is_large else ROUNDS)):
            for runtime, one in work.items():
                times[runtime].append(seconds(one))
        medians = {runtime: statistics.median(values[1:]) for runtime, values in times.items()}
        for runtime in work.keys() - {"onnxruntime", "openvino"}:
            print(f"| {method} | {runtime} | | | | {medians[runtime]:.3g} |", flush=True)
        for runtime in ("onnxruntime", "openvino"):
            adversarial = adversarial_pictures(scanner.input_size[0])
            if is_large:  # each takes seconds
                adversarial = {key: adversarial[key] for key in ("white", "noise", "one pixel")}
            differences = [largest_differences(found[runtime], scanner, adversarial, name)]
            ours, theirs = [], []
            for name, _, picture in photographs:
                differences.append(largest_differences(found[runtime], scanner, {"photograph": picture}, name))
                ours.append(look(scanner, name, picture))
                theirs.append(look(found[runtime], name, picture))
            score, anomaly_map = (max(max(both[i].values()) for both in differences) for i in (0, 1))
            aurocs = (
                "" if is_large else " ".join(f"{100 * auroc(photographs, scores):.3f}" for scores in (ours, theirs))
            )
            print(f"| | {runtime} | {score:.1e} | {anomaly_map:.1e} | {aurocs} | {medians[runtime]:.3g} |", flush=True)


@torch.inference_mode()
def bare_tower() -> Callable[[], object]:
    """Return a forward pass of open_clip's own tower over one image."""
    clip = open_clip.create_model("ViT-L-14-336-quickgelu", force_image_size=518).eval()
    image = torch.zeros(1, 3, 518, 518)
    return torch.inference_mode()(lambda: clip.encode_image(image))


def look(scanner: PhotographScanner, name: str, picture: np.ndarray) -> float:
    """Return the image score of a picture."""
    return float(scanner.look((name,), [picture.transpose(2, 0, 1)], ["photograph"], WHOLE).scores[0])


def auroc(photographs: Sequence[tuple[str, bool, np.ndarray]], scores: Sequence[float]) -> float:
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
