from dataclasses import replace
from unittest.mock import Mock

import pytest

from afr_clip.run import model
from afr_clip.run.job import TrainingJob
from afr_clip.run.run import Run
from helpers.methods import composed_module
from helpers.tiny import CNN, TINY, tiny_towers


@pytest.mark.parametrize(("pretrained", "named"), [(True, "resnet50.a1_in1k"), (False, None)])
def test_the_manifest_names_the_published_weights_of_the_cnn_in_full(monkeypatch, pretrained, named):
    built = tiny_towers(cnn=replace(CNN, architecture="resnet50"))
    settings = replace(TINY, cnn=replace(built.settings.cnn, pretrained=pretrained, random_weights=not pretrained))
    monkeypatch.setattr(model, "load_towers", lambda settings, **_: replace(built, settings=settings))
    job, run = Mock(spec=TrainingJob), Mock(spec=Run)
    job.backbone, job.module = settings, composed_module("afr_clip")
    run.manifest, run.earlier = {"precision": {"chosen": "32-true"}}, None
    model.build_towers(job, run)
    ((fact, key, values),) = (call.args for call in run.note_unchanged.call_args_list)
    assert (fact, key, values["cnn"]) == ("backbone", "fingerprint", named)


def test_a_method_that_reads_text_is_refused_on_towers_without_it_before_anything_is_built(monkeypatch):
    job = Mock(spec=TrainingJob)
    job.backbone = replace(TINY, architecture="timm:vit_large_patch16_dinov3", quick_gelu=False)
    job.module = composed_module("winclip")
    monkeypatch.setattr(model, "check_architecture", None)  # builds a ViT without its weights
    with pytest.raises(ValueError, match="WinCLIP compares images with sentences, and this backbone has no text tower"):
        model.check_model(job)
