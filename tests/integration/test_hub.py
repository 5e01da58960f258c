"""A model goes to a hub and is used from its cache once the hub is gone."""

import os
import subprocess
import sys

import pytest

from helpers.hub import TOKEN, local_hub

pytestmark = pytest.mark.integration


def test_a_pulled_model_predicts_without_its_hub_as_the_one_that_was_pushed(run, auxiliary, tmp_path):
    own = {"HF_HOME": str(tmp_path / "home"), "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")} | own

    def type_line(*words: str, **more: str) -> str:
        command = [sys.executable, "-m", "afr_clip", *words]
        done = subprocess.run(command, env=environment | more, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    with local_hub() as hub:
        place = {"HF_ENDPOINT": hub.address}
        assert type_line("hub", "push", "pocket", "anna/nuts", "--licence", "apache-2.0", **place).startswith("model: ")
        assert str(tmp_path / "home") in type_line("hub", "pull", "anna/nuts", **place)
        asked = len(hub.asked)
        predict = ("predict", str(auxiliary / "bolt" / "test" / "good"), "category=bolt", "num_threads=1")
        type_line(*predict, "checkpoint=hf:anna/nuts", f"run_dir={tmp_path / 'pulled'}", **place)
        assert len(hub.asked) == asked
    assert run(*predict, f"run_dir={tmp_path / 'shipped'}") == 0
    scores = [(tmp_path / name / "scores.csv").read_text() for name in ("pulled", "shipped")]
    assert scores[0] == scores[1]
