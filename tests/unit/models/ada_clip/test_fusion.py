from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans
from torch.testing import assert_close

from afr_clip.models.ada_clip.fusion import cluster, fuse_semantics, seeds, squared_distances
from afr_clip.models.ada_clip.settings import FusionReading
from helpers.ada_clip import FUSION
from helpers.naive_ada_clip import naive_clusters, naive_fusion, naive_fusion_of_one_cluster, naive_seeds

SMALL = replace(FUSION, num_clusters=4, num_patches=12)
PAPER = replace(SMALL, reading=FusionReading.most_anomalous_cluster)


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


@pytest.fixture
def features() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Class tokens, patch tokens and abnormality of three images of 25 patches under two taps."""
    return unit(3, 8), unit(3, 2, 25, 8, seed=1), unit(3, 25, seed=2)


def test_fusion_matches_the_loops(features):
    fused = fuse_semantics(*features, SMALL)
    for row, *image in zip(fused, *features, strict=True):
        assert_close(row, naive_fusion(*image, num_clusters=4, num_patches=12, weight=0.2))


def test_the_papers_reading_matches_its_loops(features):
    fused = fuse_semantics(*features, PAPER)
    for row, *image in zip(fused, *features, strict=True):
        assert_close(row, naive_fusion_of_one_cluster(*image, num_clusters=4, weight=0.2))


def test_fewer_patches_than_asked_for_are_all_clustered(features):
    fused = fuse_semantics(*features, FUSION)
    for row, *image in zip(fused, *features, strict=True):
        assert_close(row, naive_fusion(*image, num_clusters=20, num_patches=25, weight=0.2))


def test_one_patch_is_its_own_centre(features):
    class_token, patch_tokens, abnormality = features
    fused = fuse_semantics(class_token, patch_tokens[:, :1, :1], abnormality[:, :1], FUSION)
    assert_close(fused, 0.2 * patch_tokens[:, 0, 0] + 0.8 * class_token)


def test_clusters_count_alike_however_many_patches_they_have():
    # Nine patches see one thing, one sees another: both centres weigh a half.
    many, one, nothing = *torch.eye(4)[:2], torch.zeros(1, 4)
    patch_tokens = torch.stack([*[many] * 9, one])[None, None]
    fused = fuse_semantics(nothing, patch_tokens, torch.zeros(1, 10), SMALL)
    assert_close(fused[0], 0.2 * F.normalize(many + one, dim=0))


@pytest.mark.parametrize("settings", [SMALL, PAPER], ids=["released", "paper"])
def test_a_blank_image_gives_the_one_thing_it_shows(settings):
    shown, class_token = unit(1, 8), unit(1, 8, seed=1)
    fused = fuse_semantics(class_token, shown[:, None, None].expand(1, 2, 25, 8), torch.zeros(1, 25).double(), settings)
    assert_close(fused, 0.2 * shown + 0.8 * class_token)


def test_only_the_most_anomalous_patches_are_looked_at(features):
    class_token, patch_tokens, abnormality = features
    changed = patch_tokens.clone()
    for image, ranked in enumerate(abnormality.argsort(descending=True)):
        changed[image, :, ranked[12:]] = unit(8, seed=9)
    assert_close(fuse_semantics(class_token, changed, abnormality, SMALL), fuse_semantics(*features, SMALL))


@pytest.mark.parametrize("settings", [SMALL, PAPER], ids=["released", "paper"])
def test_neither_the_batch_nor_its_order_matters(features, settings):
    fused = fuse_semantics(*features, settings)
    backwards = fuse_semantics(*(values.flip(0) for values in features), settings)
    assert_close(backwards.flip(0), fused)
    for image in range(3):
        alone = fuse_semantics(*(values[image : image + 1] for values in features), settings)
        assert_close(alone[0], fused[image])


def test_without_weight_the_class_token_is_left_alone(features):
    assert fuse_semantics(*features, replace(FUSION, weight=0.0)) is features[0]


def test_a_gradient_reaches_the_clustered_patches_and_no_others(features):
    class_token, patch_tokens, abnormality = features
    patch_tokens.requires_grad_()
    fuse_semantics(class_token, patch_tokens, abnormality, SMALL)[:, 0].sum().backward()
    reached = patch_tokens.grad.ne(0).any(dim=-1)  # (3, 2, 25)
    assert (reached.sum(dim=-1) == 12).all()


def points(num: int = 40, dim: int = 6, seed: int = 0) -> torch.Tensor:
    return torch.randn(num, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("seed", range(3))
def test_seeds_and_labels_match_the_loops(seed):
    seen = points(seed=seed)
    assert seeds(squared_distances(seen), 7).tolist() == naive_seeds(seen, 7)
    assert cluster(seen, 7).tolist() == naive_clusters(seen, 7)


@pytest.mark.parametrize("seed", range(3))
def test_from_the_same_seeds_scikit_learn_ends_at_the_same_clusters(seed):
    seen = points(100, 12, seed)
    start = seen[seeds(squared_distances(seen), 20)].numpy()
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
