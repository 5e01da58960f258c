import pytest
import torch
import torch.nn.functional as F
from sklearn.cluster import DBSCAN
from torch.testing import assert_close

from afr_clip.models.clip_ad.representative import density_clusters, representative_text
from afr_clip.models.clip_ad.settings import RepresentativeSettings
from helpers.methods import composed_module


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("radius", "min_neighbours"), [(0.3, 3), (0.5, 5), (0.8, 2), (0.05, 2)])
def test_clusters_are_those_of_scikit_learn(seed, radius, min_neighbours):
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(3, 2, generator=generator).double()
    points = centres[torch.randint(0, 3, (60,), generator=generator)] + 0.3 * torch.randn(60, 2, generator=generator)
    expected = DBSCAN(eps=radius, min_samples=min_neighbours).fit(points.numpy()).labels_
    assert density_clusters(points, radius, min_neighbours).tolist() == expected.tolist()


def test_the_representative_is_the_centre_of_the_largest_cluster():
    generator = torch.Generator().manual_seed(0)
    many = F.normalize(torch.tensor([1.0, 0.0, 0.0]) + 0.02 * torch.randn(9, 3, generator=generator), dim=-1)
    few = F.normalize(torch.tensor([0.0, 1.0, 0.0]) + 0.02 * torch.randn(5, 3, generator=generator), dim=-1)
    far = torch.tensor([[0.0, 0.0, 1.0]])
    shuffled = torch.cat([few, many, far])[torch.randperm(15, generator=generator)]
    found = representative_text(3 * shuffled, RepresentativeSettings(radius=0.3, min_neighbours=3))
    assert_close(found, F.normalize(many.mean(dim=0), dim=-1))


def test_without_a_cluster_all_sentences_count():
    apart = torch.eye(4)
    found = representative_text(apart, RepresentativeSettings(radius=0.3, min_neighbours=2))
    assert_close(found, torch.full((4,), 0.5))


@pytest.mark.parametrize("key", ["radius=0.0", "min_neighbours=0"])
def test_clusters_need_a_size(key):
    with pytest.raises(ValueError, match=f"representative.{key.split('=')[0]} must be positive"):
        composed_module("clip_ad", f"module.network.representative.{key}")
