"""A network converted to OpenVINO or ONNX Runtime, which compute it faster on many CPUs: one graph, packed weights."""

import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from xml.etree import ElementTree

import numpy as np
import torch
from jaxtyping import Float, Float32
from numpy.typing import NDArray
from torch import Tensor, nn

from afr_clip.clip.precision import FULL, HALF
from afr_clip.clip.stem import Stem
from afr_clip.inspection.exported import onnx_session
from afr_clip.models.prediction import Scores
from afr_clip.settings import ScoringEngine

logger = logging.getLogger(__name__)

LARGEST_DIFFERENCE = {FULL: 1e-3, HALF: 0.05}
"""Largest allowed difference of a map or an image score from PyTorch's in float32, for each precision."""

MARGIN = 1.2
"""``engine=auto`` takes another engine than PyTorch if it is this many times as fast; less may be noise."""

REPETITIONS = 3

NEEDED = {
    ScoringEngine.openvino: ("openvino",),
    ScoringEngine.onnxruntime: ("onnx", "onnxscript", "onnxruntime"),
}
"""Packages that converting a network and computing it needs."""

PRECISIONS = {ScoringEngine.openvino: (FULL, HALF), ScoringEngine.onnxruntime: (FULL,)}
"""What each computes in."""

Forward = Callable[[Tensor], object]

ComputeBatch = Callable[[NDArray[np.float32]], Sequence[NDArray[np.float32]]]
"""Takes a batch of pictures and returns maps and image scores."""


class EngineError(ValueError):
    """A network cannot be computed by the engine that was asked for."""


class _OneCategory(nn.Module):
    """A network that scores pictures of one category; its text embeddings become constants of the graph."""

    def __init__(self, network: nn.Module, category: str, batch_size: int) -> None:
        super().__init__()
        self.network, self.names = network, (category,) * batch_size

    def forward(self, pictures: Float[Tensor, "batch 3 height width"]) -> tuple[Tensor, Tensor]:
        prediction = self.network(pictures, self.names)
        return prediction.anomaly_map, prediction.image_score


class CompiledNetwork:
    """A network of one category that OpenVINO or ONNX Runtime computes on the CPU.

    Graphs have a fixed batch size, with which they are fastest. A smaller batch is filled up, except for a single
    picture, which has a graph of its own. A graph is converted when it is first needed.

    Args:
        network: Of any method, in eval mode, on the CPU.
        input_size: Height and width of pictures.
        precision: ``32-true`` or ``bf16-mixed``.
        batch_size: Largest batch.

    Raises:
        EngineError: When called, if the network cannot be converted, or its scores differ from PyTorch's.
    """

    def __init__(
        self,
        network: nn.Module,
        category: str,
        input_size: tuple[int, int],
        precision: str,
        batch_size: int,
        engine: ScoringEngine = ScoringEngine.openvino,
    ) -> None:
        self._network, self._category, self._precision = network, category, precision
        self._input_size, self._batch_size, self._engine = input_size, batch_size, engine
        self._graphs: dict[int, ComputeBatch] = {}

    def __call__(self, pictures: Float32[Tensor, "batch 3 height width"]) -> Scores:
        """Score normalised pictures of the input size."""
        size = 1 if len(pictures) == 1 else self._batch_size
        if size not in self._graphs:
            self._graphs[size] = self._compiled(size)
        parts = []
        for part in pictures.split(size):
            missing = size - len(part)
            full = torch.cat([part, part[:1].expand(missing, -1, -1, -1)]) if missing else part
            maps, scores = self._graphs[size](full.numpy())
            parts.append((torch.tensor(maps[: len(part)]), torch.tensor(scores[: len(part)])))
        return Scores(*(torch.cat(column) for column in zip(*parts, strict=True)))

    def _compiled(self, size: int) -> ComputeBatch:
        """Convert a graph, and compare it with PyTorch."""
        started = time.perf_counter()
        pictures = probe_pictures(self._input_size).repeat(size, 1, 1, 1)
        compiled = _with_openvino if self._engine is ScoringEngine.openvino else _with_onnxruntime
        graph = compiled(self._network, self._category, pictures, self._precision)
        with plainly():
            expected = _OneCategory(self._network, self._category, 1)(pictures[:1])
        pairs = zip(graph(pictures.numpy()), expected, strict=True)
        difference = max(float((torch.tensor(its[:1]) - own).abs().max()) for its, own in pairs)
        if not difference <= LARGEST_DIFFERENCE[self._precision]:
            msg = (
                f"The scores of engine={self._engine.value} must be within {LARGEST_DIFFERENCE[self._precision]} of "
                f"PyTorch's, but on a test picture one differs by {difference:.2g}. Use engine=torch."
            )
            raise EngineError(msg)
        seconds = time.perf_counter() - started
        message = "Converted the network for engine=%s in %.0f s; scores differ by %.1g."
        logger.info(message, self._engine.value, seconds, difference)
        return graph


