from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
from huggingface_hub import constants
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file

from afr_clip.clip import found
from afr_clip.clip.load import load_towers
from afr_clip.clip.settings import BackboneSettings
from afr_clip.clip.weights import weight_path
from afr_clip.config.restore import known_group
from helpers.kinds_of_tower import KINDS, NATIVE
from helpers.tiny import TINY

SETTINGS = {
    kind: replace(
        TINY,
        name=kind,
        architecture=kind,
        quick_gelu=kind == "afr-clip-tiny",
        image_size=128 if kind == "afr-clip-tiny" else NATIVE,
    )
    for kind in KINDS
}


WITHOUT_ITS_TEXT = {"Tiny-SigLIP2": ["timm:tiny_siglip"], "Tiny-PE-Core": ["timm:tiny_pe"]}
"""Files of a whole CLIP that timm also reads as its image tower alone."""


def backbone(name: str) -> BackboneSettings:
    return OmegaConf.to_object(known_group("backbone", name))


def write_weights(path: Path, settings: BackboneSettings) -> Path:
    """Save the weights of random towers as their authors would: without the wrapper of towers without text."""
    clip = load_towers(settings, needs_cnn=False).backbone.clip
    state = (clip if settings.has_text else clip.trunk).state_dict()
    save_file({name: value.contiguous() for name, value in state.items()}, path)
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_fits_the_tower_that_it_was_made_for_and_no_other(kind, tmp_path):
    path = write_weights(tmp_path / "weights.safetensors", SETTINGS[kind])
    assert found.check_weights(path, SETTINGS[kind]) == sha256(path.read_bytes()).hexdigest()
    assert found.fitting_backbones(path, SETTINGS) == [kind, *WITHOUT_ITS_TEXT.get(kind, ())]


@pytest.mark.parametrize("name", ["vit_l_14", "pe_core_l_14_336", "dinov2_l_14_reg"])
def test_a_file_of_other_widths_is_one_sentence(name, tmp_path):
    path = write_weights(tmp_path / "weights.safetensors", SETTINGS["afr-clip-tiny"])
    with pytest.raises(ValueError, match=r"does not fit the chosen architecture.* Choose the backbone the file"):
        found.check_weights(path, backbone(name))


def test_the_same_tower_at_another_input_size_is_another_file(tmp_path):
    settings = SETTINGS["afr-clip-tiny"]
    path = write_weights(tmp_path / "weights.safetensors", replace(settings, image_size=96))
    load_towers(replace(settings, weights=str(path), random_weights=False), needs_cnn=False)  # on purpose, it loads
    with pytest.raises(ValueError, match=r"made for 96 px instead of 128\. Choose the backbone that was trained at 96"):
        found.check_weights(path, settings)


def test_pocket_and_its_cnn_are_compared_whole(tmp_path):
    pocket = backbone("pocket")
    own = weight_path(pocket.weights)
    assert found.check_weights(own, pocket) == sha256(own.read_bytes()).hexdigest()
    state = load_file(own)
    first = state.pop(next(iter(state)))
    save_file(state | {"other": first}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"1 missing, 1 unexpected .* built over its own CNN"):
        found.check_weights(tmp_path / "other.safetensors", pocket)
    cnn = weight_path(pocket.cnn.weights)
    assert found.check_cnn(pocket.cnn, cnn) == sha256(cnn.read_bytes()).hexdigest()
    with pytest.raises(ValueError, match="does not fit"):
        found.check_cnn(pocket.cnn, own)
    bad = in_cache(tmp_path / "bad", "a/b", cnn.name, cnn.read_bytes(), "a" * 64)
    with pytest.raises(ValueError, match=r"damaged or was changed: its SHA-256 is not aaaa"):
        found.check_cnn(pocket.cnn, bad)


def in_cache(folder: Path, repository: str, name: str, content: bytes, blob: str) -> Path:
    """Lay a file into a folder as the cache of the hub does."""
    there = folder / f"models--{repository.replace('/', '--')}"
    for path, text in ((there / "refs" / "main", b"1" * 40), (there / "blobs" / blob, content)):
        path.parent.mkdir(parents=True)
        path.write_bytes(text)
    link = there / "snapshots" / ("1" * 40) / name
    link.parent.mkdir(parents=True)
    link.symlink_to(there / "blobs" / blob)
    return link


@pytest.mark.parametrize(
    ("name", "repository", "file"),
    [
        ("vit_b_32", "timm/vit_base_patch32_clip_224.openai", "open_clip_model.safetensors"),
        ("pe_core_l_14_336", "timm/PE-Core-L-14-336", "open_clip_model.safetensors"),
        ("dinov2_l_14_reg", "timm/vit_large_patch14_reg4_dinov2.lvd142m", "model.safetensors"),
    ],
)
def test_what_the_cache_of_the_hub_holds_is_found_and_its_damage_too(name, repository, file, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    first = next(found.find_weights(backbone(name)))
    assert (first.path, first.key) == (None, "backbone.weights")
    path = in_cache(tmp_path, repository, file, b"half a downl", "a" * 64)
    assert next(found.find_weights(backbone(name))).path == path
    with pytest.raises(ValueError, match="could not be read"):
        found.check_weights(path, backbone(name))


def test_a_file_of_the_cache_that_is_not_as_published_is_damaged(tmp_path, monkeypatch):
    settings = SETTINGS["afr-clip-tiny"]
    content = write_weights(tmp_path / "weights.safetensors", settings).read_bytes()
    good = in_cache(tmp_path / "good", "a/b", "model.safetensors", content, sha256(content).hexdigest())
    found.check_weights(good, settings)
    bad = in_cache(tmp_path / "bad", "a/b", "model.safetensors", content, "a" * 64)
    with pytest.raises(ValueError, match=r"damaged or was changed: its SHA-256 is not aaaa.* Delete it"):
        found.check_weights(bad, settings)
