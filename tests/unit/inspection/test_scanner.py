import threading

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import afr_clip
from afr_clip.inspection import scan as looking
from afr_clip.inspection import tiles
from afr_clip.inspection.calibration import CalibrationError, calibrate
from afr_clip.inspection.scan import InspectionError, Scan, Scanning, enlarged
from afr_clip.inspection.scanner import Scanner, choose_device, tensor_hash
from afr_clip.inspection.tiles import Blend
from afr_clip.models.prediction import ScoreError
from afr_clip.models.scoring import upsample_map
from helpers.methods import build_method


def dark(height: int, width: int) -> np.ndarray:
    return np.zeros((3, height, width), np.uint8)


def photographs(number: int = 5) -> list[tuple[str, np.ndarray]]:
    random = np.random.default_rng(0)
    return [(f"{i}.png", random.integers(0, 255, (3, 90 + i, 70), dtype=np.uint8)) for i in range(number)]


def test_a_photograph_gets_a_map_and_a_score_in_the_order_of_the_photographs(scanner):
    scans = list(scanner(batch_size=2).scan(iter(photographs()), "nut"))
    assert [scan.size for scan in scans] == [(90 + i, 70) for i in range(5)]
    for (_, pixels), scan in zip(photographs(), scans, strict=True):
        assert scan.anomaly_map.shape == (64, 64)
        assert scan.enlarged().shape == scan.size
        assert scan.image_score == pytest.approx(pixels.mean() / 255, abs=0.01)


def test_nothing_is_read_before_it_is_needed(scanner):
    read = []
    stream = scanner(batch_size=2).scan((read.append(name) or (name, pixels) for name, pixels in photographs()), "nut")
    assert read == []
    next(stream)
    assert len(read) == 2


ROUNDING = 5e-6
"""Places between 40 values are float32 numbers, of which two libraries round each by up to 2e-6, next to the values."""


def test_tiles_find_what_is_lost_when_the_whole_is_made_small(scanner):
    pixels = dark(900, 600)
    pixels[:, 500:512, 300:312] = 255
    (whole,), (tiled,) = (list(scanner(tile).scan([("a.png", pixels)], "nut")) for tile in (None, "auto"))
    assert whole.anomaly_map.shape == (64, 64)
    assert tiled.anomaly_map.shape == (900, 600)
    assert float(whole.anomaly_map.max()) < 0.6 < float(tiled.anomaly_map.max())
    assert tiled.image_score == float(tiled.anomaly_map.max())
    row, column = np.unravel_index(tiled.anomaly_map.argmax(), (900, 600))
    assert (500 <= row < 512, 300 <= column < 312) == (True, True)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    size=st.tuples(st.integers(1, 150), st.integers(1, 150)),
    tile=st.integers(20, 160),
    overlap=st.sampled_from([0.0, 0.25, 0.6]),
    band=st.integers(1, 4000),
    seed=st.integers(0, 1000),
)
def test_a_map_made_in_bands_is_the_mean_of_both_views(scanner, size, tile, overlap, band, seed):
    size = (max(size[0], size[1] // 6), max(size[1], size[0] // 6))  # not too many tiles
    pixels = np.random.default_rng(seed).integers(0, 256, (3, *size), dtype=np.uint8)
    one = scanner(tile, overlap, batch_size=1)
    tiling = one.tiling(size)
    whole = one.look(("nut",), [pixels], ["a.png"], looking.WHOLE).maps[0]
    blend = Blend(tiling)
    for top, left in tiling.corners:
        view = pixels[:, top : top + tiling.side, left : left + tiling.side]
        maps = torch.from_numpy(one.look(("nut",), [view], ["a.png"], looking.PIECE).maps)
        blend.add((top, left), upsample_map(maps, (tiling.side, tiling.side))[0].numpy())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "BAND", band)
        found = one.complete("a.png", pixels, whole, 0.0, "nut").anomaly_map
    expected = (blend.blended() + upsample_map(torch.from_numpy(whole), size).numpy()) / 2
    np.testing.assert_allclose(found, expected, rtol=0, atol=ROUNDING)


def test_large_photographs_fill_a_batch_sooner_and_keep_their_scores(scanner, monkeypatch):
    one = scanner(batch_size=3)
    expected = list(one.scan(photographs(), "nut"))
    monkeypatch.setattr(looking, "MOST_HELD", 10_000)  # pixels; each has more than 6,000
    one._network.seen.clear()
    scans = list(one.scan(photographs(), "nut"))
    assert [len(batch) for batch in one._network.seen] == [2, 2, 1]
    for before, after in zip(expected, scans, strict=True):
        np.testing.assert_allclose(after.anomaly_map, before.anomaly_map, atol=1e-6)


def test_tiles_keep_the_aspect_ratio_of_a_narrow_photograph(scanner):
    pixels = dark(1200, 100)
    pixels[:, 600:640, 30:70] = 255  # a square
    (scan,) = scanner("auto").scan([("a.png", pixels)], "nut")
    above = scan.anomaly_map > 0.4
    assert above.any(axis=1).sum() == pytest.approx(above.any(axis=0).sum(), abs=4)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    size=st.tuples(st.integers(1, 300), st.integers(1, 300)),
)
def test_a_map_is_enlarged_as_the_networks_enlarge_theirs(shape, size):
    small = np.random.default_rng(0).random(shape, dtype=np.float32)
    expected = upsample_map(torch.from_numpy(small), size).numpy()
    np.testing.assert_allclose(enlarged(small, size), expected, rtol=0, atol=ROUNDING)


