"""OpenVINO and ONNX Runtime compute the same scores as PyTorch, or refuse."""

import logging
import subprocess
import sys
from contextlib import nullcontext

import pytest
import torch

import afr_clip
from afr_clip.clip.packed import PackedLinear
from afr_clip.inspection import engine
from afr_clip.inspection.engine import CompiledNetwork, EngineError, faster_engine, probe_pictures
from afr_clip.inspection.settings import InspectionSettings
from afr_clip.models.prediction import AnomalyPrediction
from afr_clip.settings import ScoringEngine

OTHERS = (ScoringEngine.openvino, ScoringEngine.onnxruntime)

needs_openvino = pytest.mark.skipif(not engine.is_installed(ScoringEngine.openvino), reason="openvino is not installed")
both_engines = pytest.mark.parametrize(
    "compiled_by",
    [
        pytest.param(
            one, marks=pytest.mark.skipif(not engine.is_installed(one), reason=f"{one.value} is not installed")
        )
        for one in engine.NEEDED
    ],
)


class Bright(torch.nn.Module):
    """Scores a picture by its red channel."""

    def forward(self, pictures, names):
        red = pictures[:, 0].sigmoid()
        return AnomalyPrediction(red, red.amax(dim=(1, 2)), red[:, None], red[:, None])


@both_engines
@pytest.mark.parametrize("num_pictures", [1, 2, 3, 5])
def test_batches_of_any_size_are_scored_as_pytorch_scores_them(num_pictures, compiled_by):
    pictures = torch.randn(num_pictures, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    maps, scores = CompiledNetwork(Bright(), "cap", (8, 8), "32-true", 3, compiled_by)(pictures)
    expected = Bright()(pictures, ())
    assert torch.allclose(maps, expected.anomaly_map, atol=1e-6)
    assert torch.allclose(scores, expected.image_score, atol=1e-6)


@needs_openvino
def test_a_graph_that_differs_is_refused(monkeypatch):
    monkeypatch.setitem(engine.LARGEST_DIFFERENCE, "32-true", 0.0)
    wrong = Bright()
    wrong.calls = 0

    def forward(pictures, names):
        wrong.calls += 1
        return Bright.forward(wrong, pictures + (0.01 if wrong.calls > 2 else 0.0), names)

    monkeypatch.setattr(wrong, "forward", forward)
    with pytest.raises(EngineError, match=r"must be within 0\.0 of PyTorch's.*Use engine=torch"):
        CompiledNetwork(wrong, "cap", (8, 8), "32-true", 2)(torch.zeros(1, 3, 8, 8))


@both_engines
def test_an_operation_without_a_rule_is_an_error_that_names_it(compiled_by):
    class Odd(Bright):
        def forward(self, pictures, names):
            torch.linalg.eigvals(pictures[:, 0])
            return super().forward(torch.linalg.eigvals(pictures).real[..., None] + pictures, names)

    name = {"openvino": "OpenVINO.*linalg_eigvals", "onnxruntime": "ONNX.*linalg_eig"}[compiled_by.value]
    with pytest.raises(EngineError, match=rf"cannot be converted to {name}.*Use engine=torch"):
        CompiledNetwork(Odd(), "cap", (8, 8), "32-true", 1, compiled_by)(torch.zeros(1, 3, 8, 8))


@pytest.mark.skipif(not engine.is_installed(OTHERS[1]), reason="onnxruntime is not installed")
def test_a_graph_that_onnx_runtime_cannot_load_is_an_error_that_names_its_operation():
    class Double(Bright):
        def forward(self, pictures, names):
            kernel = torch.ones(3, 3, 1, 1, dtype=torch.float64)  # ONNX Runtime convolves in float32 alone
            return super().forward(torch.nn.functional.conv2d(pictures.double(), kernel).float(), names)

    network = CompiledNetwork(Double(), "cap", (8, 8), "32-true", 1, OTHERS[1])
    with pytest.raises(EngineError, match=r"cannot be converted to ONNX.*Conv.*Use engine=torch"):
        network(torch.zeros(1, 3, 8, 8))
    ways = {ScoringEngine.torch: lambda _: None, OTHERS[1]: network}
    assert faster_engine(ways, torch.zeros(1, 3, 8, 8)) == (ScoringEngine.torch, {})


@both_engines
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_bfloat16_is_refused_where_an_engine_lacks_it(compiled_by, precision):
    is_refused = (compiled_by, precision) == (ScoringEngine.onnxruntime, "bf16-mixed")
    network = CompiledNetwork(Bright(), "cap", (8, 8), precision, 1, compiled_by)
    with (
        pytest.raises(EngineError, match="computes in float32, got the precision bf16") if is_refused else nullcontext()
    ):
        network(torch.zeros(1, 3, 8, 8))


@needs_openvino
@pytest.mark.parametrize("fails", [False, True])
def test_the_root_logger_stays_as_it_is(fails, caplog):
    class Failing(Bright):
        def forward(self, pictures, names):
            return super().forward(torch.linalg.eigvals(pictures).real[..., None] + pictures, names)

    root = logging.getLogger()
    before = root.level, root.handlers[:], root.filters[:]
    with pytest.raises(EngineError) if fails else nullcontext():
        CompiledNetwork(Failing() if fails else Bright(), "cap", (8, 8), "32-true", 1)(torch.zeros(1, 3, 8, 8))
    assert (root.level, root.handlers, root.filters) == before
    logging.getLogger("afr_clip").warning("still heard")
    assert "still heard" in caplog.text


@needs_openvino
def test_nothing_is_reported_to_the_makers_of_openvino():
    CompiledNetwork(Bright(), "cap", (8, 8), "32-true", 1)(torch.zeros(1, 3, 8, 8))
    assert sys.modules["openvino_telemetry"] is None
    assert type(sys.modules["openvino.tools.ovc.convert_impl"].tm.Telemetry()).__module__.endswith("telemetry_stub")


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ((1.0, 0.5, 0.6), ScoringEngine.openvino),
        ((1.0, 0.6, 0.5), ScoringEngine.onnxruntime),
        ((1.0, 0.9, 0.9), ScoringEngine.torch),
        ((1.0, 2.0, 3.0), ScoringEngine.torch),
    ],
)
def test_auto_takes_what_is_faster_by_a_margin(monkeypatch, seconds, chosen):
    taken = dict(zip((ScoringEngine.torch, *OTHERS), seconds, strict=True))
    monkeypatch.setattr(engine, "_seconds", lambda way, _: way(None))
    ways = {one: lambda _, seconds=value: seconds for one, value in taken.items()}
    assert faster_engine(ways, torch.zeros(1)) == (chosen, taken)


