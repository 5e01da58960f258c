"""Datasets of industrial inspection."""

from dataclasses import replace

from afr_clip.data.disk.listing import CategoryJsonLayout, TableLayout, TreeLayout, Truth
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

KSDD2 = DatasetRow(
    name="ksdd2",
    title="KolektorSDD2",
    domain=Domain.INDUSTRIAL,
    folders=("KolektorSDD2", "KSDD2", "ksdd2"),
    layouts=(
        TreeLayout(
            marker="test/*_GT.png",
            image="{split}/{stem:[0-9]+}",
            masks=("{split}/{stem}_GT",),
            fixed={"category": "metal surface"},
            truth=Truth.MASK_PIXELS,
        ),
        EQUAL_NAMES_TREE,
    ),
    counts={"metal surface": Count(894, 110)},
    provenance=Provenance(
        source="https://www.vicos.si/resources/kolektorsdd2/",
        steps=(
            "Download https://go.vicos.si/kolektorsdd2 as KolektorSDD2.zip (no account needed).",
            "python -m afr_clip.datasets unpack ksdd2 KolektorSDD2.zip",
        ),
        licence="not for commercial use; see the page",
        citation="Bozic et al., Mixed supervision for surface-defect detection, Computers in Industry 2021",
        notes=(
            "The authors' test split of 1,004 pictures, as in AnomalyVFM. Bayes-PFL scores 356 + 356 pictures of both "
            "splits instead; its copy in MVTec AD's folder structure can be read too.",
        ),
    ),
)

RSDD = DatasetRow(
    name="rsdd",
    title="RSDD",
    domain=Domain.INDUSTRIAL,
    folders=("RSDD", "rsdd"),
    layouts=(EQUAL_NAMES_TREE,),
    prompt_names={"Metal15": "rail surface"},
    counts={"Metal15": Count(387, 387)},
    provenance=Provenance(
        source="https://github.com/xiaozhen228/Bayes-PFL",
        steps=(
            "Download DATA_three.zip from the Google Drive link in the README (no account needed) and unpack it.",
            "Move its folder RSDD, with Metal15/test and Metal15/ground_truth, into the data folder.",
        ),
        licence="not stated",
        citation="Gan et al., A hierarchical extractor-based visual rail surface inspection system, Sensors J. 2017",
        notes=(
            "The copy of Bayes-PFL, which AnomalyVFM scores too: random pieces of the rails with as many normal as "
            "defective ones. The original has 67 + 128 whole pictures, which all show defects, and cannot be read.",
        ),
    ),
)

REAL_IAD = DatasetRow(
    name="real_iad",
    title="Real-IAD",
    domain=Domain.INDUSTRIAL,
    folders=("Real-IAD", "real_iad"),
    layouts=tuple(
        CategoryJsonLayout(f"realiad_{size}", ("realiad_jsons/realiad_jsons/*.json", "realiad_jsons/*.json"))
        for size in ("1024", "512", "256", "raw")
    ),
    prompt_names={
        "audiojack": "audio jack",
        "terminalblock": "terminal block",
        "transistor1": "transistor",
        "u_block": "U-shaped block",
        "usb": "USB connector",
        "usb_adaptor": "USB adaptor",
        "vcpill": "vitamin C pill",
        "woodstick": "wooden stick",
    },
    provenance=Provenance(
        source="https://huggingface.co/datasets/Real-IAD/Real-IAD",
        steps=(
            "Ask for access on the page; then download realiad_jsons.zip and the archives in realiad_1024.",
            "Unpack them as Real-IAD/realiad_jsons and Real-IAD/realiad_1024/CATEGORY in the data folder.",
        ),
        licence="CC BY-NC-SA 4.0, not for commercial use",
        citation="Wang et al., Real-IAD, CVPR 2024",
        notes=(
            "All five views, by the split of realiad_jsons. AnomalyVFM scores another split, realiad_jsons_sv.",
            "A view of a defective part that does not show the defect has no mask and is normal, as for its authors.",
            "Sizes: the largest of realiad_1024, realiad_512, realiad_256 that is there, then realiad_raw.",
            "About 150,000 pictures; how many of the test split are normal is not known here, so no number is checked.",
        ),
    ),
)

