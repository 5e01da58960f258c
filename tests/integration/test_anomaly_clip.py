"""AnomalyCLIP from the command line, with its own checkpoint and with one in the published layout."""

import json
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.integration


def published(run_dir: Path, path: Path) -> Path:
    """Write what a run has learned as the authors write it."""
    learned = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    context, deep = learned["prompts.context"], learned["prompts.deep"]
    state = {"ctx_pos": context[:1][None], "ctx_neg": context[1:][None]}
    state |= {f"compound_prompts_text.{index}": tokens for index, tokens in enumerate(deep)}
    torch.save({"prompt_learner": state}, path)
    return path


def test_the_same_words_score_alike_as_a_checkpoint_and_in_the_published_layout(run, small, unseen, tmp_path, capsys):
    trained, ours, theirs = tmp_path / "trained", tmp_path / "ours", tmp_path / "theirs"
    assert run("train", "module=anomaly_clip", *small, f"run_dir={trained}") == 0
    results = json.loads((trained / "results.json").read_text())
    assert results["manifest"]["trainable_parameters"] == (2 * 12 + 1 * 4) * 32  # one text block has deep tokens

    target = ["dataset=folder", "dataset.name=parts", f"dataset.root={unseen}", "data.num_workers=0"]
    assert run("evaluate", f"checkpoint={trained}", *target, f"run_dir={ours}") == 0
    file = f"module.network.released_weights={published(trained, tmp_path / 'epoch_15.pth')}"
    method = ["module=anomaly_clip", "backbone=tiny", "backbone.image_size=64", file]
    assert run("evaluate", *method, *target, f"run_dir={theirs}") == 0
    assert (theirs / "scores.csv").read_text() == (ours / "scores.csv").read_text()
    assert json.loads((theirs / "manifest.json").read_text())["checkpoint"] is None

    capsys.readouterr()
    assert run("evaluate", *method, *target, f"checkpoint={trained}") != 0
    assert "module=anomaly_clip takes no checkpoint, because it has nothing to train or has published" in (
        capsys.readouterr().err
    )
