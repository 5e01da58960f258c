import pytest
import torch
from torch.testing import assert_close

from helpers.methods import build_method
from helpers.naive import naive_probability, naive_similarity, naive_upsampling
from helpers.naive_methods import naive_association, naive_window_aggregation, naive_window_embeddings
from helpers.tiny import random_batch

NAMES = ("metal_nut", "screw")
GRID = (4, 4)


@pytest.fixture
def image() -> torch.Tensor:
    return random_batch(2).image


def references(num: int = 2, seed: int = 9) -> torch.Tensor:
    return random_batch(num, seed=seed).image


def few_shot(towers, *overrides: str) -> torch.nn.Module:
    network = build_method("winclip", towers, "module.network.shots=2", *overrides)
    for seed, name in enumerate(NAMES, start=9):
        network.observe(references(seed=seed), name)
    return network


def embedded_windows(towers, image: torch.Tensor) -> list[torch.Tensor]:
    """Per image the embeddings of its windows of sizes 2 and 3, one window at a time."""
    visual = towers.backbone.clip.visual
    return [torch.stack([naive_window_embeddings(visual, one, size) for one in image]) for size in (2, 3)]


def naive_text_maps(network, towers, image: torch.Tensor) -> list[torch.Tensor]:
    """Per image the maps of window sizes 2 and 3 and the image score as a map, from loops."""
    stateful = network.text(NAMES, image.device).stateful
    scored = [*embedded_windows(towers, image), towers.backbone.clip.encode_image(image)[:, None]]
    of_size_2, of_size_3, whole = (naive_probability(naive_similarity(seen, stateful), 0.07) for seen in scored)
    return [
        torch.stack(
            [
                naive_window_aggregation(of_size_2[i].tolist(), GRID, 2),
                naive_window_aggregation(of_size_3[i].tolist(), GRID, 3),
                whole[i].expand(GRID),
            ]
        )
        for i in range(len(image))
    ]


