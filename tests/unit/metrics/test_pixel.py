import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch.distributed import ReduceOp

from afr_clip.metrics.functional.binning import NUM_BINS, NUM_CELLS
from afr_clip.metrics.functional.regions import MAX_REGIONS
from afr_clip.metrics.pixel import PixelMetrics
from helpers.naive_metrics import SCORE_KINDS, Bools, make_scores, naive_aupro, naive_published_aupro, sklearn_metrics

OFFICIAL = Path(__file__).parents[2] / "fixtures" / "official"
"""What the authors' own programs computed; its README says how."""

NAMES = ("pixel_auroc", "pixel_f1_max", "pixel_ap", "pixel_aupro")

EXACT = 1e-10
"""No two distinct scores share a bin, so only float64 sums and the 2 ** -40 steps of region weights differ."""

BINNED = 2e-5
"""A few of the 6,400 pixels share a bin with a neighbour in the ranking."""


def make_masks(rng: np.random.Generator) -> Bools:
    """Five images; three of them have one rectangle and one lone pixel."""
    masks = np.zeros((5, 32, 40), dtype=bool)
    for mask in masks[:3]:
        top, left = rng.integers(1, 20, 2)
        mask[top : top + 6, left : left + 9] = True
        mask[31, 39] = True
    return masks


def evaluate(maps: np.ndarray, masks: Bools) -> dict[str, float]:
    metrics = PixelMetrics()
    metrics.update(torch.from_numpy(maps), torch.from_numpy(masks))
    return {name: value.item() for name, value in metrics.compute().items()}


def reference(maps: np.ndarray, masks: Bools) -> dict[str, float]:
    values = {f"pixel_{name}": value for name, value in sklearn_metrics(maps, masks).items()}
    return {**values, "pixel_aupro": naive_aupro(maps, masks)}


def states(metrics: PixelMetrics) -> tuple[torch.Tensor, ...]:
    metrics.compute()  # brings the bins into ascending order
    return metrics.counts, metrics.num_regions, metrics.bins.bits


def filled(maps: torch.Tensor, masks: torch.Tensor) -> PixelMetrics:
    metrics = PixelMetrics()
    metrics.update(maps, masks)
    return metrics


@pytest.mark.parametrize("kind", SCORE_KINDS)
@pytest.mark.parametrize("seed", [0, 1])
def test_matches_the_references(kind: str, seed: int):
    rng = np.random.default_rng(seed)
    masks = make_masks(rng)
    maps = make_scores(kind, masks, rng)
    tolerance = EXACT if kind in ("tied", "constant", "saturated") else BINNED
    assert evaluate(maps, masks) == pytest.approx(reference(maps, masks), abs=tolerance)


@pytest.mark.parametrize("mean", [-30, -26, -18, 17])
def test_scores_next_to_an_end_are_told_apart(mean: int):
    rng = np.random.default_rng(5)
    masks = np.zeros((4, 100, 100), dtype=bool)
    masks[:2, 20:50, 60:90] = True
    maps = 1 / (1 + np.exp(-3 * rng.normal(size=masks.shape) - 3 * masks - mean))
    assert evaluate(maps.astype(np.float32), masks) == pytest.approx(
        reference(maps.astype(np.float32), masks), abs=3e-5
    )


def test_is_exact_for_maps_of_16_bits():
    rng = np.random.default_rng(0)
    masks = make_masks(rng)
    maps = np.round(make_scores("random", masks, rng) * 65535) / 65535
    assert evaluate(maps.astype(np.float32), masks) == pytest.approx(reference(maps, masks), abs=EXACT)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(cuts=st.sets(st.integers(1, 11)), order=st.permutations(range(12)), process=st.lists(st.booleans(), min_size=12))
def test_states_ignore_batches_order_and_processes(cuts: set[int], order: list[int], process: list[bool]):
    generator = torch.Generator().manual_seed(7)
    maps, masks = torch.rand(12, 9, 8, generator=generator), torch.rand(12, 9, 8, generator=generator) > 0.7
    processes = PixelMetrics(), PixelMetrics()
    bounds = [0, *sorted(cuts), 12]
    for number, (start, stop) in enumerate(pairwise(bounds)):
        rows = order[start:stop]
        processes[process[number]].update(maps[rows], masks[rows])
    processes[0].merge_state(processes[1])
    whole = filled(maps, masks)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(states(processes[0]), states(whole), strict=True))
    assert processes[0].compute() == whole.compute()


