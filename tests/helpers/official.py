"""Small trees in the official layout of every public dataset: its folders, names, suffixes, modes and oddities.

``OFFICIAL[name](root, counts)`` writes one, with as many test images per category as ``counts`` says, and returns the
root. Datasets that are handed on in two forms have two names, the second ending in ``_original``.
"""

import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from helpers import drawn_trees as trees
from helpers.drawn_trees import Counts, Tree, write_tree
from helpers.generated import DEFECT_TYPES

MVTEC = Tree(
    normal="{category}/test/good/{k:03}.png",
    anomalous="{category}/test/{type}/{k:03}.png",
    mask="{category}/ground_truth/{type}/{k:03}_mask.png",
    beside=(("{category}/train/good/{k:03}.png", ""),),
    types=DEFECT_TYPES,
)

POLYPS = Tree(normal="", anomalous="images/{n}.png", mask="masks/{n}.png", first=1)

BMAD = Tree(
    normal="test/good/img/{n:05}.png",
    anomalous="test/Ungood/img/{n:05}.png",
    mask="test/Ungood/label/{n:05}.png",
    normal_mask="test/good/label/{n:05}.png",
    beside=(
        ("train/good/{k:05}.png", ""),
        ("valid/good/img/{k:05}.png", ""),
        ("valid/Ungood/img/{k:05}.png", "valid/Ungood/label/{k:05}.png"),
    ),
)


def below(folder: str, tree: Tree) -> Tree:
    """Put a tree into a folder of its root."""
    text = {name: f"{folder}/{getattr(tree, name)}" for name in ("normal", "anomalous", "mask", "normal_mask")}
    beside = tuple((f"{folder}/{image}", mask and f"{folder}/{mask}") for image, mask in tree.beside)
    return replace(tree, **text, beside=beside)


def real_iad(images: str, tables: str, suffix: str) -> Tree:
    """A tree of Real-IAD's kind, by its folders of images and of tables."""
    place = "{category}/NG/{type}/S{n:04}/{category}_{n:04}_NG_{type}_C1"
    return Tree(
        normal=f"{images}/{{category}}/OK/S{{n:04}}/{{category}}_{{n:04}}_OK_C1.{suffix}",
        anomalous=f"{images}/{place}.{suffix}",
        mask=f"{images}/{place}_mask.png",
        beside=((f"{images}/{{category}}/OK/S1{{k:03}}/{{category}}_1{{k:03}}_OK_C2.{suffix}", ""),),
        types=("AK", "HS"),
        finish=partial(trees.write_category_tables, images=images, tables=tables),
    )


CLINIC_DB = replace(POLYPS, stored=trees.with_low_values)

SCANS = Tree(normal="no/no{k}.jpg", anomalous="yes/y{k}.jpg", varied=True)

