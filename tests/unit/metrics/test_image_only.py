from itertools import permutations

import numpy as np
import pytest

from afr_clip.metrics.image_only import image_only_bound, partners_of
from drawn_anomalies.names import INSTEAD, NAMED_CATEGORIES, TOO
from drawn_anomalies.settings import DrawnSet


def mean_auroc(scores: dict, pictures, categories, is_anomalous) -> float:
    """The mean AUROC, from its definition."""
    areas = []
    for wanted in dict.fromkeys(categories):
        rows = [n for n, category in enumerate(categories) if category == wanted]
        normal = np.array([scores[pictures[n]] for n in rows if not is_anomalous[n]])
        bad = np.array([scores[pictures[n]] for n in rows if is_anomalous[n]])
        areas.append(((bad[:, None] > normal) + 0.5 * (bad[:, None] == normal)).mean())
    return float(np.mean(areas))


def random_labels(rng, num_pictures=5, num_categories=3):
    pictures, categories, is_anomalous = [], [], []
    for category in range(num_categories):
        chosen = rng.permutation(num_pictures)[: rng.integers(2, num_pictures + 1)]
        labels = rng.permutation([True, False, *(rng.random(len(chosen) - 2) < 0.5)]).tolist()
        pictures += chosen.tolist()
        categories += [str(category)] * len(chosen)
        is_anomalous += labels
    return pictures, categories, is_anomalous


@pytest.mark.parametrize("seed", range(12))
def test_no_score_of_the_picture_alone_exceeds_the_bound(seed):
    rng = np.random.default_rng(seed)
    labels = random_labels(rng)
    bound = image_only_bound(*labels)
    best = max(mean_auroc(dict(enumerate(order)), *labels) for order in permutations(range(5)))
    assert best <= bound + 1e-9
    ties = [mean_auroc(dict(enumerate(rng.integers(0, 3, 5))), *labels) for _ in range(100)]
    assert max(ties) <= bound + 1e-9


@pytest.mark.parametrize("seed", range(6))
def test_the_bound_is_reached_where_only_two_categories_disagree(seed):
    rng = np.random.default_rng(seed)
    labels = random_labels(rng, num_pictures=4, num_categories=1)
    assert image_only_bound(*labels) == pytest.approx(1.0)
    both = [[*column, *column] for column in labels]
    both[1] = ["first"] * len(labels[0]) + ["second"] * len(labels[0])
    both[2] = [*labels[2], *(not bad for bad in labels[2])]
    best = max(mean_auroc(dict(enumerate(order)), *both) for order in permutations(range(4)))
    assert best == pytest.approx(image_only_bound(*both)) == pytest.approx(0.5)


def test_a_pair_that_shares_half_of_its_anomalous_pictures_is_bounded_by_three_quarters():
    pictures = ["x1", "x2", "y1", "y2", "xy", "dx", *("y1", "y2", "x1", "x2", "xy", "dy")]
    labels = [False, False, True, True, True, True] * 2
    categories = ["x"] * 6 + ["y"] * 6
    assert image_only_bound(pictures, categories, labels) == pytest.approx(0.75)
    scores = dict.fromkeys(("x1", "x2", "y1", "y2"), 0) | dict.fromkeys(("xy", "dx", "dy"), 1)
    assert mean_auroc(scores, pictures, categories, labels) == pytest.approx(0.75)


def test_pictures_that_are_not_shared_bound_nothing():
    assert image_only_bound("abcd", ["one", "one", "two", "two"], [True, False, False, True]) == 1


def test_the_same_picture_on_both_sides_is_a_tie():
    assert image_only_bound("aa", ["one", "one"], [True, False]) == 0.5


def test_categories_without_an_auroc_do_not_count():
    assert image_only_bound("abc", ["one", "one", "two"], [True, False, True]) == 1
    with pytest.raises(ValueError, match="normal and anomalous images of one category"):
        image_only_bound("ab", ["one", "two"], [True, False])


@pytest.mark.parametrize("drawn_set", [DrawnSet.names, DrawnSet.names_unseen], ids=lambda one: one.value)
@pytest.mark.parametrize("num", [6, 9, 12, 40])
def test_the_drawn_names_are_bounded_by_three_quarters_and_the_best_score_reaches_it(drawn_set, num):
    pictures, categories, is_anomalous = [], [], []
    for category in NAMED_CATEGORIES[drawn_set]:
        for kind, index in category.listed(num):
            names = {"good": category.name, INSTEAD: category.partner.name, TOO: ""}
            pair = frozenset((category.name, category.partner.name))
            pictures.append((names[kind], pair, index) if kind in names else (category.name, kind, index))
            categories.append(category.name)
            is_anomalous.append(kind != "good")
    labels = pictures, categories, is_anomalous
    bound = image_only_bound(*labels)
    assert bound <= 0.75 + 1e-9
    wrong_under_a_name = {p for p, bad in zip(pictures, is_anomalous, strict=True) if bad}
    right_under_a_name = {p for p, bad in zip(pictures, is_anomalous, strict=True) if not bad}
    best = {picture: picture not in right_under_a_name for picture in wrong_under_a_name | right_under_a_name}
    assert mean_auroc(best, *labels) == pytest.approx(bound)
    if num % 3 == 0:
        assert bound == pytest.approx(0.75)


def test_partners_are_the_categories_with_most_pictures_in_common():
    pictures = ["a", "b", "c", "d", "a", "b", "e", "c", "f"]
    categories = [*["one"] * 4, *["two"] * 3, "three", "four"]
    labels = [True, True, False, False, False, False, True, True, True]
    # `three` contradicts `one`, too, but has no normal picture.
    assert partners_of(pictures, categories, labels) == {"one": "two", "two": "one"}
    assert partners_of("ab", ["one", "two"], [True, False]) == {}


def test_a_picture_that_two_categories_label_alike_makes_no_partners():
    assert partners_of("abac", ["one", "one", "two", "two"], [True, False, True, False]) == {}
