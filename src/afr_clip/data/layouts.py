"""The public datasets: one row each, read by one reader.

A new dataset is a new row. Nothing else in the project knows a dataset by its name.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from afr_clip.data.errors import DataError
from afr_clip.data.listing import TableLayout, TreeLayout


@dataclass(frozen=True)
class DatasetRow:
    """How one public dataset lies on a disk.

    Attributes:
        name: The row's key.
        folders: Names that its folder goes by below the data directory; none if the user must name the root.
        layouts: The forms in which it is found; the first whose marker is present is used.
        mask_threshold: Least 8-bit mask value that counts as anomalous; ``None`` for any value but 0 (128 in a JPEG).
        prompt_names: What a category is called in prompts, where that is not its name with spaces for underscores.
    """

    name: str
    folders: tuple[str, ...]
    layouts: tuple[TreeLayout | TableLayout, ...]
    mask_threshold: int | None = None
    prompt_names: Mapping[str, str] = field(default_factory=dict)


MVTEC_TREE = TreeLayout(
    marker="*/test",
    image="{category}/{split}/{type}/{stem}",
    masks=("{category}/ground_truth/{type}/{stem}_mask",),
)
"""The layout that many datasets share."""

OWN_TREE = TreeLayout(
    marker="*/test",
    image="{category}/{split}/{type}/{stem}",
    masks=("{category}/ground_truth/{type}/{stem}_mask", "{category}/ground_truth/{type}/{stem}"),
    normal_types=("good", "ok", "normal"),
)

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

HEAD_CT_TABLE = TableLayout(
    table="labels.csv",
    image="head_ct/{id:0>3}.png",
    category="brain",
    split="test",
    type="{hemorrhage}",
    type_names={"0": "normal", "1": "hemorrhage"},
    normal_types=("normal",),
)
"""The table's ids are not padded, the names of the files are."""

DATASETS: Mapping[str, DatasetRow] = {
    row.name: row
    for row in (
        DatasetRow(
            name="mvtec_ad",
            folders=("mvtec_anomaly_detection", "MVTecAD", "mvtec_ad", "mvtec"),
            layouts=(MVTEC_TREE,),
        ),
        DatasetRow(
            name="visa",
            folders=("VisA", "VisA_20220922", "visa", "VisA_pytorch"),
            layouts=(
                TableLayout(
                    table="split_csv/1cls.csv",
                    image="{image}",
                    mask="{mask}",
                    category="{object}",
                    split="{split}",
                    type="{label}",
                    normal_types=("normal",),
                ),
                TreeLayout(
                    marker="1cls/*/test",
                    image="1cls/{category}/{split}/{type}/{stem}",
                    masks=("1cls/{category}/ground_truth/{type}/{stem}",),
                ),
                replace(MVTEC_TREE, masks=("{category}/ground_truth/{type}/{stem}",)),
            ),
        ),
        DatasetRow(
            name="mpdd",
            folders=("MPDD", "mpdd"),
            layouts=(MVTEC_TREE,),
        ),
        DatasetRow(
            name="isic",
            folders=("ISIC", "ISIC2016", "isic"),
            layouts=(
                TreeLayout(
                    marker="ISBI2016_ISIC_Part1_Test_Data",
                    image="ISBI2016_ISIC_Part1_Test_Data/{stem}",
                    masks=("ISBI2016_ISIC_Part1_Test_GroundTruth/{stem}_Segmentation",),
                    fixed={"category": "skin", "type": "lesion", "split": "test"},
                ),
            ),
        ),
        DatasetRow(
            name="colon_db",
            folders=("CVC-ColonDB", "ColonDB", "colon_db"),
            layouts=(POLYPS,),
        ),
        DatasetRow(
            name="clinic_db",
            folders=("CVC-ClinicDB", "ClinicDB", "clinic_db"),
            layouts=(
                POLYPS,
                replace(POLYPS, marker="Original", image="Original/{stem}", masks=("Ground Truth/{stem}",)),
            ),
            mask_threshold=128,  # a quarter of the masks hold low values outside of the polyp
        ),
        DatasetRow(
            name="head_ct",
            folders=("HeadCT", "head-ct-hemorrhage", "head_ct"),
            layouts=(
                replace(HEAD_CT_TABLE, marker="head_ct/head_ct", image="head_ct/head_ct/{id:0>3}.png"),
                HEAD_CT_TABLE,
            ),
        ),
        DatasetRow(
            name="brain_mri",
            folders=("BrainMRI", "brain-mri-images-for-brain-tumor-detection", "brain_mri"),
            layouts=(
                # The published archive holds every image twice: in this folder and beside it.
                replace(BRAIN_SCANS, marker="brain_tumor_dataset/yes", image="brain_tumor_dataset/{type}/{stem}"),
                BRAIN_SCANS,
            ),
        ),
        DatasetRow(
            name="br35h",
            folders=("Br35H", "br35h"),
            layouts=(BRAIN_SCANS,),
        ),
        DatasetRow(
            name="folder",
            folders=(),
            layouts=(
                replace(
                    OWN_TREE,
                    marker="test/*",
                    image="{split}/{type}/{stem}",
                    masks=("ground_truth/{type}/{stem}_mask", "ground_truth/{type}/{stem}"),
                    fixed={"category": "{root}"},
                ),
                OWN_TREE,
            ),
        ),
    )
}
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
