"""A detector as one file for ONNX Runtime or OpenVINO: photographs of any size in, map and image score out."""

import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, UInt8
from torch import Tensor, nn

from afr_clip.clip.packed import becomes_a_graph
from afr_clip.data.feed.dataset import normalise
from afr_clip.inspection.engine import (
    first_cause,
    keeping_root_logger,
    missing_packages,
    onnx_program,
    openvino,
    plainly,
)
from afr_clip.inspection.exported import ENTRY, INPUTS, OUTPUTS
from afr_clip.inspection.scan import WHOLE, PhotographScanner
from afr_clip.inspection.scanner import Scanner
from afr_clip.models.text_seam import Text, changed_text, has_text, of_categories
from afr_clip.settings import ExportFormat, ExportPrecision

LARGEST_DIFFERENCE = 1e-3
"""Largest allowed difference of a map or an image score from the checkpoint's."""

NEEDED = {
    ExportFormat.onnx: ("onnx", "onnxscript", "onnxruntime"),
    ExportFormat.openvino: ("onnx", "onnxscript", "openvino"),
}
"""Packages that writing and checking a file needs."""

TYPICAL_SHARE = 0.4
"""Part of OpenVINO's normalisation scale that lies between the threshold and a typical good part, as in `Level`."""

EXAMPLE = (2, 37, 53)
"""Number, height and width of the pictures a network is exported with; none of them becomes part of the graph."""


class ExportError(ValueError):
    """A network cannot be exported, or the file does not compute what the network computes."""


def require_packages(to: ExportFormat, precision: ExportPrecision) -> None:
    """Check that the packages are installed.

    Raises:
        ExportError: If not.
    """
    is_plain = precision is ExportPrecision.float32
    needed = NEEDED[to] if is_plain else (*NEEDED[ExportFormat.onnx], *NEEDED[to])
    what = f"to={to.value}" if is_plain else f"to={to.value} precision={precision.value}"
    msg = missing_packages(what, needed)
    if msg:
        raise ExportError(msg)


class Graph(nn.Module):
    """A network with what comes before it: resizing, normalisation, and the text embeddings of its categories.

    Args:
        network: Of any method, in eval mode.
        categories: In words; the index of a picture's category is an input if there are several.
        image_size: Side of the network's input in pixels.
        normalisation: Per-channel mean and standard deviation.
    """

    def __init__(
        self,
        network: nn.Module,
        categories: Sequence[str],
        image_size: int,
        normalisation: tuple[Sequence[float], Sequence[float]],
    ) -> None:
        super().__init__()
        self.network, self.categories = network, tuple(categories)
        self._image_size, self._normalisation = image_size, normalisation
        self._texts: dict[str, Text] = {}

    def forward(
        self, pictures: UInt8[Tensor, "batch height width 3"], category: Int[Tensor, " batch"] | None = None
    ) -> tuple[Float[Tensor, "batch rows columns"], Float[Tensor, " batch"]]:
        """Score RGB pictures of one size."""
        index = torch.zeros_like(pictures[:, 0, 0, 0], dtype=torch.int64) if category is None else category
        resized = resize_in_graph(pictures.permute(0, 3, 1, 2), (self._image_size, self._image_size))
        image = normalise(resized, *self._normalisation)
        names = self.categories[:1] * (1 if becomes_a_graph() else len(pictures))
        text = of_categories(self.categories, index, self._texts)
        with changed_text(self.network, text) if has_text(self.network) else nullcontext():
            prediction = self.network(image, names)
        return prediction.anomaly_map, prediction.image_score


def resize_in_graph(
    pictures: UInt8[Tensor, "batch 3 height width"], size: tuple[int, int]
) -> Float32[Tensor, "batch 3 new_height new_width"]:
    """Resize as `resize_image` does, by matrix products: antialiased, bicubic, rounded to 8 bits after each direction.

    Example:
        >>> resize_in_graph(torch.full((1, 3, 4, 6), 7, dtype=torch.uint8), (2, 5)).unique()
        tensor([7.])
    """
    height, width = pictures.shape[-2:]
    wide = _filtered(pictures.float(), *_bicubic_weights(width, size[1]))
    return _filtered(wide.mT, *_bicubic_weights(height, size[0])).mT


def _filtered(
    pixels: Float32[Tensor, "*rows length"],
    coarse: Float32[Tensor, "size length"],
    fine: Float32[Tensor, "size length"],
) -> Float32[Tensor, "*rows size"]:
    """Weigh the pixels of each row and round to whole grey levels, exactly and so alike in every runtime.

    One sum of products has more digits than float32. It would be rounded as the order of its terms decides, and a value
    near a half would become one grey level or the next.
    """
    rough = pixels @ coarse.mT
    whole = rough.floor()
    return (whole + (rough - whole + 0.5 + pixels @ fine.mT).floor()).clamp(0, 255)


