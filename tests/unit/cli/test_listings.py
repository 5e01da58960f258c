import sys
from pathlib import Path

import pytest
import timm

from afr_clip.cli.listings import _backbones, _experiments, _methods
from afr_clip.cli.main import main
from afr_clip.config.nodes import config_dir, method_names

ALSO = {
    "siglip2_l_16_384": "vit_large_patch16_siglip_384.v2_webli",
    "pe_core_l_14_336": "vit_pe_core_large_patch14_336.fb",
    "mobileclip_b": "vit_base_mci_224.apple_mclip",
}
"""The same image towers in timm."""


def names(group: str) -> list[str]:
    return sorted(path.stem for path in Path(config_dir(), group).glob("*.yaml"))


@pytest.mark.parametrize(
    ("command", "rows", "expected"),
    [
        ("methods", _methods, method_names()),
        ("backbones", _backbones, names("backbone")),
        ("experiments", _experiments, names("experiment")),
    ],
)
def test_everything_that_can_be_chosen_is_listed_with_what_it_is(monkeypatch, capsys, command, rows, expected):
    found = list(rows())
    assert [row[0] for row in found] == expected
    assert all(all(cell.strip() for cell in row) for row in found)
    monkeypatch.setattr(sys, "argv", [""])
    main([command])
    printed = capsys.readouterr().out
    assert all(f" {name} " in printed for name in expected)


def test_a_method_is_listed_with_its_paper_its_needs_and_its_backbone():
    rows = {row[0]: row[1:] for row in _methods()}
    what, trained, reads_text, backbone, *source = rows["april_gan"]
    assert "arXiv:2305.17382" in what
    assert (trained, reads_text, backbone) == ("yes", "yes", "vit_l_14_336_gelu")
    assert source == ["ByChelsea/VAND-APRIL-GAN", "MIT"]
    assert rows["winclip"][1:4] == ("no", "yes", "vit_b_16_plus_240")
    assert rows["afr_clip"][3:] == ("vit_l_14_336", "none", "no public code")
    assert all(row[4:] != ("not stated", "not stated") for row in rows.values())


def test_a_backbone_is_listed_with_its_architecture_and_weights():
    rows = {row[0]: row[1:] for row in _backbones()}
    assert rows["dinov2_l_14_reg"][:4] == ("timm:vit_large_patch14_reg4_dinov2", "lvd142m", "518", "no")
    assert rows["pocket"][1] == "in the package"
    assert rows["tiny"][1] == "random"


def test_the_licence_of_a_backbones_weights_is_the_one_that_timm_knows():
    rows = {row[0]: row[1:] for row in _backbones()}
    assert all(row[5:] != ("not stated", "not stated") for row in rows.values())
    compared = 0
    for name, (architecture, weights, *_, source, licence) in rows.items():
        tag = f"{architecture.removeprefix('timm:')}.{weights}" if architecture.startswith("timm:") else ALSO.get(name)
        if tag is not None:
            known = timm.get_pretrained_cfg(tag)
            assert licence.lower().replace(" ", "-").removeprefix("apple-") == known.license.removeprefix("apple-")
            compared += 1
        if architecture.startswith("timm:"):
            assert source == known.hf_hub_id
    assert compared == 5


def test_an_experiment_is_listed_with_its_command_and_the_papers_numbers():
    rows = {row[0]: row[1:] for row in _experiments()}
    assert rows["table6"][:3] == (
        "afr-clip sweep experiment=table6 seeds=[0,1,2] sweep_dir=DIR",
        "3 trainings a seed",
        "paper: m = 3 93.4 / 92.3",
    )
    assert rows["table6"][3].startswith("Table 6, the window of MPFA")
