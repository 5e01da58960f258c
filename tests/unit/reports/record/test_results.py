import csv
import io
import json
import math
from dataclasses import replace

import pytest
from rich.console import Console

from afr_clip.metrics.average import METRICS, CategoryResult
from afr_clip.reports.record.results import (
    MEAN_ROW,
    DatasetResult,
    ImageRow,
    ScoredDataset,
    read_scored,
    read_scores,
    read_values,
    results_table,
    thresholds_of,
    unchanged,
    write_results,
    write_scores,
)
from afr_clip.reports.record.run_folder import write_json
from helpers.tiny import random_batch

NAN_BOTTLE = {"pixel_aupro": math.nan, "pixel_ap": math.nan}


def category(name: str, value: float, num_normal: int, num_anomalous: int, **other: float) -> CategoryResult:
    values = {metric: value / (i + 1) for i, metric in enumerate(METRICS)} | other
    return CategoryResult(name, values, num_normal, num_anomalous)


@pytest.fixture
def results() -> list[DatasetResult]:
    mvtec = (category("cable", 1 / 3, 3, 4), category("bottle", 0.7, 1, 2, **NAN_BOTTLE))
    visa = (category("pcb1", 0.1 + 0.2, 5, 6),)
    return [DatasetResult("mvtec_ad", mvtec, {"cable": 0, "bottle": 2}), DatasetResult("visa", visa, {"pcb1": 0})]