@torch.no_grad()
def test_zero_shot_map_and_score_are_those_of_the_loops(towers, image):
    network = build_method("winclip", towers)
    prediction = network(image, NAMES)
    for i, maps in enumerate(naive_text_maps(network, towers, image)):
        grid_map = 3 / (1 / maps[0] + 1 / maps[1] + 1 / maps[2])
        assert_close(prediction.layer_maps[i].double(), maps, atol=1e-4, rtol=0)
        assert_close(prediction.anomaly_map[i].double(), naive_upsampling(grid_map, (64, 64)), atol=1e-4, rtol=0)
        assert_close(prediction.image_score[i].double(), maps[2, 0, 0], atol=1e-4, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("tokens_compared", ["raw", "ln_post"])
def test_few_shot_map_and_score_are_the_means_with_those_of_the_references(towers, image, tokens_compared):
    network = few_shot(towers, f"module.network.reference_tokens={tokens_compared}")
    prediction = network(image, NAMES)
    for i, maps in enumerate(naive_text_maps(network, towers, image)):
        scales = []
        for shown in (image[i : i + 1], references(seed=9 + i)):
            (tokens,) = towers.backbone.tap(shown, layers=(4,))
            patches = tokens[:, 1:] if tokens_compared == "raw" else towers.backbone.ln_post(tokens[:, 1:])
            scales.append((patches, *embedded_windows(towers, shown)))
        of_patches, of_size_2, of_size_3 = (
            naive_association(seen[0], known.flatten(0, 1)) for seen, known in zip(*scales, strict=True)
        )
        by_reference = (
            of_patches.view(GRID)
            + naive_window_aggregation(of_size_2.tolist(), GRID, 2)
            + naive_window_aggregation(of_size_3.tolist(), GRID, 3)
        ) / 3
        grid_map = (3 / (1 / maps[0] + 1 / maps[1] + 1 / maps[2]) + by_reference) / 2
        assert_close(prediction.anomaly_map[i].double(), naive_upsampling(grid_map, (64, 64)), atol=1e-4, rtol=0)
        score = (maps[2, 0, 0] + by_reference.max()) / 2
        assert_close(prediction.image_score[i].double(), score, atol=1e-4, rtol=0)
    assert prediction.layer_maps.shape == (2, 6, *GRID)


@torch.no_grad()
def test_prompts_that_say_the_same_leave_a_flat_map_of_one_half(towers, image):
    network = build_method("winclip", towers)
    text = network.text(NAMES, image.device)
    network.text = lambda *_: text._replace(stateful=text.stateful[:, :1].expand(-1, 2, -1))
    prediction = network(image, NAMES)
    assert_close(prediction.anomaly_map, torch.full((2, 64, 64), 0.5))
    assert_close(prediction.image_score, torch.full((2,), 0.5))


@torch.no_grad()
def test_an_image_among_its_own_references_adds_nothing_to_its_zero_shot_result(towers):
    zero, few = (
        build_method("winclip", towers)(references(), NAMES[:1] * 2),
        few_shot(towers)(references(), NAMES[:1] * 2),
    )
    assert_close(few.anomaly_map, zero.anomaly_map / 2, atol=1e-6, rtol=0)
    assert_close(few.image_score, zero.image_score / 2, atol=1e-6, rtol=0)


@torch.no_grad()
def test_few_shot_scores_a_batch_of_one_as_its_row_in_a_batch(towers, image):
    network = few_shot(towers)
    together = network(image, NAMES)
    for i, name in enumerate(NAMES):
        alone = network(image[i : i + 1], [name])
        assert_close(alone.anomaly_map[0], together.anomaly_map[i])
        assert_close(alone.image_score[0], together.image_score[i])


@torch.no_grad()
@pytest.mark.parametrize(
    "override",
    [
        "module.network.prompts.style=winclip",
        "module.network.normalise_first=true",
        "module.network.window_sizes=[2]",
        "module.network.scoring.temperature=0.01",
        "module.network.scoring.image_score=map_max",
    ],
)
def test_every_choice_changes_the_result(towers, image, override):
    changed, published = (build_method("winclip", towers, *chosen)(image, NAMES) for chosen in ([override], []))
    same_map = torch.allclose(changed.anomaly_map, published.anomaly_map, atol=1e-7)
    same_score = torch.allclose(changed.image_score, published.image_score, atol=1e-7)
    assert not (same_map and same_score)
    if override.endswith("map_max"):
        assert_close(changed.image_score, changed.anomaly_map.amax(dim=(1, 2)))


@torch.no_grad()
def test_raw_patches_are_compared_unless_told_otherwise(towers, image):
    maps = {
        chosen: few_shot(towers, *overrides)(image, NAMES).anomaly_map
        for chosen, overrides in {
            "default": (),
            "raw": ("module.network.reference_tokens=raw",),
            "ln_post": ("module.network.reference_tokens=ln_post",),
        }.items()
    }
    assert torch.equal(maps["default"], maps["raw"])
    assert (maps["raw"] - maps["ln_post"]).abs().max() > 1e-5


def test_references_are_not_saved_with_the_network(towers):
    network = build_method("winclip", towers)
    assert few_shot(towers).state_dict().keys() == network.state_dict().keys()


def test_as_many_references_as_shots(towers):
    network = build_method("winclip", towers, "module.network.shots=2")
    with pytest.raises(ValueError, match="'screw' needs exactly shots=2 reference images, got 3 images"):
        network.observe(references(3), "screw")


def test_a_category_without_references_is_refused(towers, image):
    with pytest.raises(ValueError, match=r"must have reference images before it is scored .* got 'bottle'"):
        few_shot(towers)(image, ["screw", "bottle"])


def test_windows_larger_than_the_grid_are_refused_at_once(towers):
    with pytest.raises(ValueError, match="1 to 4 patches wide on a grid of 4 x 4, got 5"):
        build_method("winclip", towers, "module.network.window_sizes=[2,5]")
