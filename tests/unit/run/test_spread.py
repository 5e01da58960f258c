import numpy as np
import pytest
from PIL import Image

from afr_clip.config.nodes import PredictConfig
from afr_clip.config.plan import placed_images
from afr_clip.config.validate import ConfigError, read
from afr_clip.data.errors import MissingDataError
from afr_clip.run.spread import Named, list_places


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
    found = list_places([str(photographs)])
    assert found == [Named(name, str(photographs / name)) for name in ("b9.png", "b10.png", "inside/a.jpg")]


def test_a_url_names_a_file_a_folder_or_a_pattern(photographs):
    url = photographs.as_uri()
    names = [[one.place for one in list_places([name])] for name in (url, f"{url}/*.png", f"{url}/b9.png")]
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
        assert [one.place for one in list_places([str(tmp_path / f"{name}.parquet")])] == [paths[0], paths[2]]
    with pytest.raises(MissingDataError, match="must have a column path with the photographs, got id, place"):
        list_places([str(tmp_path / "two.parquet")])
    (tmp_path / "bad.parquet").write_text("no table")
    with pytest.raises(MissingDataError, match="could not be read as Parquet"):
        list_places([str(tmp_path / "bad.parquet")])


def test_a_place_without_photographs_is_refused(tmp_path):
    with pytest.raises(MissingDataError, match=r"names none. Check the place"):
        list_places([tmp_path.as_uri()])


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
