import copy
import pickle
from dataclasses import replace

import pytest
import timm
import torch
from torch import nn

from afr_clip.clip.cnn import FrozenCNN, load_cnn
from helpers.tiny import CNN

MEAN, STD = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)


def test_stages_are_pooled_and_put_behind_each_other():
    network = timm.create_model("test_resnet", features_only=True, out_indices=(1, -1))
    cnn = FrozenCNN(network, MEAN, STD)
    image = torch.randn(2, 3, 64, 64)
    early, late = network.eval()(image * cnn.scale + cnn.shift)
    torch.testing.assert_close(cnn(image), torch.cat([early.mean((2, 3)), late.mean((2, 3))], dim=1))
    assert cnn.feature_dim == early.shape[1] + late.shape[1]


def test_stays_frozen_and_in_eval_mode_and_gives_no_graph():
    cnn = load_cnn(CNN, MEAN, STD)
    cnn.train()
    assert not any(module.training for module in cnn.modules())
    assert not cnn(torch.randn(1, 3, 64, 64, requires_grad=True)).requires_grad


def test_images_are_normalised_as_the_network_was_trained():
    network = timm.create_model("test_resnet", features_only=True, out_indices=(-1,))
    network.pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    cnn = FrozenCNN(network, MEAN, STD)
    white = ((1 - torch.tensor(MEAN)) / torch.tensor(STD)).view(1, 3, 1, 1)
    torch.testing.assert_close(white * cnn.scale + cnn.shift, torch.ones(1, 3, 1, 1))


def test_a_network_with_channels_last_is_refused():
    class Last(nn.Module):
        feature_info = timm.create_model("test_resnet", features_only=True, out_indices=(-1,)).feature_info

        def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
            return [torch.zeros(image.shape[0], 4, 4, 96)]

    with pytest.raises(ValueError, match="channels before height and width, got 4"):
        FrozenCNN(Last(), MEAN, STD)(torch.zeros(1, 3, 64, 64))


def test_the_pooled_feature_is_the_mean_of_the_maps():
    cnn = load_cnn(CNN, MEAN, STD)
    image = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(cnn(image), torch.cat([stage.mean(dim=(2, 3)) for stage in cnn.maps(image)], dim=1))


def test_features_from_inference_serve_training():
    cnn = load_cnn(CNN, MEAN, STD)
    image, head = torch.randn(1, 3, 64, 64), nn.Linear(cnn.feature_dim, 1)
    with torch.inference_mode():
        cnn(image)
    head(cnn(image)).sum().backward()
    torch.testing.assert_close(head.weight.grad, cnn(image))


def test_a_tag_that_timm_does_not_know_is_refused_with_those_it_knows():
    with pytest.raises(ValueError, match=r"weights of resnet50 \(a1_in1k, .*tv_in1k\), got 'resnet50\.torchvision'"):
        load_cnn(replace(CNN, architecture="resnet50.torchvision"), MEAN, STD)
    with pytest.raises(ValueError, match=r"must be a timm model, got 'resnet51\.tv_in1k'"):
        load_cnn(replace(CNN, architecture="resnet51.tv_in1k"), MEAN, STD)


def test_a_tag_decides_which_weights_are_asked_for(monkeypatch):
    asked = []
    create = timm.create_model
    monkeypatch.setattr(
        timm,
        "create_model",
        lambda name, **options: asked.append((name, options.pop("pretrained"))) or create(name, **options),
    )
    published = replace(CNN, architecture="resnet50.tv_in1k", pretrained=True, random_weights=False)
    assert load_cnn(published, MEAN, STD).name == "resnet50.tv_in1k"
    assert asked == [("resnet50.tv_in1k", True)]


def test_a_network_in_use_can_be_copied_and_pickled():
    cnn = load_cnn(CNN, MEAN, STD)
    image = torch.randn(1, 3, 64, 64)
    expected = cnn(image)
    for twin in (copy.deepcopy(cnn), pickle.loads(pickle.dumps(cnn))):
        torch.testing.assert_close(twin(image), expected)
