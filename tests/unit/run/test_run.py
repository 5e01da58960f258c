"""A run's manifest grows with its facts; its config is written once."""

import json

from afr_clip.reports.record.run_folder import open_run
from afr_clip.run.run import Run


def test_the_config_is_written_once_and_the_manifest_with_every_fact(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    open_run(folder, resume=False, config={"seed": 1})
    run = Run(folder, {"config": {"seed": 1}})
    run.note(first=1)
    assert (folder / "config.yaml").read_text() == "seed: 1\n"
    (folder / "config.yaml").unlink()
    run.note(second=2)
    run.finish()
    assert not (folder / "config.yaml").exists()
    written = json.loads((folder / "manifest.json").read_text())
    assert (written["first"], written["second"], written["finished"]) == (1, 2, run.finished)
