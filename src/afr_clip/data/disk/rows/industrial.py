"""Datasets of industrial inspection."""

from dataclasses import replace

from afr_clip.data.disk.listing import TableLayout, TreeLayout, Truth
from afr_clip.data.disk.rows.row import EQUAL_NAMES_TREE, MVTEC_TREE, Count, DatasetRow, Domain, Provenance

MVTEC_AD = DatasetRow(
    name="mvtec_ad",
    title="MVTec AD",
    domain=Domain.INDUSTRIAL,
    folders=("mvtec_anomaly_detection", "MVTecAD", "mvtec_ad", "mvtec"),
    layouts=(MVTEC_TREE,),
    counts={
        "bottle": Count(20, 63),
        "cable": Count(58, 92),
        "capsule": Count(23, 109),
        "carpet": Count(28, 89),
        "grid": Count(21, 57),
        "hazelnut": Count(40, 70),
        "leather": Count(32, 92),
        "metal_nut": Count(22, 93),
        "pill": Count(26, 141),
        "screw": Count(41, 119),
        "tile": Count(33, 84),
        "toothbrush": Count(12, 30),
        "transistor": Count(60, 40),
        "wood": Count(19, 60),
        "zipper": Count(32, 119),
    },
    provenance=Provenance(
        source="https://www.mvtec.com/company/research/datasets/mvtec-ad",
        steps=(
            "Fill in the form on the page; it leads to the download of the whole dataset.",
            "python -m afr_clip.datasets unpack mvtec_ad mvtec_anomaly_detection.tar.xz",
        ),
        licence="CC BY-NC-SA 4.0, not for commercial use",
        citation="Bergmann et al., MVTec AD, CVPR 2019",
        archives={"mvtec_anomaly_detection.tar.xz": "cf4313b13603bec67abb49ca959488f7eedce2a9f7795ec54446c649ac98cd3d"},
    ),
)

VISA = DatasetRow(
    name="visa",
    title="VisA",
    domain=Domain.INDUSTRIAL,
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
        replace(
            EQUAL_NAMES_TREE,
            marker="1cls/*/test",
            image="1cls/{category}/{split}/{type}/{stem}",
            masks=("1cls/{category}/ground_truth/{type}/{stem}",),
        ),
        replace(EQUAL_NAMES_TREE, masks=("{category}/ground_truth/{type}/{stem}",)),
    ),
    counts={
        "candle": Count(100, 100),
        "capsules": Count(60, 100),
        "cashew": Count(50, 100),
        "chewinggum": Count(50, 100),
        "fryum": Count(50, 100),
        "macaroni1": Count(100, 100),
        "macaroni2": Count(100, 100),
        "pcb1": Count(100, 100),
        "pcb2": Count(100, 100),
        "pcb3": Count(101, 100),
        "pcb4": Count(101, 100),
        "pipe_fryum": Count(50, 100),
    },
    provenance=Provenance(
        source="https://github.com/amazon-science/spot-diff",
        steps=(
            "Download https://amazon-visual-anomaly.s3.us-west-2.amazonaws.com/VisA_20220922.tar (no account needed).",
            "python -m afr_clip.datasets unpack visa VisA_20220922.tar",
            "If it has no split_csv/1cls.csv, copy the page's folder split_csv next to the categories.",
        ),
        licence="CC BY 4.0",
        citation="Zou et al., SPot-the-Difference, ECCV 2022",
        archives={"VisA_20220922.tar": "2eb8690c803ab37de0324772964100169ec8ba1fa3f7e94291c9ca673f40f362"},
        notes=("Masks hold class ids (1, 2, ...) and look black in viewers.",),
    ),
)

BTAD = DatasetRow(
    name="btad",
    title="BTAD",
    domain=Domain.INDUSTRIAL,
    folders=("BTech_Dataset_transformed", "BTAD", "btad"),
    layouts=(replace(EQUAL_NAMES_TREE, normal_types=("ok",)),),
    prompt_names=dict.fromkeys(("01", "02", "03"), "object"),
    counts={"01": Count(21, 49), "02": Count(30, 200), "03": Count(400, 41)},
    provenance=Provenance(
        source="http://avires.dimi.uniud.it/papers/btad/btad.zip",
        steps=(
            "Download the address above (no account needed).",
            "python -m afr_clip.datasets unpack btad btad.zip",
        ),
        licence="not stated; one index records CC BY-SA",
        citation="Mishra et al., VT-ADL, ISIE 2021",
        notes=("Categories are numbers, so prompts say 'object'.",),
    ),
)

MPDD = DatasetRow(
    name="mpdd",
    title="MPDD",
    domain=Domain.INDUSTRIAL,
    folders=("MPDD", "mpdd"),
    layouts=(MVTEC_TREE,),
    counts={
        "bracket_black": Count(32, 47),
        "bracket_brown": Count(26, 51),
        "bracket_white": Count(30, 30),
        "connector": Count(30, 14),
        "metal_plate": Count(26, 71),
        "tubes": Count(32, 69),
    },
    provenance=Provenance(
        source="https://github.com/stepanje/MPDD",
        steps=(
            "Follow the page's link to the authors' OneDrive and download by hand.",
            "python -m afr_clip.datasets unpack mpdd ARCHIVE, or put the folder into the data folder as MPDD.",
        ),
        licence="CC BY-NC-SA 4.0, not for commercial use",
        citation="Jezek et al., Deep learning-based defect detection of metal parts, ICUMT 2021",
    ),
)

