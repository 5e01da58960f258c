import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from afr_clip.clip.load import Towers
from afr_clip.config.validate import ConfigError
from afr_clip.models.adapt_clip.adapters import BatchNorm
from afr_clip.models.interface import learned_tensors
from helpers.methods import build_method, composed_module
from helpers.tiny import assert_probabilities, random_batch

NAMES = ("metal nut", "screw", "metal nut", "bottle")


def build(towers: Towers, *overrides: str) -> nn.Module:
    torch.manual_seed(0)
    return build_method("adapt_clip", towers, *overrides)


@pytest.fixture
def network(towers):
    return build(towers)


def steps(network: nn.Module, num: int = 2) -> None:
    """Let the batch norms see batches."""
    for seed in range(num):
        batch = random_batch(seed=seed)
        network.train()(batch.image, NAMES, batch.image.flip(0))
    network.eval()


def harmonic(*values: torch.Tensor) -> torch.Tensor:
    return len(values) / sum(1 / value for value in values)


def softmax_of(tokens: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
    return (F.normalize(tokens, dim=-1) @ F.normalize(texts, dim=-1).T / 0.07).softmax(dim=-1)[..., 1]


def enlarged(maps: torch.Tensor) -> torch.Tensor:
    return F.interpolate(maps[None, None], size=(64, 64), mode="bilinear")[0, 0]


def naive_mlp(adapter: nn.Module, token: torch.Tensor) -> torch.Tensor:
    hidden = adapter.narrow.weight @ token
    norm = adapter.norm
    hidden = (hidden - norm.mean) / (norm.variance + 1e-5).sqrt() * norm.weight + norm.bias
    return token + adapter.wide.weight @ hidden.clamp(min=0)


@torch.no_grad()
def test_scores_are_those_of_the_equations_with_and_without_references(towers, image):
    """Image by image and patch by patch."""
    network = build(towers, "module.network.scoring.smoothing_sigma=0")
    steps(network)
    side, dim = towers.backbone.grid_size[0], towers.backbone.embed_dim
    references = random_batch(2, seed=5).image
    network.shots = 2
    network.observe(references, "screw")
    few = network(image, ["screw"] * 4)
    network.shots = 0
    zero = network(image, NAMES)
    known = [tap[:, 1:].reshape(-1, dim) for tap in network.tapped(references)[1:]]
    static = network._static(["object"], image.device).stateful[0]
    learned = network.text(NAMES, image.device)[0]
    for row in (0, 3):
        whole, *taps = (tokens[row] for tokens in network.tapped(image))
        of_image = (
            softmax_of(naive_mlp(network.image_adapter, whole[0])[None], static)[0],
            softmax_of(whole, learned)[0],
        )
        patches = torch.stack([naive_mlp(network.patch_adapter, token) for token in taps[-1][1:]])
        maps = [
            enlarged(softmax_of(tokens, texts).view(side, side))
            for tokens, texts in ((patches, static), (taps[-1][1:], learned))
        ]
        expected = sum(maps) / 2
        assert_close(zero.anomaly_map[row], expected, atol=1e-5, rtol=0)
        assert_close(zero.image_score[row], (sum(of_image) + expected.max()) / 3, atol=1e-5, rtol=0)

        scores, compared, distances = [], [], []
        for tap, (tokens, remembered) in enumerate(zip(taps, known, strict=True)):
            fused, far = torch.zeros(dim, side, side), torch.zeros(side, side)
            for place, patch in enumerate(F.normalize(tokens[1:], dim=-1)):
                cosines = [float(patch @ one / one.norm()) for one in remembered]
                best = max(range(len(cosines)), key=cosines.__getitem__)
                far[place // side, place % side] = 1 - cosines[best]
                fused[:, place // side, place % side] = patch + (patch - F.normalize(remembered[best], dim=0)).abs()
            norm = network.comparison.norms[tap]
            scale = norm.weight / (norm.variance + 1e-5).sqrt()
            fused = (fused - norm.mean[:, None, None]) * scale[:, None, None] + norm.bias[:, None, None]
            compared.append(enlarged(network.comparison.local(fused[None])[0].softmax(dim=0)[1]))
            strongest = fused.flatten(1).sort(dim=1, descending=True).values[:, :10].mean(dim=1)
            scores.append(network.comparison.whole(((fused.mean(dim=(1, 2)) + strongest) / 2)[None])[0].softmax(0)[1])
            distances.append(enlarged(far))
        expected = harmonic((sum(maps) + sum(compared) / 4) / 3, harmonic(*distances))
        assert_close(few.anomaly_map[row], expected, atol=1e-5, rtol=0)
        score = harmonic((sum(of_image) + sum(scores) / 4) / 3, expected.max())
        assert_close(few.image_score[row], score, atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_reference_is_at_no_distance_from_itself(towers, image):
    network = build(towers, "module.network.shots=1")
    steps(network)
    network.observe(image[:1], "screw")
    prediction = network(image, ["screw"] * 4)
    assert_probabilities(prediction)
    assert prediction.anomaly_map[0].max() < 1e-5
    assert prediction.image_score[0] < 1e-5
    assert prediction.image_score[1:].min() > 0.01


def test_without_context_a_flat_difference_is_all_that_is_compared(towers, image):
    """Where image and reference are the same nothing is left, unlike with context."""
    alike = []
    for keeps in ("true", "false"):
        network = build(towers, f"module.network.comparison.keeps_context={keeps}").train()
        maps = network(image, NAMES, image).trained_maps[:, 2:]
        alike.append(float((maps - maps.mean(dim=0)).abs().max().detach()))
    assert alike[1] < 1e-6
    assert alike[0] > 1e-3


def test_no_adapter_learns_from_the_maps_or_scores_of_another(network, image):
    """So one step that trains all three is the same as three that take turns."""
    parts = {0: ("patch_adapter", "image_adapter"), 1: ("context", "context"), 2: ("comparison", "comparison")}
    for which, own in parts.items():
        for kind in ("trained_maps", "trained_scores"):
            network.zero_grad()
            learned = getattr(network.train()(image, NAMES, image.flip(0)), kind)
            (learned[:, which:] if which == 2 else learned[:, which]).std().backward()
            reached = {name for name, p in network.named_parameters() if p.grad is not None and (p.grad != 0).any()}
            assert {name.split(".")[0] for name in reached} == {own[kind == "trained_scores"]}


def test_training_needs_a_reference_for_each_image(network, image):
    with pytest.raises(ValueError, match="next to another normal image of its category, got none"):
        network.train()(image, NAMES)


def test_a_checkpoint_holds_what_the_batch_norms_saw_also_without_shots(network, towers, image):
    assert network.shots == 0
    steps(network)
    learned = {name: value.clone() for name, value in learned_tensors(network).items()}
    statistics = [name for name in learned if name.endswith((".mean", ".variance"))]
    assert len(statistics) == 2 * (2 + 4 + 2 + 2)
    assert learned.keys() == network.trainable_parameter_names() | set(statistics)
    torch.manual_seed(1)
    other = build_method("adapt_clip", towers, "module.network.shots=1").eval()
    with torch.no_grad():
        for name, value in learned_tensors(other).items():
            value.copy_(learned[name])
    network.shots = 1
    for one in (network, other):
        one.observe(image[1:2], "screw")
    ours, theirs = network(image, ["screw"] * 4), other(image, ["screw"] * 4)
    assert torch.equal(ours.anomaly_map, theirs.anomaly_map)
    assert torch.equal(ours.image_score, theirs.image_score)


def test_looking_at_a_batch_without_a_gradient_leaves_the_statistics_alone(network, image):
    steps(network)
    before = {name: value.clone() for name, value in learned_tensors(network).items()}
    with torch.no_grad():
        looked = network.train()(image, NAMES, image.flip(0))
    assert all(torch.equal(value, before[name]) for name, value in learned_tensors(network).items())
    learning = network(image, NAMES, image.flip(0))
    assert torch.equal(looked.trained_maps, learning.trained_maps)
    assert not torch.equal(network.comparison.norms[0].mean, before["comparison.norms.0.mean"])


def test_a_batch_of_one_image_can_be_learned_from(network, image):
    steps(network)
    mean = network.image_adapter.norm.mean.clone()
    prediction = network.train()(image[:1], NAMES[:1], image[1:2])
    (prediction.trained_maps.std() + prediction.trained_scores.std()).backward()
    assert_probabilities(prediction)
    assert torch.equal(network.image_adapter.norm.mean, mean)  # one value per channel


@pytest.mark.parametrize("shape", [(6, 5), (4, 5, 3), (3, 5, 4, 2)])
def test_the_batch_norm_is_pytorchs(shape):
    values = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    theirs = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}[len(shape)](5)
    ours = BatchNorm(5)
    with torch.no_grad():
        for one in (ours, theirs):
            one.weight.copy_(torch.linspace(-1, 1, 5))
            one.bias.copy_(torch.linspace(0, 2, 5))
    for batch in values:
        assert_close(ours(batch), theirs(batch))
    assert_close(ours.mean, theirs.running_mean)
    assert_close(ours.variance, theirs.running_var)
    assert_close(ours.eval()(values[0]), theirs.eval()(values[0]))


def test_the_learned_words_of_each_sentence_are_its_own(network, image):
    before = network.text(("screw",), image.device).detach()
    with torch.no_grad():
        network.context[0] += 1
    after = network.text(("screw",), image.device).detach()
    assert torch.equal(after[:, 1], before[:, 1])
    assert not torch.isclose(after[:, 0], before[:, 0]).all()


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("num_context_tokens", 0, "num_context_tokens must be 1 or more, got 0"),
        ("reduction", 0, "reduction must be 1 or more, got 0"),
        ("comparison.width", 1, "comparison.width must be 2 or more, got 1"),
        ("shots", -1, "shots must be 0 or more, got -1"),
        ("local_from_block", 0, "^local_from_block must be 1 or more, got 0. AdaptCLIP uses 6;"),
    ],
)
def test_settings_out_of_range_are_refused(key, value, sentence):
    with pytest.raises(ConfigError, match=sentence):
        composed_module("adapt_clip", f"module.network.{key}={value}")


def test_a_local_stream_that_starts_behind_the_first_tap_is_refused():
    settings = composed_module("adapt_clip", "module.network.local_from_block=9").network
    with pytest.raises(ValueError, match=r"^local_from_block must lie in 1\.\.6"):
        settings.check_taps([6, 12])
