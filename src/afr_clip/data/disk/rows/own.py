"""Forms for data of one's own."""

from dataclasses import replace

from afr_clip.data.disk.meta_json import MetaJsonLayout
from afr_clip.data.disk.rows.forms import EQUAL_NAMES_TREE
from afr_clip.data.disk.rows.row import DatasetRow, Domain

FOLDER = DatasetRow(
    name="folder",
    title="",
    domain=Domain.OWN,
    folders=(),
    layouts=(
        replace(
            EQUAL_NAMES_TREE,
            marker="test/*",
            image="{split}/{type}/{stem}",
            masks=("ground_truth/{type}/{stem}_mask", "ground_truth/{type}/{stem}"),
            fixed={"category": "{root}"},
        ),
        EQUAL_NAMES_TREE,
    ),
)

META_JSON = DatasetRow(name="meta_json", title="", domain=Domain.OWN, folders=(), layouts=(MetaJsonLayout(),))

OWN = (FOLDER, META_JSON)
"""The rows; each needs its root to be named."""
