import pytest
import yaml

from afr_clip.reports.compare.hub import check_places, write_eval_results
from afr_clip.reports.compare.values import ComparisonError
from helpers.results import BACKBONE, measured_in, source, write_run

VISA = source("VisA")
PLACES = {"mpdd": "someone/mpdd", "BTAD": "someone/btad"}


def test_the_hub_reads_what_is_written(tmp_path):
    hub = pytest.importorskip("huggingface_hub")
    for seed in (0, 1):
        write_run(
            tmp_path / str(seed), {"MPDD": 0.5 + seed / 10, "BTAD": 0.25, "kvasir": 0.5}, auxiliary=VISA, seed=seed
        )
    write_eval_results(measured_in(tmp_path), PLACES, tmp_path / "out")
    files = {path.name: path for path in (tmp_path / "out" / "hub" / "AFR-CLIP" / ".eval_results").iterdir()}
    assert set(files) == {"mpdd-visa.yaml", "btad-visa.yaml"}
    content = yaml.safe_load(files["mpdd-visa.yaml"].read_text())
    entries = hub.parse_eval_result_entries(content)
    assert hub.eval_result_entries_to_yaml(entries) == content
    (one,) = [entry for entry in entries if entry.task_id == "pixel_ap"]
    assert (one.dataset_id, one.value) == ("someone/mpdd", pytest.approx(55.0))
    assert one.notes == "AFR-CLIP, trained on VisA, mean of seeds 0, 1"
    assert one.date == "2026-11-28T12:00:00+00:00"


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"sources": {"MPDD": source("MPDD", ["tubes"])}}, "other images than the published test split"),
        ({"backbone": BACKBONE | {"random_weights": True}}, "random weights"),
    ],
)
def test_what_no_leaderboard_should_show_is_left_out(tmp_path, changed, why, caplog):
    write_run(tmp_path / "run", {"MPDD": 0.5}, auxiliary=VISA, **changed)
    write_eval_results(measured_in(tmp_path), PLACES, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert why in caplog.text


def test_a_name_that_no_run_scored_is_refused(tmp_path):
    write_run(tmp_path / "run", {"MPDD": 0.5}, auxiliary=VISA)
    measured = measured_in(tmp_path)
    check_places([measured], {"mpdd": "someone/mpdd"})
    check_places([measured], {"MPDD": "someone/mpdd"})
    with pytest.raises(ComparisonError, match=r"--hub names mvtec, which no run scored\. The runs scored mpdd\."):
        check_places([measured], {"mpdd": "someone/mpdd", "mvtec": "someone/mvtec"})
