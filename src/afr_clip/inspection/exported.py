"""A detector in a file that `afr-clip export` wrote, run by ONNX Runtime or OpenVINO; needs no torch."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from jaxtyping import Float, UInt8
from numpy.typing import NDArray

from afr_clip.files import shown
from afr_clip.inspection.calibration import Calibration, calibration_of
from afr_clip.inspection.regions import Region
from afr_clip.inspection.scan import InspectionError, Looked, PhotographScanner, Scanning
from afr_clip.inspection.settings import InspectionSettings
from afr_clip.kinds import faults_of

FORMAT: Literal["afr-clip-export-1"] = "afr-clip-export-1"

ENTRY = "afr_clip"
"""Where a file holds what is known of it, as JSON."""

INPUTS = ("pictures", "category")
"""RGB pictures of one size, ``uint8``, ``batch x height x width x 3``; with several categories also the index of each
picture's."""

OUTPUTS = ("anomaly_map", "image_score")

Compute: TypeAlias = Callable[[list[NDArray[Any]]], Sequence[NDArray[Any]]]
"""Takes the inputs of a model and returns its outputs."""


@dataclass
class _Metadata:
    """What an exported file says of itself, as far as it is read again."""

    format: Literal["afr-clip-export-1"]
    config: dict[str, Any]
    backbone: dict[str, Any]
    identity: dict[str, Any]
    categories: list[str]
    reads_category: bool
    image_size: int
    calibration: Calibration | None


@dataclass(frozen=True)
class Exported:
    """An exported file.

    Attributes:
        manifest: What the file says of itself: method and backbone with their settings, hashes of the weights,
            categories, calibration, licence, versions.
        engine: What runs it: ``onnxruntime`` or ``openvino``.
    """

    path: Path
    manifest: Mapping[str, Any]
    engine: str
    compute: Compute

    @property
    def categories(self) -> list[str]:
        """The categories whose text embeddings are in the file."""
        return list(self.manifest["categories"])

    @property
    def calibration(self) -> Calibration | None:
        """The calibration that was exported with the model."""
        content = self.manifest["calibration"]
        return None if content is None else calibration_of(content, self.path)


def read_exported(path: Path, threads: int | None = None) -> Exported:
    """Load an exported file.

    Args:
        threads: Of the runtime; ``None`` leaves them to it.

    Raises:
        FileNotFoundError: If it does not exist.
        InspectionError: If it was not written by ``afr-clip export``, or what runs it is not installed.
    """
    if not path.is_file():
        msg = f"There is no exported model at {shown(path)}. afr-clip export writes one."
        raise FileNotFoundError(msg)
    engines = {"onnxruntime": _with_onnxruntime, "openvino": _with_openvino}
    usable = ["openvino"] if path.suffix == ".xml" else list(engines)
    engine = next((name for name in usable if find_spec(name) is not None), None)
    if engine is None:
        msg = f"{shown(path)} needs {' or '.join(usable)}, which is not installed. Run pip install {usable[0]}."
        raise InspectionError(msg)
    try:
        text, compute = engines[engine](path, threads)
        metadata = json.loads(text)
    except Exception as error:  # the engines raise errors of their own kinds
        if isinstance(error, MemoryError):
            raise
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        msg = f"{shown(path)} cannot be read: {reason}. afr-clip export writes such files."
        raise InspectionError(msg) from error
    fault = next(faults_of(metadata, _Metadata), None)
    if fault is not None:
        msg = f"{shown(path)} was not written by this version of afr-clip export: {fault}. Export the model again."
        raise InspectionError(msg)
    if engine == "openvino" and path.suffix != ".xml" and "int8" in metadata:
        msg = (
            f"{shown(path)} computes in 8 bits and was measured in ONNX Runtime only, which is not installed. Run pip "
            f"install onnxruntime."
        )
        raise InspectionError(msg)
    return Exported(path, metadata, engine, compute)


def onnx_session(path: Path, threads: int | None) -> Any:  # noqa: ANN401 - a class of a package without types
    """Let ONNX Runtime load a file on the CPU; ``None`` leaves the number of threads to it."""
    runtime = import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # leaves the CPU to others while it waits
    return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _with_onnxruntime(path: Path, threads: int | None) -> tuple[str, Compute]:
    session = onnx_session(path, threads)
    names = [one.name for one in session.get_inputs()]

    def compute(inputs: list[NDArray[Any]]) -> Sequence[NDArray[Any]]:
        return list(session.run(list(OUTPUTS), dict(zip(names, inputs, strict=True))))

    return session.get_modelmeta().custom_metadata_map.get(ENTRY, "null"), compute