KSDD = DatasetRow(
    name="ksdd",
    title="KolektorSDD",
    domain=Domain.INDUSTRIAL,
    folders=("KolektorSDD", "KSDD", "SDD", "ksdd"),
    layouts=(
        TreeLayout(
            marker="kos*",
            image="{item:kos[0-9]+}/{stem:Part[0-9]+}",
            masks=("{item}/{stem}_label",),
            fixed={"category": "electrical commutators", "split": "test"},
            truth=Truth.MASK_PIXELS,
        ),
        EQUAL_NAMES_TREE,
    ),
    counts={"electrical commutators": Count(347, 52)},
    provenance=Provenance(
        source="https://www.vicos.si/resources/kolektorsdd/",
        steps=(
            "Download https://go.vicos.si/kolektorsdd as KolektorSDD.zip (no account needed).",
            "python -m afr_clip.datasets unpack ksdd KolektorSDD.zip",
        ),
        licence="CC BY-NC-SA 4.0, not for commercial use",
        citation="Tabernik et al., Segmentation-based deep learning for surface-defect detection, JIM 2020",
        archives={"KolektorSDD.zip": "65dc621693418585de9c4467d1340ea7958a6181816f0dc2883a1e8b61f9d4dc"},
        notes=(
            "All 399 pictures are read whole. AdaCLIP and AnomalyCLIP cut each into pieces and choose normal ones in "
            "two different ways, so their numbers compare neither with each other nor with these. A prepared copy in "
            "MVTec AD's folder structure can be read too.",
        ),
    ),
)

DAGM = DatasetRow(
    name="dagm",
    title="DAGM",
    domain=Domain.INDUSTRIAL,
    folders=("DAGM_KaggleUpload", "DAGM2007", "DAGM", "dagm"),
    layouts=(
        TreeLayout(
            marker="Class*/Test",
            image="{category:Class[0-9]+}/Test/{stem}",
            masks=("{category}/Test/Label/{stem}_label",),
            fixed={"split": "test"},
            truth=Truth.MASK_FILE,
        ),
        EQUAL_NAMES_TREE,
    ),
    prompt_names={f"Class{number}": "texture" for number in range(1, 11)},
    total=Count(6996, 1054),
    provenance=Provenance(
        source="https://www.kaggle.com/datasets/mhskjelvareid/dagm-2007-competition-dataset-optical-inspection",
        steps=(
            "Sign in to Kaggle and download the archive.",
            "python -m afr_clip.datasets unpack dagm archive.zip",
        ),
        licence="see the page",
        citation="Wieler and Hahn, Weakly supervised learning for industrial optical inspection, DAGM 2007",
        notes=(
            "The Test half, as in AnomalyCLIP; AdaCLIP uses a split of its own. Masks are coarse ellipses.",
            "Categories are numbers, so prompts use 'texture'.",
        ),
    ),
)

_DTD_TEXTURES = (
    *("Blotchy_099", "Fibrous_183", "Marbled_078", "Matted_069", "Mesh_114", "Perforated_037", "Stratified_154"),
    *("Woven_001", "Woven_068", "Woven_104", "Woven_125", "Woven_127"),
)

DTD_SYNTHETIC = DatasetRow(
    name="dtd_synthetic",
    title="DTD-Synthetic",
    domain=Domain.INDUSTRIAL,
    folders=("DTD-Synthetic", "DTD_Synthetic", "dtd_synthetic"),
    layouts=(EQUAL_NAMES_TREE,),
    prompt_names={name: f"{name.split('_')[0].lower()} texture" for name in _DTD_TEXTURES},
    total=Count(357, 947),
    provenance=Provenance(
        source="https://drive.google.com/drive/folders/10OyPzvI3H6llCZBxKxFlKWt1Pw1tkMK1",
        steps=(
            "Download the folder from Google Drive by hand.",
            "python -m afr_clip.datasets unpack dtd_synthetic ARCHIVE, or put the folder there as DTD-Synthetic.",
        ),
        licence="not stated; its textures are those of DTD",
        citation="Aota et al., Zero-shot versus many-shot, WACV 2023",
    ),
)

MAGNETIC_TILE = DatasetRow(
    name="magnetic_tile",
    title="Magnetic tile",
    domain=Domain.INDUSTRIAL,
    folders=("Magnetic-tile-defect-datasets.-master", "Magnetic-Tile-Defect", "MagneticTile", "magnetic_tile"),
    layouts=(
        TreeLayout(
            marker="MT_Free",
            image="MT_{type}/Imgs/{stem}.jpg",
            masks=("MT_{type}/Imgs/{stem}.png",),
            normal_types=("free",),
            fixed={"category": "magnetic tile", "split": "test"},
        ),
    ),
    counts={"magnetic tile": Count(952, 392)},
    provenance=Provenance(
        source="https://github.com/abin24/Magnetic-tile-defect-datasets.",
        steps=(
            "Download the repository as a zip archive (no account needed).",
            "python -m afr_clip.datasets unpack magnetic_tile ARCHIVE",
        ),
        licence="not stated; the authors ask for citation",
        citation="Huang et al., Surface defect saliency of magnetic tile, The Visual Computer 2020",
        notes=(
            "There is no official split; all 1,344 pictures are scored.",
            "Four defective pictures are reported to have empty masks; `check` names them.",
        ),
    ),
)

INDUSTRIAL = (MVTEC_AD, VISA, BTAD, MPDD, KSDD, DAGM, DTD_SYNTHETIC, MAGNETIC_TILE)
"""The rows, with the paper's datasets first."""
