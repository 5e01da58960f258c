import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from afr_clip.metrics.average import METRICS, SATURATED_PRO, macro_average
from afr_clip.metrics.functional.regions import MAX_SATURATED_FPR, REGION_UNIT, region_weights, saturated_weights
from afr_clip.metrics.pixel import AnnotatedRegions, PixelMetrics
from afr_clip.metrics.protocol import DatasetMetrics
from helpers.naive_metrics import SCORE_KINDS, make_scores, naive_auspro

EXACT = 1e-10
"""No two distinct scores share a bin, so only float64 sums and the 2 ** -40 steps of weights differ."""

BINNED = 1e-4
"""A few of the 11,520 pixels share a bin with a neighbour in the ranking; a normal one is 1 / 500 of the limit."""

SIZE = (40, 48)
KIND_OF_IMAGE = ("logical", None, "structural", "logical", None, "structural")


def annotate() -> tuple[list[AnnotatedRegions | None], torch.Tensor]:
    """Two regions in each anomalous image, which overlap in the logical ones; one is a third of a pixel short."""
    annotated: list[AnnotatedRegions | None] = []
    masks = torch.zeros(len(KIND_OF_IMAGE), *SIZE, dtype=torch.bool)
    for number, kind in enumerate(KIND_OF_IMAGE):
        large, small = (torch.zeros(SIZE, dtype=torch.bool) for _ in range(2))
        large[3 + number : 15 + number, 5:25] = True
        small[14 + number : 19, 20:30] = True
        small[35:, 40 + number :] = True
        if kind == "structural":
            small &= ~large
        if kind is not None:
            masks[number] = large | small
            shares = (50 / 240, 1.0) if kind == "logical" else (1.0 - 1 / 720, 0.5)
            annotated.append(AnnotatedRegions(kind, list(zip((large, small), shares, strict=True))))
        else:
            annotated.append(None)
    return annotated, masks


ANNOTATED, MASKS = annotate()


