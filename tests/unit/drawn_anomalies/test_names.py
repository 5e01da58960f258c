from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from drawn_anomalies.features import BASES, FEATURES, HELD_OUT_NAMES
from drawn_anomalies.kinds import GOOD, HELD_OUT
from drawn_anomalies.names import INSTEAD, NAMED_CATEGORIES, TOO, NamedCategory
from drawn_anomalies.settings import DrawnSet, DrawnSettings
from drawn_anomalies.tree import Picture, draw, pictures

SETTINGS = DrawnSettings(
    DrawnSet.names_unseen, 12, size=64, defect_scale=1.6, least_contrast=0.3, least_area=0.012, seed=0
)
UNSEEN = NAMED_CATEGORIES[DrawnSet.names_unseen]
TRAINING = NAMED_CATEGORIES[DrawnSet.names]

of_some_pairs = pytest.mark.parametrize("category", UNSEEN[::16], ids=lambda category: category.name)


def drawn(category: NamedCategory, kind: str, index: int = 0, settings=SETTINGS):
    return category.picture(settings, "test", kind, index)


def adjectives_of(category: NamedCategory) -> set[str]:
    feature = category.pair.looks[category.side].feature
    return set() if feature is None else {feature.adjective}


@of_some_pairs
def test_both_names_of_a_pair_show_the_same_pictures(category):
    partner = category.partner
    swaps = [(GOOD, INSTEAD), (INSTEAD, GOOD), *([(TOO, TOO)] if TOO in category.kinds else [])]
    for mine, theirs in swaps:
        np.testing.assert_array_equal(drawn(category, mine)[0], drawn(partner, theirs)[0])
    kinds = [kind for kind in category.kinds if kind in category.pair.defects]
    assert (drawn(category, kinds[0])[0] != drawn(partner, kinds[0])[0]).any()


@of_some_pairs
def test_what_one_name_calls_for_is_the_mask_of_the_other(category):
    assert drawn(category, GOOD)[1] is None
    for kind in category.kinds[1:]:
        _, mask = drawn(category, kind)
        assert mask is not None
        assert mask.any()
    if TOO in category.kinds:
        (_, other), (_, own) = drawn(category, TOO), drawn(category.partner, TOO)
        assert not (other & own).any()


def test_where_a_feature_is_missing_the_whole_body_is_the_flaw():
    pairs = [one for one in UNSEEN if one.pair.looks[0].feature is None and one.side == 1]
    assert {one.pair.base in BASES[:12] for one in pairs} == {True, False}
    for category in pairs:
        _, mask = drawn(category, INSTEAD)
        assert mask.all() == (category.pair.base in BASES[:12])
        assert mask.mean() > 0.1
        assert TOO not in category.kinds


@pytest.mark.parametrize("num", [6, 7, 9, 12])
@pytest.mark.parametrize("category", UNSEEN[::8], ids=lambda category: category.name)
def test_half_of_the_anomalous_pictures_at_least_are_good_under_the_other_name(category, num):
    listed = list(category.listed(num))
    assert len(set(listed)) == len(listed) == num
    assert {kind for kind, _ in listed} <= set(category.kinds)
    counts = Counter(kind for kind, _ in listed)
    assert counts[GOOD] == counts[INSTEAD] >= (num - counts[GOOD]) / 2
    assert counts == Counter(kind for kind, _ in category.partner.listed(num))


def test_the_unseen_names_are_new_combinations_of_trained_words():
    for categories, held_out in ((UNSEEN, True), (TRAINING, False)):
        assert len(categories) >= 60
        assert len({category.name for category in categories}) == len(categories)
        for category in categories:
            for adjective in adjectives_of(category):
                assert ((adjective, category.pair.base.words) in HELD_OUT_NAMES) == held_out
    assert not {category.name for category in UNSEEN} & {category.name for category in TRAINING}
    words = [{word for category in categories for word in category.words.split()} for categories in (UNSEEN, TRAINING)]
    assert words[0] <= words[1]
    assert {adjective for category in TRAINING for adjective in adjectives_of(category)} == set(FEATURES)
    assert {category.pair.base for category in UNSEEN} == set(BASES)


def test_no_held_out_kind_of_defect_is_drawn_and_none_that_a_feature_could_be_taken_for():
    for category in (*TRAINING, *UNSEEN):
        assert not set(category.pair.defects) & set(HELD_OUT)
        assert len(category.pair.defects) >= 4
    perforated = next(one for one in TRAINING if one.words.startswith("perforated"))
    assert "hole" not in perforated.pair.defects


def test_a_picture_depends_on_its_seed_alone():
    listed = pictures(SETTINGS)
    assert len(listed) == len(UNSEEN) * (12 + 2)
    picture = next(one for one in listed if one.kind == TOO)
    image, mask = draw(SETTINGS, picture)
    draw(SETTINGS, Picture(3, "test", GOOD, 0))
    again, again_mask = draw(SETTINGS, picture)
    np.testing.assert_array_equal(image, again)
    np.testing.assert_array_equal(mask, again_mask)
    assert (draw(replace(SETTINGS, seed=1), picture)[0] != image).any()
    assert (draw(SETTINGS, replace(picture, index=1))[0] != image).any()


def test_coloured_features_have_the_colours_of_their_names():
    red = next(one for one in UNSEEN if one.words == "sheet with red patches")
    means = []
    for category in (red, red.partner):
        image, _ = drawn(category, GOOD, settings=replace(SETTINGS, size=128))
        _, mask = drawn(category.partner, INSTEAD, settings=replace(SETTINGS, size=128))
        means.append(np.median(image[mask], axis=0))
    assert means[0].argmax() == 0
    assert means[1].argmax() == 2