def _with_openvino(path: Path, threads: int | None) -> tuple[str, Compute]:
    runtime = import_module("openvino")
    model = runtime.Core().read_model(str(path))
    place = [ENTRY, "metadata"] if path.suffix == ".xml" else ["framework", ENTRY]
    text = model.get_rt_info(place).astype(str) if model.has_rt_info(place) else "null"
    options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    if threads is not None:
        options["INFERENCE_NUM_THREADS"] = threads
    compiled = runtime.Core().compile_model(model, "CPU", options)

    def compute(inputs: list[NDArray[Any]]) -> Sequence[NDArray[Any]]:
        found = compiled(inputs)
        return [found[name] for name in OUTPUTS]

    return text, compute


class ExportedScanner(PhotographScanner):
    """Scores photographs with an exported file; several threads may use it.

    Raises:
        InspectionError: If something is asked for that the file cannot do.
    """

    normalisation = (0.0,) * 3, (1 / 255,) * 3

    def __init__(self, exported: Exported, scanning: Scanning) -> None:
        self.exported, self.scanning = exported, scanning

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of the network's input in pixels."""
        return (self.exported.manifest["image_size"],) * 2

    def identity(self, category: str) -> dict[str, Any]:
        """Return what a detector of the same checkpoint has: the file scores as it does, so its calibration holds.

        A file in 8 bits scores differently and has a precision of its own.
        """
        tile = self.scanning.tile
        looks = {"category": category, "tile": tile, "overlap": None if tile is None else self.scanning.overlap}
        return {key: looks.get(key, value) for key, value in self.exported.manifest["identity"].items()}

    def look(
        self, names: Sequence[str], views: Sequence[UInt8[np.ndarray, "3 _ _"]], images: Sequence[str], view: str
    ) -> Looked:
        """Score views of any size, at least one, under a category and other names; ``images`` names them in errors."""
        del view  # only references are looked at differently
        is_one_size = len({pixels.shape for pixels in views}) == 1
        groups = [list(views)] if is_one_size else [[pixels] for pixels in views]
        looked = {}
        for name in names:
            parts = [self._compute(np.stack(group), self._index(name)) for group in groups]
            maps, scores = (np.concatenate(column) for column in zip(*parts, strict=True))
            looked[name] = Looked(maps, scores)
            for image, is_finite in zip(images, np.isfinite(maps).all(axis=(1, 2)) & np.isfinite(scores), strict=True):
                if not is_finite:
                    msg = f"{image} got a score of NaN or infinity. Try the checkpoint that the file was made from."
                    raise InspectionError(msg)
        first, *others = names
        by_name = {name: looked[name].scores.tolist() for name in others}
        return Looked(looked[first].maps, looked[first].scores, by_name)

    def _compute(self, pictures: UInt8[np.ndarray, "batch 3 _ _"], index: int) -> Sequence[NDArray[Any]]:
        inputs: list[NDArray[Any]] = [np.ascontiguousarray(pictures.transpose(0, 2, 3, 1))]
        if len(self.exported.categories) > 1:
            inputs.append(np.full(len(pictures), index, np.int64))
        return self.exported.compute(inputs)

    def _index(self, category: str) -> int:
        known = self.exported.categories
        if category in known:
            return known.index(category)
        if not self.exported.manifest["reads_category"]:
            return 0
        msg = (
            f"{shown(self.exported.path)} was exported for {', '.join(map(shown, known))}, got {shown(category)}. "
            f"Name one of them, or export the model again with categories=[{shown(category)}]."
        )
        raise InspectionError(msg)

    def score_under(
        self, names: Sequence[str], pictures: Float[Any, "batch 3 rows columns"], images: Sequence[str]
    ) -> tuple[Any, Any, Any]:
        """Score pictures of the input size, normalised by `normalisation`; returns what `Looked` holds."""
        looked = self.look(names, list(np.rint(np.asarray(pictures)).astype(np.uint8)), images, "")
        return looked.maps, looked.scores, dict(looked.by_name)

    def hinted(
        self,
        photograph: UInt8[np.ndarray, "3 height width"],
        regions: Sequence[Region],
        category: str,
        words: tuple[str, ...],
    ) -> tuple[Region, ...]:
        """Refuse: words are compared with regions by the towers, which an exported file does not hold."""
        raise InspectionError(needs_checkpoint("defects"))


def needs_checkpoint(key: str) -> str:
    """Describe what is wrong with a key that an exported file cannot follow."""
    return f"{key} needs the checkpoint itself, got an exported model. Leave out {key}=, or load the checkpoint."


def require_possible(settings: InspectionSettings) -> None:
    """Check that an exported file can do what is asked for.

    Raises:
        InspectionError: If not.
    """
    for key in ("references", "defects"):
        if getattr(settings, key) is not None:
            raise InspectionError(needs_checkpoint(key))
