import numpy as np
import pytest
import torch
from PIL import Image

from afr_clip.inspection.calibration import CalibrationError, Decision, calibrate
from afr_clip.inspection.detector import Detector, as_rgb
from afr_clip.inspection.scan import InspectionError
from afr_clip.inspection.settings import InspectionSettings, Rule
from afr_clip.settings import DecideBy

NOTHING = dict.fromkeys(
    ("tile", "roi", "ignore", "references", "calibration", "region_threshold", "mm_per_pixel", "min_area_mm2")
)


def settings(**values) -> InspectionSettings:
    return InspectionSettings(**NOTHING | {"overlap": 0.25, "defects": None} | values)


def grey(height: int = 40, width: int = 60) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (height, width), dtype=np.uint8)


@pytest.fixture
def detector(scanner):
    def build(calibration=None, **values) -> Detector:
        return Detector(scanner(), settings(**values), "nut", calibration)

    return build


def test_every_form_of_a_photograph_gives_the_same(detector, tmp_path):
    pixels = np.stack([grey()] * 3, axis=-1)
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    forms = [
        *(path, str(path), Image.fromarray(pixels), Image.fromarray(grey()), pixels, grey(), pixels / np.float32(255)),
        *(torch.from_numpy(pixels).permute(2, 0, 1), torch.from_numpy(grey()), torch.from_numpy(grey())[None]),
        *(torch.from_numpy(pixels).permute(2, 0, 1) / 255, (pixels / 255).astype(">f4"), pixels[::-1].copy()[::-1]),
    ]
    scores = [detector().inspect(form).image_score for form in forms]
    assert scores == [scores[0]] * len(forms)
    assert [one.image_score for one in detector().inspect(iter(forms), "nut")] == scores
    assert detector().inspect(path).anomaly_map.shape == (40, 60)


def test_a_photograph_is_turned_upright(tmp_path):
    image = Image.fromarray(grey())
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.jpg", exif=exif, quality=95)
    with Image.open(tmp_path / "a.jpg") as opened:
        assert as_rgb(opened).shape == (3, 60, 40)
        np.testing.assert_array_equal(as_rgb(opened), as_rgb(tmp_path / "a.jpg"))


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        (np.zeros((2, 3, 4, 5), np.uint8), r"array of H x W or H x W x 3, got shape \(2, 3, 4, 5\) of uint8"),
        (np.zeros((4, 5, 4), np.uint8), r"H x W x 3, got shape \(4, 5, 4\)"),
        (np.zeros((0, 5), np.uint8), r"got shape \(0, 5\)"),
        (np.full((4, 5), 1.5), r"must lie in \[0, 1\], got others"),
        (np.full((4, 5), np.nan), r"must lie in \[0, 1\], got others"),
        (np.zeros((4, 5), np.int64), r"uint8 or floats in \[0, 1\], got int64"),
        (np.array([["a"]]), "Pixels must be an array"),
        (np.zeros((4, 5), np.longdouble), "Pixels must be an array"),
        (b"x", "must be a path, a PIL image, a NumPy array or a tensor, got bytes. Open bytes with PIL"),
        (None, "a NumPy array or a tensor, got NoneType"),
        (3, "got int"),
        (torch.zeros(4, 5, 3), r"tensor of H x W, 1 x H x W or 3 x H x W, got shape \(4, 5, 3\)"),
        (Image.new("I;16", (4, 5)), "8 bits per channel, got mode I;16"),
    ],
)  # fmt: skip
def test_pixels_of_another_form_are_refused(detector, image, sentence):
    with pytest.raises(InspectionError, match=sentence):
        detector().inspect(image)


@pytest.mark.parametrize("images", [[b"x"], [[1, 2], [3, 4]], [None]])
def test_an_iterable_of_something_else_is_refused(detector, images):
    with pytest.raises(InspectionError, match="must be a path, a PIL image, a NumPy array or a tensor, got"):
        list(detector().inspect(images))


def test_a_photograph_without_a_category_is_called_object_and_the_log_says_so(scanner, caplog):
    caplog.set_level("INFO", "afr_clip")
    inspection = Detector(scanner(), settings()).inspect(grey())
    assert inspection.inspected.category == "object"
    assert "No category was given, so the photograph is called 'object'" in caplog.text
    caplog.clear()
    assert Detector(scanner(), settings(), "nut").inspect(grey()).inspected.category == "nut"
    assert not caplog.text


def test_the_image_score_under_other_names_comes_with_the_inspection(scanner):
    brightness = scanner()
    detector = Detector(brightness, settings(compare_names=["object", "nut", "cap"]), "nut")
    (one, other) = detector.inspect([grey(), spotted()])
    assert brightness._network.seen == [(name,) * 2 for name in ("nut", "object", "cap")]
    for inspection in (one, other):  # this network reads no name
        assert inspection.by_name == dict.fromkeys(("object", "cap"), inspection.image_score)
        assert inspection.to_dict()["by_name"] == inspection.by_name
    assert "by_name" not in Detector(scanner(), settings()).inspect(grey(), "nut").to_dict()


def test_names_to_compare_must_be_words_for_whole_photographs():
    with pytest.raises(ValueError, match=r"compare_names must be different words, got \['a', 'a'\]"):
        settings(compare_names=["a", "a"])
    with pytest.raises(ValueError, match="compares scores of whole photographs, got tile, roi or ignore too"):
        settings(compare_names=["a"], tile=64)


