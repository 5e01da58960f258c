import pytest
import torch
from torch.testing import assert_close

from afr_clip.models.references import ReferenceBank, association_score, nearest_reference
from helpers.naive_methods import naive_association


def features(num: int, seed: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(num, positions, 8, generator=generator) for positions in (5, 3))


def test_association_equals_the_loop_over_pairs():
    seen, references = features(1, seed=0)[0][0], features(1, seed=1)[0][0]
    unit = torch.nn.functional.normalize(references, dim=-1)
    assert_close(association_score(seen, unit), naive_association(seen, references))


def test_each_image_is_compared_with_all_references_of_its_own_category():
    bank, of_screws, of_bottles = ReferenceBank(), features(2, seed=0), features(2, seed=1)
    bank.remember("screw", of_screws)
    bank.remember("bottle", of_bottles)
    seen = features(2, seed=2)
    for scale, scores in enumerate(bank.association(seen, ["bottle", "screw"])):
        assert_close(scores[0], naive_association(seen[scale][0], of_bottles[scale].flatten(0, 1)))
        assert_close(scores[1], naive_association(seen[scale][1], of_screws[scale].flatten(0, 1)))


def test_the_nearest_reference_is_that_of_the_association():
    bank, of_screws, of_bottles = ReferenceBank(), features(2, seed=0), features(2, seed=1)
    bank.remember("screw", of_screws)
    bank.remember("bottle", of_bottles)
    seen, names = features(2, seed=2), ["bottle", "screw"]
    for scale, nearest in enumerate(bank.nearest(seen, names)):
        cosine = torch.nn.functional.cosine_similarity(seen[scale], nearest, dim=-1)
        assert_close((1 - cosine) / 2, bank.association(seen, names)[scale])
    together = torch.nn.functional.normalize(
        torch.stack([of_bottles[0].flatten(0, 1), of_screws[0].flatten(0, 1)]), dim=-1
    )
    assert torch.equal(nearest_reference(seen[0], together), bank.nearest(seen, names)[0])


def test_what_a_reference_shows_is_not_anomalous_at_all():
    bank, seen = ReferenceBank(), features(2, seed=0)
    bank.remember("screw", seen)
    for scores in bank.association(tuple(scale * 7 for scale in seen), ["screw", "screw"]):
        assert_close(scores, torch.zeros_like(scores), atol=1e-6, rtol=0)
        assert (scores >= 0).all()


def test_new_references_take_the_place_of_the_old():
    bank, seen = ReferenceBank(), features(1, seed=0)
    bank.remember("screw", seen)
    bank.remember("screw", tuple(-scale for scale in seen))
    assert all((scores > 0.1).any() for scores in bank.association(seen, ["screw"]))


def test_a_category_without_references_is_refused():
    bank = ReferenceBank()
    with pytest.raises(ValueError, match=r"must have reference images .* got 'screw' \(references exist for none\)"):
        bank.association(features(1, seed=0), ["screw"])
    bank.remember("bottle", features(1, seed=0))
    with pytest.raises(ValueError, match=r"got 'screw' \(references exist for bottle\)"):
        bank.association(features(2, seed=0), ["bottle", "screw"])
