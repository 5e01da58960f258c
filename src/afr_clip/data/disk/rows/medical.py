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

ENDOTECT = DatasetRow(
    name="endotect",
    title="EndoTect",
    domain=Domain.MEDICAL,
    folders=("EndoTect_2020_Segmentation_Test_Dataset", "EndoTect", "Endo", "endotect"),
    layouts=(POLYPS,),
    mask_threshold=128,  # as in other implementations, which take half of the range
    counts={"colon": Count(0, 200)},
    provenance=Provenance(
        source="https://endotect.com",
        steps=(
            "Download https://drive.google.com/file/d/1LNpLkv5ZlEUzr_RPN5rdOHaqk0SkZa3m/view, which AnomalyCLIP links.",
            "python -m afr_clip.datasets unpack endotect ARCHIVE, or put the folder there as EndoTect.",
        ),
        licence="see the page; none is stated in copies",
        citation="Hicks et al., The EndoTect 2020 challenge, ICPR 2020",
        notes=("The 200 pictures of the challenge's segmentation test. Papers call it Endo.",),
    ),
)

CVC_300 = DatasetRow(
    name="cvc_300",
    title="CVC-300",
    domain=Domain.MEDICAL,
    folders=("CVC-300", "cvc_300"),
    layouts=(POLYPS,),
    counts={"colon": Count(0, 60)},
    provenance=Provenance(
        source=_POLYP_BUNDLE,
        steps=(
            "Download the bundle of polyp datasets (no account needed) and unpack it.",
            "Move its folder CVC-300, with images/ and masks/, into the data folder.",
        ),
        licence="no text; research use, with citation",
        citation="Vazquez et al., A benchmark for endoluminal scene segmentation, J. Healthcare Eng. 2017",
        notes=("The 60 pictures that are shared as a test set, and not all 300.",),
    ),
)


def _bmad(organ: str, inner: str, count: Count, notes: tuple[str, ...]) -> DatasetRow:
    """Return the row of one of BMAD's datasets with masks; ``inner`` is the folder in its archive."""
    tree = TreeLayout(
        marker="test/good/img",
        image="{split}/{type}/img/{stem}",
        train="train/{type}/{stem}",
        masks=("{split}/{type}/label/{stem}",),
        fixed={"category": organ.lower()},
    )
    below = replace(
        tree,
        marker=f"{inner}/{tree.marker}",
        image=f"{inner}/{tree.image}",
        train=f"{inner}/{tree.train}",
        masks=tuple(f"{inner}/{mask}" for mask in tree.masks),
    )
    name = organ if organ != "Retina" else "Retina_RESC"
    return DatasetRow(
        name=f"bmad_{organ.lower()}",
        title=f"BMAD {organ}",
        domain=Domain.MEDICAL,
        folders=(f"{name}_AD", f"BMAD/{name}_AD", f"BMAD/{name}", f"bmad_{organ.lower()}"),
        layouts=(tree, below),
        counts={organ.lower(): count},
        provenance=Provenance(
            source="https://github.com/DorisBao/BMAD",
            steps=(
                f"Download {name}_AD from the Google Drive link in the README (no account needed).",
                f"python -m afr_clip.datasets unpack bmad_{organ.lower()} ARCHIVE, or put it there as {name}_AD.",
            ),
            licence="CC BY-NC-SA 4.0 for the benchmark, not for commercial use; its sources have terms of their own",
            citation="Bao et al., BMAD, CVPR Workshops 2024",
            notes=notes,
        ),
    )


BMAD_BRAIN = _bmad(
    "Brain",
    "BraTS2021_slice",
    Count(640, 3075),
    ("The test split of slices from BraTS 2021. AA-CLIP and MoECLIP call it Brain; brain_mri is another dataset.",),
)
BMAD_LIVER = _bmad("Liver", "hist_DIY", Count(833, 660), ("The test split. AA-CLIP and MoECLIP call it Liver.",))
BMAD_RETINA = _bmad(
    "Retina",
    "RESC",
    Count(1041, 764),
    ("The test split of RESC, which has masks. BMAD's other retinal dataset, OCT2017, has none and is not read.",),
)

MEDICAL = (
    *(HEAD_CT, BRAIN_MRI, BR35H, ISIC, COLON_DB, CLINIC_DB, TN3K, KVASIR),
    *(ENDOTECT, CVC_300, BMAD_BRAIN, BMAD_LIVER, BMAD_RETINA),
)
"""The rows, those of the paper first."""
