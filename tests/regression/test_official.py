"""This project next to the authors' programs; ``tests/fixtures/official/README.md`` says where to get them."""

import pytest
import torch
from safetensors.torch import load_file

from afr_clip.prompts.ensemble import PromptSettings, PromptStyle, expand
from helpers.official_code import COMMITS, RUNS, VARIABLE, official_folder, sentences
from helpers.official_differences import METHODS, assert_only_rounding, difference
from helpers.repeatable import ARCHITECTURES

SAVED = {"anomaly_clip": "saved/epoch_1.pth", "april_gan": "saved/epoch_1.pth", "ada_clip": "ada_clip.pth"}
"""Where the authors' programs put what they learned."""


def need(repository):
    if official_folder(repository) is None:
        pytest.skip(
            f"needs {repository} at commit {COMMITS[repository][:7]} in a folder; set {VARIABLE} to that folder"
        )


@pytest.fixture(scope="module", params=RUNS)
def run(request, tmp_path_factory):
    """Run one program: its name, the folder that it wrote to, and the record."""
    make, repository = RUNS[request.param]
    need(repository)
    if request.param == "published_pro":
        need("VAND-APRIL-GAN")
        pytest.importorskip("skimage", reason="the published PRO labels regions with scikit-image")
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, folder, make(folder)


def test_numbers_are_those_of_the_authors_programs_down_to_every_pixel(run):
    name, folder, record = run
    if name in METHODS:
        released = folder / SAVED[name] if name in SAVED else None
        assert_only_rounding(METHODS[name](record, folder, released))


def test_the_golden_files_are_what_the_programs_compute(run):
    name, _, record = run
    golden = load_file(ARCHITECTURES / f"{name}.safetensors")
    assert golden.keys() == record.keys()
    for key, kept in golden.items():
        if kept.is_floating_point():
            found = difference(record[key], kept)
            assert found.largest <= 1e-5 * max(1.0, found.scale), key
        else:
            assert torch.equal(record[key], kept), key


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