def test_auto_takes_pytorch_where_a_network_cannot_be_converted():
    def refuse(_):
        msg = "no rule"
        raise EngineError(msg)

    ways = {ScoringEngine.torch: lambda _: None} | dict.fromkeys(OTHERS, refuse)
    assert faster_engine(ways, torch.zeros(1)) == (ScoringEngine.torch, {})


def test_auto_leaves_out_an_engine_that_cannot_be_used(monkeypatch):
    def refuse(_):
        msg = "no rule"
        raise EngineError(msg)

    monkeypatch.setattr(engine, "_seconds", lambda way, _: way(None))
    ways = {ScoringEngine.torch: lambda _: 1.0, OTHERS[0]: refuse, OTHERS[1]: lambda _: 0.5}
    assert faster_engine(ways, torch.zeros(1)) == (OTHERS[1], {ScoringEngine.torch: 1.0, OTHERS[1]: 0.5})


def test_the_test_picture_has_four_different_quarters():
    quarters = [part for half in probe_pictures((8, 8))[0].chunk(2, dim=1) for part in half.chunk(2, dim=2)]
    assert len({tuple(part.flatten().tolist()) for part in quarters}) == 4


COMPARISON = """
import sys
import numpy as np, afr_clip
engine, precision, limit = sys.argv[1], sys.argv[2], float(sys.argv[3])
photographs = [np.random.default_rng(seed).integers(0, 256, (70, 90, 3), dtype=np.uint8) for seed in range(5)]
own, its = (
    list(afr_clip.load("pocket", category="cap", engine=one, precision=how).inspect(photographs))
    for one, how in (("torch", "32-true"), (engine, precision))
)
for a, b in zip(own, its, strict=True):
    assert abs(a.image_score - b.image_score) < limit, (a.image_score, b.image_score)
    assert np.abs(a.anomaly_map - b.anomaly_map).max() < limit
    assert (a.anomaly_map != b.anomaly_map).any()
"""