def rows_of(path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_csv_has_one_row_per_value_in_the_order_of_the_tables(tmp_path, results):
    write_results(tmp_path, results, {})
    lines = (tmp_path / "results.csv").read_text().splitlines()
    assert lines[0] == "dataset,category,metric,value,num_normal,num_anomalous"
    order = [tuple(line.split(",")[:3]) for line in lines[1:]]
    places = [("mvtec_ad", c) for c in ("cable", "bottle", "mean")] + [("visa", c) for c in ("pcb1", "mean")]
    assert order == [(*place, metric) for place in places for metric in METRICS]


def test_values_come_back_exactly(tmp_path, results):
    write_results(tmp_path, results, {})
    expected = [
        (row.values[metric], row.num_normal, row.num_anomalous)
        for result in results
        for row in (*result.categories, result.mean)
        for metric in METRICS
    ]
    rows = rows_of(tmp_path / "results.csv")
    read = [(float(row["value"]), int(row["num_normal"]), int(row["num_anomalous"])) for row in rows]
    assert repr(read) == repr(expected)


def test_undefined_values_are_nan_in_the_csv_null_in_the_json_and_named(tmp_path, results):
    write_results(tmp_path, results, {})
    undefined = ["mvtec_ad/bottle/pixel_ap", "mvtec_ad/bottle/pixel_aupro"]
    named = [
        f"{r['dataset']}/{r['category']}/{r['metric']}"
        for r in rows_of(tmp_path / "results.csv")
        if r["value"] == "nan"
    ]
    assert named == undefined
    content = json.loads((tmp_path / "results.json").read_text())
    assert content["undefined"] == undefined
    nulls = [f"{r['dataset']}/{r['category']}/{r['metric']}" for r in content["results"] if r["value"] is None]
    assert nulls == undefined


def test_the_mean_leaves_undefined_values_out_and_says_over_how_many_it_is(tmp_path, results):
    write_results(tmp_path, results, {})
    content = json.loads((tmp_path / "results.json").read_text())
    means = {r["metric"]: r for r in content["results"] if (r["dataset"], r["category"]) == ("mvtec_ad", "mean")}
    assert means["image_auroc"]["value"] == pytest.approx((1 / 3 + 0.7) / 2)
    assert means["pixel_aupro"]["value"] == pytest.approx(1 / 3 / 7)
    assert (means["image_ap"]["num_normal"], means["image_ap"]["num_anomalous"]) == (4, 6)
    counts = {metric: 1 if metric in NAN_BOTTLE else 2 for metric in METRICS}
    assert content["categories_in_mean"] == {"mvtec_ad": counts, "visa": dict.fromkeys(METRICS, 1)}


def test_the_json_holds_the_same_values_and_what_else_there_is_to_know(tmp_path, results):
    manifest = {"commit": {"hash": "abc", "dirty": False}, "seed": 3}
    write_results(tmp_path, results, manifest)
    content = json.loads((tmp_path / "results.json").read_text())
    assert content["manifest"] == manifest
    assert content["vanished_defects"] == {"mvtec_ad": {"cable": 0, "bottle": 2}, "visa": {"pcb1": 0}}
    for row, other in zip(rows_of(tmp_path / "results.csv"), content["results"], strict=True):
        assert repr(float(row.pop("value"))) == repr(math.nan if other["value"] is None else other["value"])
        assert row == {key: str(value) for key, value in other.items() if key != "value"}


def test_without_targets_the_results_are_empty_and_not_absent(tmp_path):
    write_results(tmp_path, [], {"seed": 0})
    assert rows_of(tmp_path / "results.csv") == []
    content = json.loads((tmp_path / "results.json").read_text())
    assert (content["results"], content["undefined"], content["categories_in_mean"]) == ([], [], {})


def test_scores_come_back_with_all_digits_and_unknown_truth_stays_empty(tmp_path):
    samples = random_batch(3).samples
    scores = [1 / 3, 0.1 + 0.2, 5e-324]
    truths = [False, True, None]
    rows = [
        ImageRow(s.dataset, s.category, str(s.image_path), truth, score)
        for s, truth, score in zip(samples, truths, scores, strict=True)
    ]
    write_scores(tmp_path, iter(rows))
    lines = (tmp_path / "scores.csv").read_text().splitlines()
    assert lines[0] == "dataset,category,image,is_anomalous,image_score"
    read = rows_of(tmp_path / "scores.csv")
    assert [float(row["image_score"]) for row in read] == scores
    assert [row["is_anomalous"] for row in read] == ["0", "1", ""]
    assert [(r["dataset"], r["category"], r["image"]) for r in read] == [
        ("noise", "metal_nut", f"{i}.png") for i in range(3)
    ]
    assert read_scores(tmp_path) == rows


def test_where_nothing_was_scored_there_are_no_scores(tmp_path):
    assert read_scores(tmp_path) == []
    write_scores(tmp_path, [])
    assert read_scores(tmp_path) == []


def cells(result: DatasetResult) -> tuple[list[list[str]], str | None]:
    table = results_table(result)
    return [list(row) for row in zip(*(column.cells for column in table.columns), strict=True)], table.caption


def test_the_table_is_in_percent_with_the_mean_below_and_dashes_for_undefined(results):
    rows, caption = cells(results[0])
    assert rows[0] == ["cable", "3 / 4", "33.3", "16.7", "11.1", "8.3", "6.7", "5.6", "4.8"]
    assert rows[1] == ["bottle", "1 / 2", "70.0", "35.0", "23.3", "17.5", "14.0", "-", "-"]
    assert rows[2] == ["mean", "4 / 6", "51.7", "25.8", "17.2", "12.9", "10.3", "5.6", "4.8"]
    assert caption.startswith("Categories in the mean, of 2: pixel_ap 1, pixel_aupro 1;")


def test_published_pro_is_a_caption_and_no_column(results):
    extra = (
        category("cable", 0.5, 1, 1, pixel_aupro_published=0.2),
        category("grid", 0.5, 1, 1, pixel_aupro_published=0.6),
    )
    rows, caption = cells(DatasetResult("visa", extra, {}))
    assert caption == "PRO as AnomalyCLIP and APRIL-GAN compute it, to be compared with theirs alone: 40.0 in the mean."
    assert len(rows[0]) == 2 + len(METRICS)


def test_saturated_pro_is_a_caption_that_names_each_kind(results):
    areas = {"pixel_auspro": math.nan, "pixel_auspro_logical": 0.25, "pixel_auspro_structural": math.nan}
    rows, caption = cells(DatasetResult("mvtec_loco", (category("pushpins", 0.5, 1, 1, **areas),), {}))
    assert caption.splitlines()[1] == (
        "Area under sPRO up to a false positive rate of 0.05, in the mean: "
        "pixel_auspro -, pixel_auspro_logical 25.0, pixel_auspro_structural -."
    )
    assert len(rows[0]) == 2 + len(METRICS)


def test_published_pro_is_written_and_read_back(tmp_path):
    extra = (category("cable", 0.5, 1, 1, pixel_aupro_published=0.25),)
    write_results(tmp_path, [DatasetResult("visa", extra, {"cable": 0})], {})
    values = read_values(json.loads((tmp_path / "results.json").read_text())["results"])
    assert values[values.metric == "pixel_aupro_published"].value.tolist() == [0.25, 0.25]


def test_a_table_without_gaps_has_no_caption(results):
    rows, caption = cells(results[1])
    assert caption is None
    assert [row[0] for row in rows] == ["pcb1", "mean"]


def test_the_table_prints(results):
    console = Console(width=160, file=io.StringIO())
    console.print(results_table(results[0]))
    text = console.file.getvalue()
    assert "mvtec_ad (percent)" in text
    assert [metric for metric in METRICS if metric not in text] == []


def test_the_values_are_read_as_one_table_and_a_category_called_mean_is_not_the_mean(tmp_path):
    rows = (category("mean", 0.2, 1, 2), category("mean", 0.4, 3, 4))
    write_results(tmp_path, [DatasetResult("odd", rows, {}), DatasetResult("other", rows[:1], {})], {})
    values = read_values(json.loads((tmp_path / "results.json").read_text())["results"])
    first = values[values.metric == METRICS[0]]
    assert first[["dataset", "row", "category", "value", "num_normal", "num_anomalous"]].to_numpy().tolist() == [
        ["odd", 0, "mean", 0.2, 1, 2],
        ["odd", 1, "mean", 0.4, 3, 4],
        ["odd", MEAN_ROW, "mean", pytest.approx(0.3), 4, 6],
        ["other", 0, "mean", 0.2, 1, 2],
        ["other", MEAN_ROW, "mean", 0.2, 1, 2],
    ]
    assert len(values) == 5 * len(METRICS)
    assert len(read_values([])) == 0


WITH = {"checkpoint_sha256": "a" * 64, "save_maps": False}


def scored_dataset(name: str, num: int, **values: float) -> ScoredDataset:
    measured = {metric: 1 / (i + num) for i, metric in enumerate(METRICS)} | values
    rows = [ImageRow(name, "mean", f"/data/{name}, {i}.png", i > 0, 0.1 + i / 3) for i in range(num)]
    category = CategoryResult("mean", measured, num_normal=1, num_anomalous=num - 1)
    thresholds = thresholds_of(rows, [replace(category, pixel_threshold=0.25, pixel_f1_given=(0.5, 0.75))])
    return ScoredDataset({"sha256": name * 8}, DatasetResult(name, (category,), {"mean": num}, thresholds), rows)


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


def test_the_thresholds_of_images_and_pixels_are_rows_of_their_own(folder):
    rows = rows_of(folder / "thresholds.csv")
    assert list(rows[0]) == [
        *("dataset", "category", "rule", "threshold", "found", "missed", "false_alarms", "passed"),
        *("f1", "overkill", "escape"),
    ]
    of_images = ("max_f1", "no_miss", "escape_2_percent", "escape_5_percent", "false_alarms_5_percent")
    assert [(row["category"], row["rule"]) for row in rows if row["dataset"] == "mpdd"] == [
        *(("mean", rule) for rule in of_images),
        *(("", rule) for rule in of_images),
        ("mean", "pixel_max_f1"),
        ("mean", "pixel_given"),
    ]
    assert rows[0]["threshold"] == repr(0.1 + 1 / 3)  # all digits
    assert [rows[0][name] for name in ("found", "missed", "false_alarms", "passed")] == ["2", "0", "0", "1"]
    assert (rows[0]["overkill"], rows[0]["escape"], rows[0]["f1"]) == ("0.0", "0.0", "")
    pixels, given = json.loads((folder / "results.json").read_text())["thresholds"][-2:]
    assert (pixels["threshold"], pixels["found"], pixels["overkill"]) == (0.25, None, None)
    assert (given["threshold"], given["f1"]) == (0.5, 0.75)


def test_thresholds_from_before_there_were_shares_are_read(folder, scored):
    content = json.loads((folder / "results.json").read_text())
    new = ("f1", "overkill", "escape")
    content["thresholds"] = [
        {key: value for key, value in row.items() if key not in new}
        for row in content["thresholds"]
        if row["rule"] in ("max_f1", "no_miss", "false_alarms_5_percent", "pixel_max_f1")
    ]
    write_json(folder / "results.json", content)
    read = {one.rule: one for one in read_scored(folder, WITH)["visa"].result.thresholds}
    assert read["pixel_max_f1"].f1 is None
    assert read["max_f1"] in scored["visa"].result.thresholds


def test_results_from_before_there_were_thresholds_are_kept(folder, scored):
    content = json.loads((folder / "results.json").read_text())
    del content["thresholds"]
    write_json(folder / "results.json", content)
    read = read_scored(folder, WITH)
    assert read["visa"].result == replace(scored["visa"].result, thresholds=())


def test_images_of_unknown_truth_have_no_threshold():
    rows = [ImageRow("visa", "pcb1", f"{i}.png", None, 0.5) for i in range(3)]
    assert thresholds_of(rows, []) == ()


def test_a_hostile_name_in_the_scores_is_no_formula_and_comes_back(tmp_path):
    rows = [ImageRow("=cmd", "-1+1", "'@x.png", True, 0.5)]
    write_scores(tmp_path, rows)
    assert (tmp_path / "scores.csv").read_text().splitlines()[1] == "'=cmd,'-1+1,''@x.png,1,0.5"
    assert read_scores(tmp_path) == rows


def test_names_from_data_are_shown_as_they_are_in_a_terminal():
    result = DatasetResult("[red]mine", (category("[bold]a\x1b[31m", 0.5, 1, 1),), {})
    console = Console(width=200)
    with console.capture() as capture:
        console.print(results_table(result))
    assert "[red]mine (percent)" in capture.get()
    assert r"[bold]a\x1b[31m" in capture.get()
