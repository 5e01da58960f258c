import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import afr_clip
from afr_clip.inspection.calibration import calibrate


def run_python(source: str) -> str:
    return subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True).stdout.strip()


BRIGHT = np.full((50, 80), 200, dtype=np.uint8)


@pytest.fixture(scope="module")
def detector():
    return afr_clip.load("pocket")


def test_the_api_loads_neither_hydra_nor_lightning():
    source = (
        "import sys, afr_clip\nassert 'torch' not in sys.modules\n"
        "import numpy\nafr_clip.load('pocket').inspect(numpy.zeros((9, 9), 'uint8'), 'cap')\n"
        "heavy = ('hydra', 'lightning', 'torchmetrics', 'pandas', 'matplotlib')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    assert run_python(source) == "[]"


def test_the_score_is_that_of_predict(detector, run, tmp_path):
    Image.fromarray(BRIGHT).save(tmp_path / "a.png")
    assert run("predict", f"images={tmp_path / 'a.png'}", "category=cap", f"run_dir={tmp_path / 'r'}",
               "num_threads=1", "data.num_workers=0") == 0  # fmt: skip
    row = (tmp_path / "r" / "scores.csv").read_text().splitlines()[1]
    inspection = detector.inspect(BRIGHT, "cap")
    assert float(row.split(",")[-1]) == pytest.approx(inspection.image_score, abs=1e-6)
    assert (inspection.anomaly_map.shape, inspection.is_anomalous) == ((50, 80), None)
    assert (inspection.anomaly_map >= 0).all()


def test_the_identity_holds_settings_that_change_scores_but_no_weight(detector):
    identity = detector.identity("cap")
    assert {"scoring.temperature", "scoring.smoothing_sigma", "scoring.image_score", "quick_gelu"} <= identity.keys()


def test_the_input_size_of_a_checkpoint_can_be_changed(detector, run, tmp_path):
    Image.fromarray(BRIGHT).save(tmp_path / "a.png")
    assert run("predict", f"images={tmp_path / 'a.png'}", "category=cap", "backbone.image_size=96",
               f"run_dir={tmp_path / 'r'}", "num_threads=1", "data.num_workers=0") == 0  # fmt: skip
    row = (tmp_path / "r" / "scores.csv").read_text().splitlines()[1]
    other = afr_clip.load("pocket", image_size=96)
    assert float(row.split(",")[-1]) == pytest.approx(other.inspect(BRIGHT, "cap").image_score, abs=1e-6)
    assert other.identity("cap")["image_size"] == 96
    assert detector.identity("cap")["image_size"] != 96


def test_references_change_the_score_and_need_a_category(detector, tmp_path):
    Image.fromarray(BRIGHT).save(tmp_path / "good.png")
    few_shot = afr_clip.load("pocket", references=tmp_path, category="cap")
    assert few_shot.inspect(BRIGHT).image_score == pytest.approx(
        detector.inspect(BRIGHT, "cap").image_score / 2, abs=1e-3
    )
    with pytest.raises(ValueError, match="references need a category"):
        afr_clip.load("pocket", references=tmp_path)
    with pytest.raises(ValueError, match="references must name photographs or folders of them, got none"):
        afr_clip.load("pocket", references=[], category="cap")
    for number in range(16):
        Image.fromarray(BRIGHT + np.uint8(number)).save(tmp_path / f"{number}.png")
    with pytest.raises(ValueError, match=r"references must name 1 to 16 photographs of good parts, but .* holds 17"):
        afr_clip.load("pocket", references=tmp_path, category="cap")


def test_a_calibration_of_another_category_is_refused_when_loading(detector, tmp_path):
    calibrate([0.0] * 19, [0.0] * 19, 0.05, detector.identity("cap")).write(tmp_path / "c.json")
    assert afr_clip.load("pocket", calibration=tmp_path / "c.json").inspect(BRIGHT).decision == "anomalous"
    with pytest.raises(afr_clip.CalibrationError, match='category was "cap" and is "nut"'):
        afr_clip.load("pocket", calibration=tmp_path / "c.json", category="nut")
    Image.fromarray(BRIGHT).save(tmp_path / "roi.png")
    with pytest.raises(afr_clip.CalibrationError, match="made without roi, and this run has one"):
        afr_clip.load("pocket", calibration=tmp_path / "c.json", roi=tmp_path / "roi.png")


def test_what_is_missing_or_out_of_range_is_a_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no checkpoint at"):
        afr_clip.load(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at pockt\. Did you mean pocket\?"):
        afr_clip.load("pockt")
    with pytest.raises(ValueError, match="precision must be one of 32-true, 16-mixed, bf16-mixed, auto, got half"):
        afr_clip.load("pocket", precision="half")
    with pytest.raises(ValueError, match="overlap must be from 0 to below 1, got 2"):
        afr_clip.load("pocket", overlap=2.0)
    with pytest.raises(ValueError, match="mm_per_pixel must be finite, got inf"):
        afr_clip.load("pocket", mm_per_pixel=float("inf"))
    with pytest.raises(AttributeError, match="has no attribute 'lod'"):
        afr_clip.lod  # noqa: B018


ROOT = Path(afr_clip.__file__).parents[2]


@pytest.mark.parametrize("document", ["README.md", "docs/how-to/python.md"])
def test_the_first_python_of_a_document_runs_as_it_stands(document, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(BRIGHT).save("part.png")
    block = re.search(r"```python\n(.*?)```", (ROOT / document).read_text(encoding="utf-8"), re.DOTALL)
    assert block is not None
    names: dict[str, object] = {}
    exec(block[1], names)
    assert 0 <= names["inspection"].image_score <= 1