def _bicubic_weights(length: int, size: int) -> tuple[Float32[Tensor, "size length"], Float32[Tensor, "size length"]]:
    """Weigh the pixels of a row in each pixel of the resized row, in the fixed-point numbers of torchvision.

    Returns:
        Two parts of each weight, whose products with 8 bits can be summed in float32 without rounding: multiples of
        256 units of the last bit, and what is left.
    """
    longest: Any = torch.sym_max(length, size)  # a symbol while a graph is exported
    centres, places = torch.arange(size)[:, None], torch.arange(length)
    # Distances in units of the filter; numerators are exact. The polynomials are factored at their zeros, because
    # OpenVINO computes in float32 what is float64 here.
    distance, unit = ((2 * places + 1) * size - (2 * centres + 1) * length).abs(), 2 * longest
    x, from_1, from_2 = (one.double() / unit for one in (distance, distance - unit, distance - 2 * unit))
    near, far = from_1 * ((1.5 * x - 1) * x - 1), -0.5 * from_1 * from_2.square()
    weights = torch.where(from_1 < 0, near, torch.where(from_2 < 0, far, torch.zeros_like(x)))
    weights = weights / weights.sum(dim=1, keepdim=True)
    # As many bits as let the largest weight fit into 16 with its sign, and at most 22.
    steps = 2.0 ** torch.arange(1, 23, dtype=torch.float64)
    fits = (0.5 + weights.amax(dim=(0, 1)) * steps < 2**15).double()
    step = 2.0 ** fits.sum()
    units = weights.sign() * (weights.abs() * step + 0.5).floor()
    coarse = (units / 256).round() * 256
    return (coarse / step).float(), ((units - coarse) / step).float()


def write_model(scanner: Scanner, categories: Sequence[str], path: Path, metadata: Mapping[str, Any]) -> None:
    """Write a scanner's network to a file for ONNX Runtime, or for OpenVINO if its name ends in ``.xml``.

    Args:
        metadata: Is written into the file; see `Exported`.

    Raises:
        ExportError: If an operation of the network has no counterpart in ONNX or OpenVINO.
    """
    graph = Graph(scanner.network, categories, scanner.input_size[0], scanner.normalisation).eval()
    try:
        if path.suffix == ".xml":
            with TemporaryDirectory() as folder:
                onnx_file = Path(folder, "model.onnx")
                _write_onnx(graph, onnx_file, metadata)
                convert_model(onnx_file, path, metadata)
        else:
            _write_onnx(graph, path, metadata)
    except Exception as error:
        remove_model(path)
        if isinstance(error, MemoryError | OSError):
            raise
        cause = first_cause(error)
        fault = " ".join(str(cause).split())[:300]
        msg = f"This method's network cannot be exported ({type(cause).__name__}: {fault}). Use the checkpoint itself."
        raise ExportError(msg) from error


def _write_onnx(graph: Graph, path: Path, metadata: Mapping[str, Any]) -> None:
    number, height, width = EXAMPLE
    example = (torch.zeros(number, height, width, 3, dtype=torch.uint8), torch.zeros(number, dtype=torch.int64))
    num_inputs = 1 if len(graph.categories) == 1 else 2
    shapes = ({0: "batch", 1: "height", 2: "width"}, {0: "batch"})[:num_inputs]
    with plainly():
        graph(*example[:num_inputs])  # text embeddings are computed and kept outside the graph
        program = onnx_program(graph, example[:num_inputs], INPUTS[:num_inputs], OUTPUTS, dynamic_shapes=shapes)
    program.model.metadata_props.update(model_information(metadata) | {ENTRY: json.dumps(metadata)})
    program.save(path, external_data=False)


def finish_model(onnx_file: Path, path: Path, metadata: Mapping[str, Any]) -> None:
    """Write a model from an ONNX file without metadata to its own file, for the runtime that the name says."""
    if path.suffix == ".xml":
        convert_model(onnx_file, path, metadata)
        return
    onnx: Any = import_module("onnx")
    model = onnx.load(onnx_file)
    onnx.helper.set_model_props(model, model_information(metadata) | {ENTRY: json.dumps(metadata)})
    onnx.save(model, path)


def convert_model(onnx_file: Path, path: Path, metadata: Mapping[str, Any]) -> None:
    """Convert an exported ONNX file to one for OpenVINO."""
    with keeping_root_logger():
        runtime = openvino()
        model = runtime.convert_model(str(onnx_file))
    (model.inputs[0].get_node()).set_layout(runtime.Layout("NHWC"))
    for name, value in model_information(metadata).items():
        model.set_rt_info(value, ["model_info", name])
    model.set_rt_info(json.dumps(metadata), [ENTRY, "metadata"])
    runtime.save_model(model, str(path), compress_to_fp16=False)


