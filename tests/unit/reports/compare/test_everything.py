from afr_clip.reports.compare.ablation.write import Ablations
from afr_clip.reports.compare.everything import report_on
from afr_clip.reports.compare.write import Comparison
from helpers.results import write_run
from helpers.sweeps import VISA, cell, write_cell, write_record


def test_without_folders_there_are_all_tables_of_the_paper():
    ablations, comparison = report_on([])
    assert [table.name for table in ablations.tables] == ["table3", "table4", "table5", "table6"]
    assert [table.number for table in comparison.tables] == [1, 2]


def test_runs_alone_have_tables_1_and_2_and_a_sweep_alone_its_own(tmp_path):
    write_run(tmp_path / "run", {"MPDD": 0.5}, auxiliary=VISA)
    write_cell(tmp_path / "sweep/cells/table3_full_0", [0.5])
    write_record(tmp_path / "sweep", [cell("table3_full", 0)])
    assert [type(report) for report in report_on([tmp_path / "run"])] == [Comparison]
    assert [type(report) for report in report_on([tmp_path / "sweep"])] == [Ablations]
    ablations, comparison = report_on([tmp_path])
    assert [table.name for table in ablations.tables] == ["table3"]
    assert [setting.datasets[0].target.title for setting in comparison.settings] == ["MPDD"]