def test_what_lies_outside_the_area_does_not_count():
    scan = Scan(np.array([[0.9, 0.1], [0.2, 0.3]], dtype=np.float32), 0.99, (2, 2))
    inside = scan.within(np.array([[False, True], [True, True]]))
    assert inside.image_score == pytest.approx(0.3)
    assert inside.anomaly_map[0, 0] == 0
    assert scan.within(None) is scan


def test_references_are_0_for_themselves_and_add_half_of_the_distance_of_others(scanner):
    plain, few_shot = scanner(), scanner()
    good, other = photographs(2)
    few_shot.learn([good[1]], "nut")
    (before, _), (same, different) = (list(one.scan([good, other], "nut")) for one in (plain, few_shot))
    np.testing.assert_allclose(same.anomaly_map, before.anomaly_map / 2, atol=1e-3)
    assert same.image_score == pytest.approx(before.image_score / 2, abs=1e-3)
    assert different.image_score > plain.scan([other], "nut").__next__().image_score / 2
    assert few_shot.identity("nut")["references"] != plain.identity("nut")["references"]


def test_other_names_repeat_the_text_side_only(towers):
    network = build_method("afr_clip", towers).eval()
    scanner = Scanner(
        network, towers, Scanning("cpu", "32-true", None, 0.25, 4), {"method": "afr_clip", "weights": "w"}
    )
    views, calls = torch.rand(2, 3, 64, 64), []
    alone = {name: scanner.score(views, name, ["a", "b"]) for name in ("nut", "object")}
    tapped = network.tapped
    network.tapped = lambda pictures: calls.append(len(pictures)) or tapped(pictures)
    maps, scores, by_name = scanner.score_under(("nut", "object"), views, ["a", "b"])
    assert calls == [2]
    assert torch.equal(maps, alone["nut"][0])
    assert torch.equal(scores, alone["nut"][1])
    assert by_name == {"object": alone["object"][1].tolist()}
    assert by_name["object"] != scores.tolist()


def test_references_must_be_there_for_the_category(scanner):
    few_shot = scanner()
    with pytest.raises(InspectionError, match="at least one photograph of a good part, got none"):
        few_shot.learn([], "nut")
    few_shot.learn([photographs(1)[0][1]], "nut")
    with pytest.raises(InspectionError, match="The references show 'nut', so 'bolt' cannot be scored"):
        next(few_shot.scan(photographs(1), "bolt"))


def test_tiles_are_compared_with_small_references_too(scanner):
    few_shot = scanner("auto")
    few_shot.learn([photographs(1)[0][1]], "nut")
    (scan,) = few_shot.scan([("large.png", dark(300, 300))], "nut")
    assert scan.anomaly_map.shape == (300, 300)


def test_half_precision_of_gpus_is_refused_on_a_cpu(scanner):
    with pytest.raises(InspectionError, match="16-mixed needs a GPU"):
        scanner(precision="16-mixed")


def test_threads_get_the_scores_of_one(scanner):
    shared = scanner()
    expected = [scan.image_score for scan in shared.scan(photographs(), "nut")]
    found: dict[int, list[float]] = {}

    def work(number: int) -> None:
        found[number] = [scan.image_score for scan in shared.scan(photographs(), "nut")]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(found.values()) == [expected] * 4


def test_a_score_of_nan_names_the_photograph(scanner):
    broken = scanner()
    broken._network.forward = lambda image, category: _prediction_of_nan(len(image))
    with pytest.raises(ScoreError, match=r"0\.png got a score of NaN"):
        next(broken.scan(photographs(1), "nut"))


def _prediction_of_nan(number: int):
    from afr_clip.models.prediction import AnomalyPrediction  # noqa: PLC0415

    maps = torch.full((number, 64, 64), torch.nan)
    return AnomalyPrediction(maps, maps[:, 0, 0], maps[:, None], maps[:, None])


def test_the_identity_names_all_that_decides_a_score(scanner):
    identity = scanner().identity("nut")
    assert identity == {
        "method": "brightness",
        "weights": "w",
        "category": "nut",
        "image_size": 64,
        "precision": "32-true",
        "tile": None,
        "overlap": None,
        "references": [],
    }
    assert scanner(tile=32).identity("nut") == identity | {"tile": 32, "overlap": 0.25}
    assert scanner(precision="bf16-mixed").identity("nut") == identity | {"precision": "bf16-mixed"}


def test_a_calibration_in_bfloat16_from_before_stems_stayed_in_float32_is_refused():
    exact, half = (afr_clip.load("pocket", precision=one).identity("nut") for one in ("32-true", "bf16-mixed"))
    assert "stem" not in exact  # as in calibrations of older versions
    older = exact | {"precision": "bf16-mixed"}
    with pytest.raises(CalibrationError, match='another detector: stem was null and is "32-true"'):
        calibrate([0.1] * 200, [0.1] * 200, 0.1, older).require(half)


def test_the_hash_of_tensors_depends_on_names_shapes_and_values():
    one = {"a": torch.zeros(2, 3)}
    assert tensor_hash(one) == tensor_hash({"a": torch.zeros(2, 3)})
    others = (
        {"b": torch.zeros(2, 3)},
        {"a": torch.zeros(3, 2)},
        {"a": torch.ones(2, 3)},
        {"a": torch.zeros(2, 3).half()},
    )
    assert len({tensor_hash(other) for other in (one, *others)}) == 5


def test_a_device_that_is_not_there_is_refused():
    assert choose_device("cpu") == torch.device("cpu")
    with pytest.raises(InspectionError, match="must be one that PyTorch can use here, got toaster"):
        choose_device("toaster")
