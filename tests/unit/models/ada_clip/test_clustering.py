import pytest
import torch
from sklearn.cluster import KMeans
from torch.testing import assert_close

from afr_clip.models.ada_clip.fusion import cluster, seeds
from helpers.naive_ada_clip import naive_clusters, naive_seeds


def points(num: int = 40, dim: int = 6, seed: int = 0) -> torch.Tensor:
    return torch.randn(num, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("seed", range(3))
def test_seeds_and_labels_match_the_loops(seed):
    seen = points(seed=seed)
    assert seeds(seen, 7).tolist() == naive_seeds(seen, 7)
    assert cluster(seen, 7).tolist() == naive_clusters(seen, 7)


@pytest.mark.parametrize("seed", range(3))
def test_from_the_same_seeds_scikit_learn_ends_at_the_same_clusters(seed):
    seen = points(100, 12, seed)
    start = seen[seeds(seen, 20)].numpy()
    theirs = KMeans(20, init=start, n_init=1, algorithm="lloyd", tol=0).fit_predict(seen.numpy())
    assert cluster(seen, 20).tolist() == theirs.tolist()


def test_the_seeds_leave_no_more_distance_than_scikit_learns_random_ones_do_on_average():
    seen = points(100, 12)
    labels = cluster(seen, 20)
    inertia = sum(((seen[labels == k] - seen[labels == k].mean(dim=0)) ** 2).sum().item() for k in range(20))
    drawn = [KMeans(20, n_init=1, random_state=i).fit(seen.numpy()).inertia_ for i in range(10)]
    assert inertia <= sum(drawn) / len(drawn)


def test_well_parted_groups_are_found():
    truth = torch.arange(40) % 4
    labels = cluster(10.0 * torch.eye(4, dtype=torch.float64)[truth] + 0.1 * points(40, 4), 4)
    assert all(len(set(labels[truth == k].tolist())) == 1 for k in range(4))
    assert len(set(labels.tolist())) == 4


def test_the_answer_hangs_on_nothing_but_the_points():
    seen = points()
    first = cluster(seen, 7)
    torch.manual_seed(1)
    cluster(points(seed=5), 7)
    assert_close(cluster(seen, 7), first)


@pytest.mark.parametrize("num_clusters", [1, 5])
def test_points_that_coincide_share_one_cluster(num_clusters):
    assert cluster(torch.ones(5, 3), num_clusters).tolist() == [0] * 5


def test_as_many_clusters_as_points_keep_them_apart():
    assert sorted(cluster(points(9), 9).tolist()) == list(range(9))
