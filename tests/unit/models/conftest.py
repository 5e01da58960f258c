"""What the unit tests of the methods share."""

from dataclasses import replace
from functools import partial

import open_clip
import pytest
import torch

from afr_clip.clip.load import Towers
from helpers.tiny import CNN, random_batch, tiny_towers


@pytest.fixture(scope="session")
def large_towers() -> Towers:
    """The paper's backbone, and its CNN, without memory for their weights."""
    create = partial(open_clip.create_model, device="meta")
    cnn = replace(CNN, architecture="resnet50")
    with pytest.MonkeyPatch.context() as patch, torch.device("meta"):
        patch.setattr(open_clip, "create_model", create)
        return tiny_towers(architecture="ViT-L-14-336-quickgelu", image_size=518, cnn=cnn)


@pytest.fixture
def image() -> torch.Tensor:
    """Four normalised images of noise for the tiny towers."""
    return random_batch().image
