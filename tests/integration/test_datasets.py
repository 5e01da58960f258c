"""`python -m afr_clip.datasets` from the command line."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from afr_clip.data.disk.layouts import DATASETS
from helpers.drawn_trees import write_tree
from helpers.official import OFFICIAL, TREES

pytestmark = pytest.mark.integration

COUNTS = {"01": (21, 49), "02": (30, 200), "03": (400, 41)}
PART = {"01": (2, 3), "02": (1, 2)}


@pytest.fixture(autouse=True)
def no_data_dir(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AFR_CLIP_DATA_DIR", raising=False)


def test_list_says_what_is_known_and_what_is_there(run, tmp_path, capsys):
    OFFICIAL["btad"](tmp_path / "BTAD", PART)
    assert run("datasets", "list", "--data-dir", str(tmp_path)) == 0
    rows = {line.split()[1]: line for line in capsys.readouterr().out.splitlines() if line.count("│") > 5}
    public = {name for name, row in DATASETS.items() if row.provenance is not None}
    assert public <= rows.keys()
    assert "451 + 290" in rows["btad"]
    assert "3 + 5" in rows["btad"]
    assert all("absent" in rows[name] for name in public - {"btad"})


CHECK_ALL = """
import json, sys
from pathlib import Path
from afr_clip.data.disk.reading import DatasetSpec
from afr_clip.data.tools.check import check_dataset, sum_counts
for name in sys.argv[2:]:
    found = check_dataset(DatasetSpec(name, name, root=Path(sys.argv[1]) / name))
    faults = [finding.text for finding in found.findings if finding.is_fault]
    print(json.dumps([name, dict(found.counts), sum_counts(found.counts), faults]))
