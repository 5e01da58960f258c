"""A model leaves PyTorch: export, then predict, calibrate and load with the file alone."""

import csv
import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
from PIL import Image

import afr_clip
from afr_clip.clip.weights import weight_path
from afr_clip.inspection.calibration import calibrate
from afr_clip.inspection.quantise import quantise
from afr_clip.models.checkpoint import read_checkpoint
from afr_clip.run import export as exporting
from helpers.generated import save_picture, write_mvtec_tree

pytestmark = pytest.mark.integration

for package in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(package)

QUICK = ("num_threads=1", "data.num_workers=0")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    random = np.random.default_rng(0)
    for i, size in enumerate([(64, 64), (64, 64), (90, 200)]):
        pixels = random.integers(110, 130, (*size, 3), dtype=np.uint8)
        pixels[28:36, 26:38] = (250, 20, 20) if i else 120
        Image.fromarray(pixels).save(folder / f"{i}.png")
    Image.fromarray(pixels[..., 0]).save(folder / "grey.png")
    Image.fromarray(np.dstack([pixels, pixels[..., 0]])).save(folder / "alpha.png")
    return folder


@pytest.fixture(scope="module")
def model(run_once, photographs, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "run"
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # shapes are symbols while a graph is exported
    words = ("categories=[metal nut,plate]", f"images={photographs}", f"run_dir={folder}", *QUICK)
    assert run_once("export", *words) == 0
    monkeypatch.undo()
    return folder / "model.onnx"


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_manifest_and_the_file_say_what_it_is_and_how_near(model):
    manifest = json.loads((model.parent / "manifest.json").read_text())
    for category, parity in manifest["export"]["parity"].items():
        assert category in ("metal nut", "plate")
        assert 0 <= parity["image_score"] < 1e-3
        assert 0 <= parity["anomaly_map"] < 1e-3
    assert manifest["export"]["parity"]["metal nut"]["pictures"] >= 15
    import onnxruntime  # noqa: PLC0415

    session = onnxruntime.InferenceSession(str(model))
    values = session.get_modelmeta().custom_metadata_map
    about = json.loads(values["afr_clip"])
    assert (about["method"], about["licence"]) == ("afr_clip", "Apache-2.0")
    assert about["categories"] == ["metal nut", "plate"]
    assert about["backbone"]["fingerprint"] == manifest["backbone"]["fingerprint"]
    assert len(about["checkpoint"]["sha256"]) == 64
    assert {"afr_clip", "torch", "onnx"} <= about["versions"].keys()
    assert values["model_type"] == "AnomalyDetection"


def test_the_file_inspects_as_the_checkpoint(model, photographs):
    paths = sorted(photographs.iterdir())
    trusted, exported = (afr_clip.load(name, category="plate") for name in ("pocket", model))
    for ours, theirs in zip(trusted.inspect(paths), exported.inspect(paths), strict=True):
        assert theirs.image_score == pytest.approx(ours.image_score, abs=1e-4)
        np.testing.assert_allclose(theirs.anomaly_map, ours.anomaly_map, atol=1e-4)
    with pytest.raises(afr_clip.InspectionError, match="was exported for metal nut, plate, got cap"):
        exported.inspect(paths[0], "cap")
    tiled = [afr_clip.load(name, tile=64).inspect(paths[2], "plate").image_score for name in ("pocket", model)]
    assert tiled[1] == pytest.approx(tiled[0], abs=1e-4)


def test_predict_writes_the_same_files_with_the_file_as_with_the_checkpoint(run, model, photographs, tmp_path):
    common = ("predict", f"images={photographs}", "category=plate", "region_threshold=0.3", *QUICK)
    for name, checkpoint in (("ours", "pocket"), ("theirs", str(model))):
        assert run(*common, f"checkpoint={checkpoint}", f"run_dir={tmp_path / name}") == 0
    files = [
        {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
        for folder in (tmp_path / "ours", tmp_path / "theirs")
    ]
    assert files[0] == files[1]
    tables = (rows(tmp_path / name / "scores.csv") for name in ("ours", "theirs"))
    for ours, theirs in zip(*tables, strict=True):
        assert theirs["image"] == ours["image"]
        assert float(theirs["image_score"]) == pytest.approx(float(ours["image_score"]), abs=1e-4)


def test_torch_is_not_needed_to_run_the_file(model, photographs):
    expected = afr_clip.load("pocket").inspect(photographs / "2.png", "plate").image_score
    source = (
        "import sys\nfor name in ('torch', 'torchvision', 'open_clip', 'timm', 'lightning'): sys.modules[name] = None\n"
        f"import afr_clip\ndetector = afr_clip.load({str(model)!r})\n"
        f"print(detector.inspect({str(photographs / '2.png')!r}, 'plate').image_score)"
    )
    done = subprocess.run([sys.executable, "-c", source], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(expected, abs=1e-4)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory) -> Path:
    return write_mvtec_tree(tmp_path_factory.mktemp("labelled") / "parts", ("plate",))


@pytest.fixture
def export_int8(run, monkeypatch, labelled, model):
    """Export in 8 bits what was exported before in float32, which is compared again; more words may follow."""
    monkeypatch.setattr(exporting, "write_model", lambda _, __, path, ___: path.write_bytes(model.read_bytes()))
    words = ("categories=[metal nut,plate]", "precision=int8", "dataset=folder", f"dataset.root={labelled}")
    return lambda *more: run("export", *words, *QUICK, *more)


def test_a_model_in_8_bits_says_what_it_loses(export_int8, labelled, tmp_path):
    assert export_int8(f"run_dir={tmp_path / 'run'}") == 0
    facts = json.loads((tmp_path / "run" / "manifest.json").read_text())["export"]
    path = tmp_path / "run" / facts["file"]
    assert facts["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    lost = facts["int8"]
    for metric in ("image_auroc", "pixel_auroc"):
        assert lost["checkpoint"][metric] - lost["file"][metric] <= 0.005
    assert lost["bytes"]["int8"] == pytest.approx(path.stat().st_size, abs=2000)  # metadata came later
    assert lost["bytes"]["int8"] < 0.7 * lost["bytes"]["float32"]
    assert (lost["dataset"]["num_normal"], lost["dataset"]["num_anomalous"], lost["good_parts"]) == (4, 4, 1)
    detector = afr_clip.load(path)
    assert detector.scanner.exported.manifest["int8"] == lost
    trusted = afr_clip.load("pocket")
    precision = detector.identity("plate")["precision"]
    assert re.fullmatch("int8 [0-9a-f]{16} onnx", precision)
    assert detector.identity("plate") == trusted.identity("plate") | {"precision": precision}
    photograph = labelled / "plate" / "test" / "spot" / "001.png"
    scores = [one.inspect(photograph, "plate").image_score for one in (detector, trusted)]
    assert 0 < abs(scores[0] - scores[1]) < 0.05


def test_a_model_in_8_bits_that_loses_too_much_is_refused_and_removed(export_int8, monkeypatch, tmp_path, capsys):
    import onnx  # noqa: PLC0415

    def quantise_badly(model, to, pictures):
        """Mix up the weights."""
        number = quantise(model, to, pictures)
        broken = onnx.load(to)
        for weights in broken.graph.initializer:
            if weights.data_type == onnx.TensorProto.INT8 and len(weights.dims) > 1:
                mixed = np.random.default_rng(0).permutation(onnx.numpy_helper.to_array(weights).ravel())
                weights.raw_data = mixed.tobytes()
        onnx.save(broken, to)
        return number

    monkeypatch.setattr(exporting, "quantise", quantise_badly)
    assert export_int8(f"run_dir={tmp_path / 'run'}") == 1
    assert re.search(
        r"In 8 bits the \w+ AUROC on folder must stay within 0\.5 points of the checkpoint's [\d.]+, got [\d.]+\. "
        r"The file was removed\.",
        " ".join(capsys.readouterr().err.split()),
    )
    assert not list((tmp_path / "run").glob("model.*"))


def test_8_bits_need_the_names_of_what_is_measured_and_good_parts(export_int8, labelled, tmp_path, capsys):
    assert export_int8("categories=[nut,cap]", f"run_dir={tmp_path / 'a'}") == 1
    sentence = "The model is exported for nut, cap, but folder also shows plate. Add them to categories, or choose with"
    assert sentence in capsys.readouterr().err
    shutil.copytree(labelled, tmp_path / "parts", ignore=shutil.ignore_patterns("train"))
    assert export_int8(f"dataset.root={tmp_path / 'parts'}", f"run_dir={tmp_path / 'b'}") == 1
    assert "folder has no normal images in a train split. Add good=FOLDER." in capsys.readouterr().err
    save_picture(np.zeros((8, 8, 3), np.uint8), tmp_path / "parts" / "plate" / "train" / "spot" / "000.png")
    assert export_int8(f"dataset.root={tmp_path / 'parts'}", f"run_dir={tmp_path / 'c'}") == 1
    said = capsys.readouterr().err
    assert "Every anomalous image must have a mask below" in said
    assert "good=FOLDER" not in said
    assert not list(tmp_path.glob("[abc]/model.*"))


def test_good_parts_are_of_each_category_or_from_a_folder(export_int8, tmp_path):
    parts = write_mvtec_tree(tmp_path / "parts", ("metal_nut", "metal nut"))  # have one prompt name
    for run, good in (("a", ()), ("b", (f"good={parts / 'metal_nut' / 'test' / 'good'}",))):
        assert export_int8(f"dataset.root={parts}", f"run_dir={tmp_path / run}", *good) == 0
    facts = [json.loads((tmp_path / run / "manifest.json").read_text())["export"]["int8"] for run in "ab"]
    assert [one["good_parts"] for one in facts] == [2, 4]
    of_parts, of_folder = (afr_clip.load(tmp_path / run / "model.onnx", category="plate") for run in "ab")
    scans = list(of_parts.inspect(sorted((parts / "metal_nut" / "test" / "good").iterdir())))
    thresholds = calibrate([one.image_score for one in scans], [0.1] * 4, 0.2, of_parts.identity("plate"))
    thresholds.require(of_parts.identity("plate"))
    with pytest.raises(afr_clip.CalibrationError, match=r"precision was \S*int8 .* onnx"):
        thresholds.require(of_folder.identity("plate"))


def test_8_bits_are_not_measured_on_what_was_trained_on(export_int8, tmp_path, capsys):
    pocket = read_checkpoint(weight_path(exporting.SHIPPED_CHECKPOINTS[0])).manifest["trained_on"]["name"]
    assert export_int8(f"dataset.name={pocket}", f"run_dir={tmp_path / 'run'}") == 1
    assert f"Auxiliary dataset and target share the name '{pocket}'" in capsys.readouterr().err


def test_a_model_in_8_bits_for_openvino_is_measured_there(export_int8, tmp_path):
    pytest.importorskip("openvino")
    assert export_int8("to=openvino", f"run_dir={tmp_path / 'run'}") == 0
    detector = afr_clip.load(tmp_path / "run" / "model.xml", category="plate")
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert detector.scanner.exported.manifest["int8"] == manifest["export"]["int8"]
    assert detector.identity("plate")["precision"].endswith(" openvino")


def test_a_broken_export_is_refused_and_leaves_no_file(run, monkeypatch, tmp_path, capsys, model):
    # Another checkpoint's file, of the same input and the same category.
    monkeypatch.setattr(exporting, "write_model", lambda _, __, path, ___: path.write_bytes(model.read_bytes()))
    folder = tmp_path / "run"
    assert run("export", "categories=[metal nut]", "checkpoint=pocket_names", f"run_dir={folder}", *QUICK) == 1
    said = capsys.readouterr().err
    assert "The exported model must score as its checkpoint does, to 0.001, but on the test picture" in said
    assert not (folder / "model.onnx").exists()
