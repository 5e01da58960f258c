import os
import re

import numpy as np
import pytest
from PIL import Image

from afr_clip.config.nodes import PredictConfig
from afr_clip.config.plan import placed_images
from afr_clip.config.validate import ConfigError, read
from afr_clip.data.disk.loaded import list_photographs
from afr_clip.data.errors import MissingDataError
from afr_clip.run.spread import Named, list_places, takes_gpu, version_of


@pytest.fixture
def photographs(tmp_path):
    for name in ("b10.png", "b9.png", "notes.txt", "inside/a.jpg"):
        path = tmp_path / "photographs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".txt":
            path.write_text("no photograph")
        else:
            Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(path)
    return tmp_path / "photographs"


def test_a_folder_is_listed_as_by_one_process(photographs):
    (photographs / "gone.png").symlink_to("nowhere")
    found, faults, notes = list_places([str(photographs)])
    assert found == [Named(name, str(photographs / name)) for name in ("b9.png", "b10.png", "inside/a.jpg")]
    assert faults == ("1 link leads nowhere: gone.png. Restore or remove what is broken.",)
    assert notes == list_photographs([photographs], "nut").left_out.notes


def test_a_url_names_a_file_a_folder_or_a_pattern(photographs):
    url = photographs.as_uri()
    names = [[one.place for one in list_places([name])[0]] for name in (url, f"{url}/*.png", f"{url}/b9.png")]
    assert names == [
        [f"{url}/b10.png", f"{url}/b9.png", f"{url}/inside/a.jpg"],
        [f"{url}/b10.png", f"{url}/b9.png"],
        [f"{url}/b9.png"],
    ]


def test_a_table_names_its_photographs_in_the_column_path(photographs, tmp_path):
    parquet, arrow = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    paths = [str(photographs / "b9.png"), None, "s3://bucket/x.png"]
    for name, columns in {
        "one": {"anything": paths},
        "path": {"id": [1, 2, 3], "path": paths},
        "two": {"id": [1, 2, 3], "place": paths},
    }.items():
        parquet.write_table(arrow.table(columns), tmp_path / f"{name}.parquet")
    for name in ("one", "path"):
        assert [one.place for one in list_places([str(tmp_path / f"{name}.parquet")])[0]] == [paths[0], paths[2]]
    with pytest.raises(MissingDataError, match="must have a column path with the photographs, got id, place"):
        list_places([str(tmp_path / "two.parquet")])
    (tmp_path / "bad.parquet").write_text("no table")
    with pytest.raises(MissingDataError, match="could not be read as Parquet"):
        list_places([str(tmp_path / "bad.parquet")])


def test_a_place_without_photographs_is_refused_also_next_to_others(photographs, tmp_path):
    (tmp_path / "empty").mkdir()
    for images in ([(tmp_path / "empty").as_uri()], [str(photographs), (tmp_path / "empty").as_uri()]):
        with pytest.raises(MissingDataError, match=r"names none. Check the place"):
            list_places(images)


@pytest.mark.parametrize(
    ("place", "sentence"),
    [
        ("file:///nowhere/a", "cannot be listed: No such file or directory. Check the address and the login"),
        ("nosuch://bucket/*.png", "cannot be listed: Protocol not known: nosuch. .* and install its package"),
        ("nosuch://bucket/t.parquet", "cannot be read: Protocol not known: nosuch. Check the address and the login"),
        ("/nowhere/t.parquet", "cannot be read: No such file or directory. Check the path and its permissions"),
    ],
)
def test_a_place_that_cannot_be_reached_is_refused_with_the_reason(place, sentence):
    pytest.importorskip("pyarrow")
    with pytest.raises(MissingDataError, match=f"^{re.escape(place)} {sentence}"):
        list_places([place])


def test_the_reason_is_that_of_the_server_in_one_line(monkeypatch):
    def refuse(url: str) -> None:
        raise FileNotFoundError(url) from RuntimeError("403\nForbidden.")

    monkeypatch.setattr("fsspec.core.url_to_fs", refuse)
    with pytest.raises(MissingDataError, match=r"^https://host/a.png cannot be listed: 403 Forbidden\. Check the"):
        list_places(["https://host/a.png"])


@pytest.mark.parametrize(
    ("accelerator", "gpus", "expected"),
    [("auto", 2.0, True), ("auto", 0.0, False), ("gpu", 1.0, True), ("cuda:0", 0.0, True), ("cpu", 2.0, False)],
)
def test_the_cluster_decides_whether_actors_get_gpus(accelerator, gpus, expected):
    assert takes_gpu(accelerator, {"CPU": 4.0, "GPU": gpus} if gpus else {"CPU": 4.0}) is expected


def test_a_replaced_photograph_has_another_version(photographs, tmp_path):
    path = photographs / "b9.png"
    versions = [[version_of(place) for place in (str(path), path.as_uri())]]
    os.utime(path, ns=(1, 10**18))
    versions.append([version_of(place) for place in (str(path), path.as_uri())])
    path.chmod(0o600)
    assert [version_of(place) for place in (str(path), path.as_uri())] == versions[1]
    assert all(before != after for before, after in zip(*versions, strict=True))
    assert version_of(str(tmp_path / "gone.png")) == version_of("nosuch://bucket/a.png") == ""


def test_urls_stay_as_they_are_and_patterns_are_expanded(photographs):
    given = ["s3://bucket/*.png", str(photographs / "*.png"), "x"]
    expected = ["s3://bucket/*.png", str(photographs / "b9.png"), str(photographs / "b10.png"), "x"]
    assert list(placed_images(given)) == expected
    with pytest.raises(ConfigError, match="matches no file"):
        list(placed_images(str(photographs / "*.gif")))


@pytest.mark.parametrize("more", ["formats=[coco]", "xlsx=true", "references=DIR", "roi=DIR", "compare_names=[part]"])
def test_what_needs_one_process_is_refused(composed, more):
    config = composed("images=DIR", "runs_on=ray", more, command="predict")
    with pytest.raises(
        ValueError, match=f"runs_on=ray writes scores and regions as Parquet, got {more.split('=')[0]} too"
    ):
        read(config, PredictConfig)