def scores_of(kind: str, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(make_scores(kind, MASKS.numpy(), np.random.default_rng(seed)))


def filled(maps: torch.Tensor, rows: list[int] | None = None) -> PixelMetrics:
    metrics, chosen = PixelMetrics(saturated=True), list(range(len(MASKS))) if rows is None else rows
    metrics.update(maps[chosen], MASKS[chosen], [ANNOTATED[row] for row in chosen])
    return metrics


def measured(metrics: PixelMetrics) -> list[float]:
    values = metrics.compute()
    return [values[name].item() for name in SATURATED_PRO]


def reference(maps: np.ndarray) -> list[float]:
    areas = []
    for kind in ("logical", "structural"):
        rows = [row for row, one in enumerate(KIND_OF_IMAGE) if one in (kind, None)]
        own = [[] if (one := ANNOTATED[row]) is None else one.regions for row in rows]
        regions = [[(region.numpy(), share * int(region.sum())) for region, share in of_image] for of_image in own]
        areas.append(naive_auspro(maps[rows], regions, MAX_SATURATED_FPR))
    return [(areas[0] + areas[1]) / 2, *areas]


@pytest.mark.parametrize("kind", SCORE_KINDS)
def test_matches_a_loop_over_all_thresholds_and_regions(kind: str):
    maps = scores_of(kind)
    tolerance = EXACT if kind in ("tied", "constant", "saturated") else BINNED
    assert measured(filled(maps)) == pytest.approx(reference(maps.numpy()), abs=tolerance)


def test_is_exact_for_maps_of_16_bits():
    maps = (scores_of("random", seed=1).double() * 65535).round() / 65535
    assert measured(filled(maps.float())) == pytest.approx(reference(maps.numpy()), abs=EXACT)


def test_the_other_metrics_stay_as_they_are():
    maps = scores_of("random")
    plain = PixelMetrics()
    plain.update(maps, MASKS)
    values = filled(maps).compute()
    assert tuple(values) == (*plain.compute(), *SATURATED_PRO)
    assert {name: values[name] for name in plain.compute()} == plain.compute()


@settings(max_examples=20, deadline=None, derandomize=True)
@given(cuts=st.sets(st.integers(1, 5)), order=st.permutations(range(6)), process=st.lists(st.booleans(), min_size=6))
def test_batches_order_and_processes_change_no_bit(cuts: set[int], order: list[int], process: list[bool]):
    maps = scores_of("random")
    processes = PixelMetrics(saturated=True), PixelMetrics(saturated=True)
    for number, (start, stop) in enumerate(pairwise([0, *sorted(cuts), 6])):
        rows = order[start:stop]
        processes[process[number]].update(maps[rows], MASKS[rows], [ANNOTATED[row] for row in rows])
    processes[0].merge_state(processes[1])
    assert processes[0].compute() == filled(maps).compute()


@settings(max_examples=50, deadline=None, derandomize=True)
@given(share=st.floats(1e-8, 1), seed=st.integers(0, 9))
def test_every_region_weighs_one_unit_however_little_of_it_must_be_found(share: float, seed: int):
    generator = torch.Generator().manual_seed(seed)
    scores, region = torch.rand(9, 11, generator=generator), torch.rand(9, 11, generator=generator) > 0.5
    places, weights = saturated_weights(scores, region, share)
    assert weights.sum() == REGION_UNIT
    assert (weights >= 0).all()
    assert region.flatten()[places].all()
    assert len(places) == math.ceil(share * int(region.sum()))
    left = region.flatten().clone()
    left[places] = False
    assert not left.any() or scores.flatten()[left].max() <= scores.flatten()[places].min()


def test_a_share_of_one_is_plain_overlap():
    region = torch.zeros(9, 11, dtype=torch.bool)
    region[2:5, 3:8] = True
    places, weights = saturated_weights(torch.rand(region.shape), region, 1.0)
    assert weights[places.argsort()].double() / REGION_UNIT == pytest.approx(
        region_weights(region)[0].double() / REGION_UNIT, abs=1e-10
    )


def test_which_of_equal_scores_saturate_a_region_does_not_matter():
    scores, region = torch.tensor([[0.75, 0.5, 0.5, 0.5, 0.25]]), torch.ones(1, 5, dtype=torch.bool)
    expected = {0.75: 0.5, 0.5: 0.5}
    for order in ([0, 1, 2, 3, 4], [3, 4, 1, 0, 2], [4, 3, 2, 1, 0]):
        turned = scores[:, order]
        places, weights = saturated_weights(turned, region, 0.4)
        by_score = dict.fromkeys(expected, 0.0)
        for place, weight in zip(places.tolist(), weights.tolist(), strict=True):
            by_score[turned[0, place].item()] += weight / REGION_UNIT
        assert by_score == pytest.approx(expected)


def test_a_region_without_a_pixel_weighs_nothing():
    places, weights = saturated_weights(torch.rand(2, 3), torch.zeros(2, 3, dtype=torch.bool), 0.5)
    assert (len(places), len(weights)) == (0, 0)


@pytest.mark.parametrize("missing", ["logical", "structural"])
def test_without_regions_of_a_kind_it_and_the_mean_are_undefined(missing: str):
    rows = [row for row, kind in enumerate(KIND_OF_IMAGE) if kind != missing]
    mean, *of_kinds = measured(filled(scores_of("random"), rows))
    assert math.isnan(mean)
    assert [math.isnan(one) for one in of_kinds] == [missing == "logical", missing == "structural"]


def test_false_alarms_on_the_images_of_the_other_kind_do_not_count():
    maps = scores_of("random")
    _, logical, structural = measured(filled(maps))
    for row, kind in enumerate(KIND_OF_IMAGE):
        if kind == "structural":
            maps[row][~MASKS[row]] = 1.0
    _, same, lower = measured(filled(maps))
    assert same == logical
    assert lower < structural


def test_a_dataset_reads_the_regions_of_its_anomalous_images_and_averages_over_categories():
    maps, asked = scores_of("random"), []

    def annotated(position: int) -> AnnotatedRegions:
        asked.append(position)
        regions = ANNOTATED[position % 6]
        assert regions is not None
        return regions

    truth = [kind is not None for kind in KIND_OF_IMAGE] * 2
    metrics = DatasetMetrics(["box"] * 6 + ["bag"] * 6, truth, annotated=annotated)
    every = torch.arange(12).flip(0)
    both = torch.cat([maps, 1 - maps])
    for rows in every.split(5):
        metrics.update(both[rows], both[rows].amax(dim=(1, 2)), MASKS[rows % 6], torch.ones(len(rows)) > 0, rows)
    assert sorted(asked) == [row for row, is_anomalous in enumerate(truth) if is_anomalous]
    box, bag = metrics.compute()
    assert tuple(box.values) == (*METRICS, *SATURATED_PRO)
    assert [box.values[name] for name in SATURATED_PRO] == measured(filled(maps))
    assert [bag.values[name] for name in SATURATED_PRO] == measured(filled(1 - maps))
    mean = macro_average([box, bag])
    assert mean.values["pixel_auspro"] == pytest.approx((box.values["pixel_auspro"] + bag.values["pixel_auspro"]) / 2)
    assert mean.num_defined["pixel_auspro_logical"] == 2
