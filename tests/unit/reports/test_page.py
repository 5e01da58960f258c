import base64
import io
import json
import math
import re
import subprocess
import sys
from html import unescape
from pathlib import Path

import pytest
from PIL import Image

from afr_clip.metrics.average import MEAN, METRICS, CategoryResult
from afr_clip.reports.layout.grid import COLUMNS
from afr_clip.reports.page import MOST_TRAINING_SHEETS, spread, write_page
from afr_clip.reports.pictures import encode
from afr_clip.reports.pictures.encode import LARGEST_SIZE
from afr_clip.reports.record.provenance import PAPER_ARCHITECTURE
from afr_clip.reports.record.results import DatasetResult, ImageRow, write_results, write_scores
from afr_clip.reports.record.run_folder import RunFolderError
from afr_clip.run.run import finish_run
from helpers.html import Tree

HOSTILE = "<script>alert('x')</script>\" onmouseover=\"$title & co"
DATASET = {"name": "visa", "categories": ["pcb1", HOSTILE], "num_normal": 5, "num_anomalous": 6, "sha256": "a" * 64}
BACKBONE = {
    "name": "vit_l_14_336",
    "architecture": PAPER_ARCHITECTURE,
    "random_weights": False,
    "fingerprint": "f" * 64,
}
TRAINED = {
    "command": "train",
    "config": {"module": {"name": "afr_clip"}},
    "overrides": ["dataset=visa", f"dataset.categories=[{HOSTILE}]"],
    "seed": 7,
    "started": "2025-01-02T03:04:05+0000",
    "afr_clip": "0.1.0",
    "commit": {"hash": "c0ffee", "dirty": True},
    "python": "3.10.1",
    "packages": {"torch": "2.6.0", "timm": None},
    "machine": {"system": "Linux", "processor": "A processor", "threads": 2, "gpus": []},
    "auxiliary": DATASET,
    "targets": {"mvtec_ad": DATASET | {"name": "mvtec_ad"}},
    "backbone": BACKBONE,
}


def category(name: str, value: float, **other: float) -> CategoryResult:
    return CategoryResult(name, {m: value / (i + 1) for i, m in enumerate(METRICS)} | other, 3, 4)


