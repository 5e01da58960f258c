import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from afr_clip.clip.load import Towers
from afr_clip.clip.text import ensemble_mean
from afr_clip.models.ada_clip.network import AdaCLIP
from afr_clip.models.ada_clip.settings import FusionReading
from afr_clip.models.scoring import smooth_map
from afr_clip.prompts.ensemble import expand
from helpers.ada_clip import ENSEMBLE, tiny_ada_clip
from helpers.naive_ada_clip import naive_fusion, naive_prompted_image, naive_prompted_sentences
from helpers.tiny import random_batch, tiny_towers

NAMES = ("metal nut", "screw", "metal nut", "bottle")
FEW = {"fusion__num_clusters": 5, "fusion__num_patches": 30}
"""So few that of the 64 patches of these towers not all are clustered, and clusters have several members."""


@pytest.fixture(scope="module")
def towers() -> Towers:
    """Towers of 8 x 8 patches: enough for clusters."""
    return tiny_towers(image_size=128)


@pytest.fixture
def image() -> torch.Tensor:
    return random_batch(size=128).image


def scored_by_loops(network: AdaCLIP, image: torch.Tensor, name: str) -> tuple[torch.Tensor, ...]:
    """Map, image score and maps of the taps of one image, step by step as published, at a batch of one."""
    backbone = network.backbone
    feature = backbone.clip.encode_image(image[None])  # not normalised
    outputs = naive_prompted_image(backbone, image, network.visual_prompts(feature)[0])
    class_token = backbone.clip.visual.ln_post(outputs[-1][0]) @ backbone.clip.visual.proj
    class_token = F.normalize(network.class_projection(class_token), dim=0)
    taps = [outputs[layer - 1][1:] for layer in backbone.tap_layers]
    tokens = [F.normalize(project(tap), dim=1) for project, tap in zip(network.patch_projections, taps, strict=True)]
    said, prompts = expand(ENSEMBLE, name), network.text_prompts(feature)[0]
    sentences = (said.normal, said.abnormal)
    text = torch.stack([ensemble_mean(naive_prompted_sentences(backbone, s, prompts)) for s in sentences])

    logits = [100 * tap @ text.T for tap in tokens]
    probability = sum(logits).div(len(logits)).softmax(dim=1)[:, 1]
    fused = naive_fusion(class_token, torch.stack(tokens), probability, num_clusters=5, num_patches=30, weight=0.2)
    score = (100 * F.normalize(fused, dim=0) @ text.T).softmax(dim=0)[1]
    grids = [tap.T.reshape(1, 2, *backbone.grid_size) for tap in logits]
    sized = [F.interpolate(grid, size=128, mode="bilinear", align_corners=True)[0] for grid in grids]
    maps = [tap.softmax(dim=0)[1] for tap in sized]
    final = sum(sized).div(len(sized)).softmax(dim=0)[1]
    return smooth_map(final[None], 4.0)[0], score, torch.stack(maps)


def test_a_batch_is_scored_as_its_images_are_by_the_loops(towers, image):
    network = tiny_ada_clip(towers, **FEW)
    prediction = network(image, NAMES)
    for i, name in enumerate(NAMES):
        anomaly_map, score, maps = scored_by_loops(network, image[i], name)
        # Rounding of the loops' own order, a hundred times as large behind the temperature.
        assert_close(prediction.anomaly_map[i], anomaly_map, rtol=0, atol=1e-4)
        assert_close(prediction.image_score[i], score, rtol=0, atol=1e-4)
        assert_close(prediction.trained_maps[i], maps, rtol=0, atol=1e-4)


@pytest.mark.parametrize("reading", [reading.name for reading in FusionReading])
def test_one_image_at_a_time_and_any_order_give_the_same_scores(towers, image, reading):
    network = tiny_ada_clip(towers, **FEW, fusion__reading=reading).eval()
    with torch.inference_mode():
        together, backwards = network(image, NAMES), network(image.flip(0), NAMES[::-1])
        for i, name in enumerate(NAMES):
            alone = network(image[i : i + 1], [name])
            # float32 rounds another batch differently by some 1e-7, a hundred times as large behind the temperature.
            for row in (backwards.anomaly_map[3 - i], alone.anomaly_map[0]):
                assert_close(row, together.anomaly_map[i], rtol=0, atol=2e-5)
            for score in (backwards.image_score[3 - i], alone.image_score[0]):
                assert_close(score, together.image_score[i], rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("key", "value"), [("weight", 0.0), ("weight", 1.0), ("reading", "most_anomalous_cluster"), ("num_patches", 5)]
)
def test_fusion_changes_the_image_score_and_no_map(towers, image, key, value):
    settings = ({}, {f"fusion__{key}": value})
    plain, changed = (tiny_ada_clip(towers, **(FEW | setting))(image, NAMES) for setting in settings)
    assert not torch.allclose(changed.image_score, plain.image_score, atol=1e-5)
    assert_close(changed.anomaly_map, plain.anomaly_map)


def test_the_class_token_is_read_after_the_last_block_wherever_the_taps_are(towers, image):
    whole = tiny_ada_clip(towers, fusion__weight=0.0)
    early = tiny_ada_clip(tiny_towers(image_size=128, tap_layers=[1, 2]), fusion__weight=0.0)
    early.load_state_dict({name: value for name, value in whole.state_dict().items() if name in early.state_dict()})
    prediction = early(image, NAMES)
    assert_close(prediction.image_score, whole(image, NAMES).image_score)
    assert_close(prediction.layer_maps, whole(image, NAMES).layer_maps[:, [0, 1]])


def test_towers_shallower_than_the_prompts_are_prompted_all_through(towers):
    network = tiny_ada_clip(towers, hybrid_prompts__depth=9)
    assert network.visual_prompts.static.shape == (4, 5, 64)
    assert network.text_prompts.static.shape == (2, 5, 32)


def test_both_towers_prompts_are_made_of_clips_own_embedding_without_a_graph(towers, image):
    network, seen = tiny_ada_clip(towers), []
    for prompts in (network.visual_prompts, network.text_prompts):
        prompts.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    network(image, NAMES)
    for embedding in seen:
        assert not embedding.requires_grad
        assert_close(embedding, towers.backbone.clip.encode_image(image))
    assert len(seen) == 2
