"""Forms that several datasets share."""

from afr_clip.data.disk.listing import TreeLayout

MVTEC_TREE = TreeLayout(
    marker="*/test",
    image="{category}/{split}/{type}/{stem}",
    masks=("{category}/ground_truth/{type}/{stem}_mask",),
)
"""MVTec AD's own, which many datasets follow."""

EQUAL_NAMES_TREE = TreeLayout(
    marker="*/test",
    image="{category}/{split}/{type}/{stem}",
    masks=("{category}/ground_truth/{type}/{stem}_mask", "{category}/ground_truth/{type}/{stem}"),
    normal_types=("good", "ok", "normal"),
)
"""The same, where masks may also have the names of their images."""

POLYPS = TreeLayout(
    marker="images",
    image="images/{stem}",
    masks=("masks/{stem}",),
    fixed={"category": "colon", "type": "polyp", "split": "test"},
)
"""Two folders of equal names, as polyp datasets are handed on; every image shows a polyp."""

BRAIN_SCANS = TreeLayout(
    marker="yes",
    image="{type}/{stem}",
    normal_types=("no",),
    types=("no", "yes"),
    fixed={"category": "brain", "split": "test"},
)
"""Scans without and with a tumour. The folders beside them hold copies, or images whose truth is not given."""