def save_picture(path: Path, size: tuple[int, int] = (90, 60)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.linear_gradient("L").resize(size).save(path)


@pytest.fixture
def make_run(tmp_path):
    """Write what a run leaves behind; `datasets` maps names to categories, `manifest` changes single facts."""

    def make(datasets=None, figures=(), **manifest) -> Path:
        datasets = datasets or {"mvtec_ad": (category("cable", 0.5), category("grid", 1.0))}
        results = [DatasetResult(name, rows, {row.category: 0 for row in rows}) for name, rows in datasets.items()]
        targets = {name: DATASET | {"name": name} for name in datasets}
        write_results(tmp_path, results, TRAINED | {"targets": targets} | manifest)
        for figure in figures:
            save_picture(tmp_path / "figures" / figure)
        return tmp_path

    return make


def read(run: Path) -> str:
    return write_page(run).read_text(encoding="utf-8")


def pictures(text: str) -> list[Image.Image]:
    sources = [attributes["src"] for attributes in Tree(text).attributes("img")]
    prefix = "data:image/webp;base64,"
    assert all(source.startswith(prefix) for source in sources)
    return [Image.open(io.BytesIO(base64.b64decode(source.removeprefix(prefix)))) for source in sources]


def test_the_columns_are_the_metrics_there_are():
    assert sorted(COLUMNS) == sorted(METRICS)


def test_values_are_in_percent_in_the_order_of_the_columns_with_the_mean_in_the_foot(make_run):
    rows = Tree(read(make_run())).rows
    labels = ["Category", "I-AUROC", "I-AP", "I-F1max", "P-AUROC", "P-AP", "P-F1max", "PRO", "Normal", "Anomalous"]
    assert rows == [
        ("thead", labels),
        ("tbody", ["cable", "50.0", "16.7", "25.0", "12.5", "8.3", "10.0", "7.1", "3", "4"]),
        ("tbody", ["grid", "100.0", "33.3", "50.0", "25.0", "16.7", "20.0", "14.3", "3", "4"]),
        ("tfoot", [MEAN, "75.0", "25.0", "37.5", "18.8", "12.5", "15.0", "10.7", "6", "8"]),
    ]


def test_a_category_called_mean_is_not_the_mean(make_run):
    run = make_run({"odd": (category("mean", 0.2),), "other": (category("mean", 0.2), category("a", 0.4))})
    rows = [(place, cells[:2]) for place, cells in Tree(read(run)).rows if place != "thead"]
    assert rows == [
        ("tbody", ["mean", "20.0"]),
        ("tfoot", ["mean", "20.0"]),
        ("tbody", ["mean", "20.0"]),
        ("tbody", ["a", "40.0"]),
        ("tfoot", ["mean", "30.0"]),
    ]


def test_an_undefined_value_is_a_dash_sorted_last_and_the_mean_says_what_it_lacks(make_run):
    undefined = {"pixel_aupro": math.nan, "pixel_ap": math.nan}
    text = read(make_run({"mvtec_ad": (category("cable", 0.5, **undefined), category("grid", 1.0))}))
    cable, mean = Tree(text).rows[1][1], Tree(text).rows[3][1]
    assert [i for i, cell in enumerate(cable) if cell == "-"] == [5, 7]
    assert text.count('<td data-value="">-</td>') == 2
    assert (mean[5], mean[7]) == ("16.7", "14.3")
    assert "Categories in the mean, of 2: P-AP 1, PRO 1." in text
    assert not re.search(r">nan<|NaN|null", text)


def test_a_table_without_gaps_has_no_note(make_run):
    assert "left out of the mean" not in read(make_run())


def test_published_pro_is_a_sentence_and_no_column(make_run):
    values = (category("cable", 0.5, pixel_aupro_published=0.3), category("grid", 1.0, pixel_aupro_published=0.5))
    text = read(make_run({"mvtec_ad": values}))
    assert "PRO as AnomalyCLIP and APRIL-GAN compute it, to be compared with theirs alone: 40.0 in the mean." in text
    assert Tree(text).rows == Tree(read(make_run())).rows


def test_saturated_pro_has_columns_only_where_it_was_measured(make_run):
    areas = {"pixel_auspro": math.nan, "pixel_auspro_logical": 0.25, "pixel_auspro_structural": math.nan}
    more = {"pixel_auspro": 0.4, "pixel_auspro_logical": 0.35, "pixel_auspro_structural": 0.45}
    loco = category("pushpins", 0.5, **areas), category("screw_bag", 0.5, **more)
    text = read(make_run({"mvtec_ad": (category("cable", 0.5),), "mvtec_loco": loco}))
    found = [row for row in Tree(text).rows if row[1][:1] in (["cable"], ["pushpins"], ["screw_bag"], ["mean"])]
    tables = {row[0]: row for _, row in found}
    assert len(tables["pushpins"]) == len(tables["cable"]) + 3
    assert tables["pushpins"][8:11] == ["-", "25.0", "-"]
    assert tables["mean"][8:11] == ["40.0", "30.0", "45.0"]
    assert "Categories in the mean, of 2: sPRO 1, sPRO structural 1." in text


def test_lost_defects_are_named(make_run):
    run = make_run()
    content = json.loads((run / "results.json").read_text())
    content["vanished_defects"]["mvtec_ad"] = {"cable": 0, "grid": 2}
    (run / "results.json").write_text(json.dumps(content))
    assert "lost their last pixel when masks were resized: grid 2." in read(run)


def test_names_from_a_users_disk_stay_text(make_run):
    name = 'a&"b"<i>'
    checkpoint = {"path": HOSTILE, "seed": 0, "epochs": 2, "commit": None, "auxiliary": DATASET | {"name": HOSTILE}}
    manifest = {"checkpoint": checkpoint, "overrides": [HOSTILE], "machine": TRAINED["machine"] | {"gpus": [HOSTILE]}}
    run = make_run({name: (category(HOSTILE, 0.5),), HOSTILE.replace("/", ""): (category("b", 0.5),)}, **manifest)
    save_picture(run / "figures" / name / "highest.png")
    tree = Tree(read(run))
    assert tree.rows[1][1][0] == HOSTILE
    assert len(tree.attributes("script")) == 1
    assert tree.attributes("i") == []
    assert not [attributes for _, attributes in tree.elements if any(key.startswith("on") for key in attributes)]
    assert [attributes["alt"] for attributes in tree.attributes("img")] == [
        f"{name}: The images with the highest scores of all"
    ]


def test_a_page_shows_how_images_scored_and_what_a_threshold_decides(make_run):
    run = make_run({"mine": (category(HOSTILE, 0.5),)})
    scores = [(0.1, False), (0.3, False), (0.2, True), (0.9, True)]
    write_scores(run, [ImageRow("mine", HOSTILE, f"{i}.png", truth, score) for i, (score, truth) in enumerate(scores)])
    text = read(run)
    tree = Tree(text)
    (row,) = [cells for place, cells in tree.rows if place == "tbody" and len(cells) == 11]
    assert row == [HOSTILE, "0.2", "2", "0", "1", "1", "0.2", "1 (50 %)", "0.9", "1 (50 %)", "-"]
    assert len(tree.attributes("rect")) == 4
    assert tree.attributes("svg")[0]["aria-label"].startswith(f"Image scores of {HOSTILE} from 0.1 to 0.9: 2 normal")
    assert "the counts are optimistic" in text


@pytest.mark.parametrize(
    "text", ["", "a,b\n", "h\nmine,a,a.png,1,nan\n", "h\nmine,a,a.png,x,0.5\n", "h\nmine,a\n", "h\n\0\n"]
)
def test_scores_that_cannot_be_read_are_left_out_with_a_warning(make_run, caplog, text):
    run = make_run()
    (run / "scores.csv").write_text(text)
    assert "From score to decision" not in read(run)
    assert "scores.csv is left out of the page" in caplog.text or text == "a,b\n"


@pytest.mark.parametrize("content", [b"hello", b"", b"\x89PNG\r\n\x1a\n" + bytes(30)])
def test_a_figure_that_is_no_picture_is_left_out_with_a_warning(make_run, caplog, content):
    run = make_run(figures=["mvtec_ad/lowest.png"])
    (run / "figures/mvtec_ad/highest.png").write_bytes(content)
    assert len(pictures(read(run))) == 1
    assert "highest.png is left out of the page, because it cannot be read" in caplog.text


def test_a_figure_of_another_format_or_too_many_pixels_is_not_opened(make_run, caplog, monkeypatch):
    run = make_run(figures=["mvtec_ad/lowest.png", "mvtec_ad/highest.png"])
    Image.new("RGB", (9, 9)).save(run / "figures/mvtec_ad/highest.png", format="GIF")
    monkeypatch.setattr(encode, "MOST_PIXELS", 5000)
    assert pictures(read(run)) == []
    assert "it has 90 x 60 pixels, and 5,000 are the most" in caplog.text


def test_pictures_come_from_below_the_run_folder_only(make_run, tmp_path_factory, caplog):
    outside = tmp_path_factory.mktemp("outside")
    save_picture(outside / "highest.png")
    run = make_run({str(outside): (category("a", 0.5),), "../x": (category("a", 0.5),), "mine": (category("a", 0.5),)})
    save_picture(run.parent / "x" / "highest.png")
    (run / "figures" / "mine").mkdir(parents=True)
    (run / "figures/mine/highest.png").symlink_to(outside / "highest.png")
    assert pictures(read(run)) == []
    assert "figures/mine/highest.png lies outside" in caplog.text


def test_a_page_needs_nothing_from_outside(make_run):
    sheets = ("mvtec_ad/highest.png", "visa/lowest.png", "curves.png", "training/epoch_0000.png")
    run = make_run({"mvtec_ad": (category("cable", 0.5),), "visa": (category("pcb1", 0.5),)}, sheets)
    text = read(run)
    tree = Tree(text)
    ids = {attributes["id"] for _, attributes in tree.elements if "id" in attributes}
    links = [attributes["href"] for _, attributes in tree.elements if "href" in attributes]
    assert links
    assert {link.removeprefix("#") for link in links} <= ids
    assert all(attributes["src"].startswith("data:") for _, attributes in tree.elements if "src" in attributes)
    assert tree.attributes("link") == []
    assert not re.search(r"https?://|@import|url\(|fetch\(", text)


def test_pictures_are_embedded_and_bounded(make_run):
    run = make_run(figures=["mvtec_ad/lowest.png"])
    save_picture(run / "figures" / "mvtec_ad" / "highest.png", (2800, 500))
    save_picture(run / "figures" / "mvtec_ad" / "worst_ranked.png", (20, 20000))
    text = read(run)
    sizes = [picture.size for picture in pictures(text)]
    assert sizes == [(1400, 250), (90, 60), (16, LARGEST_SIZE[1])]
    said = [(int(a["width"]), int(a["height"])) for a in Tree(text).attributes("img")]
    assert said == sizes


def test_pictures_stand_under_the_heading_of_their_dataset_and_training_comes_last(make_run):
    figures = ["b/highest.png", "a/worst_ranked.png", "a/highest.png", "curves.png", "training/epoch_0002.png"]
    run = make_run({"a": (category("x", 0.5),), "b": (category("y", 0.5),), "c": (category("z", 0.5),)}, figures)
    part = read(run).split('<h2 id="pictures">')[1]
    found = re.findall(r"<h3[^>]*>(.*?)</h3>|<figcaption>(.*?)</figcaption>", part)
    said = [heading or caption.split(":")[0] for heading, caption in found]
    assert said == [
        "a",
        "The images with the highest scores of all.",
        "The worst-ranked images",
        "b",
        "The images with the highest scores of all.",
        "Training",
        "Losses and learning rate over the epochs.",
        "First training batch of epoch 3.",
    ]


def test_a_dataset_called_training_keeps_its_pictures_apart(make_run):
    figures = ["training/highest.png", "training/epoch_0000.png"]
    text = read(make_run({"training": (category("x", 0.5),)}, figures))
    alts = [attributes["alt"] for attributes in Tree(text).attributes("img")]
    assert alts == [
        "training: The images with the highest scores of all",
        "Training: First training batch of epoch 1",
    ]


def test_a_long_training_shows_few_sheets_and_its_first_and_last(make_run):
    text = read(make_run(figures=[f"training/epoch_{epoch:04d}.png" for epoch in range(0, 100, 10)]))
    assert re.findall(r"<figcaption>.*epoch (\d+)\.", text) == ["1", "31", "61", "91"]


@pytest.mark.parametrize("num", [1, 2, 4, 5, 50])
def test_a_choice_is_even_and_keeps_both_ends(num):
    paths = [Path(str(i)) for i in range(num)]
    chosen = spread(paths, MOST_TRAINING_SHEETS)
    assert (chosen[0], chosen[-1]) == (paths[0], paths[-1])
    assert len(set(chosen)) == len(chosen) == min(num, MOST_TRAINING_SHEETS)


def test_a_page_without_figures_says_so(make_run):
    text = read(make_run())
    assert Tree(text).attributes("img") == []
    assert "This run drew no pictures." in text


def test_every_header_and_row_has_its_scope_and_every_picture_its_text(make_run):
    tree = Tree(read(make_run(figures=["mvtec_ad/highest.png"])))
    assert [attributes["scope"] for attributes in tree.attributes("th")] == ["col"] * 10 + ["row"] * 3
    assert [attributes["lang"] for attributes in tree.attributes("html")] == ["en"]
    assert all(attributes["alt"] for attributes in tree.attributes("img"))


@pytest.mark.parametrize(
    ("changed", "is_random", "is_another"),
    [
        ({}, False, False),
        ({"random_weights": True}, True, False),
        ({"architecture": "ViT-B-16-quickgelu", "name": "vit_b_16"}, False, True),
        ({"architecture": "afr-clip-tiny", "name": "tiny", "random_weights": True}, True, True),
    ],
)
def test_a_page_says_when_its_numbers_are_not_the_papers_models(make_run, changed, is_random, is_another):
    text = read(make_run(backbone=BACKBONE | changed))
    assert ("say nothing about the method" in text) is ('class="notice"' in text) is is_random
    assert ("the published ones were measured with ViT-L-14-336" in text) is is_another
    assert ("vit_b_16 (ViT-B-16-quickgelu)" in text) is (changed.get("name") == "vit_b_16")


def facts(text: str) -> dict[str, str]:
    return {term: unescape(fact) for term, fact in re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", text)}


def test_the_provenance_of_a_training(make_run):
    text = read(make_run(overrides=["dataset=visa", "dataset.categories=[a, b]"]))
    assert "Trained on visa with seed 7; started 2025-01-02" in text
    said = facts(text)
    assert said["Command"] == "afr-clip train dataset=visa 'dataset.categories=[a, b]'"
    assert said["Commit"] == "c0ffee, with uncommitted changes"
    assert said["Backbone"] == f"vit_l_14_336 ({PAPER_ARCHITECTURE}), SHA-256 ffffffffffff"
    assert said["Scored"].startswith("mvtec_ad (pcb1, ")
    assert said["Machine"] == "A processor, 2 threads, no GPU; Linux"
    assert said["Versions"] == "afr_clip 0.1.0, python 3.10.1, torch 2.6.0, timm unknown"
    assert "Checkpoint" not in said


def test_the_provenance_of_an_evaluation_names_the_training_behind_it(make_run):
    run = make_run(command="evaluate", commit=None)
    content = json.loads((run / "results.json").read_text())
    del content["manifest"]["auxiliary"]
    commit = {"hash": "decade", "dirty": False}
    checkpoint = {"path": "r/last.ckpt", "seed": 3, "epochs": 15, "commit": commit, "auxiliary": DATASET}
    content["manifest"]["checkpoint"] = checkpoint
    (run / "results.json").write_text(json.dumps(content))
    text = read(run)
    assert "<title>AFR-CLIP evaluate: mvtec_ad</title>" in text
    assert "Trained on visa with seed 3;" in text
    said = facts(text)
    assert said["Checkpoint"] == "r/last.ckpt: seed 3, epochs 15, commit decade"
    assert said["Commit"] == "unknown, not run from a checkout"
    assert said["Trained on"].startswith("visa (pcb1, ")


def test_a_method_that_trains_nothing_has_a_page_too(make_run):
    run = make_run()
    content = json.loads((run / "results.json").read_text())
    del content["manifest"]["auxiliary"]
    (run / "results.json").write_text(json.dumps(content))
    text = read(run)
    assert "Trained on nothing; started" in text
    assert "Trained on" not in facts(text)


def test_a_page_made_again_is_the_same(make_run):
    run = make_run(figures=["mvtec_ad/highest.png"])
    assert read(run) == read(run)


def test_without_a_scored_dataset_there_is_no_page(tmp_path):
    with pytest.raises(RunFolderError, match="contains no scored dataset"):
        write_page(tmp_path)
    write_results(tmp_path, [], TRAINED)
    with pytest.raises(RunFolderError, match="Pass the folder"):
        write_page(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_a_run_ends_with_its_folder_and_names_its_page_before(make_run, capsys):
    run = make_run()
    finish_run(run)
    write_page(run)
    finish_run(run)
    assert capsys.readouterr().out.splitlines() == [f"run: {run}", f"page: {run / 'report.html'}", f"run: {run}"]


def test_a_page_is_made_without_torch():
    source = "import sys, afr_clip.reports.page\nprint({'torch', 'matplotlib'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", source], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "set()"


def test_a_page_names_the_method_of_its_run(make_run):
    text = read(make_run(config={"module": {"name": "winclip"}}))
    assert "<title>WinCLIP train: mvtec_ad</title>" in text
    assert "<p>WinCLIP looks for defects" in text
    assert facts(text)["Method"] == "WinCLIP"
