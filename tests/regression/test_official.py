"""This project next to the authors' programs; ``tests/fixtures/official/README.md`` says where to get them."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from afr_clip.data.disk.pixels import resize_image
from afr_clip.prompts.ensemble import PromptSettings, PromptStyle, expand
from helpers.configs import _compose
from helpers.official_code import (
    COMMITS,
    RUNS,
    VARIABLE,
    mosaic_labels,
    official_folder,
    official_modules,
    sentences,
    write_meta_tree,
)
from helpers.official_differences import METHODS, SIZE, assert_only_rounding, difference, thinned
from helpers.repeatable import ARCHITECTURES, MEAN, STD, pictures, tower_state

SAVED = {
    "anomaly_clip": "saved/epoch_1.pth",
    "april_gan": "saved/epoch_1.pth",
    "ada_clip": "ada_clip.pth",
    "visual_ad": "final_model.pth",
}
"""Where the authors' programs put what they learned."""


def need(repository):
    if official_folder(repository) is None:
        pytest.skip(
            f"needs {repository} at commit {COMMITS[repository][:7]} in a folder; set {VARIABLE} to that folder"
        )


@pytest.fixture(scope="module", params=RUNS)
def official(request, tmp_path_factory):
    """Run one program: its name, the folder that it wrote to, and the record."""
    make, repository = RUNS[request.param]
    need(repository)
    if request.param == "published_pro":
        need("VAND-APRIL-GAN")
        pytest.importorskip("skimage", reason="the published PRO labels regions with scikit-image")
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, folder, make(folder)


def test_numbers_are_those_of_the_authors_programs_down_to_every_pixel(official):
    name, folder, record = official
    if name in METHODS:
        released = folder / SAVED[name] if name in SAVED else None
        assert_only_rounding(METHODS[name](record, folder, released))


def test_the_golden_files_are_what_the_programs_compute(official):
    name, _, record = official
    golden = load_file(ARCHITECTURES / f"{name}.safetensors")
    assert golden.keys() == record.keys()
    for key, kept in golden.items():
        if "k_means" in key:
            assert kept.std(dim=0).allclose(
                record[key].std(dim=0), rtol=1.0
            )  # another scikit-learn may draw other seeds
        elif kept.is_floating_point():
            ours = record[key] if record[key].shape == kept.shape else thinned(record[key])
            gradient = golden.get(key.replace("stepped.", "grad."), kept).abs()
            # Adam's first step divides a gradient by its own size, so the sign of one near 0 is a matter of rounding.
            sure = gradient > 1e-3 * gradient.max() if "stepped." in key else torch.ones_like(kept, dtype=torch.bool)
            found = difference(ours[sure], kept[sure])
            assert found.largest <= 1e-5 * max(1.0, found.scale), key
        else:
            assert torch.equal(record[key], kept), key


@pytest.mark.parametrize("official", SAVED, indirect=True)
def test_their_files_and_pictures_give_their_scores_and_maps_from_the_command_line(run, official, tmp_path):
    name, folder, record = official
    has_quick_gelu = name in ("anomaly_clip", "visual_ad")
    category, architecture = ("colon", "ViT-known-quickgelu") if has_quick_gelu else ("metal_nut", "ViT-known")
    save_file(tower_state(architecture), tmp_path / "clip.safetensors")
    overrides = [
        f"module={name}",
        f"module.network.released_weights={folder / SAVED[name]}",
        f"backbone.architecture={architecture}",
        f"backbone.weights={tmp_path / 'clip.safetensors'}",
        "backbone.pretrained=null",
        "backbone.other_activation=false",
        f"backbone.quick_gelu={architecture.endswith('quickgelu')}",
        f"backbone.image_size={SIZE}",
        "dataset=meta_json",
        "dataset.name=official",
        f"dataset.root={write_meta_tree(tmp_path / 'tree', category, SIZE)}",
        "data.num_workers=0",
        "save_maps=true",
        "map_format=tiff",
        f"run_dir={tmp_path / 'run'}",
    ]
    assert run("evaluate", *overrides) == 0
    scores = pd.read_csv(tmp_path / "run" / "scores.csv")
    scores = scores.sort_values("image", key=lambda paths: paths.map(lambda path: Path(path).stem))
    assert list(scores.image_score) == pytest.approx(record["score"].tolist(), abs=1e-5)
    paths = sorted((tmp_path / "run" / "maps").rglob("*.tiff"), key=lambda path: path.stem)
    saved = torch.stack([torch.from_numpy(np.array(Image.open(path))) for path in paths])
    assert difference(saved, record["map"]).largest < 1e-5


def test_pictures_of_another_shape_are_resized_within_a_grey_level_of_theirs():
    need("AnomalyCLIP")
    picture = pictures(200)[1][:, :150]
    with official_modules("AnomalyCLIP", "utils") as (program,):
        transform, _ = program.get_transform(SimpleNamespace(image_size=SIZE))
        theirs = transform(Image.fromarray(picture)) * torch.tensor(STD)[:, None, None]
    ours = resize_image(torch.from_numpy(picture.copy()).permute(2, 0, 1), (SIZE, SIZE)) / 255
    levels = (ours - torch.tensor(MEAN)[:, None, None] - theirs).abs() * 255
    assert levels.max() < 1.01
    assert (levels > 0.01).float().mean() < 0.005


def test_a_collage_of_defects_in_the_place_of_a_normal_image_counts_as_normal_for_ada_clip(tmp_path):
    need("AdaCLIP")
    assert mosaic_labels(tmp_path) == [(False, True), (True, True), (False, True), (True, True)]
    assert _compose("module=ada_clip", "dataset=mvtec_ad").data.mosaic_label == "replaced"


STYLES = {
    "VAND-APRIL-GAN": PromptStyle.april_gan,
    "AdaCLIP": PromptStyle.ada_clip,
    "Accurate-WinCLIP-pytorch": PromptStyle.winclip_21,
    "anomalib": PromptStyle.winclip_21,
}


@pytest.mark.parametrize("category", ["metal_nut", "pcb1", "01"])
@pytest.mark.parametrize("repository", STYLES)
def test_sentences_are_theirs_word_for_word(repository, category):
    need(repository)
    ours = expand(PromptSettings(STYLES[repository], object_agnostic=False), category)
    assert sentences(repository, category) == (sorted(ours.normal), sorted(ours.abnormal))