def is_installed(engine: ScoringEngine) -> bool:
    """Whether what an engine needs is installed; does not import it."""
    return not missing_packages("", NEEDED.get(engine, ()))


def require_installed(engine: ScoringEngine) -> None:
    """Raise an `EngineError` that says what to install, unless it is."""
    msg = missing_packages(f"engine={engine.value}", NEEDED.get(engine, ()))
    if msg:
        raise EngineError(msg)


def missing_packages(what: str, names: Iterable[str]) -> str:
    """Say which packages something needs that are not installed; empty if all are."""
    missing = [name for name in dict.fromkeys(names) if find_spec(name) is None]
    return f"{what} needs packages that are not installed. Run pip install {' '.join(missing)}." if missing else ""


def _with_openvino(network: nn.Module, category: str, pictures: Tensor, precision: str) -> ComputeBatch:
    converted = convert(network, category, pictures)
    if precision == HALF and any(isinstance(module, Stem) for module in network.modules()):
        converted = keeping_cnn_precise(converted)
    options = {
        "INFERENCE_PRECISION_HINT": "bf16" if precision == HALF else "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    graph = openvino().Core().compile_model(converted, "CPU", options)
    return lambda batch: list(graph(batch).values())


def _with_onnxruntime(network: nn.Module, category: str, pictures: Tensor, precision: str) -> ComputeBatch:
    if precision not in PRECISIONS[ScoringEngine.onnxruntime]:
        msg = (
            f"engine=onnxruntime computes in float32, got the precision {precision}. Use 32-true, or another engine; "
            f"engine=auto measures."
        )
        raise EngineError(msg)
    one_category = _OneCategory(network, category, len(pictures))
    with _naming_conversion("ONNX"), plainly(), TemporaryDirectory() as folder:
        one_category(pictures)  # text embeddings are computed and kept outside the graph
        program = onnx_program(one_category, (pictures,), ("pictures",), ("anomaly_map", "image_score"))
        file = Path(folder, "model.onnx")  # in memory, a model may have 2 GB at most
        program.save(file, external_data=True)
        session = onnx_session(file, torch.get_num_threads())
    return lambda batch: session.run(None, {"pictures": batch})


def onnx_program(
    network: nn.Module,
    example: tuple[Tensor, ...],
    inputs: Sequence[str],
    outputs: Sequence[str],
    dynamic_shapes: tuple[Mapping[int, str], ...] | None = None,
) -> Any:  # noqa: ANN401 - PyTorch's own type
    """Export a network to ONNX; without ``dynamic_shapes`` for inputs of the example's shapes."""
    logging.getLogger("onnxscript").setLevel(logging.ERROR)  # it warns of every constant that it leaves as it is
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about itself
        program = torch.onnx.export(
            network,
            example,
            dynamo=True,
            verbose=False,
            input_names=inputs,
            output_names=outputs,
            dynamic_shapes=dynamic_shapes,
        )
    assert program is not None, "the exporter returns a program, unless it is to write a file itself"
    return program


@contextmanager
def plainly() -> Iterator[None]:
    """Compute in float32 and without a graph; the caller may be in inference mode or under autocast."""
    with torch.inference_mode(mode=False), torch.no_grad(), torch.autocast("cpu", enabled=False):
        yield


@contextmanager
def keeping_root_logger() -> Iterator[None]:
    """Undo what OpenVINO's converter does to the root logger: it hides all but errors."""
    root = logging.getLogger()
    level, handlers, filters = root.level, root.handlers[:], root.filters[:]
    try:
        yield
    finally:
        root.setLevel(level)
        root.handlers[:], root.filters[:] = handlers, filters


def openvino() -> Any:  # noqa: ANN401 - a module without types
    """Import OpenVINO without the package that reports each conversion to its makers; it has a stub for that case.

    A program that has imported OpenVINO's converter before decides for itself.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    return import_module("openvino")


def convert(network: nn.Module, category: str, pictures: Float[Tensor, "batch 3 height width"]) -> Any:  # noqa: ANN401
    """Convert a network to an ``openvino.Model`` whose outputs are ``anomaly_map`` and ``image_score``.

    Args:
        category: Whose text embeddings become constants.
        pictures: An example; the model takes batches of this size.

    Raises:
        EngineError: If OpenVINO has no rule for one of the network's operations.
    """
    one_category = _OneCategory(network, category, len(pictures))
    with _naming_conversion("OpenVINO"), plainly(), keeping_root_logger(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing warns of each shape that becomes a constant, which is intended
        one_category(pictures)  # text embeddings are computed and kept outside the graph
        # OpenVINO would trace it itself, and run it three times more to check that: its scores are checked instead.
        traced = torch.jit.trace(one_category, pictures, check_trace=False, strict=False)
        model = openvino().convert_model(traced, example_input=pictures, input=list(pictures.shape))
    for output, name in zip(model.outputs, ("anomaly_map", "image_score"), strict=True):
        output.get_tensor().set_names({name})
    model.inputs[0].get_tensor().set_names({"pictures"})
    return model


@contextmanager
def _naming_conversion(to: str) -> Iterator[None]:
    """Turn an error of a converter into a sentence."""
    try:
        yield
    except Exception as error:
        its_own = ("openvino", "torch", "onnx")
        is_of_conversion = isinstance(error, RuntimeError) or type(error).__module__.startswith(its_own)
        if not is_of_conversion or "allocate memory" in str(error):
            raise
        cause = first_cause(error)
        msg = (
            f"This method's network cannot be converted to {to} ({type(cause).__name__}: "
            f"{' '.join(str(cause).split())[-160:]}). Use engine=torch."
        )
        raise EngineError(msg) from error


def first_cause(error: BaseException) -> BaseException:
    """Return the error behind others; PyTorch's exporter wraps it in advice to its developers."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def keeping_cnn_precise(model: Any) -> Any:  # noqa: ANN401
    """Return a copy of a converted network whose CNN stays in float32 where the rest is computed in bfloat16.

    A stem amplifies rounding errors of bfloat16; see `Stem.see`. OpenVINO's Python API cannot set this attribute, so it
    is written into the model's XML.

    Raises:
        EngineError: If no layer of the graph is named as part of a CNN, or if OpenVINO lacks what this needs.
    """
    runtime = openvino()
    try:
        # A convolution into which OpenVINO fuses its padding loses the attribute, so that is done before.
        import_module("openvino._offline_transformations").apply_moc_transformations(model, cf=True)
    except (ImportError, AttributeError) as error:
        msg = "The CNN of the stem must stay in float32, which needs a private function that this version of OpenVINO "
        msg += "lacks. Use engine=torch, or the precision 32-true."
        raise EngineError(msg) from error
    with TemporaryDirectory() as folder:
        file = Path(folder, "model.xml")
        runtime.save_model(model, str(file), compress_to_fp16=False)
        graph = ElementTree.parse(file)
        of_cnn = [layer for layer in graph.iter("layer") if ".cnn." in layer.attrib["name"]]
        if not of_cnn:
            msg = "The CNN of the stem must stay in float32, but no layer of OpenVINO's graph is named as part of it. "
            msg += "Use engine=torch, or the precision 32-true."
            raise EngineError(msg)
        for layer in of_cnn:
            known = layer.find("rt_info")
            facts = ElementTree.Element("rt_info") if known is None else known
            if known is None:
                layer.insert(len(layer.findall("data")), facts)
            ElementTree.SubElement(facts, "attribute", name="precise", version="0")
        content = ElementTree.tostring(graph.getroot())
        return runtime.Core().read_model(model=content, weights=file.with_suffix(".bin").read_bytes())


def probe_pictures(input_size: tuple[int, int]) -> Float32[Tensor, "1 3 height width"]:
    """Return a normalised picture with noise, an even area, stripes and a ramp, one in each quarter."""
    height, width = input_size
    generator = torch.Generator().manual_seed(0)
    picture = torch.randn(3, height, width, generator=generator)
    rows, columns = torch.arange(height)[:, None], torch.arange(width)
    upper, left = rows < height // 2, columns < width // 2
    picture = torch.where(upper & ~left, torch.zeros(()), picture)
    picture = torch.where(~upper & left, ((rows // 4) % 2 * 2.0 - 1.0).expand(height, width), picture)
    ramp = (columns / width * 4 - 2).expand(height, width)
    return torch.where(~upper & ~left, ramp, picture)[None]


def faster_engine(
    ways: Mapping[ScoringEngine, Forward], pictures: Tensor
) -> tuple[ScoringEngine, dict[ScoringEngine, float]]:
    """Time a batch with PyTorch and with other engines in turn; the fastest run of each counts.

    Returns:
        The fastest other engine if it is faster than PyTorch by `MARGIN`, and the seconds of all that can be used;
        PyTorch and nothing if it is the only one.
    """
    usable = dict(ways)
    for engine, way in ways.items():
        try:
            way(pictures)  # converts, and warms up
        except EngineError as error:
            logger.info("engine=%s cannot be used: %s", engine.value, error)
            del usable[engine]
    if len(usable) == 1:
        return ScoringEngine.torch, {}
    rounds = [{engine: _seconds(way, pictures) for engine, way in usable.items()} for _ in range(REPETITIONS)]
    seconds = {engine: min(each[engine] for each in rounds) for engine in usable}
    fastest = min(seconds, key=lambda engine: seconds[engine])
    chosen = fastest if seconds[fastest] * MARGIN < seconds[ScoringEngine.torch] else ScoringEngine.torch
    measured = ", ".join(f"{value:.3f} s with {engine.value}" for engine, value in seconds.items())
    logger.info("engine=%s: a batch of %d takes %s.", chosen.value, len(pictures), measured)
    return chosen, seconds


def _seconds(forward: Forward, pictures: Tensor) -> float:
    started = time.perf_counter()
    forward(pictures)
    return time.perf_counter() - started
