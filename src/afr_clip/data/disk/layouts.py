"""The table of datasets: one row each. A new dataset is a new row; no other code knows a dataset by name."""

from collections.abc import Mapping
from dataclasses import replace

from afr_clip.data.disk.listing import MetaJsonLayout
from afr_clip.data.disk.rows.industrial import INDUSTRIAL
from afr_clip.data.disk.rows.medical import MEDICAL
from afr_clip.data.disk.rows.row import EQUAL_NAMES_TREE, DatasetRow, Domain
from afr_clip.data.errors import DataError

_FOLDER_OF_ONE_CATEGORY = replace(
    EQUAL_NAMES_TREE,
    marker="test/*",
    image="{split}/{type}/{stem}",
    masks=("ground_truth/{type}/{stem}_mask", "ground_truth/{type}/{stem}"),
    fixed={"category": "{root}"},
)

OWN = (
    DatasetRow("folder", "", Domain.OWN, folders=(), layouts=(_FOLDER_OF_ONE_CATEGORY, EQUAL_NAMES_TREE)),
    DatasetRow("meta_json", "", Domain.OWN, folders=(), layouts=(MetaJsonLayout(),)),
)
"""Layouts for your own data; the root must be given."""

DATASETS: Mapping[str, DatasetRow] = {row.name: row for row in (*INDUSTRIAL, *MEDICAL, *OWN)}
"""Every dataset that can be read, by name."""


def dataset_row(layout: str) -> DatasetRow:
    """Look up a dataset by name.

    Example:
        >>> dataset_row("mvtec_ad").folders[0]
        'mvtec_anomaly_detection'
    """
    if layout not in DATASETS:
        msg = (
            f"layout must be one of {sorted(DATASETS)}, got {layout!r}. "
            f"Use 'folder' for your own images in MVTec AD's folder structure."
        )
        raise DataError(msg)
    return DATASETS[layout]


def title_of(name: str, layout: str) -> str:
    """Return a dataset's title for tables: the row's title, or the name itself if the user chose another name.

    Example:
        >>> title_of("mvtec_ad", "mvtec_ad"), title_of("my_parts", "mvtec_ad")
        ('MVTec AD', 'my_parts')
    """
    row = dataset_row(layout)
    return row.title if row.title and row.name == name else name


def prompt_name(layout: str, category: str) -> str:
    """Return the words for a category in prompts: the row's own, or the category with spaces.

    Example:
        >>> prompt_name("mvtec_ad", "metal_nut")
        'metal nut'
    """
    return dataset_row(layout).prompt_names.get(category, category.replace("_", " "))
