"""Datasets of medical images."""

from dataclasses import replace

from afr_clip.data.disk.listing import TableLayout, TreeLayout
from afr_clip.data.disk.rows.row import BRAIN_SCANS, POLYPS, Count, DatasetRow, Domain, Provenance

_POLYP_BUNDLE = "https://figshare.com/articles/figure/Polyp_DataSet_zip/21221579"
_KAGGLE = "Sign in to Kaggle and download the archive."

HEAD_CT_TABLE = TableLayout(
    table="labels.csv",
    image="head_ct/{id:0>3}.png",
    category="brain",
    split="test",
    type="{hemorrhage}",
    type_names={"0": "normal", "1": "hemorrhage"},
    normal_types=("normal",),
)
"""The ids in the table are not padded, but the file names are."""

HEAD_CT = DatasetRow(
    name="head_ct",
    title="Head CT",
    domain=Domain.MEDICAL,
    folders=("HeadCT", "head-ct-hemorrhage", "head_ct"),
    layouts=(
        replace(HEAD_CT_TABLE, marker="head_ct/head_ct", image="head_ct/head_ct/{id:0>3}.png"),
        HEAD_CT_TABLE,
    ),
    counts={"brain": Count(100, 100)},
    provenance=Provenance(
        source="https://www.kaggle.com/datasets/felipekitamura/head-ct-hemorrhage",
        steps=(_KAGGLE, "python -m afr_clip.datasets unpack head_ct archive.zip"),
        licence="see the page; none is stated in copies",
        citation="Kitamura, Head CT - hemorrhage, Kaggle 2018",
    ),
)

BRAIN_MRI = DatasetRow(
    name="brain_mri",
    title="Brain MRI",
    domain=Domain.MEDICAL,
    folders=("BrainMRI", "brain-mri-images-for-brain-tumor-detection", "brain_mri"),
    layouts=(
        # The published archive holds every image twice: in this folder and next to it.
        replace(BRAIN_SCANS, marker="brain_tumor_dataset/yes", image="brain_tumor_dataset/{type}/{stem}"),
        BRAIN_SCANS,
    ),
    counts={"brain": Count(98, 155)},
    provenance=Provenance(
        source="https://www.kaggle.com/datasets/navoneel/brain-mri-images-for-brain-tumor-detection",
        steps=(_KAGGLE, "python -m afr_clip.datasets unpack brain_mri archive.zip"),
        licence="see the page; none is stated in copies",
        citation="Chakrabarty, Brain MRI images for brain tumor detection, Kaggle 2019",
        notes=(
            "The archive holds every picture twice; one copy is read. That copy also has a few duplicates.",
            "Another Kaggle dataset of brain scans (masoudnickparvar) has a similar name; it is not this one.",
        ),
    ),
)

BR35H = DatasetRow(
    name="br35h",
    title="Br35H",
    domain=Domain.MEDICAL,
    folders=("Br35H", "br35h"),
    layouts=(BRAIN_SCANS,),
    counts={"brain": Count(1500, 1500)},
    provenance=Provenance(
        source="https://www.kaggle.com/datasets/ahmedhamada0/brain-tumor-detection",
        steps=(_KAGGLE, "python -m afr_clip.datasets unpack br35h archive.zip"),
        licence="see the page; none is stated in copies",
        citation="Hamada, Br35H :: Brain tumor detection 2020, Kaggle 2020",
        notes=("pred/ (no labels) and the folder for Mask R-CNN (repeated pictures) are not read.",),
    ),
)

ISIC = DatasetRow(
    name="isic",
    title="ISIC",
    domain=Domain.MEDICAL,
    folders=("ISIC", "ISIC2016", "isic"),
    layouts=(
        TreeLayout(
            marker="ISBI2016_ISIC_Part1_Test_Data",
            image="ISBI2016_ISIC_Part1_Test_Data/{stem}",
            masks=("ISBI2016_ISIC_Part1_Test_GroundTruth/{stem}_Segmentation",),
            fixed={"category": "skin", "type": "lesion", "split": "test"},
        ),
    ),
    counts={"skin": Count(0, 379)},
    provenance=Provenance(
        source="https://challenge.isic-archive.com/data/",
        steps=(
            "Under 2016, task 1, download the test data and the test ground truth (two archives, no account needed).",
            "python -m afr_clip.datasets unpack isic ISBI2016_ISIC_Part1_Test_Data.zip "
            "ISBI2016_ISIC_Part1_Test_GroundTruth.zip",
        ),
        licence="CC0 for most pictures, CC BY-NC 4.0 for some; see the page",
        citation="Gutman et al., Skin lesion analysis toward melanoma detection, arXiv:1605.01397, 2016",
    ),
)