ROWS: Mapping[str, Tree] = {
    "mvtec_ad": replace(
        MVTEC,
        grey=frozenset({"grid", "screw", "zipper"}),
        strays=("license.txt", "readme.txt", "{category}/license.txt"),
    ),
    "visa": Tree(
        normal="{category}/Data/Images/Normal/{k:04}.JPG",
        anomalous="{category}/Data/Images/Anomaly/{k:04}.JPG",
        mask="{category}/Data/Masks/Anomaly/{k:04}.png",
        beside=(("{category}/Data/Images/Normal/9{k:03}.JPG", ""),),
        stored=trees.class_ids,
        finish=trees.write_split_tables,
    ),
    "btad": Tree(
        normal="{category}/test/ok/{k:04}.{image}",
        anomalous="{category}/test/ko/{k:04}.{image}",
        mask="{category}/ground_truth/ko/{k:04}.{mask}",
        beside=(("{category}/train/ok/{k:04}.{image}", ""),),
        suffixes={"01": ("bmp", "png"), "02": ("png", "png"), "03": ("bmp", "bmp")},
        strays=("{category}/test/ko/Thumbs.db", "{category}/ground_truth/ko/Thumbs.db"),
        stored=trees.sometimes_coloured,
    ),
    "mpdd": replace(MVTEC, strays=("__MACOSX/{category}/test/good/._000.png",)),
    "brain_mri": replace(SCANS, finish=trees.store_brain_mri_mixed),
    "head_ct": Tree(
        normal="head_ct/head_ct/{n:03}.png",
        anomalous="head_ct/head_ct/{n:03}.png",
        varied=True,
        finish=trees.write_head_ct_labels,
    ),
    "br35h": replace(
        SCANS,
        beside=(
            ("pred/pred{k}.jpg", ""),
            ("Br35H-Mask-RCNN/TRAIN/y{k}.jpg", ""),
            ("Br35H-Mask-RCNN/VAL/y{k}.jpg", ""),
            ("Br35H-Mask-RCNN/TEST/y{k}.jpg", ""),
        ),
        strays=("Br35H-Mask-RCNN/annotations_all.json", "Br35H-Mask-RCNN/TRAIN/annotations_train.json"),
    ),
    "isic": Tree(
        normal="",
        anomalous="ISBI2016_ISIC_Part1_Test_Data/ISIC_{n:07}.jpg",
        mask="ISBI2016_ISIC_Part1_Test_GroundTruth/ISIC_{n:07}_Segmentation.png",
        first=3,
    ),
    "colon_db": POLYPS,
    "colon_db_original": replace(
        POLYPS,
        anomalous="{n}.{tiff}",
        mask="p{n}.tiff",
        span=380,
        save=trees.save_packed,
        finish=trees.add_contours,
    ),
    "clinic_db": CLINIC_DB,
    "clinic_db_original": replace(
        CLINIC_DB, anomalous="Original/{n}.tif", mask="Ground Truth/{n}.tif", save=trees.save_tagged_grey
    ),
    "tn3k": Tree(
        normal="",
        anomalous="test-image/{n:04}.jpg",
        mask="test-mask/{n:04}.jpg",
        beside=(("trainval-image/{k:04}.jpg", "trainval-mask/{k:04}.jpg"),),
        strays=("tn3k-trainval-fold0.json",),
    ),
    "kvasir": replace(
        POLYPS,
        anomalous="images/cju{n:04}qkwl.jpg",
        mask="masks/cju{n:04}qkwl.jpg",
        strays=("kavsir_bboxes.json",),
    ),
    "ksdd": Tree(
        normal="kos{strip:02}/Part{part}.jpg",
        anomalous="kos{strip:02}/Part{part}.jpg",
        mask="kos{strip:02}/Part{part}_label.bmp",
        normal_mask="kos{strip:02}/Part{part}_label.bmp",
    ),
    "dagm": Tree(
        normal="{category}/Test/{n:04}.PNG",
        anomalous="{category}/Test/{n:04}.PNG",
        mask="{category}/Test/Label/{n:04}_label.PNG",
        beside=(("{category}/Train/{n:04}.PNG", "{category}/Train/Label/{n:04}_label.PNG"),),
        grey=frozenset(f"Class{number}" for number in range(1, 11)),
        first=1,
        finish=trees.write_dagm_labels,
    ),
    "dtd_synthetic": replace(
        MVTEC,
        anomalous="{category}/test/bad/{k:03}.png",
        mask="{category}/ground_truth/bad/{k:03}_mask.png",
    ),
    "magnetic_tile": Tree(
        normal="MT_Free/Imgs/exp1_num_{k}.jpg",
        anomalous="MT_{type}/Imgs/exp1_num_{k}.jpg",
        mask="MT_{type}/Imgs/exp1_num_{k}.png",
        normal_mask="MT_Free/Imgs/exp1_num_{k}.png",
        types=("Blowhole", "Break", "Crack", "Fray", "Uneven"),
        strays=("README.md",),
        grey=frozenset({"magnetic_tile"}),
    ),
    "endotect": replace(POLYPS, anomalous="images/{n:08}-cf6d.jpg", mask="masks/{n:08}-cf6d.png"),
    "cvc_300": replace(POLYPS, first=149),
    "bmad_brain": BMAD,
    "bmad_liver": below("hist_DIY", BMAD),
    "bmad_retina": below("RESC", BMAD),
    "ksdd2": Tree(
        normal="test/{n}.png",
        anomalous="test/{n}.png",
        mask="test/{n}_GT.png",
        normal_mask="test/{n}_GT.png",
        beside=(("train/1{k:04}.png", "train/1{k:04}_GT.png"),),
        first=20000,
    ),
    "rsdd": Tree(
        normal="{category}/test/good/RSDD_I-metal-null-{n:06}_{n:010}.bmp",
        anomalous="{category}/test/anomaly/RSDD_I-metal-defect-{n:06}_{n:010}.bmp",
        mask="{category}/ground_truth/anomaly/RSDD_I-metal-defect-{n:06}_{n:010}.png",
        first=1,
    ),
    "real_iad": real_iad("realiad_1024", "realiad_jsons/realiad_jsons", "jpg"),
    "real_iad_variety": real_iad("realiadvariety_raw", "realiadvariety_jsons/Real-IAD_Variety_jsons", "png"),
    "mvtec_ad_2": Tree(
        normal="{category}/test_public/good/{k:03}_regular.png",
        anomalous="{category}/test_public/bad/{k:03}_regular.png",
        mask="{category}/test_public/ground_truth/bad/{k:03}_regular_mask.png",
        beside=(
            ("{category}/train/good/{k:03}_regular.png", ""),
            ("{category}/validation/good/{k:03}_regular.png", ""),
            ("{category}/test_private/{k:03}_regular.png", ""),
            ("{category}/test_private_mixed/{k:03}_overexposed.png", ""),
        ),
        strays=("license.txt", "readme.txt"),
    ),
    "mvtec_loco": replace(
        MVTEC,
        mask="{category}/ground_truth/{type}/{k:03}/000.png",
        beside=(("{category}/train/good/{k:03}.png", ""), ("{category}/validation/good/{k:03}.png", "")),
        types=("logical_anomalies", "structural_anomalies"),
        strays=("{category}/license.txt", "{category}/readme.txt"),
        finish=trees.split_masks,
    ),
    "kaputt": Tree(
        normal="query-crop/data/test/query-data/crop/{n:08}.jpg",
        anomalous="query-crop/data/test/query-data/crop/{n:08}.jpg",
        varied=True,
        finish=trees.write_queries,
    ),
    "goods_ad": Tree(
        normal="{category}/test/good/{n:06}.jpg",
        anomalous="{category}/test/{type}/{n:06}.jpg",
        mask="{category}/ground_truth/{type}/{n:06}.png",
        beside=(("{category}/train/good/9{k:05}.jpg", ""),),
        types=("deformation", "surface_damage", "opened"),
    ),
    "meta_json": replace(MVTEC, finish=trees.write_meta),
}
"""Every layout, by the name of its dataset."""

TREES: Mapping[str, Tree] = {name: replace(tree, seed=zlib.crc32(name.encode())) for name, tree in ROWS.items()}
"""The same with pictures of their own, because datasets that share images may not be trained and scored together."""

OFFICIAL: Mapping[str, Callable[[Path, Counts], Path]] = {
    name: partial(write_tree, tree=tree) for name, tree in TREES.items()
}
"""Every writer, by the name of its dataset."""
