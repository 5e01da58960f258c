from dataclasses import replace

import pytest

from afr_clip.clip.settings import checked_tap_layers, default_tap_layers
from helpers.tiny import CNN, TINY


@pytest.mark.parametrize(("depth", "taps"), [(24, (6, 12, 18, 24)), (12, (3, 6, 9, 12)), (4, (1, 2, 3, 4))])
def test_tap_layers_scale_with_depth(depth, taps):
    assert default_tap_layers(depth) == taps


def test_a_tower_too_shallow_is_refused():
    with pytest.raises(ValueError, match="at least 4 blocks"):
        default_tap_layers(3)


@pytest.mark.parametrize("taps", [(), (0, 1), (2, 2), (3, 1), (1, 25)])
def test_tap_layers_must_ascend_within_the_tower(taps):
    with pytest.raises(ValueError, match=r"tap_layers must ascend within 1\.\.24"):
        checked_tap_layers(taps, 24)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"random_weights": False}, "backbone must have weights"),
        ({"weights": "w.safetensors"}, "exclude each other"),
        ({"image_size": 0}, "positive number of pixels"),
        ({"tap_layers": [0]}, "counted from 1"),
    ],
)
def test_contradictory_backbones_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, **changes)


def test_a_cnn_without_weights_or_stages_is_refused():
    with pytest.raises(ValueError, match=r"backbone\.cnn must have weights"):
        replace(CNN, random_weights=False)
    with pytest.raises(ValueError, match="at least one stage"):
        replace(CNN, stages=[])