COLON_DB = DatasetRow(
    name="colon_db",
    title="ColonDB",
    domain=Domain.MEDICAL,
    folders=("CVC-ColonDB", "ColonDB", "colon_db"),
    layouts=(
        POLYPS,
        replace(POLYPS, marker="p[0-9]*.tiff", image="{stem:[0-9]+}", masks=("p{stem}",)),
    ),
    counts={"colon": Count(0, 380)},
    provenance=Provenance(
        source=_POLYP_BUNDLE,
        steps=(
            "Download the bundle of polyp datasets (no account needed) and unpack it.",
            "Move its folder CVC-ColonDB, with images/ and masks/, into the data folder.",
        ),
        licence="no text; research use, with citation",
        citation="Bernal et al., Towards automatic polyp detection, Pattern Recognition 2012",
        notes=("All 380 pictures are scored; papers on polyp segmentation often score fewer.",),
    ),
)

CLINIC_DB = DatasetRow(
    name="clinic_db",
    title="ClinicDB",
    domain=Domain.MEDICAL,
    folders=("CVC-ClinicDB", "ClinicDB", "clinic_db"),
    layouts=(
        POLYPS,
        replace(POLYPS, marker="Original", image="Original/{stem}", masks=("Ground Truth/{stem}",)),
    ),
    mask_threshold=128,  # a quarter of the masks have low values outside the polyp
    counts={"colon": Count(0, 612)},
    provenance=Provenance(
        source=_POLYP_BUNDLE,
        steps=(
            "Download the bundle of polyp datasets (no account needed) and unpack it.",
            "Move its folder CVC-ClinicDB into the data folder; the authors' Original/ and Ground Truth/ also work.",
        ),
        licence="research and education only",
        citation="Bernal et al., WM-DOVA maps, CMIG 2015",
        notes=("All 612 pictures are scored; papers on polyp segmentation often score 62.",),
    ),
)

TN3K = DatasetRow(
    name="tn3k",
    title="TN3K",
    domain=Domain.MEDICAL,
    folders=("tn3k", "TN3K"),
    layouts=(
        TreeLayout(
            marker="test-image",
            image="test-image/{stem}",
            masks=("test-mask/{stem}",),
            fixed={"category": "thyroid", "type": "nodule", "split": "test"},
        ),
    ),
    counts={"thyroid": Count(0, 614)},
    provenance=Provenance(
        source="https://github.com/haifangong/TRFE-Net-for-thyroid-nodule-segmentation",
        steps=(
            "Follow the page's link to the archive of the thyroid datasets and download by hand.",
            "python -m afr_clip.datasets unpack tn3k ARCHIVE, or put the folder tn3k into the data folder.",
        ),
        licence="not stated for the pictures; the code is MIT",
        citation="Gong et al., Multi-task learning for thyroid nodule segmentation, ISBI 2021",
    ),
)

KVASIR = DatasetRow(
    name="kvasir",
    title="Kvasir-SEG",
    domain=Domain.MEDICAL,
    folders=("Kvasir-SEG", "Kvasir", "kvasir"),
    layouts=(POLYPS,),
    mask_threshold=128,  # its masks were JPEG, even where they are shared as PNG
    counts={"colon": Count(0, 1000)},
    provenance=Provenance(
        source="https://datasets.simula.no/kvasir-seg/",
        steps=(
            "Download the archive from the page, or the bundle of polyp datasets at figshare (no account needed).",
            "python -m afr_clip.datasets unpack kvasir kvasir-seg.zip",
        ),
        licence="research and education only; see the page",
        citation="Jha et al., Kvasir-SEG, MMM 2020",
        notes=("All 1,000 pictures are scored; papers on polyp segmentation often score 100.",),
    ),
)

MEDICAL = (HEAD_CT, BRAIN_MRI, BR35H, ISIC, COLON_DB, CLINIC_DB, TN3K, KVASIR)
"""The rows, those of the paper first."""