def test_processes_agree_on_bins_before_their_counts_are_added(monkeypatch):
    generator = torch.Generator().manual_seed(3)
    wide = torch.rand(2, 300, 300, generator=generator)
    narrow = 0.5 + torch.rand(2, 300, 300, generator=generator) / 20  # wide enough to crowd no bin
    masks = torch.rand(2, 300, 300, generator=generator) > 0.999
    ours, theirs = filled(narrow, masks), filled(wide, masks)
    assert ours.bins.common_bits > theirs.bins.common_bits
    other_bits, other_in_cell = theirs.bins.layout(theirs.counts[0])
    bits = []

    def all_reduce(state, op=ReduceOp.SUM, group=None):
        if op is ReduceOp.MIN:
            bits.append(torch.minimum(state, other_bits))
            state.copy_(bits[0])
        elif state.shape == other_in_cell.shape:
            state += other_in_cell
            theirs._move(theirs.bins.adopt(bits[0], state.clone()))
        else:
            state += theirs.counts if state.ndim else theirs.num_regions

    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    ours.distributed_available_fn = lambda: True
    values = ours.compute()
    assert values == filled(torch.cat([narrow, wide]), torch.cat([masks, masks])).compute()
    assert ours.counts[0].sum() == narrow.numel()  # each process keeps its own counts
    ours.update(narrow, masks)
    assert ours.counts[0].sum() == 2 * narrow.numel()


@settings(max_examples=30, deadline=None, derandomize=True)
@given(levels=st.lists(st.integers(0, 1000), min_size=8, max_size=8, unique=True), power=st.floats(0.5, 2))
def test_monotone_rescaling_changes_nothing(levels: list[int], power: float):
    rng = np.random.default_rng(8)
    masks = make_masks(rng)
    ranks = rng.integers(0, 8, masks.shape)
    original = (np.sort(levels) / 1000).astype(np.float32)
    rescaled = (original.astype(np.float64) ** power).astype(np.float32)
    # Levels a thousandth apart stay in bins of their own, so the ranking and its ties are the same.
    assert evaluate(rescaled[ranks], masks) == pytest.approx(evaluate(original[ranks], masks), abs=EXACT)


def test_perfect_and_inverted_maps():
    masks = make_masks(np.random.default_rng(9))
    perfect = masks.astype(np.float32)
    assert evaluate(perfect, masks) == pytest.approx(dict.fromkeys(NAMES, 1.0), abs=1e-15)
    inverted = evaluate(1 - perfect, masks)
    share = masks.mean()
    assert inverted["pixel_auroc"] == inverted["pixel_aupro"] == 0.0
    assert inverted["pixel_ap"] == pytest.approx(share, abs=1e-15)
    assert inverted["pixel_f1_max"] == pytest.approx(2 * share / (1 + share), abs=1e-15)


@pytest.mark.parametrize("kind", ["random", "tied", "narrow_band", "saturated"])
def test_published_pro_follows_its_recipe(kind: str):
    rng = np.random.default_rng(3)
    masks = make_masks(rng)
    maps = make_scores(kind, masks, rng)
    metrics = PixelMetrics(published_pro=True)
    metrics.update(torch.from_numpy(maps), torch.from_numpy(masks))
    values = {name: value.item() for name, value in metrics.compute().items()}
    assert values.pop("pixel_aupro_published") == pytest.approx(
        naive_published_aupro(maps, masks), abs=1e-4, nan_ok=True
    )
    assert values == evaluate(maps, masks)


@pytest.mark.parametrize(
    "case", ["heavy_tail", "nearly_constant", "no_normal_image", "ordinary", "saturated", "sum_of_four", "ties"]
)
def test_published_pro_is_what_the_published_function_computes(case: str):
    golden = load_file(OFFICIAL / "published_pro.safetensors")
    maps = golden[f"{case}.map"]
    metrics = PixelMetrics(published_pro=True)
    metrics.update(maps / 4 if maps.max() > 1 else maps, golden[f"{case}.mask"])  # the same ranks, and exact
    value = metrics.compute()["pixel_aupro_published"]
    assert value.item() == pytest.approx(golden[f"{case}.value"].item(), abs=1e-5)


def test_published_pro_of_a_constant_map_is_undefined():
    masks = torch.from_numpy(make_masks(np.random.default_rng(3)))
    metrics = PixelMetrics(published_pro=True)
    metrics.update(torch.full(masks.shape, 0.4), masks)
    assert math.isnan(metrics.compute()["pixel_aupro_published"])


def test_bins_of_another_metric_are_not_added_without_their_scores():
    with pytest.raises(TypeError, match="can only be merged with PixelMetrics, got dict"):
        PixelMetrics().merge_state({"counts": torch.zeros(3, NUM_BINS, dtype=torch.int64)})


@pytest.mark.parametrize("batch", ["none", "empty", "all_normal", "all_anomalous"])
def test_undefined_values_are_nan_without_a_warning(batch: str):
    metrics = PixelMetrics()
    if batch != "none":
        masks = torch.full((0 if batch == "empty" else 2, 3, 3), batch == "all_anomalous")
        metrics.update(torch.rand(masks.shape), masks)
    values = metrics.compute()
    assert tuple(values) == NAMES
    assert all(math.isnan(value) for value in values.values())


