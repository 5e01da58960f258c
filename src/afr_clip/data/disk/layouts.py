"""The table of datasets: one row each, read by one reader.

A new dataset is a new row. Nothing else in the project knows a dataset by its name.
"""

from collections.abc import Mapping

from afr_clip.data.disk.rows.industrial import INDUSTRIAL
from afr_clip.data.disk.rows.medical import MEDICAL
from afr_clip.data.disk.rows.own import OWN
from afr_clip.data.disk.rows.row import DatasetRow
from afr_clip.data.errors import DataError

DATASETS: Mapping[str, DatasetRow] = {row.name: row for row in (*INDUSTRIAL, *MEDICAL, *OWN)}
"""Every dataset that can be read, by name."""


def dataset_row(layout: str) -> DatasetRow:
    """Look up a dataset.

    Args:
        layout: Its name.

    Returns:
        The row.

    Raises:
        DataError: If there is no such row.

    Example:
        >>> dataset_row("mvtec_ad").folders[0]
        'mvtec_anomaly_detection'
    """
    if layout not in DATASETS:
        msg = (
            f"layout must be one of {sorted(DATASETS)}, got {layout!r}. "
            f"Images of your own in MVTec AD's folders are read with 'folder'."
        )
        raise DataError(msg)
    return DATASETS[layout]


def title_of(name: str, layout: str) -> str:
    """Say what a dataset is called in tables.

    Args:
        name: What results are reported under.
        layout: The dataset's row.

    Returns:
        The row's title; the name itself where it is the user's own, or the row has no title.

    Raises:
        DataError: If there is no such row.

    Example:
        >>> title_of("mvtec_ad", "mvtec_ad"), title_of("my_parts", "mvtec_ad")
        ('MVTec AD', 'my_parts')
    """
    row = dataset_row(layout)
    return row.title if row.title and row.name == name else name


def prompt_name(layout: str, category: str) -> str:
    """Say a category the way a prompt should.

    Args:
        layout: The dataset's row.
        category: The category as the dataset spells it.

    Returns:
        The row's own word for it, or the category with spaces.

    Raises:
        DataError: If there is no such row.

    Example:
        >>> prompt_name("mvtec_ad", "metal_nut")
        'metal nut'
    """
    return dataset_row(layout).prompt_names.get(category, category.replace("_", " "))
