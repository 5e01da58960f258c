import copy
import math
from dataclasses import FrozenInstanceError
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from afr_clip.metrics.average import IMAGE_METRICS, METRICS, PIXEL_METRICS, PUBLISHED_PRO, CategoryResult, macro_average
from afr_clip.metrics.image import image_metrics
from afr_clip.metrics.pixel import PixelMetrics
from afr_clip.metrics.protocol import DatasetMetrics

CATEGORIES = ("pcb.1", "metal nut", "pcb.1", "0", "metal nut", "pcb.1", "metal nut", "0", "pcb.1", "single")
IS_ANOMALOUS = (True, False, False, True, True, True, False, False, False, True)


class Batch(NamedTuple):
    anomaly_map: Tensor
    image_score: Tensor
    mask: Tensor
    has_mask: Tensor
    place: Tensor

    def rows(self, *rows: int) -> "Batch":
        return Batch(*(value[list(rows)] for value in self))


def everything() -> Batch:
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(len(CATEGORIES), 6, 7, generator=generator)
    mask = (torch.rand(maps.shape, generator=generator) > 0.7) & torch.tensor(IS_ANOMALOUS)[:, None, None]
    score = torch.rand(len(CATEGORIES), generator=generator)
    return Batch(maps, score, mask, torch.ones(len(CATEGORIES), dtype=torch.bool), torch.arange(len(CATEGORIES)))


def evaluated(*batches: Batch) -> DatasetMetrics:
    metrics = DatasetMetrics(CATEGORIES, IS_ANOMALOUS)
    for batch in batches:
        metrics.update(*batch)
    return metrics


def result(category: str, value: float, **other: float) -> CategoryResult:
    return CategoryResult(category, {**dict.fromkeys(METRICS, value), **other}, num_normal=2, num_anomalous=3)


def same(ours: tuple[CategoryResult, ...], theirs: tuple[CategoryResult, ...]) -> bool:
    return repr(ours) == repr(theirs)  # equal also where both are NaN


def test_metrics_are_in_the_order_of_the_tables():
    assert (*IMAGE_METRICS, *PIXEL_METRICS) == METRICS
    assert all(tuple(category.values) == METRICS for category in evaluated(everything()).compute())


def test_published_pro_is_computed_on_request_and_averaged_like_the_others():
    metrics = DatasetMetrics(CATEGORIES, IS_ANOMALOUS, published_pro=True)
    metrics.update(*everything())
    results = metrics.compute()
    assert all(tuple(category.values) == (*METRICS, PUBLISHED_PRO) for category in results)
    defined = [r.values[PUBLISHED_PRO] for r in results if not math.isnan(r.values[PUBLISHED_PRO])]
    mean = macro_average(results)
    assert mean.num_defined[PUBLISHED_PRO] == len(defined) >= 2
    assert mean.values[PUBLISHED_PRO] == pytest.approx(sum(defined) / len(defined))
    with pytest.raises(ValueError, match="pixel_aupro_published, got"):
        macro_average([results[0], result("other", 0.5)])


def test_every_category_has_its_own_metrics():
    batch = everything()
    results = evaluated(batch).compute()
    assert [category.category for category in results] == ["pcb.1", "metal nut", "0", "single"]
    for category in results:
        rows = [row for row, name in enumerate(CATEGORIES) if name == category.category]
        alone, truth = PixelMetrics(), torch.tensor(IS_ANOMALOUS)[rows]
        alone.update(batch.anomaly_map[rows], batch.mask[rows])
        expected = {**image_metrics(batch.image_score[rows], truth), **alone.compute()}
        assert category.values == pytest.approx({name: v.item() for name, v in expected.items()}, nan_ok=True)
        assert (category.num_normal, category.num_anomalous) == (int((~truth).sum()), int(truth.sum()))


def test_batches_and_order_do_not_matter():
    batch = everything()
    in_pieces = evaluated(batch.rows(9, 3, 0), batch.rows(1), batch.rows(8, 7, 2, 4), batch.rows(5, 6))
    assert same(in_pieces.compute(), evaluated(batch).compute())


def test_image_scores_are_in_the_order_of_the_dataset():
    batch = everything()
    metrics = evaluated(batch.rows(*reversed(range(10))))
    assert torch.equal(metrics.image_scores(), batch.image_score.double())