@pytest.mark.parametrize("bad", [float("nan"), -0.01, 1.01])
def test_refuses_what_is_no_probability_and_counts_nothing(bad: float):
    maps = torch.full((2, 3, 3), 0.5)
    maps[1, 1, 1] = bad
    metrics = PixelMetrics()
    with pytest.raises(ValueError, match=r"anomaly_map must hold probabilities in \[0, 1\], got values from"):
        metrics.update(maps, torch.zeros(2, 3, 3, dtype=torch.bool))
    assert not metrics.counts.any()


def test_refuses_more_regions_than_the_sums_can_hold():
    metrics = PixelMetrics()
    metrics.num_regions += MAX_REGIONS + 1
    with pytest.raises(ValueError, match=rf"at most {MAX_REGIONS} regions together, got {MAX_REGIONS + 1}"):
        metrics.compute()


def test_every_pixel_and_region_is_counted():
    masks = torch.from_numpy(make_masks(np.random.default_rng(10)))
    metrics = filled(torch.rand(masks.shape, generator=torch.Generator().manual_seed(0)), masks)
    pixels, anomalous, region_weight = metrics.counts.sum(dim=1).tolist()
    assert (pixels, anomalous) == (masks.numel(), int(masks.sum()))
    assert metrics.num_regions == 6
    assert region_weight / 6 == pytest.approx(2**40, rel=1e-9)  # rounded once per pixel


def test_memory_does_not_grow():
    metrics = PixelMetrics()
    sizes = set()
    for _ in range(3):
        metrics.update(torch.rand(4, 16, 16), torch.rand(4, 16, 16) > 0.5)
        sizes.add(sum(state.untyped_storage().nbytes() for state in states(metrics)))
    assert sizes == {3 * 8 * NUM_BINS + 8 + 4 * NUM_CELLS}


def test_layout_and_gradient_of_the_map_do_not_matter():
    maps = torch.rand(2, 6, 7, generator=torch.Generator().manual_seed(11))
    masks = maps > 0.6
    strided = maps.transpose(1, 2).contiguous().transpose(1, 2).requires_grad_()
    assert all(
        torch.equal(ours, theirs)
        for ours, theirs in zip(states(filled(strided, masks)), states(filled(maps, masks)), strict=True)
    )


def test_reset_forgets():
    metrics = filled(torch.rand(1, 3, 3), torch.ones(1, 3, 3, dtype=torch.bool))
    metrics.reset()
    assert not metrics.counts.any()
    assert not metrics.num_regions
    metrics.update(torch.rand(1, 3, 3), torch.ones(1, 3, 3, dtype=torch.bool))
    assert metrics.counts[0].sum() == 9


@pytest.mark.parametrize("seed", range(10))
def test_the_threshold_of_the_best_f1_reaches_it(seed):
    rng = np.random.default_rng(seed)
    masks = make_masks(rng)
    maps = (rng.integers(0, 9, masks.shape) / 8 if seed % 2 else rng.random(masks.shape)).astype(np.float32)
    metrics = PixelMetrics()
    metrics.update(torch.from_numpy(maps), torch.from_numpy(masks))
    best = metrics.compute()["pixel_f1_max"].item()

    def f1(threshold: float) -> float:
        reported = maps >= threshold
        return float(2 * (reported & masks).sum() / (reported.sum() + masks.sum()))

    assert f1(metrics.f1_threshold) == best
    if seed % 2:  # every score has a bin of its own
        assert metrics.f1_threshold == max(float(score) for score in np.unique(maps) if f1(score) == best)


def test_without_defects_there_is_no_threshold():
    metrics = PixelMetrics()
    metrics.update(torch.rand(1, 4, 4), torch.zeros(1, 4, 4, dtype=torch.bool))
    metrics.compute()
    assert math.isnan(metrics.f1_threshold)


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 0.61803, 1.0])
@pytest.mark.parametrize("kind", ["tied", "saturated", SCORE_KINDS[0]])
def test_the_f1_above_a_given_threshold_is_that_of_counting_pixels(kind: str, threshold: float):
    rng = np.random.default_rng(4)
    masks = make_masks(rng)
    maps = make_scores(kind, masks, rng)
    metrics = PixelMetrics(threshold=threshold)
    for one, mask in zip(torch.from_numpy(maps), torch.from_numpy(masks), strict=True):
        metrics.update(one[None], mask[None])
    metrics.compute()
    reported = maps.astype(np.float64) > threshold
    expected = 2 * (reported & masks).sum() / (reported.sum() + masks.sum())
    assert metrics.f1_given == pytest.approx(expected, abs=2e-4)


def test_the_f1_above_a_threshold_needs_both_kinds_of_pixels():
    for truth in (False, True):
        metrics = PixelMetrics(threshold=0.5)
        metrics.update(torch.full((1, 2, 2), 0.75), torch.full((1, 2, 2), truth))
        metrics.compute()
        assert math.isnan(metrics.f1_given)
