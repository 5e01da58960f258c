"""An exported file inspects as its checkpoint does, without torch."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import afr_clip
from afr_clip.inspection.calibration import calibrate
from afr_clip.inspection.exported import read_exported
from afr_clip.inspection.scan import InspectionError

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def tiny_model(path, *, metadata=None, categories=("bolt",), calibration=None, **facts):
    """Write a graph whose map is the red channel of a picture, at its own size of 8 pixels."""
    helper, kind = onnx.helper, onnx.TensorProto
    nodes = [
        helper.make_node("Cast", ["pictures"], ["floats"], to=kind.FLOAT),
        helper.make_node("Gather", ["floats", "red"], ["channel"], axis=3),
        helper.make_node("Div", ["channel", "most"], ["anomaly_map"]),
        helper.make_node("ReduceMax", ["anomaly_map", "axes"], ["image_score"], keepdims=0),
    ]
    shape = ["batch", 8, 8]
    graph = helper.make_graph(
        nodes,
        "red",
        [helper.make_tensor_value_info("pictures", kind.UINT8, [*shape, 3])],
        [
            helper.make_tensor_value_info("anomaly_map", kind.FLOAT, shape),
            helper.make_tensor_value_info("image_score", kind.FLOAT, shape[:1]),
        ],
        [
            helper.make_tensor("red", kind.INT64, [], [0]),
            helper.make_tensor("most", kind.FLOAT, [], [255.0]),
            helper.make_tensor("axes", kind.INT64, [2], [1, 2]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    identity = {"method": "red", "category": "bolt", "tile": None, "overlap": None}
    about = {
        "format": "afr-clip-export-1",
        "config": {},
        "backbone": {},
        "identity": identity,
        "categories": list(categories),
        "reads_category": True,
        "image_size": 8,
        "calibration": calibration,
    } | facts
    entry = onnx.StringStringEntryProto(key="afr_clip", value=json.dumps(about if metadata is None else metadata))
    model.metadata_props.append(entry)
    onnx.save(model, path)
    return path


@pytest.fixture
def model(tmp_path):
    return tiny_model(tmp_path / "model.onnx")


def red(value: int) -> np.ndarray:
    picture = np.zeros((8, 8, 3), np.uint8)
    picture[2:4, 5:7, 0] = value
    return picture


def test_an_inspection_has_score_map_and_regions(model, tmp_path):
    detector = afr_clip.load(model, region_threshold=0.5)
    Image.fromarray(red(255)).save(tmp_path / "a.png")
    of_file, of_pixels = detector.inspect(tmp_path / "a.png"), detector.inspect(red(255), "bolt")
    for one in (of_file, of_pixels):
        assert one.image_score == 1
        assert [region.box for region in one.regions] == [(5, 2, 2, 2)]
        assert one.anomaly_map.shape == (8, 8)
        assert one.overlay().size == (8, 8)
    assert of_file.inspected.category == "bolt"
    scores = [one.image_score for one in detector.inspect([red(value) for value in (0, 51, 255)])]
    assert scores == pytest.approx([0, 0.2, 1])


def test_the_calibration_in_the_file_decides(tmp_path):
    identity = {"method": "red", "category": "bolt", "tile": None, "overlap": None, "roi": None, "ignore": None}
    made = calibrate(np.linspace(0.1, 0.3, 40), np.linspace(0.1, 0.3, 40), 0.05, identity)
    model = tiny_model(tmp_path / "model.onnx", calibration=made.to_dict())
    detector = afr_clip.load(model)
    assert [one.is_anomalous for one in detector.inspect([red(25), red(250)])] == [False, True]
    made.write(tmp_path / "calibration.json")
    assert afr_clip.load(model, calibration=tmp_path / "calibration.json").calibration == made
    with pytest.raises(afr_clip.CalibrationError, match='category was "bolt" and is "nut"'):
        detector.inspect(red(25), "nut")


def test_a_name_that_is_not_in_the_file_is_refused(tmp_path):
    model = tiny_model(tmp_path / "model.onnx", categories=("bolt", "nut"))
    with pytest.raises(InspectionError, match=r"was exported for bolt, nut, got object\. Name one of them"):
        afr_clip.load(model).inspect(red(1))


@pytest.mark.parametrize(
    ("option", "key"),
    [
        ({"image_size": 16}, "image_size"),
        ({"precision": "bf16-mixed"}, "precision"),
        ({"engine": "openvino"}, "engine"),
        ({"device": "cuda"}, "device"),
        ({"references": "folder"}, "references"),
        ({"defects": ["scratch", "dent"]}, "defects"),
    ],
)
def test_what_needs_the_checkpoint_is_refused(model, option, key):
    with pytest.raises(ValueError, match=f"{key} needs the checkpoint itself, got an exported model. Leave out {key}="):
        afr_clip.load(model, **option)


@pytest.mark.parametrize("metadata", [{}, {"format": "afr-clip-export-2"}, [], {"format": "afr-clip-export-1"}])
def test_a_file_of_another_program_is_refused(tmp_path, metadata):
    path = tiny_model(tmp_path / "model.onnx", metadata=metadata)
    with pytest.raises(InspectionError, match="was not written by this version of afr-clip export"):
        afr_clip.load(path)


@pytest.mark.parametrize("name", ["model.onnx", "model.xml"])
def test_a_broken_or_missing_file_is_one_sentence(tmp_path, name):
    if name.endswith("xml"):
        pytest.importorskip("openvino")
    with pytest.raises(FileNotFoundError, match="There is no exported model at"):
        afr_clip.load(tmp_path / name)
    (tmp_path / name).write_bytes(b"no model")
    with pytest.raises(InspectionError, match=r"cannot be read: .* afr-clip export writes such files"):
        afr_clip.load(tmp_path / name)


def test_without_a_runtime_the_error_says_what_to_install(model, monkeypatch):
    monkeypatch.setattr("afr_clip.inspection.exported.find_spec", lambda _: None)
    with pytest.raises(InspectionError, match=r"needs onnxruntime or openvino, which is not installed\. Run pip"):
        read_exported(model)


def test_the_number_of_threads_reaches_the_runtime(model, monkeypatch):
    runtime = pytest.importorskip("onnxruntime")
    seen = []

    class Session(runtime.InferenceSession):
        def __init__(self, path, options, **others):
            seen.append(options.intra_op_num_threads)
            super().__init__(path, options, **others)

    monkeypatch.setattr(runtime, "InferenceSession", Session)
    read_exported(model, 3)
    read_exported(model)
    assert seen == [3, 0]
    pytest.importorskip("openvino")
    monkeypatch.setattr("afr_clip.inspection.exported.find_spec", lambda name: None if name == "onnxruntime" else name)
    assert read_exported(model, 1).engine == "openvino"


def test_openvino_runs_an_onnx_file_where_onnx_runtime_is_missing(model, monkeypatch):
    pytest.importorskip("openvino")
    monkeypatch.setattr("afr_clip.inspection.exported.find_spec", lambda name: None if name == "onnxruntime" else name)
    assert read_exported(model).engine == "openvino"
    assert afr_clip.load(model).inspect(red(51)).image_score == pytest.approx(0.2)
    with pytest.raises(InspectionError, match=r"in 8 bits and was measured in ONNX Runtime only, which is not inst"):
        read_exported(tiny_model(model, int8={}))


ABSENT = ("torch", "torchvision", "lightning", "open_clip", "timm", "omegaconf", "hydra", "pandas", "scipy", "rich")
"""Packages that `load` must not need for an exported model."""


def test_torch_is_not_needed(model, tmp_path):
    Image.fromarray(red(255)).save(tmp_path / "a.png")
    source = (
        f"import sys\nfor name in {ABSENT!r}: sys.modules[name] = None\n"
        "import afr_clip\n"
        f"inspection = afr_clip.load({str(model)!r}, region_threshold=0.5).inspect({str(tmp_path / 'a.png')!r})\n"
        "print(inspection.image_score, [region.box for region in inspection.regions], inspection.to_dict()['category'])"
    )
    done = subprocess.run([sys.executable, "-c", source], check=False, capture_output=True, text=True)
    assert done.stdout.strip() == "1.0 [(5, 2, 2, 2)] bolt", done.stderr
