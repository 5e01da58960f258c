"""Quantise an exported model.

Large products with constant weights use 8-bit integers, and everything else stays in float32.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray

from afr_clip.data.feed.dataset import AnomalyDataset, collate
from afr_clip.data.records import AnomalySample
from afr_clip.inspection.export import ExportError
from afr_clip.inspection.scan import WHOLE, PhotographScanner
from afr_clip.metrics.average import macro_average
from afr_clip.metrics.protocol import DatasetMetrics

MEASURED = {"image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC"}

LARGEST_LOSS = 0.005
"""Largest allowed loss of each, as the mean over the categories of a dataset."""

FEWEST_WEIGHTS = 1 << 14
"""Layers with fewer weights stay in float32: they take hardly any time."""

PRODUCTS = ("Conv", "Gemm", "MatMul")


def quantise(model: Path, to: Path, pictures: Iterable[tuple[UInt8[np.ndarray, "3 _ _"], int]]) -> int:
    """Write an exported ONNX file again, with layers that multiply in 8 bits.

    Weights have a scale for each output. Inputs of these layers and outputs of convolutions are quantised to the range
    that they have on the pictures. Additions, normalisation and attention stay in float32.

    Args:
        pictures: With the index of their category.

    Returns:
        The number of layers.

    Raises:
        ExportError: If there is no such layer.
    """
    tools: Any = import_module("onnxruntime.quantization")
    graph = import_module("onnx").load(model).graph
    layers = _large_layers(graph)
    if not layers:
        msg = "This network has no layers that are large enough for 8 bits. Leave out precision=int8."
        raise ExportError(msg)
    names = [one.name for one in graph.input]
    read = ((pixels.transpose(1, 2, 0)[None], np.array([index])) for pixels, index in pictures)
    with _quietly():
        tools.quantize_static(
            model,
            to,
            _Reader(dict(zip(names, one, strict=False)) for one in read),
            op_types_to_quantize=list(PRODUCTS),
            nodes_to_quantize=layers,
            per_channel=True,
            # ONNX Runtime multiplies matrices of 8 bits into float32, but convolves only from 8 bits to 8 bits.
            extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"]},
        )
    return len(layers)


def _large_layers(graph: Any) -> list[str]:  # noqa: ANN401 - onnx has no types
    """Name the layers to quantise.

    Layers that read pixels and those of the CNN stay in float32: the rarity of a patch depends on small differences of
    the CNN's maps.
    """
    weights = {one.name: one.dims for one in graph.initializer}
    chosen = []
    for node in graph.node:
        dims = weights.get(node.input[1], ()) if node.op_type in PRODUCTS else ()
        reads_pixels = node.op_type == "Conv" and dims and dims[1] <= 3  # depthwise ones have 1 there
        if np.prod(dims) >= FEWEST_WEIGHTS and len(dims) > 1 and not reads_pixels and ".cnn." not in node.input[1]:
            chosen.append(node.name)
    return chosen


def aurocs(
    scanners: Mapping[str, PhotographScanner], dataset: AnomalyDataset, name_of: Callable[[AnomalySample], str]
) -> dict[str, dict[str, float]]:
    """Score a dataset with several scanners.

    Args:
        dataset: Its pictures have values from 0 to 255.
        name_of: What a sample is called.

    Returns:
        By scanner, the mean of each metric over the categories; NaN where no category defines it.
    """
    samples = dataset.samples
    truth = [one.category for one in samples], [one.is_anomalous for one in samples]
    metrics = {key: DatasetMetrics(*truth) for key in scanners}
    size = next(iter(scanners.values())).scanning.batch_size
    for name, places in groupby(range(len(samples)), key=lambda place: name_of(samples[place])):
        group = list(places)
        for start in range(0, len(group), size):
            batch = collate([dataset[place] for place in group[start : start + size]])
            views = list(batch.pictures.round().byte().numpy())
            images = [str(one.image_path) for one in batch.samples]
            for key, scanner in scanners.items():
                looked = scanner.look((name,), views, images, WHOLE)
                found = torch.from_numpy(looked.maps), torch.from_numpy(looked.scores)
                metrics[key].update(*found, batch.mask, batch.has_mask, batch.index)
    means = {key: macro_average(one.compute()).values for key, one in metrics.items()}
    return {key: {metric: values[metric] for metric in MEASURED} for key, values in means.items()}


def require_accuracy(before: Mapping[str, float], after: Mapping[str, float], dataset: str) -> None:
    """Refuse a loss that is too large, and a dataset that cannot show one.

    Raises:
        ExportError: If the loss is too large, or the dataset cannot show one.
    """
    if np.isnan(before["image_auroc"]):
        msg = (
            f"The dataset {dataset} has no category with both normal and anomalous images, so it cannot show what "
            f"precision=int8 loses. The file was removed. Name another with dataset=."
        )
        raise ExportError(msg)
    for metric, words in MEASURED.items():
        if before[metric] - after[metric] > LARGEST_LOSS:
            msg = (
                f"In 8 bits the {words} on {dataset} must stay within {100 * LARGEST_LOSS:g} points of the "
                f"checkpoint's {100 * before[metric]:.2f}, got {100 * after[metric]:.2f}. The file was removed. Show "
                f"it more good parts with good=FOLDER, or leave out precision=int8."
            )
            raise ExportError(msg)


class _Reader:
    """Hands pictures to ONNX Runtime, which asks for one after the other."""

    def __init__(self, inputs: Iterable[dict[str, NDArray[Any]]]) -> None:
        self._inputs = iter(inputs)

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        return next(self._inputs, None)


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep ONNX Runtime from writing advice to the root logger."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
