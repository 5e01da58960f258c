import json
import math

import pytest

from afr_clip.metrics.protocol import METRICS, CategoryResult
from afr_clip.reports.record.run_folder import write_json
from afr_clip.reports.record.scored import read_scored, unchanged
from afr_clip.reports.record.tables import DatasetResult, ImageRow, ScoredDataset, write_results, write_scores

WITH = {"checkpoint_sha256": "a" * 64, "save_maps": False}


def scored_dataset(name: str, num: int, **values: float) -> ScoredDataset:
    measured = {metric: 1 / (i + num) for i, metric in enumerate(METRICS)} | values
    rows = [ImageRow(name, "mean", f"/data/{name}, {i}.png", i > 0, 0.1 + i / 3) for i in range(num)]
    category = CategoryResult("mean", measured, num_normal=1, num_anomalous=num - 1)
    return ScoredDataset({"sha256": name * 8}, DatasetResult(name, (category,), {"mean": num}), rows)


@pytest.fixture
def scored() -> dict[str, ScoredDataset]:
    return {"visa": scored_dataset("visa", 3), "mpdd": scored_dataset("mpdd", 2, pixel_ap=math.nan)}


@pytest.fixture
def folder(tmp_path, scored):
    """A run folder in which both were scored."""
    manifest = {"scored_with": WITH, "targets": {name: dataset.facts for name, dataset in scored.items()}}
    write_scores(tmp_path, [row for dataset in scored.values() for row in dataset.rows])
    write_results(tmp_path, [dataset.result for dataset in scored.values()], manifest)
    return tmp_path


def test_what_was_scored_comes_back_digit_for_digit(folder, scored):
    assert repr(read_scored(folder, WITH)) == repr(scored)  # NaN is not equal to itself


@pytest.mark.parametrize("other", [WITH | {"checkpoint_sha256": "b" * 64}, WITH | {"save_maps": True}, {}])
def test_what_was_scored_with_something_else_does_not_count(folder, other):
    assert read_scored(folder, other) is None


def test_nothing_was_scored_where_there_is_no_file_or_nothing_was_trained(tmp_path):
    assert read_scored(tmp_path, WITH) is None
    write_json(tmp_path / "results.json", {"results": [], "manifest": {"absent": {}}})
    assert read_scored(tmp_path, WITH) is None


def test_a_training_without_targets_is_finished_all_the_same(tmp_path):
    write_results(tmp_path, [], {"scored_with": WITH, "targets": {}})
    assert read_scored(tmp_path, WITH) == {}


def test_a_dataset_whose_scores_are_gone_does_not_count(folder, scored):
    write_scores(folder, [*scored["visa"].rows, *scored["mpdd"].rows[1:]])
    assert read_scored(folder, WITH).keys() == {"visa"}
    (folder / "scores.csv").unlink()
    assert read_scored(folder, WITH) == {}


def test_what_is_read_is_written_again_byte_for_byte(folder):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    manifest = json.loads(before["results.json"])["manifest"]
    read = read_scored(folder, WITH).values()
    write_scores(folder, [row for dataset in read for row in dataset.rows])
    write_results(folder, [dataset.result for dataset in read], manifest)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_only_the_same_images_of_a_target_count(scored):
    facts = {name: dict(dataset.facts) for name, dataset in scored.items()}
    assert unchanged(scored, facts) == scored
    assert unchanged(scored, facts | {"isic": {"sha256": "new"}}) == scored
    assert unchanged(scored, facts | {"visa": {"sha256": "other"}}).keys() == {"mpdd"}
    assert unchanged(scored, {"visa": facts["visa"]}).keys() == {"visa"}
