from afr_clip.reports.compare.aggregate import aggregate
from afr_clip.reports.compare.gather import read_runs
from afr_clip.reports.compare.notes import notes_of, notices_of
from helpers.results import CONFIG, TINY, source, write_run

VISA = source("VisA")


def settings_of(tmp_path):
    return aggregate(read_runs([tmp_path]))


def notes(tmp_path):
    runs = read_runs([tmp_path])
    return notes_of(aggregate(runs), runs)


def test_the_papers_backbone_on_published_data_needs_no_notice(tmp_path):
    write_run(tmp_path, {"MPDD": 0.5}, auxiliary=VISA)
    assert notices_of(settings_of(tmp_path)) == []


def test_a_backbone_is_warned_of_once_for_all_settings_it_concerns(tmp_path):
    for weight in (0.0, 1.0):
        config = CONFIG | {"loss": {"image_weight": weight}}
        write_run(tmp_path / str(weight), {"MPDD": 0.5}, auxiliary=VISA, backbone=TINY, config=config)
    (warning, random), (_, another) = notices_of(settings_of(tmp_path))
    assert warning == "Random weights."
    label = "AFR-CLIP (tiny, random weights)"
    assert random.endswith(f"Concerns {label}: loss.image_weight=0.0; {label}: loss.image_weight=1.0.")
    assert "It is not that of the published ones" in another


def test_what_is_not_a_published_test_split_is_named_with_what_it_lacks(tmp_path):
    write_run(tmp_path, {"BTAD": 0.5}, auxiliary=VISA, sources={"BTAD": source("BTAD", ["01"])})
    ((warning, said),) = notices_of(settings_of(tmp_path))
    assert warning == "Not the published test splits."
    assert said.endswith("BTAD 1 of 3 categories.")


def test_absent_datasets_are_named_with_their_reason_unless_another_run_has_them(tmp_path):
    absent = {"btad": {"title": "BTAD", "reason": "no such folder"}, "mpdd": {"title": "MPDD", "reason": "none"}}
    write_run(tmp_path / "a", {"ISIC": 0.5}, auxiliary=VISA, absent=absent)
    write_run(tmp_path / "b", {"MPDD": 0.5}, auxiliary=VISA)
    assert "Absent from AFR-CLIP: BTAD (no such folder)." in notes(tmp_path)


def test_settings_that_scored_other_files_of_a_dataset_are_said_to(tmp_path):
    write_run(tmp_path / "a", {"MPDD": 0.5}, auxiliary=VISA)
    winclip = CONFIG | {"module": {"name": "winclip"}}
    write_run(tmp_path / "b", {"MPDD": 0.5}, config=winclip, sources={"MPDD": source("MPDD", digest="b")})
    assert any("numbers of MPDD stand on different image files" in note for note in notes(tmp_path))


def test_without_runs_it_is_said_that_nothing_was_measured():
    assert notices_of([]) == []
    assert any("Nothing has been measured yet" in note for note in notes_of([], []))


def test_where_nothing_was_measured_the_runs_say_what_was_absent(tmp_path):
    write_run(tmp_path, {}, absent={"visa": {"title": "VisA", "reason": "Dataset 'visa' needs a folder."}})
    assert notes(tmp_path)[1:] == [
        "Nothing has been measured yet: these are the paper's numbers.",
        "Absent: VisA (Dataset 'visa' needs a folder).",
    ]
