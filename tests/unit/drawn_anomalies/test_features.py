import re

import numpy as np
import pytest

from drawn_anomalies.canvas import Canvas
from drawn_anomalies.features import BASES, FEATURES, HELD_OUT_NAMES, Feature
from drawn_anomalies.kinds import HELD_OUT, Subject
from drawn_anomalies.pairs.captions import SUBJECTS
from drawn_anomalies.pairs.palette import PALETTE

UNSEEN = "brick marble weave woven leather gear capsule label button biscuit"

of_each_feature = pytest.mark.parametrize("feature", FEATURES.values(), ids=FEATURES)
of_some_bases = pytest.mark.parametrize("base", [BASES[n] for n in (0, 4, 8, 14, 16, 17)], ids=lambda base: base.words)


def drawn(feature: Feature, base: Subject, seed: int, colour=None, size=(96, 96)):
    canvas = Canvas(size, np.random.default_rng(seed))
    whole = base.draw(canvas, list(PALETTE.values())[seed % len(PALETTE)])
    return whole, *feature.draw(canvas, whole, colour)


@of_each_feature
@of_some_bases
@pytest.mark.parametrize("seed", range(3))
def test_a_feature_is_visible_and_changes_only_the_body(feature, base, seed):
    whole, featured, coverage = drawn(feature, base, seed)
    assert coverage.dtype == np.float32
    assert 0 <= coverage.min() <= coverage.max() <= 1
    mask = coverage > 0.5
    assert 0.003 < mask.mean() < 0.6
    assert not (mask & ~whole.body).any()
    np.testing.assert_array_equal(featured.colour[~whole.body], whole.colour[~whole.body])
    # Before any light falls on it: what only light shows could be missed in another light.
    assert np.abs(featured.colour - whole.colour).max(axis=-1)[mask].mean() > 0.1
    assert np.abs(featured.colour - whole.colour).max(axis=-1)[coverage == 0].max() < 1e-6
    assert 0 <= featured.colour.min() <= featured.colour.max() <= 1


@of_each_feature
def test_a_seed_gives_one_feature_and_other_seeds_others(feature):
    first, again = drawn(feature, BASES[0], 0)[2], drawn(feature, BASES[0], 0)[2]
    np.testing.assert_array_equal(first, again)
    shares = [float((drawn(feature, BASES[0], seed)[2] > 0.5).mean()) for seed in range(12)]
    assert max(shares) > 1.5 * min(shares)


@of_each_feature
def test_a_feature_takes_the_colour_that_it_is_given(feature):
    red = PALETTE["red"]
    _, featured, coverage = drawn(feature, BASES[0], 4, red, (192, 192))  # on a blue sheet
    away = np.abs(featured.colour[coverage > 0.9] - np.float32(red)).max(axis=-1)
    assert (np.quantile(away, 0.15) < 0.05) == feature.tinted  # print, seams and rims have a second colour


def test_what_is_open_is_no_longer_part_of_the_body():
    for adjective in ("perforated", "slotted", "notched"):
        whole, featured, coverage = drawn(FEATURES[adjective], BASES[12], 1)
        assert not featured.body[coverage > 0.5].any()
        assert not (featured.body & ~whole.body).any()


@pytest.mark.parametrize("size", [(64, 96), (160, 160)], ids=str)
def test_features_fit_every_format(size):
    for number, feature in enumerate(FEATURES.values()):
        _, featured, coverage = drawn(feature, BASES[number], 1, size=size)
        assert featured.colour.shape == (*size, 3)
        assert coverage.shape == size


def test_names_are_unique_and_none_is_of_the_unseen_set():
    words = [base.words for base in BASES]
    assert len(set(words)) == len(words) >= 24
    assert len({feature.plural for feature in FEATURES.values()}) == len(FEATURES) >= 20
    every = (*words, *FEATURES, *(feature.plural for feature in FEATURES.values()))
    forbidden = re.compile("|".join((*UNSEEN.split(), *HELD_OUT)))
    assert [word for word in every if forbidden.search(word)] == []


def test_a_fifth_of_the_names_is_held_out_and_every_word_remains_in_training():
    assert 0.17 < len(HELD_OUT_NAMES) / (len(FEATURES) * len(BASES)) < 0.23
    shown = {tuple(subject.words.split()) for subject in SUBJECTS}
    assert not shown & HELD_OUT_NAMES
    for base in BASES:
        assert 3 <= sum(words == base.words for _, words in HELD_OUT_NAMES) <= 6
    for adjective in FEATURES:
        assert 3 <= sum(name == adjective for name, _ in HELD_OUT_NAMES) <= 6