"""

MVTEC_AD_2 = ("can", "fabric", "fruit_jelly", "rice", "sheet_metal", "vial", "wallplugs", "walnuts")


@pytest.mark.parametrize(
    "names",
    [
        ("ksdd2", "rsdd", "mvtec_ad_2", "mvtec_loco", "goods_ad"),
        ("endotect", "cvc_300", "bmad_brain", "bmad_liver", "bmad_retina"),
    ],
)
def test_trees_of_the_published_size_are_complete_and_sound_and_one_image_less_is_not(tmp_path, names):
    expected = []
    for name in names:
        row = DATASETS[name]
        counts = {category: tuple(count) for category, count in row.counts.items()}
        if not counts:  # only the total is known, so that the first category takes what the others leave
            counts = dict.fromkeys(MVTEC_AD_2, (40, 80)) | {"can": (row.total[0] - 7 * 40, row.total[1] - 7 * 80)}
        write_tree(tmp_path / name, counts, TREES[name], size=(9, 12), repeated=True)
        expected.append([name, {category: list(count) for category, count in counts.items()}, list(row.total), []])
    # Without the checks of types, which would take minutes.
    command = [sys.executable, "-c", CHECK_ALL, str(tmp_path), *names]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    assert [json.loads(line) for line in lines] == [
        [*one[:1], dict(sorted(one[1].items())), *one[2:]] for one in expected
    ]
    for name, pattern in (("ksdd2", "test/20000*.png"), ("cvc_300", "*/149.png")):
        for path in (tmp_path / name).glob(pattern):
            path.unlink()
    command = [sys.executable, "-c", CHECK_ALL, str(tmp_path), names[0] if names[0] == "ksdd2" else "cvc_300"]
    (line,) = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    (fault,) = json.loads(line)[3]
    assert fault.startswith("Not the published numbers")


@pytest.mark.parametrize("name", DATASETS)
def test_show_says_how_a_dataset_lies_and_where_to_get_it(run, name, capsys):
    assert run("datasets", "show", name) == 0
    said = capsys.readouterr().out
    row = DATASETS[name]
    assert all(layout.where in said for layout in row.layouts)
    if row.provenance is not None:
        wanted = (row.provenance.source, row.provenance.licence, row.provenance.citation, *row.provenance.steps)
        assert all(words in said for words in wanted)


def test_show_of_an_unknown_dataset_names_the_known_ones(run, capsys):
    assert run("datasets", "show", "mvtek") == 2
    assert capsys.readouterr().err.startswith("error: NAME must be one of mvtec_ad, visa, btad, mpdd, ksdd")


def test_check_of_a_folder_of_ones_own_says_how_it_is_written(run, tmp_path, monkeypatch, capsys):
    (tmp_path / "my parts").mkdir()
    monkeypatch.chdir(tmp_path)
    assert run("datasets", "check", "my parts") == 2
    said = capsys.readouterr().err
    assert said.endswith("For a folder of your own write afr-clip datasets check folder --root 'my parts'.\n")


def test_check_ends_with_a_verdict_and_an_exit_code(run, tmp_path, capsys):
    root = OFFICIAL["btad"](tmp_path / "BTAD", PART)
    assert run("datasets", "check", "btad", "--data-dir", str(tmp_path)) == 1
    said = capsys.readouterr().out
    assert "fault  Not the published numbers of normal + anomalous images: 01 2 + 3 instead of 21 + 49" in said
    assert said.splitlines()[-1] == "verdict: 1 fault. If you only have a part of the dataset, use --part."

    assert run("datasets", "check", "btad", "--root", str(root), "--part") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "verdict: sound, for a part of the dataset."


def test_what_a_part_would_lack_too_is_not_excused_as_a_part(run, tmp_path, capsys):
    root = OFFICIAL["btad"](tmp_path / "BTAD", COUNTS)
    next(root.rglob("ground_truth/*/*.png")).write_bytes(b"no picture")
    assert run("datasets", "check", "btad", "--root", str(root)) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "verdict: 1 fault."


def test_a_whole_dataset_is_complete_and_sound(run, tmp_path, capsys):
    OFFICIAL["btad"](tmp_path / "BTech_Dataset_transformed", COUNTS)
    assert run("datasets", "check", "btad", "--data-dir", str(tmp_path)) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "verdict: complete and sound."


def test_check_of_a_dataset_that_is_not_there_says_where_it_was_looked_for(run, tmp_path, capsys):
    assert run("datasets", "check", "btad", "--data-dir", str(tmp_path)) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: Dataset 'btad' needs a folder that contains */test. Searched")
    assert said.count("\n") == 1


def test_convert_writes_what_meta_json_reads(run, tmp_path, capsys):
    root = OFFICIAL["btad"](tmp_path / "BTAD", PART)
    assert (
        run(
            "datasets",
            "convert",
            "btad",
            "--root",
            str(root),
            "--to",
            str(tmp_path / "converted"),
            "--categories",
            "01",
        )
        == 0
    )
    assert f"dataset=meta_json dataset.root={tmp_path / 'converted'}" in capsys.readouterr().out
    content = json.loads((tmp_path / "converted" / "meta.json").read_text())
    assert list(content["test"]) == ["01"]
    assert run("datasets", "check", "meta_json", "--root", str(tmp_path / "converted")) == 0


def test_unpack_puts_an_archive_where_it_is_looked_for(run, tmp_path, capsys):
    root = OFFICIAL["btad"](tmp_path / "made" / "BTech_Dataset_transformed", PART)
    archive = tmp_path / "btad.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(root.rglob("*")):
            file.write(path, path.relative_to(tmp_path / "made"))
    data_dir = tmp_path / "data"
    assert run("datasets", "unpack", "btad", str(archive), "--data-dir", str(data_dir)) == 0
    assert "next: python -m afr_clip.datasets check btad" in capsys.readouterr().out
    assert run("datasets", "check", "btad", "--data-dir", str(data_dir), "--part") == 0
    assert run("datasets", "unpack", "btad", str(archive), "--data-dir", str(data_dir)) == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_a_hostile_archive_writes_nothing_and_ends_in_one_sentence(run, tmp_path, capsys):
    archive = tmp_path / "btad.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("../escaped.png", b"x")
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    assert run("datasets", "unpack", "btad", str(archive), "--data-dir", str(data_dir)) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["btad.zip", "data"]


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ((), "afr-clip datasets needs list | show | check | convert | unpack, got nothing."),
        (("chekc",), "The word after afr-clip datasets must be one of list, show, check, convert, unpack, got chekc."),
        (("check",), "afr-clip datasets check needs NAME, got nothing."),
        (("convert", "btad"), "afr-clip datasets convert needs --to, got nothing."),
        (("unpack", "btad", "--data-dir", "data"), "afr-clip datasets unpack needs ARCHIVE, got nothing."),
    ],
)
def test_a_command_line_that_does_not_fit_ends_with_2(run, words, answer, capsys):
    assert run("datasets", *words) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {answer}")
    assert "The usage is afr-clip datasets" in said


def test_without_a_data_folder_unpack_asks_for_one(run, tmp_path: Path, capsys):
    assert run("datasets", "unpack", "btad", str(tmp_path / "a.zip")) == 2
    assert "afr-clip datasets unpack needs --data-dir, got nothing." in capsys.readouterr().err


def test_unpack_knows_no_folder_for_data_of_ones_own(run, tmp_path: Path, capsys):
    assert run("datasets", "unpack", "folder", str(tmp_path / "a.zip"), "--data-dir", str(tmp_path)) == 1
    assert "Unpack your own data by hand" in capsys.readouterr().err
