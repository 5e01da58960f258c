import torch
from torch.testing import assert_close

from afr_clip.models.scoring import upsample_map
from helpers.methods import build_method
from helpers.naive import naive_probability, naive_similarity
from helpers.tiny import random_batch

NAMES = ("metal nut", "screw")


def test_scores_are_those_of_open_clips_own_embeddings_and_maps_those_of_the_loops(towers):
    network, image = build_method("clip_similarity", towers), random_batch(2).image
    prediction = network(image, NAMES)
    stateful = network.text(NAMES, image.device).stateful
    with torch.no_grad():
        embedding = towers.backbone.clip.encode_image(image)
        tokens = towers.backbone.project(towers.backbone.tap(image)[-1])
    of_image = naive_probability(naive_similarity(embedding[:, None], stateful), 0.01)[:, 0]
    of_patches = naive_probability(naive_similarity(tokens[:, 1:], stateful), 0.01).view(2, 4, 4)
    assert_close(prediction.image_score.double(), of_image, atol=1e-4, rtol=0)
    assert_close(prediction.layer_maps[:, 0].double(), of_patches, atol=1e-4, rtol=0)
    assert_close(prediction.anomaly_map, upsample_map(prediction.layer_maps[:, 0], (64, 64)))