def test_a_folder_and_a_blank_category_are_refused(scanner, tmp_path):
    with pytest.raises(InspectionError, match=r"is a folder\. Pass its photographs"):
        Detector(scanner(), settings()).inspect(tmp_path, "nut")
    with pytest.raises(InspectionError, match="category must say what the photograph shows, got ' '"):
        Detector(scanner(), settings()).inspect(grey(), " ")


def spotted(value: int = 255) -> np.ndarray:
    pixels = np.zeros((64, 64), dtype=np.uint8)
    pixels[16:32, 32:48] = value
    return pixels


def calibrated(identity, decide_by=DecideBy.image):
    scores = np.linspace(0.01, 0.05, 40)  # the mean of `spotted` is 1 / 16
    return calibrate(scores, scores, 0.05, identity, rule=Rule(decide_by, None, None, best_f1=False))


def test_without_a_calibration_there_is_no_decision_and_no_region_unless_asked(detector):
    plain = detector().inspect(spotted())
    assert (plain.is_anomalous, plain.decision, plain.regions) == (None, None, ())
    (region,) = detector(region_threshold=0.5).inspect(spotted()).regions
    assert region.box == (32, 16, 16, 16)


@pytest.mark.parametrize("decide_by", list(DecideBy))
def test_a_calibration_decides_and_finds_regions(detector, decide_by):
    made = calibrated(detector().identity("nut"), decide_by)
    for pixels, is_anomalous in ((spotted(), True), (spotted(10), False)):
        inspection = detector(made).inspect(pixels)
        assert inspection.is_anomalous is is_anomalous
        assert inspection.decision is (Decision.anomalous if is_anomalous else Decision.normal)
        assert bool(inspection.regions) == is_anomalous
        found = inspection.to_dict()
        assert (found["calibrated"] > 0.5) == (found["image_score"] > found["threshold"])


def test_regions_too_small_to_matter_do_not_decide(detector):
    made = calibrated(detector().identity("nut"), DecideBy.region)
    sizes = {"mm_per_pixel": 0.5}  # the spot has 64 mm2
    assert detector(made, **sizes, min_area_mm2=60.0).inspect(spotted()).is_anomalous
    small = detector(made, **sizes, min_area_mm2=90.0).inspect(spotted())
    assert (small.is_anomalous, small.regions) == (False, ())


def test_a_higher_peak_is_never_a_milder_decision(detector):
    scores = np.linspace(0.1, 0.5, 40)
    rule = Rule(DecideBy.region, 0.9, None, best_f1=False)
    made = calibrate(scores, scores, 0.05, detector().identity("nut"), rule=rule)
    assert made.region.undecided_from < made.map_high
    one = detector(made, mm_per_pixel=0.5, min_area_mm2=90.0)
    decisions = [one.inspect(spotted(value)).decision for value in range(0, 256, 5)]
    order = [Decision.normal, Decision.undecided, Decision.anomalous]
    assert decisions == sorted(decisions, key=order.index)
    large = detector(made, mm_per_pixel=0.5, min_area_mm2=10.0)
    kinds = [large.inspect(spotted(value)).decision for value in range(0, 256, 5)]
    assert (kinds == sorted(kinds, key=order.index), kinds[-1]) == (True, Decision.anomalous)


def test_the_threshold_shown_is_that_of_the_score_that_decides(detector):
    scores = np.linspace(0.1, 0.5, 40)
    rule = Rule(DecideBy.region, None, None, best_f1=False)
    made = calibrate(scores / 2, scores, 0.05, detector().identity("nut"), rule=rule)
    assert detector(made).inspect(spotted()).inspected.threshold == made.region.threshold


def test_a_calibration_of_another_category_or_mask_is_refused(detector, tmp_path):
    made = calibrated(detector().identity("nut"))
    with pytest.raises(CalibrationError, match='category was "nut" and is "bolt"'):
        detector(made).inspect(spotted(), "bolt")
    Image.new("L", (64, 64), 255).save(tmp_path / "roi.png")
    with pytest.raises(CalibrationError, match="made without roi, and this run has one"):
        detector(made, roi=str(tmp_path / "roi.png")).inspect(spotted())


def test_what_is_ignored_neither_scores_nor_makes_a_region(detector, tmp_path):
    mask = np.zeros((64, 64), dtype=np.uint8)
    mask[10:40, 30:50] = 255
    Image.fromarray(mask).save(tmp_path / "spot.png")
    path = tmp_path / "photograph.png"
    Image.fromarray(spotted()).save(path)
    inside = detector(region_threshold=0.5, roi=str(tmp_path / "spot.png")).inspect(path)
    outside = detector(region_threshold=0.5, ignore=str(tmp_path / "spot.png")).inspect(path)
    assert (inside.image_score, len(inside.regions)) == (1.0, 1)
    assert (outside.image_score, len(outside.regions)) == (0.0, 0)


def test_the_overlay_has_the_size_of_the_photograph_and_outlines(detector):
    overlay = detector(region_threshold=0.5).inspect(spotted()).overlay()
    assert overlay.size == (64, 64)
    assert overlay.getpixel((32, 20)) == (255, 0, 255)
    assert overlay.getpixel((40, 24)) != (255, 0, 255)
