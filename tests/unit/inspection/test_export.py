"""What is written to a file computes what the network computes, or is refused."""

import jaxtyping
import numpy as np
import pytest
import torch
from torch import nn

from afr_clip.config.nodes import method_names
from afr_clip.data.disk.pixels import resize_image
from afr_clip.inspection import engine
from afr_clip.inspection.export import (
    ExportError,
    adversarial_pictures,
    largest_differences,
    model_information,
    require_packages,
    require_parity,
    resize_in_graph,
    write_model,
)
from afr_clip.inspection.exported import FORMAT, ExportedScanner, read_exported
from afr_clip.inspection.scan import Scanning
from afr_clip.inspection.scanner import Scanner
from afr_clip.models.prediction import AnomalyPrediction
from afr_clip.settings import ExportFormat, ExportPrecision
from helpers.methods import build_on_four_blocks, composed_module

for package in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(package)

CATEGORIES = ["bolt", "metal nut"]


@pytest.fixture(autouse=True)
def _without_checks_of_shapes(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # they are symbols while a graph is exported


SCANNING = Scanning("cpu", "32-true", None, 0.25, 4)


def metadata(categories=CATEGORIES, **values) -> dict:
    facts = {"method": "m", "category": "bolt", "image_size": 64, "tile": None, "overlap": None}
    return {
        "format": FORMAT,
        "config": {},
        "backbone": {},
        "identity": facts,
        "categories": list(categories),
        "reads_category": True,
        "image_size": 64,
        "calibration": None,
    } | values


def built(method: str, towers) -> Scanner:
    torch.manual_seed(0)
    return Scanner(build_on_four_blocks(method, towers), towers, SCANNING, {"method": method, "weights": "w"})


@pytest.mark.parametrize("size", [(37, 53), (64, 64), (1, 1), (1, 700), (900, 2), (301, 203)])
def test_photographs_are_resized_as_everywhere_else(size):
    pictures = torch.randint(0, 256, (2, 3, *size), generator=torch.Generator().manual_seed(0)).byte()
    expected = torch.stack([resize_image(picture, (64, 64)) for picture in pictures]).float()
    difference = (resize_in_graph(pictures, (64, 64)) - expected).abs()
    if torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512"):
        assert difference.max() == 0
    else:  # torchvision rounds otherwise
        assert difference.max() <= 1
        assert difference.mean() < 0.01


def bicubic(x: float) -> float:
    return (1.5 * x - 2.5) * x * x + 1 if x < 1 else ((-0.5 * x + 2.5) * x - 4) * x + 2 if x < 2 else 0.0


def resized_exactly(rows: np.ndarray, size: int) -> np.ndarray:
    """Resize rows as torchvision does: weights in float64, of which whole numbers of up to 16 bits are summed."""
    scale, found = rows.shape[1] / size, np.empty((len(rows), size), np.int64)
    wide, weights = max(scale, 1.0), []
    for i in range(size):
        every = np.array([bicubic(abs(j + 0.5 - (i + 0.5) * scale) / wide) for j in range(rows.shape[1])])
        weights.append(every / every.sum())
    bits = max(bits for bits in range(1, 23) if np.max(weights) * 2**bits + 0.5 < 2**15)
    for i, few in enumerate(weights):
        units = (np.sign(few) * np.floor(np.abs(few) * 2**bits + 0.5)).astype(np.int64)
        found[:, i] = (rows @ units + 2 ** (bits - 1)) >> bits
    return found.clip(0, 255)


@pytest.mark.parametrize(("length", "size"), [(5, 64), (64, 64), (301, 64), (2503, 160), (4096, 64), (20000, 64)])
def test_no_sum_of_resizing_is_rounded(length, size):
    pictures = torch.randint(0, 256, (16, 3, 1, length), generator=torch.Generator().manual_seed(0))
    pictures[:4] = torch.where(pictures[:4] < 128, 0, 255)
    pictures[0, 0] = torch.where(torch.arange(length) < length // 2, 0, 255)
    expected = torch.from_numpy(resized_exactly(pictures.flatten(0, 2).numpy(), size))
    for flipped, wanted in ((pictures, expected), (pictures.flip(-1), expected.flip(-1))):
        found = resize_in_graph(flipped.byte(), (1, size))
        assert torch.equal(found.flatten(0, 2).long(), wanted)


@pytest.mark.parametrize(
    ("method", "suffix"), [*((name, "onnx") for name in method_names()), ("afr_clip", "xml"), ("uni_adet", "xml")]
)
def test_a_file_scores_as_its_network(method, suffix, towers, tmp_path):
    if suffix == "xml":
        pytest.importorskip("openvino")
    scanner = built(method, towers)
    path = tmp_path / f"model.{suffix}"
    write_model(scanner, CATEGORIES, path, metadata())
    assert {file.suffix for file in tmp_path.iterdir()} == ({".onnx"} if suffix == "onnx" else {".xml", ".bin"})
    exported = ExportedScanner(read_exported(path), SCANNING)
    pictures = adversarial_pictures(64)
    scores = []
    for category in CATEGORIES:
        require_parity(*largest_differences(exported, scanner, pictures, category), category)
        noise = pictures["noise"].transpose(2, 0, 1)
        scores.append(float(exported.look((category,), [noise], ["noise"], "").scores[0]))
    reads_names = composed_module(method).network.reads_category
    assert (scores[0] != scores[1]) == reads_names


class Bright(nn.Module):
    """Scores a picture by its red channel, and can be told to be wrong in a graph."""

    def __init__(self, wrong_by: float = 0.0) -> None:
        super().__init__()
        self.wrong_by = wrong_by

    def forward(self, pictures, names):
        red = pictures[:, 0].sigmoid()
        if torch.compiler.is_compiling():
            red = torch.where(pictures[:, 1] > 1.5, red + self.wrong_by, red)
        return AnomalyPrediction(red, red.mean(dim=(1, 2)), red[:, None], red[:, None])


def test_a_file_that_differs_on_one_kind_of_picture_is_refused(towers, tmp_path):
    for wrong_by in (0.0, 0.01):
        scanner = Scanner(Bright(wrong_by), towers, SCANNING, {"method": "m", "weights": "w"})
        write_model(scanner, ["bolt"], tmp_path / "model.onnx", metadata(["bolt"]))
        exported = ExportedScanner(read_exported(tmp_path / "model.onnx"), SCANNING)
        differences = largest_differences(exported, scanner, adversarial_pictures(64), "bolt")
        if wrong_by == 0:
            require_parity(*differences, "bolt")
            continue
        with pytest.raises(ExportError, match=r"on the test picture .* of the category 'bolt' the .* differs by 0\.01"):
            require_parity(*differences, "bolt")


def test_a_score_of_nan_is_no_parity():
    with pytest.raises(ExportError, match="the map differs by nan"):
        require_parity({"a": 0.0}, {"a": 0.0, "b": float("nan")}, "bolt")


def test_an_operation_without_a_counterpart_is_an_error_and_leaves_no_file(towers, tmp_path):
    class Odd(Bright):
        def forward(self, pictures, names):
            return super().forward(pictures + torch.linalg.eigvals(pictures).real[..., None], names)

    with pytest.raises(ExportError, match=r"cannot be exported .* Use the checkpoint itself"):
        write_model(Scanner(Odd(), towers, SCANNING, {}), ["bolt"], tmp_path / "model.onnx", metadata(["bolt"]))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("to", "precision", "lacks", "sentence"),
    [
        (ExportFormat.onnx, ExportPrecision.float32, "onnxscript", r"to=onnx needs packages .* install onnxscript\."),
        (
            ExportFormat.openvino,
            ExportPrecision.int8,
            "onnxruntime",
            r"to=openvino precision=int8 needs packages .* pip install onnxruntime\.",
        ),
    ],
)
def test_missing_packages_are_named_with_how_to_install_them(monkeypatch, to, precision, lacks, sentence):
    monkeypatch.setattr(engine, "find_spec", lambda name: None if name == lacks else name)
    with pytest.raises(ExportError, match=sentence):
        require_packages(to, precision)


def test_the_model_api_finds_the_threshold_of_the_map_at_a_half():
    values = model_information(metadata(calibration={"region": {"threshold": 0.3, "unit": 0.1}}))
    threshold, scale = float(values["pixel_threshold"]), float(values["normalization_scale"])
    assert (0.3 - threshold) / scale + 0.5 == 0.5
    assert (0.2 - threshold) / scale + 0.5 == pytest.approx(0.1)
    plain = model_information(metadata())
    assert (plain["image_threshold"], plain["normalization_scale"]) == ("0.5", "1.0")
    assert plain["model_type"] == "AnomalyDetection"