def test_images_without_masks_stay_out_of_pixel_metrics():
    batch = everything()
    wrong_mask = batch.mask.clone()
    wrong_mask[0] = ~wrong_mask[0]
    unknown = batch.has_mask.clone()
    unknown[0] = False
    without = evaluated(batch._replace(mask=wrong_mask, has_mask=unknown)).compute()
    known, all_of_them = PixelMetrics(), [2, 5, 8]
    known.update(batch.anomaly_map[all_of_them], batch.mask[all_of_them])
    expected = {name: value.item() for name, value in known.compute().items()}
    assert {name: without[0].values[name] for name in PIXEL_METRICS} == expected
    assert without[0].num_anomalous == 2  # it still counts as an image


def test_a_dataset_without_masks_has_undefined_pixel_metrics():
    batch = everything()
    first = evaluated(batch._replace(has_mask=torch.zeros_like(batch.has_mask))).compute()[0]
    assert all(math.isnan(first.values[name]) for name in PIXEL_METRICS)
    assert not any(math.isnan(first.values[name]) for name in IMAGE_METRICS)


def test_processes_that_saw_some_categories_only_add_up():
    batch = everything()
    first, second = evaluated(batch.rows(0, 1, 2, 4, 5, 6)), evaluated(batch.rows(3, 7, 8, 9))
    for ours, theirs in zip([*first.image, *first.pixel], [*second.image, *second.pixel], strict=True):
        ours.merge_state(theirs)
    assert same(first.compute(), evaluated(batch).compute())


def test_lower_precision_of_the_model_leaves_the_metrics_alone():
    batch = everything()
    metrics = evaluated(batch)
    expected = copy.deepcopy(metrics).compute()
    assert same(metrics.half().compute(), expected)


def test_categories_with_equal_scores_are_named_if_a_ranking_was_asked_for():
    batch = everything()
    assert evaluated(batch).tied() == []
    score = torch.where(torch.tensor([name in ("0", "single") for name in CATEGORIES]), 1.0, batch.image_score)
    assert evaluated(batch._replace(image_score=score)).tied() == ["0"]  # "single" has no normal image


def test_reset_allows_a_second_evaluation():
    batch = everything()
    metrics = evaluated(batch._replace(anomaly_map=1 - batch.anomaly_map, image_score=1 - batch.image_score))
    metrics.compute()
    metrics.reset()
    metrics.update(*batch)
    assert same(metrics.compute(), evaluated(batch).compute())


def test_metrics_add_nothing_to_a_checkpoint():
    assert not evaluated(everything()).state_dict()


def test_an_image_left_out_is_noticed():
    with pytest.raises(ValueError, match=r"1 \(first: index 1\) never scored"):
        evaluated(everything().rows(0, 1, 3, 4, 5, 6, 7, 8, 9)).compute()


def test_refuses_an_index_beyond_the_dataset():
    batch = everything()
    with pytest.raises(ValueError, match=r"index must lie in 0\.\.9, got 10"):
        evaluated(batch._replace(place=batch.place + 1))


@pytest.mark.parametrize(("categories", "truth"), [((), ()), (("a",), ()), (("a", "b"), (True,))])
def test_refuses_lists_that_do_not_describe_the_same_images(categories: tuple[str, ...], truth: tuple[bool, ...]):
    with pytest.raises(ValueError, match=f"one entry per image.*got {len(categories)} and {len(truth)}"):
        DatasetMetrics(categories, truth)


def test_macro_average_leaves_out_what_is_undefined_and_says_so():
    mean = macro_average([result("a", 0.2), result("b", 0.6, pixel_aupro=math.nan), result("c", 1.0)])
    assert mean.category == "mean"
    assert mean.values["image_auroc"] == pytest.approx(0.6)
    assert mean.values["pixel_aupro"] == pytest.approx(0.6)  # of 0.2 and 1.0
    assert mean.num_defined == {**dict.fromkeys(METRICS, 3), "pixel_aupro": 2}
    assert (mean.num_normal, mean.num_anomalous) == (6, 9)


def test_macro_average_of_nothing_defined_is_nan():
    mean = macro_average([result("a", 0.5, pixel_ap=math.nan)])
    assert math.isnan(mean.values["pixel_ap"])
    assert mean.num_defined["pixel_ap"] == 0


def test_macro_average_refuses_no_category():
    with pytest.raises(ValueError, match="at least one category, got none"):
        macro_average([])


def test_macro_average_refuses_a_missing_metric():
    partial = CategoryResult("carpet", {"image_auroc": 1.0}, num_normal=1, num_anomalous=1)
    with pytest.raises(ValueError, match=r"exactly the metrics .* got image_auroc for carpet"):
        macro_average([partial])


def test_results_do_not_change_after_the_fact():
    with pytest.raises(FrozenInstanceError):
        result("a", 0.5).category = "b"
