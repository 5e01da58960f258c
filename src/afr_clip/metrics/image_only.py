"""Categories that share pictures, and what a method can reach there that does not know a picture's category."""

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from itertools import product


def image_only_bound(pictures: Sequence[Hashable], categories: Sequence[str], is_anomalous: Sequence[bool]) -> float:
    """Bound the mean image AUROC over categories of all scores that depend on the picture alone.

    An AUROC is the share of pairs of a normal and an anomalous image that are in the right order. Where two categories
    show the same two pictures and ask for opposite orders, a score satisfies only one of them. So the bound sums, over
    the pairs of pictures, the larger weight of the two orders. No order of all pictures need reach it.

    Args:
        pictures: What tells the content of each image, for example a hash; the same for images that look the same.

    Raises:
        ValueError: If no category has both normal and anomalous images.

    Example:
        >>> image_only_bound(["dots", "stripes"] * 2, ["dotted", "dotted", "striped", "striped"],
        ...                  [False, True, True, False])
        0.5
    """
    normal, anomalous = defaultdict[str, list[Hashable]](list), defaultdict[str, list[Hashable]](list)
    for picture, category, is_bad in zip(pictures, categories, is_anomalous, strict=True):
        (anomalous if is_bad else normal)[category].append(picture)
    defined = [category for category in normal if category in anomalous]
    if not defined:
        msg = "An image AUROC needs normal and anomalous images of one category. Check that the dataset has both."
        raise ValueError(msg)
    weight = defaultdict[tuple[Hashable, Hashable], float](float)  # of "the second above the first"
    for category in defined:
        share = 1 / (len(normal[category]) * len(anomalous[category]) * len(defined))
        for pair in product(normal[category], anomalous[category]):
            weight[pair] += share
    met = []
    for (below, above), value in weight.items():
        opposite = weight.get((above, below))
        if below == above:  # normal and anomalous in the same category: a tie at best
            met.append(value / 2)
        else:  # two opposite wishes are two entries, so each counts half of the larger one
            met.append(value if opposite is None else max(value, opposite) / 2)
    return math.fsum(met)


def partners_of(
    pictures: Sequence[Hashable], categories: Sequence[str], is_anomalous: Sequence[bool]
) -> dict[str, str]:
    """Return for each category the one that labels most of its pictures the other way.

    Categories are left out if no other contradicts them, or if all of their pictures have the same label.

    Example:
        >>> partners_of(["dots", "lines"] * 2, ["dotted", "dotted", "lined", "lined"], [False, True, True, False])
        {'dotted': 'lined', 'lined': 'dotted'}
    """
    shown_in = defaultdict[Hashable, dict[tuple[str, bool], None]](dict)  # in the order of the images
    labels = defaultdict[str, set[bool]](set)
    for picture, category, is_bad in zip(pictures, categories, is_anomalous, strict=True):
        shown_in[picture][category, bool(is_bad)] = None
        labels[category].add(bool(is_bad))
    shared = {category: Counter[str]() for category in categories}
    for names in shown_in.values():
        for one, is_bad in names:
            shared[one].update(other for other, other_is_bad in names if other != one and other_is_bad != is_bad)
    return {
        category: others.most_common(1)[0][0]
        for category, others in shared.items()
        if others and len(labels[category]) == 2
    }