@pytest.mark.parametrize(
    ("name", "precision", "limit"),
    [("openvino", "32-true", "1e-4"), ("openvino", "bf16-mixed", "0.05"), ("onnxruntime", "32-true", "1e-4")],
)
def test_pocket_inspects_alike_with_all_engines(name, precision, limit):
    if not engine.is_installed(ScoringEngine(name)):
        pytest.skip(f"{name} is not installed")
    # In a process of its own, where shapes are not checked: they are tensors while a graph is traced.
    done = subprocess.run(
        [sys.executable, "-c", COMPARISON, name, precision, limit], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@needs_openvino
def test_a_tower_with_packed_weights_is_converted():
    class Packed(Bright):
        def __init__(self):
            super().__init__()
            layer = torch.nn.Linear(8, 8).requires_grad_(requires_grad=False)
            self.layer = PackedLinear(layer.weight, layer.bias)

        def forward(self, pictures, names):
            return super().forward(self.layer(pictures), names)

    network, pictures = Packed(), torch.randn(2, 3, 8, 8)
    network(pictures, ())  # packs
    scores = CompiledNetwork(network, "cap", (8, 8), "32-true", 2)(pictures)
    assert torch.allclose(scores.anomaly_map, network(pictures, ()).anomaly_map, atol=1e-5)


@pytest.fixture
def bfloat16():
    if "BF16" not in engine.openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this CPU does not compute in bfloat16")


PRECISIONS_OF_POCKET = """
import afr_clip
from afr_clip.inspection import engine
scanner = afr_clip.load("pocket").scanner
pictures = engine.probe_pictures(scanner.input_size)
model = engine.keeping_cnn_precise(engine.convert(scanner.network, "cap", pictures))
graph = engine.openvino().Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "bf16"})
for node in graph.get_runtime_model().get_ordered_ops():
    facts = node.get_rt_info()
    if facts["layerType"].astype(str) == "Convolution":
        print(".cnn." in facts["originalLayersNames"].astype(str), facts["runtimePrecision"].astype(str))
"""


@needs_openvino
@pytest.mark.usefixtures("bfloat16")
def test_all_convolutions_of_pockets_cnn_stay_in_float32():
    command = [sys.executable, "-c", PRECISIONS_OF_POCKET]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.splitlines()) == {"True f32", "False bf16"}


@needs_openvino
def test_a_graph_without_the_cnn_that_must_stay_precise_is_refused():
    converted = engine.convert(Bright(), "cap", torch.zeros(1, 3, 8, 8))
    with pytest.raises(EngineError, match=r"CNN of the stem must stay in float32, but .* Use engine=torch"):
        engine.keeping_cnn_precise(converted)


@needs_openvino
def test_an_openvino_without_the_private_function_is_refused(monkeypatch):
    converted = engine.convert(Bright(), "cap", torch.zeros(1, 3, 8, 8))
    own = {"openvino": engine.openvino(), "openvino._offline_transformations": object()}
    monkeypatch.setattr(engine, "import_module", own.__getitem__)
    with pytest.raises(EngineError, match=r"this version of OpenVINO lacks\. Use engine=torch"):
        engine.keeping_cnn_precise(converted)


@needs_openvino
def test_only_the_last_categories_stay_converted():
    scanner = afr_clip.load("pocket", engine="openvino").scanner
    own = ScoringEngine.openvino
    first = scanner._compile("cap", own)
    scanner._compile("nut", own)
    assert scanner._compile("cap", own) is first
    scanner._compile("bolt", own)  # in place of "nut"
    assert list(scanner._compiled) == [(own, "cap"), (own, "bolt")]
    scanner.use(ScoringEngine.torch)
    assert not scanner._compiled


@needs_openvino
def test_a_calibration_of_another_engine_is_refused():
    own, its = (afr_clip.load("pocket", category="cap", engine=one).identity("cap") for one in ("torch", "openvino"))
    assert "engine" not in own  # as in calibrations of older versions
    assert its == own | {"engine": "openvino"}


@pytest.mark.parametrize(("name", "needed"), [("openvino", "openvino"), ("onnxruntime", "onnx onnxscript onnxruntime")])
def test_without_its_packages_the_error_says_how_to_install_an_engine(monkeypatch, name, needed):
    monkeypatch.setattr(engine, "find_spec", lambda _: None)
    with pytest.raises(EngineError, match=rf"engine={name} needs packages.*pip install {needed}\."):
        afr_clip.load("pocket", engine=name)
    assert afr_clip.load("pocket", engine="auto").identity("cap") == afr_clip.load("pocket").identity("cap")


@pytest.mark.parametrize(
    ("installed", "tried"),
    [(OTHERS, OTHERS[:1]), (OTHERS[1:], OTHERS[1:]), ((), None)],
    ids=["both", "onnxruntime", "none"],
)
def test_auto_tries_onnx_runtime_only_where_openvino_is_not_installed(monkeypatch, installed, tried):
    seen = []

    def compare(ways, pictures):
        seen.append(tuple(ways))
        return ScoringEngine.torch, {}

    monkeypatch.setattr("afr_clip.inspection.scanner.is_installed", lambda one: one in installed)
    monkeypatch.setattr("afr_clip.inspection.scanner.faster_engine", compare)
    afr_clip.load("pocket", engine="auto")
    assert seen == ([] if tried is None else [(ScoringEngine.torch, *tried)])


def test_an_unknown_engine_is_refused():
    with pytest.raises(ValueError, match="engine must be one of torch, openvino, onnxruntime, auto, got tensorrt"):
        afr_clip.load("pocket", engine="tensorrt")


def test_comparing_names_needs_pytorch():
    settings = {"overlap": 0.25, "tile": None} | dict.fromkeys(
        ("roi", "ignore", "references", "calibration", "region_threshold", "mm_per_pixel", "min_area_mm2", "defects")
    )
    with pytest.raises(ValueError, match="compare_names works only with engine=torch"):
        InspectionSettings(engine=ScoringEngine.openvino, compare_names=["object"], **settings)
