"""Methods whose authors released weights, from the command line: with our checkpoint, and with one in their layout."""

import json

import pytest
import torch

from afr_clip.models.ada_clip.network import released_tensors
from afr_clip.models.visual_ad.network import released_tensors as visual_ad_tensors

pytestmark = pytest.mark.integration

Learned = dict[str, torch.Tensor]


def of_anomaly_clip(learned: Learned) -> dict[str, Learned]:
    context, deep = learned["prompts.context"], learned["prompts.deep"]
    state = {"ctx_pos": context[:1][None], "ctx_neg": context[1:][None]}
    state |= {f"compound_prompts_text.{index}": tokens for index, tokens in enumerate(deep)}
    return {"prompt_learner": state}


def of_april_gan(learned: Learned) -> dict[str, Learned]:
    return {"trainable_linearlayer": {name.replace("adapters.", "fc."): value for name, value in learned.items()}}


def of_visual_ad(learned: Learned) -> dict[str, object]:
    tensors = visual_ad_tensors(learned, (1, 2, 3, 4))
    of_layers: dict[str, Learned] = {}
    for name in [name for name in tensors if name.startswith("layer_transforms.")]:
        _, layer, rest = name.split(".", 2)
        of_layers.setdefault(layer, {})[rest] = tensors.pop(name)
    attention = {name: tensors.pop(name) for name in list(tensors) if name.startswith("cross_attn.")}
    nested = {name.removeprefix("cross_attn."): value for name, value in attention.items()}
    return tensors | {"layer_transforms": of_layers, "cross_attn": nested, "epoch": 1, "features_list": [1, 2, 3, 4]}


@pytest.mark.parametrize(
    ("method", "as_released"),
    [
        ("anomaly_clip", of_anomaly_clip),
        ("april_gan", of_april_gan),
        ("ada_clip", released_tensors),
        ("visual_ad", of_visual_ad),
    ],
)
def test_the_same_weights_score_alike_as_a_checkpoint_and_in_the_released_layout(
    run, small, unseen, tmp_path, capsys, method, as_released
):
    trained, ours, theirs = tmp_path / "trained", tmp_path / "ours", tmp_path / "theirs"
    assert run("train", f"module={method}", *small, f"run_dir={trained}") == 0
    learned = torch.load(trained / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    counted = json.loads((trained / "results.json").read_text())["manifest"]["trainable_parameters"]
    assert counted == sum(value.numel() for value in learned.values())
    torch.save(as_released(learned), tmp_path / "released.pth")

    target = ["dataset=folder", "dataset.name=parts", f"dataset.root={unseen}", "data.num_workers=0"]
    assert run("evaluate", f"checkpoint={trained}", *target, f"run_dir={ours}") == 0
    file = f"module.network.released_weights={tmp_path / 'released.pth'}"
    chosen = [f"module={method}", "backbone=tiny", "backbone.image_size=64", file]
    assert run("evaluate", *chosen, *target, f"run_dir={theirs}") == 0
    assert (theirs / "scores.csv").read_text() == (ours / "scores.csv").read_text()
    assert json.loads((theirs / "manifest.json").read_text())["checkpoint"] is None

    capsys.readouterr()
    assert run("evaluate", *chosen, *target, f"checkpoint={trained}") != 0
    assert f"module={method} takes no checkpoint, because it has nothing to train or has published" in (
        capsys.readouterr().err
    )