REAL_IAD_VARIETY = DatasetRow(
    name="real_iad_variety",
    title="Real-IAD Variety",
    domain=Domain.INDUSTRIAL,
    folders=("Real-IAD_Variety", "real_iad_variety"),
    layouts=tuple(
        CategoryJsonLayout(
            f"realiadvariety_{size}",
            ("realiadvariety_jsons/Real-IAD_Variety_jsons/*.json", "realiadvariety_jsons/*.json"),
        )
        for size in ("1024", "raw")
    ),
    prompt_names={
        "2pin_block_plug": "two-pin block plug",
        "3_adapter": "adapter",
        "3pin_aviation_connector": "three-pin aviation connector",
        "4_wire_stepping_motor": "four-wire stepping motor",
        "slipper- model": "slipper model",
    },
    provenance=Provenance(
        source="https://huggingface.co/datasets/Real-IAD/Real-IAD_Variety",
        steps=(
            "Ask for access on the page; then download realiadvariety_jsons.zip and the archives in realiadvariety_raw "
            "(about 262 GB).",
            "Unpack them as Real-IAD_Variety/realiadvariety_jsons and Real-IAD_Variety/realiadvariety_raw/CATEGORY.",
        ),
        licence="see the page",
        citation="Real-IAD Variety, arXiv:2511.00540, 2025",
        notes=(
            "160 categories with 178,995 test pictures, five views of each part; how many of them are normal is not "
            "known here, so no number is checked.",
            "A view of a defective part that does not show the defect has no mask and is normal, as in AnomalyVFM.",
            "Copies of 1,024 pixels in realiadvariety_1024 are read first.",
        ),
    ),
)

MVTEC_AD_2 = DatasetRow(
    name="mvtec_ad_2",
    title="MVTec AD 2",
    domain=Domain.INDUSTRIAL,
    folders=("mvtec_ad_2", "MVTec_AD_2", "MVTecAD2"),
    layouts=(
        TreeLayout(
            marker="*/test_public",
            image="{category}/{split}/{type}/{stem}",
            masks=("{category}/{split}/ground_truth/{type}/{stem}_mask",),
            splits={"test": "test_public"},
        ),
    ),
    prompt_names={"wallplugs": "wall plugs"},
    total=Count(379, 705),
    provenance=Provenance(
        source="https://www.mvtec.com/company/research/datasets/mvtec-ad-2",
        steps=(
            "Fill in the form on the page; it leads to the download of the whole dataset.",
            "python -m afr_clip.datasets unpack mvtec_ad_2 mvtec_ad_2.tar.gz",
        ),
        licence="CC BY-NC-SA 4.0, not for commercial use",
        citation="Heckler-Kram et al., The MVTec AD 2 dataset, arXiv:2503.21622, 2025",
        archives={"mvtec_ad_2.tar.gz": "c0ded99ef32bfc8e352d52beb44515e5b292b8598cb963aadfa91ca0763505e4"},
        notes=(
            "The public test split. The truth of test_private and test_private_mixed (2,045 pictures each) is only on "
            "https://benchmark.mvtec.com; score those with predict and send the maps.",
            "The benchmark's SegF1 is a pixel F1 at one threshold: choose it on validation/good, then set "
            "pixel_threshold.",
        ),
    ),
)