def model_information(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Describe a model in the words of OpenVINO's model API, whose score is the maximum of the map.

    Without a calibration its scale is that of the map itself.
    """
    calibration = metadata["calibration"]
    level = {"threshold": 0.5, "unit": TYPICAL_SHARE} if calibration is None else calibration["region"]
    return {
        "model_type": "AnomalyDetection",
        "task": "segmentation",
        "labels": "Normal Anomaly",
        "image_threshold": repr(level["threshold"]),
        "pixel_threshold": repr(level["threshold"]),
        "normalization_scale": repr(level["unit"] / TYPICAL_SHARE),
        "embedded_processing": "True",
        "orig_height": str(metadata["image_size"]),
        "orig_width": str(metadata["image_size"]),
    }


def remove_model(path: Path) -> None:
    """Remove a model's files."""
    for file in _files(path):
        file.unlink(missing_ok=True)


def size_of(path: Path) -> int:
    """Return the bytes of a model's files."""
    return sum(file.stat().st_size for file in _files(path) if file.exists())


def _files(path: Path) -> tuple[Path, ...]:
    return path, path.with_suffix(".bin"), Path(f"{path}.data")


def adversarial_pictures(image_size: int) -> dict[str, UInt8[np.ndarray, "_ _ 3"]]:
    """Make pictures that exporters get wrong: even ones, noise, and sizes from one pixel to many times the input."""
    random = np.random.default_rng(0)
    large = (5 * image_size + 1, 8 * image_size + 3)
    ramp = (np.arange(large[0])[:, None] * 7 + np.arange(large[1]) * 3)[..., None] // np.array([1, 2, 5]) % 256
    return {
        "black": np.zeros((image_size, image_size, 3), np.uint8),
        "white": np.full((image_size, image_size, 3), 255, np.uint8),
        "grey, of one value": np.full((97, 61, 3), 127, np.uint8),
        "noise of the input size": random.integers(0, 256, (image_size, image_size, 3), dtype=np.uint8),
        "noise": random.integers(0, 256, (143, 211, 3), dtype=np.uint8),
        "binary noise, small": (random.integers(0, 2, (31, 29, 3)) * 255).astype(np.uint8),
        "one pixel": np.array([[[200, 30, 90]]], np.uint8),
        "one row": random.integers(0, 256, (1, 700, 3), dtype=np.uint8),
        "one column": random.integers(0, 256, (900, 2, 3), dtype=np.uint8),
        "large, of stripes and edges": ramp.astype(np.uint8),
    }


def largest_differences(
    checked: PhotographScanner,
    trusted: PhotographScanner,
    pictures: Mapping[str, UInt8[np.ndarray, "_ _ 3"]],
    category: str,
) -> tuple[dict[str, float], dict[str, float]]:
    """Compare two scanners; by picture, return the differences of the image score and the largest ones of the map.

    Pictures of one size are compared in one batch.
    """
    by_shape: dict[tuple[int, ...], list[str]] = {}
    for name, picture in pictures.items():
        by_shape.setdefault(picture.shape, []).append(name)
    of_scores, of_maps = {}, {}
    for names in by_shape.values():
        for start in range(0, len(names), trusted.scanning.batch_size):
            part = names[start : start + trusted.scanning.batch_size]
            views = [pictures[name].transpose(2, 0, 1) for name in part]
            ours, theirs = (one.look((category,), views, part, WHOLE) for one in (trusted, checked))
            for i, name in enumerate(part):
                of_scores[name] = abs(float(theirs.scores[i] - ours.scores[i]))
                of_maps[name] = float(np.abs(theirs.maps[i] - ours.maps[i]).max())
    return of_scores, of_maps


def require_parity(of_scores: Mapping[str, float], of_maps: Mapping[str, float], category: str) -> None:
    """Refuse differences that are too large.

    Raises:
        ExportError: If there is one; the sentence names the picture with the largest.
    """
    for kind, differences in (("image score", of_scores), ("map", of_maps)):
        worst = max(differences, key=lambda name: np.nan_to_num(differences[name], nan=np.inf))
        if not differences[worst] <= LARGEST_DIFFERENCE:
            msg = (
                f"The exported model must score as its checkpoint does, to {LARGEST_DIFFERENCE}, but on the test "
                f"picture {worst!r} of the category {category!r} the {kind} differs by {differences[worst]:.2g}. The "
                f"file was removed. Use the checkpoint itself, or the other format."
            )
            raise ExportError(msg)
