import pytest

from afr_clip.models.scoring_settings import ImageScore, ScoringSettings
from afr_clip.models.winclip.settings import NetworkSettings, ReferenceTokens
from helpers.tiny import PROMPTS

SCORING = ScoringSettings(temperature=0.07, image_score=ImageScore.class_token, smoothing_sigma=0.0)


def settings(**changes: object) -> NetworkSettings:
    published = {"window_sizes": [2, 3], "normalise_first": False, "shots": 0, "reference_tokens": ReferenceTokens.raw}
    return NetworkSettings(PROMPTS, SCORING, **published | changes)


def test_there_is_nothing_to_train_and_no_cnn_to_read():
    assert not settings().trains
    assert not settings().needs_cnn


@pytest.mark.parametrize("sizes", [[], [0, 2], [2, 2]], ids=str)
def test_window_sizes_that_mean_nothing_are_refused(sizes):
    with pytest.raises(ValueError, match="window_sizes must name different sides from 1 patch up"):
        settings(window_sizes=sizes)


def test_a_negative_number_of_shots_is_refused():
    with pytest.raises(ValueError, match="shots must be 0 or more, got -1"):
        settings(shots=-1)
