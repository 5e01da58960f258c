import json
import re
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.fuzzing import fuzzed, guarded
from helpers.mutations import damaged, damaged_tree, odd_values
from helpers.trees import write_mvtec_tree

TREES = ("results.json", "manifest.json")
TABLES = ("results.json", "manifest.json", "metrics.csv", "results.csv", "scores.csv", "config.yaml")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, run_once):
    """A scored run of this version, with figures."""
    folder = tmp_path_factory.mktemp("fuzz")
    tree, other = (
        write_mvtec_tree(folder / name, ("bolt",), num_normal=2, num_anomalous=2, size=(64, 64), seed=seed)
        for seed, name in enumerate(("tree", "other"))
    )
    quick = ("backbone=tiny", "backbone.image_size=64", "trainer.max_epochs=1", "data.num_workers=0", "num_threads=1")
    own = ("dataset=folder", "dataset.name=generated", f"dataset.root={tree}", "num_figures=1")
    target = ("protocol.targets=[other]", f"+protocol.roots.other={other}")
    assert run_once("train", *own, *quick, *target, f"run_dir={folder / 'whole'}") == 0
    return folder / "whole"


@pytest.fixture
def report(tmp_path, monkeypatch, run, whole, capsys):
    """Report on a sound run and a damaged copy of it; returns the exit code and what was printed."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)

    def reported(damage):
        for old in folder.iterdir():
            shutil.rmtree(old)
        for name in ("sound", "odd"):
            shutil.copytree(whole, folder / "runs" / name, ignore=shutil.ignore_patterns("checkpoints", "maps"))
        # Another seed, because two different results of one setting are a contradiction, which is refused.
        sound = folder / "runs" / "sound" / "results.json"
        sound.write_text(sound.read_text().replace('"seed": 0', '"seed": 1'))
        damage(folder / "runs" / "odd")
        with guarded(folder):
            code = run("report", "runs", "--out", "out")
        said = capsys.readouterr()
        assert code in {0, 1}
        assert "Traceback" not in said.err
        assert "Unexpected" not in said.err, said.err
        assert code == 0 or any(line.startswith("error: ") for line in said.err.splitlines())
        assert (folder / "out" / "report.html").exists(), "the sound run is reported all the same"
        for page in (folder / "out").glob("*.html"):
            text = page.read_text(encoding="utf-8")
            assert "<svg onload" not in text
            assert "<script>alert" not in text
            assert not re.search(r"\bnan\b", re.sub("<[^>]*>", " ", text)), "NaN in a page"
        return code, said

    return reported


@fuzzed(500)
@given(data=st.data(), name=st.sampled_from(TREES))
def test_a_record_with_other_values_is_refused_or_reported(report, whole, data, name):
    tree = data.draw(damaged_tree(json.loads((whole / name).read_text())))
    text = json.dumps(tree)
    report(lambda folder: (folder / name).write_text(text, encoding="utf-8", errors="surrogatepass"))


@fuzzed(300)
@given(data=st.data(), name=st.sampled_from(TABLES))
def test_a_damaged_file_is_refused_or_reported(report, whole, data, name):
    content = data.draw(damaged((whole / name).read_bytes()))
    report(lambda folder: (folder / name).write_bytes(content))


@fuzzed(150)
@given(data=st.data())
def test_damaged_figures_are_left_out_or_shown(report, whole, data):
    figures = sorted(path.relative_to(whole) for path in whole.glob("figures/**/*.*"))
    assert figures
    chosen = data.draw(st.sampled_from(figures))
    content = data.draw(damaged((whole / chosen).read_bytes()))
    report(lambda folder: (folder / chosen).write_bytes(content))


@fuzzed(50)
@given(value=odd_values, name=st.sampled_from(TREES))
def test_a_record_that_is_another_value_altogether(report, value, name):
    report(lambda folder: (folder / name).write_text(json.dumps(value), encoding="utf-8", errors="surrogatepass"))
