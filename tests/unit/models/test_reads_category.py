"""Whether a method says rightly that it reads the name of a category."""

import pytest
import torch

from helpers.methods import build_method, composed_module
from helpers.tiny import tiny_towers

AGNOSTIC = "module.network.prompts.object_agnostic=true"
UNIVERSAL = "module.network.prompts.universal_prototypes=true"


@pytest.mark.parametrize(
    ("method", "overrides", "reads"),
    [
        ("afr_clip", (), True),
        ("afr_clip", (AGNOSTIC,), False),
        ("afr_clip", (UNIVERSAL,), True),
        ("afr_clip", (UNIVERSAL, "module.network.cmfr.enabled=false"), False),
        ("aa_clip", (), True),
        ("ada_clip", (), True),
        ("april_gan", (), True),
        ("clip_similarity", (), True),
        ("winclip", (), True),
        ("winclip", (AGNOSTIC,), False),
        ("anomaly_clip", (), False),
        ("adapt_clip", (), False),
        ("clip_ad", (), True),
        ("coop", (), True),
        ("cocoop", (), True),
        ("dense_clip", (), True),
    ],
)
def test_a_method_says_whether_it_reads_the_category(method, overrides, reads):
    assert composed_module(method, *overrides).network.reads_category == reads
    network = build_method(method, tiny_towers(), *overrides).eval()
    image = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        nut, cap = (network(image, (name,)) for name in ("nut", "bottle cap"))
    assert torch.equal(nut.anomaly_map, cap.anomaly_map) != reads
