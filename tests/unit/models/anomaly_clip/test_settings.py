import re
from dataclasses import replace

import pytest

from afr_clip.models.anomaly_clip.settings import NetworkSettings, PromptLearnerSettings, ReadoutSettings
from helpers.tiny import SCORING

PROMPT_LEARNER = PromptLearnerSettings(num_context_tokens=12, num_deep_tokens=4, num_deep_blocks=8)
READOUT = ReadoutSettings(local_from_block=None, all_taps=False)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"num_context_tokens": 0}, "prompts.num_context_tokens must be positive, got 0. AnomalyCLIP uses 12."),
        (
            {"num_deep_tokens": 13},
            "prompts.num_deep_tokens must lie in 1..12, the context tokens it overwrites, got 13",
        ),
        ({"num_deep_tokens": 0}, "prompts.num_deep_tokens must lie in 1..12"),
        ({"num_deep_blocks": -1}, "prompts.num_deep_blocks must not be negative, got -1. AnomalyCLIP uses 8."),
    ],
    ids=str,
)
def test_words_that_do_not_fit_are_refused(change, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        replace(PROMPT_LEARNER, **change)


@pytest.mark.parametrize(
    ("num_deep_blocks", "depth", "blocks"),
    [(8, 12, [2, 3, 4, 5, 6, 7, 8, 9]), (8, 4, [2, 3, 4]), (8, 1, []), (0, 12, []), (1, 12, [2])],
)
def test_deep_tokens_start_at_the_second_block_and_end_with_the_tower(num_deep_blocks, depth, blocks):
    assert list(replace(PROMPT_LEARNER, num_deep_blocks=num_deep_blocks).deep_blocks(depth)) == blocks


def test_the_local_stream_is_read_out_after_the_last_tap_or_after_all():
    assert READOUT.layers((6, 12, 18, 24)) == (24,)
    assert replace(READOUT, all_taps=True).layers([6, 12, 18, 24]) == (6, 12, 18, 24)


@pytest.mark.parametrize(
    ("tap_layers", "first"), [((6, 12, 18, 24), 6), ((3, 6, 9, 12), 3), ((1, 2, 3, 4), 1), ((2,), 1)]
)
def test_the_local_stream_starts_at_the_published_share_of_the_depth(tap_layers, first):
    assert READOUT.first_local_block(tap_layers) == first
    assert replace(READOUT, all_taps=True).first_local_block(tap_layers) <= tap_layers[0]


def test_a_chosen_start_is_kept():
    assert ReadoutSettings(local_from_block=24, all_taps=False).first_local_block((6, 12, 18, 24)) == 24


def test_a_start_below_the_first_block_is_refused():
    with pytest.raises(ValueError, match=r"readout.local_from_block must be positive, got 0\. AnomalyCLIP uses 6;"):
        ReadoutSettings(local_from_block=0, all_taps=False)


@pytest.mark.parametrize(("all_taps", "read_out"), [(True, 6), (False, 24)])
def test_a_start_behind_the_readout_is_refused(all_taps, read_out):
    settings = ReadoutSettings(local_from_block=25, all_taps=all_taps)
    with pytest.raises(ValueError, match=rf"must lie in 1\.\.{read_out}, because .* after block {read_out}, got 25\."):
        settings.first_local_block((6, 12, 18, 24))


def test_published_weights_take_a_checkpoints_place():
    settings = NetworkSettings(None, PROMPT_LEARNER, READOUT, SCORING)
    assert settings.trains
    assert settings.needs_checkpoint
    assert not replace(settings, released_weights="epoch_15.pth").needs_checkpoint


def test_taps_before_the_local_stream_are_refused_before_anything_is_built():
    settings = NetworkSettings(None, PROMPT_LEARNER, ReadoutSettings(7, all_taps=True), SCORING)
    settings.check_taps((12, 24))
    with pytest.raises(ValueError, match=r"local_from_block must lie in 1\.\.6"):
        settings.check_taps((6, 12, 18, 24))
