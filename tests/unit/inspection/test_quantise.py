"""A model in 8 bits computes what rounded weights and inputs compute, and is kept only if it loses little."""

import jaxtyping
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score
from torch import nn

from afr_clip.data.disk.pixels import SampleReader
from afr_clip.data.feed.dataset import AnomalyDataset
from afr_clip.data.records import AnomalySample
from afr_clip.inspection.export import ExportError, finish_model, size_of, write_model
from afr_clip.inspection.exported import FORMAT, ExportedScanner, read_exported
from afr_clip.inspection.quantise import aurocs, quantise, require_accuracy
from afr_clip.inspection.scan import Scanning
from afr_clip.inspection.scanner import Scanner
from afr_clip.models.prediction import AnomalyPrediction

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

SCANNING = Scanning("cpu", "32-true", None, 0.25, 4)

METADATA = {
    "format": FORMAT,
    "config": {},
    "backbone": {},
    "identity": {},
    "categories": ["bolt"],
    "reads_category": False,
    "image_size": 64,
    "calibration": None,
}


def test_a_product_is_that_of_rounded_weights_and_of_inputs_within_their_range(tmp_path):
    random = np.random.default_rng(0)
    weights = random.normal(size=(192, 128)).astype(np.float32)
    helper, kind = onnx.helper, onnx.TensorProto
    nodes = [
        helper.make_node("Cast", ["pictures"], ["floats"], to=kind.FLOAT),
        helper.make_node("Reshape", ["floats", "flat"], ["rows"]),
        helper.make_node("MatMul", ["rows", "weights"], ["products"], name="product"),
    ]
    constants = [
        helper.make_tensor("flat", kind.INT64, [2], [1, 192]),
        onnx.numpy_helper.from_array(weights, "weights"),
    ]
    taken = helper.make_tensor_value_info("pictures", kind.UINT8, [1, 8, 8, 3])
    given = helper.make_tensor_value_info("products", kind.FLOAT, [1, 128])
    graph = helper.make_graph(nodes, "product", [taken], [given], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.save(model, tmp_path / "model.onnx")
    pictures = random.integers(0, 256, (2, 3, 8, 8), dtype=np.uint8)
    pictures[0, 0, 0, 0] = 204  # the largest value that is shown: 0.8 grey levels are one step
    pictures[0] = np.minimum(pictures[0], 204)
    assert quantise(tmp_path / "model.onnx", tmp_path / "int8.onnx", [(pictures[0], 0)]) == 1
    session = runtime.InferenceSession(tmp_path / "int8.onnx")
    scale = np.abs(weights).max(axis=0) / 127
    rounded = np.clip(np.rint(weights / scale), -127, 127) * scale
    for picture in pictures:  # the second has values beyond what was shown
        rows = picture.transpose(1, 2, 0).reshape(1, -1).astype(np.float32)
        seen = np.clip(np.rint(rows / np.float32(0.8)), 0, 255) * np.float32(0.8)
        (found,) = session.run(None, {"pictures": picture.transpose(1, 2, 0)[None]})
        np.testing.assert_allclose(found, seen @ rounded, rtol=1e-4, atol=0.5)


class Small(nn.Module):
    """Patches of 8 pixels, two layers of 128 x 128, and what stays in float32; scores how red a patch is."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches = nn.Conv2d(3, 128, 8, 8)
        self.first, self.second, self.head = nn.Linear(128, 128), nn.Linear(128, 128), nn.Linear(128, 2)
        with torch.no_grad():
            self.patches.weight.mul_(0.01)
            self.patches.weight[0, 0] = 4 / 64
            self.patches.bias[0] = 4  # what is grey has other values than what is black
            self.first.weight.mul_(0.1).add_(torch.eye(128))
            self.second.weight.mul_(0.1).add_(torch.eye(128))
            self.head.weight.zero_()
            self.head.weight[1, 0] = 1 / 8

    def forward(self, pictures, names):
        tokens = self.patches(pictures).flatten(2).mT
        states = self.head(self.second(nn.functional.gelu(self.first(tokens)))).softmax(dim=-1)
        grid = states[..., 1].unflatten(1, (8, 8))
        maps = nn.functional.interpolate(grid[:, None], size=(64, 64), mode="bilinear")[:, 0]
        return AnomalyPrediction(maps, maps.amax(dim=(1, 2)), grid[:, None], maps[:, None])


@pytest.fixture(scope="module")
def small(towers) -> Scanner:
    return Scanner(Small(), towers, SCANNING, {"method": "m", "weights": "w"})


@pytest.fixture(scope="module")
def float32_file(small, tmp_path_factory):
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # shapes are symbols while a graph is exported
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    write_model(small, ["bolt"], path, METADATA)
    monkeypatch.undo()
    return path


def photograph(number: int, *, is_bad: bool) -> np.ndarray:
    random = np.random.default_rng((number, is_bad))
    pixels = random.integers(90, 150, (64, 64, 3), dtype=np.uint8)
    if is_bad:
        pixels[20:40, 24:44, 0] = random.integers(150, 220)
    return pixels


@pytest.fixture(scope="module")
def labelled(tmp_path_factory) -> AnomalyDataset:
    folder, samples = tmp_path_factory.mktemp("labelled"), []
    mask = np.zeros((64, 64), np.uint8)
    mask[20:40, 24:44] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    for number in range(12):
        is_bad, path = number % 2 == 1, folder / f"{number:02d}.png"
        Image.fromarray(photograph(number, is_bad=is_bad)).save(path)
        truth = folder / "mask.png" if is_bad else None
        samples.append(AnomalySample("set", "bolt", "bad" if is_bad else "good", path, truth, is_bad, "bolt"))
    return AnomalyDataset(samples, SampleReader((64, 64)), *ExportedScanner.normalisation)


def as_int8(float32_file, folder, pictures, suffix=".onnx") -> ExportedScanner:
    assert quantise(float32_file, folder / "quantised.onnx", ((one.transpose(2, 0, 1), 0) for one in pictures)) == 2
    path = folder / f"int8{suffix}"
    finish_model(folder / "quantised.onnx", path, METADATA)
    return ExportedScanner(read_exported(path), SCANNING)


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_a_model_that_was_shown_such_parts_loses_little_and_is_smaller(float32_file, small, labelled, tmp_path, suffix):
    if suffix == ".xml":
        pytest.importorskip("openvino")
    exported = as_int8(
        float32_file, tmp_path, [photograph(number, is_bad=number % 2 == 1) for number in range(20, 28)], suffix
    )
    found = aurocs({"checkpoint": small, "file": exported}, labelled, lambda sample: sample.prompt_name)
    require_accuracy(found["checkpoint"], found["file"], "set")
    views = [photograph(1, is_bad=True).transpose(2, 0, 1)]
    ours, theirs = (one.look(("bolt",), views, ["it"], "") for one in (small, exported))
    assert 0 < np.abs(theirs.maps - ours.maps).max() < 0.05
    kinds = {one.name: one.data_type for one in onnx.load(tmp_path / "quantised.onnx").graph.initializer}
    assert sum(kind == onnx.TensorProto.INT8 for name, kind in kinds.items() if name.endswith("_quantized")) == 2
    assert kinds["network.patches.weight"] == onnx.TensorProto.FLOAT
    assert size_of(exported.exported.path) < size_of(float32_file)


def test_a_model_that_was_shown_the_wrong_thing_is_refused(float32_file, small, labelled, tmp_path):
    exported = as_int8(float32_file, tmp_path, [np.zeros((64, 64, 3), np.uint8)])
    found = aurocs({"checkpoint": small, "file": exported}, labelled, lambda sample: sample.prompt_name)
    with pytest.raises(ExportError, match=r"In 8 bits the image AUROC on set must stay within 0\.5 points of the"):
        require_accuracy(found["checkpoint"], found["file"], "set")


def test_aurocs_are_those_of_the_scores(small, labelled):
    (found,) = aurocs({"it": small}, labelled, lambda sample: sample.prompt_name).values()
    looked = [
        small.look(("bolt",), [np.array(Image.open(one.image_path)).transpose(2, 0, 1)], ["it"], "")
        for one in labelled.samples
    ]
    truth = [one.is_anomalous for one in labelled.samples]
    assert found["image_auroc"] == pytest.approx(roc_auc_score(truth, [float(one.scores[0]) for one in looked]))
    masks = np.stack([item.mask.numpy() for item in (labelled[place] for place in range(12))])
    maps = np.concatenate([one.maps for one in looked])
    assert found["pixel_auroc"] == pytest.approx(roc_auc_score(masks.ravel(), maps.ravel()), abs=1e-3)


def test_a_dataset_that_cannot_show_a_loss_is_refused():
    nothing = {"image_auroc": float("nan"), "pixel_auroc": 0.9}
    with pytest.raises(ExportError, match="no category with both normal and anomalous images"):
        require_accuracy(nothing, nothing, "set")


def test_pixel_truth_is_not_needed():
    before = {"image_auroc": 0.9, "pixel_auroc": float("nan")}
    require_accuracy(before, before | {"image_auroc": 0.896}, "set")
    with pytest.raises(ExportError, match=r"points of the checkpoint's 90\.00, got 89\.40"):
        require_accuracy(before, before | {"image_auroc": 0.894}, "set")


def test_a_network_without_large_layers_is_refused(tmp_path):
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["a"], ["b"])], "none", [], [])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "model.onnx")
    with pytest.raises(ExportError, match=r"no layers that are large enough for 8 bits\. Leave out precision=int8"):
        quantise(tmp_path / "model.onnx", tmp_path / "int8.onnx", [])
