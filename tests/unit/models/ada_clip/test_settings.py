import pytest

from afr_clip.models.ada_clip.settings import FusionReading, FusionSettings, HybridPromptSettings


@pytest.mark.parametrize(
    ("length", "depth", "sentence"),
    [(0, 4, "length must be positive, got 0"), (5, 1, "depth must be 2 or more, got 1")],
)
def test_prompts_that_could_not_learn_are_refused(length, depth, sentence):
    with pytest.raises(ValueError, match=sentence):
        HybridPromptSettings(length, depth)


@pytest.mark.parametrize(
    ("clusters", "patches", "weight", "sentence"),
    [
        (0, 100, 0.2, r"num_clusters must lie in 1\.\.fusion\.num_patches=100, got 0"),
        (20, 19, 0.2, r"num_clusters must lie in 1\.\.fusion\.num_patches=19, got 20"),
        (20, 100, 1.5, r"weight must lie in \[0, 1\], got 1\.5"),
        (20, 100, float("nan"), r"weight must lie in \[0, 1\], got nan"),
    ],
)
def test_clusters_need_patches_and_the_weight_is_a_share(clusters, patches, weight, sentence):
    with pytest.raises(ValueError, match=sentence):
        FusionSettings(FusionReading.mean_of_clusters, clusters, patches, weight)