MVTEC_LOCO = DatasetRow(
    name="mvtec_loco",
    title="MVTec LOCO AD",
    domain=Domain.INDUSTRIAL,
    folders=("mvtec_loco_anomaly_detection", "MVTec_LOCO", "mvtec_loco"),
    layouts=(replace(MVTEC_TREE, masks=("{category}/ground_truth/{type}/{stem}/",)),),
    counts={
        "breakfast_box": Count(102, 173),
        "juice_bottle": Count(94, 236),
        "pushpins": Count(138, 172),
        "screw_bag": Count(122, 219),
        "splicing_connectors": Count(119, 193),
    },
    provenance=Provenance(
        source="https://www.mvtec.com/company/research/datasets/mvtec-loco",
        steps=(
            "Fill in the form on the page; it leads to the download of the whole dataset.",
            "python -m afr_clip.datasets unpack mvtec_loco mvtec_loco_anomaly_detection.tar.xz",
        ),
        licence="CC BY-NC-SA 4.0, not for commercial use",
        citation="Bergmann et al., Beyond dents and scratches, IJCV 2022",
        archives={
            "mvtec_loco_anomaly_detection.tar.xz": "9e7c84dba550fd2e59d8e9e231c929c45ba737b6b6a6d3814100f54d63aae687"
        },
        notes=(
            "The defects of a picture lie in masks of their own; pixel metrics take them together, but for "
            "pixel_auspro, the area under sPRO by which the benchmark compares maps.",
            "Papers give image results as the mean of logical and of structural anomalies, each against the normal "
            "pictures; here all anomalies count alike.",
        ),
    ),
    saturations="{category}/defects_config.json",
    saturated_types={"logical_anomalies": "logical", "structural_anomalies": "structural"},
)


KAPUTT = DatasetRow(
    name="kaputt",
    title="Kaputt",
    domain=Domain.INDUSTRIAL,
    folders=("kaputt", "Kaputt"),
    layouts=tuple(
        TableLayout(
            table=table,
            image=image,
            category="item",
            split="{split}",
            type="{defect}",
            type_names={"False": "good", "True": "defect"},
            normal_types=("good",),
        )
        for table, image in (
            ("datasets/query-{split}.csv", "query-crop/{query_crop}"),
            ("query-{split}.csv", "{query_crop}"),
        )
    ),
    provenance=Provenance(
        source="https://www.kaputt-dataset.com",
        steps=(
            "Ask for access with the form on the page; download datasets and query-crop, and unpack them as "
            "kaputt/datasets and kaputt/query-crop.",
            'Write the table as CSV (needs pip install pandas pyarrow): python -c "import pandas as p; '
            "p.read_parquet('datasets/query-test.parquet').to_csv('datasets/query-test.csv', index=False)\"",
        ),
        licence="CC BY-NC-ND 4.0, not for commercial use",
        citation="Hoefer et al., Kaputt, ICCV 2025",
        notes=(
            "The query pictures cut to the item, all materials together. Items with minor and with major defects are "
            "both defective; papers also give major ones alone.",
            "Its masks show the item and not the defect, so only the image level can be scored.",
            "238,421 pictures in all; the numbers of the test split are not known here, so none is checked.",
        ),
    ),
)

GOODS_AD = DatasetRow(
    name="goods_ad",
    title="GoodsAD",
    domain=Domain.INDUSTRIAL,
    folders=("GoodsAD", "PKU-GoodsAD", "goods_ad"),
    layouts=(EQUAL_NAMES_TREE,),
    counts={
        "drink_bottle": Count(356, 425),
        "drink_can": Count(147, 147),
        "food_bottle": Count(243, 361),
        "food_box": Count(146, 251),
        "food_package": Count(253, 230),
        "cigarette_box": Count(183, 246),
    },
    provenance=Provenance(
        source="https://github.com/jianzhang96/GoodsAD",
        steps=(
            "Download the six archives from OneDrive or Baidu Disk, linked in the README.",
            "python -m afr_clip.datasets unpack goods_ad ARCHIVE..., or put the six folders into GoodsAD in the data "
            "folder.",
        ),
        licence="not stated; the authors ask for citation",
        citation="Zhang et al., PKU-GoodsAD, IEEE RA-L 2024",
    ),
)

INDUSTRIAL = (
    *(MVTEC_AD, VISA, BTAD, MPDD, KSDD, DAGM, DTD_SYNTHETIC, MAGNETIC_TILE, KSDD2, RSDD, REAL_IAD, REAL_IAD_VARIETY),
    *(MVTEC_AD_2, MVTEC_LOCO, KAPUTT, GOODS_AD),
)
"""The rows, with the paper's datasets first."""
