import csv
import logging
import shutil
from pathlib import Path

import pytest

from afr_clip.data.disk.reading import DatasetSpec, find_root, read_samples
from afr_clip.data.errors import DataError, MissingDataError
from helpers.trees import write_mvtec_tree, write_visa_tree


def read(root: Path, layout: str = "mvtec_ad", **wanted):
    return read_samples(DatasetSpec("toy", layout, root=root, **wanted))


def as_reorganised_visa(source: Path, target: Path) -> None:
    """Copy an MVTec-shaped tree into the re-organised form of VisA, whose masks carry the name of their image."""
    for path in source.rglob("*.png"):
        category, part, defect_type, name = path.relative_to(source).parts
        folder = defect_type if defect_type == "good" else "bad"
        new = target / category / part / folder / name.replace("_mask", "")
        new.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, new)


def test_mvtec_pairs_every_anomalous_image_with_the_mask_of_its_name(tmp_path):
    samples = read(write_mvtec_tree(tmp_path))
    assert [sample.is_anomalous for sample in samples].count(True) == 8
    for sample in samples:
        assert (sample.mask_path is None) != sample.is_anomalous
        if sample.is_anomalous:
            assert sample.mask_path.stem == f"{sample.image_path.stem}_mask"
            assert sample.mask_path.parent.name == sample.image_path.parent.name == sample.defect_type
    assert {sample.dataset for sample in samples} == {"toy"}


def test_samples_are_ordered_and_the_order_repeats(tmp_path):
    samples = read(write_mvtec_tree(tmp_path))
    assert samples == read(tmp_path)
    assert samples == sorted(samples, key=lambda s: (s.category, s.defect_type, s.image_path.name))


def test_the_train_split_is_read_where_asked_for(tmp_path, caplog):
    samples = read(write_mvtec_tree(tmp_path), split="train")
    assert [(sample.category, sample.is_anomalous) for sample in samples] == [("bolt", False), ("tile", False)]
    assert caplog.records == []


def test_visa_reads_its_own_table(tmp_path):
    samples = read(write_visa_tree(tmp_path), layout="visa", categories=("pcb1",))
    assert len(samples) == 8
    assert {sample.category for sample in samples} == {"pcb1"}
    assert {sample.defect_type for sample in samples} == {"anomaly", "normal"}
    assert all(sample.mask_path.stem == sample.image_path.stem for sample in samples if sample.is_anomalous)


@pytest.mark.parametrize("inner", ["", "1cls"])
def test_the_reorganised_copy_of_visa_is_read_from_either_root(tmp_path, inner):
    source = write_mvtec_tree(tmp_path / "source", categories=("candle",))
    as_reorganised_visa(source, tmp_path / "VisA_pytorch" / inner)
    samples = read_samples(DatasetSpec("visa", "visa", data_dir=tmp_path))
    assert [sample.defect_type for sample in samples] == ["bad"] * 4 + ["good"] * 4
    assert all(sample.mask_path for sample in samples if sample.is_anomalous)


@pytest.mark.parametrize("normal", ["good", "ok", "normal", "OK"])
@pytest.mark.parametrize("ending", ["_mask", ""])
def test_a_folder_of_ones_own_may_use_either_name_for_normal_images_and_masks(tmp_path, normal, ending):
    write_mvtec_tree(tmp_path, categories=("bolt",))
    (tmp_path / "bolt/test/good").rename(tmp_path / "bolt/test" / normal)
    for mask in list(tmp_path.rglob("*_mask.png")):
        mask.rename(mask.with_name(mask.name.replace("_mask", ending)))
    whole, single = read(tmp_path, "folder"), read(tmp_path / "bolt", "folder")
    assert sum(not sample.is_anomalous for sample in whole) == 4
    assert whole == single


def test_masks_pair_by_name_when_names_sort_differently(tmp_path):
    write_mvtec_tree(tmp_path, categories=("bolt",))
    # As strings, "a10" comes before "a2", but "a10_mask" and "a2_mask.bmp" are mixed with upper-case suffixes.
    for new, old in {"a10": "000", "a2": "002"}.items():
        (tmp_path / f"bolt/test/scratch/{old}.png").rename(tmp_path / f"bolt/test/scratch/{new}.PNG")
        (tmp_path / f"bolt/ground_truth/scratch/{old}_mask.png").rename(
            tmp_path / f"bolt/ground_truth/scratch/{new}_mask.{'bmp' if new == 'a10' else 'Png'}"
        )
    scratches = [sample for sample in read(tmp_path) if sample.defect_type == "scratch"]
    assert {sample.image_path.stem: sample.mask_path.name for sample in scratches} == {
        "a10": "a10_mask.bmp",
        "a2": "a2_mask.Png",
    }


def test_a_missing_mask_is_an_error_that_names_both_files(tmp_path):
    write_mvtec_tree(tmp_path)
    (tmp_path / "bolt/ground_truth/spot/001_mask.png").unlink()
    with pytest.raises(MissingDataError, match=r"1 of 8 have none: .*spot.001\.png \(expected bolt/.*/001_mask\.\*\)"):
        read(tmp_path)


def test_many_missing_masks_are_counted_and_only_some_are_named(tmp_path):
    write_mvtec_tree(tmp_path)
    for mask in tmp_path.rglob("*_mask.png"):
        mask.unlink()
    with pytest.raises(MissingDataError, match="8 of 8 have none") as caught:
        read(tmp_path)
    assert str(caught.value).count("expected") == 3


def test_a_dataset_without_ground_truth_is_image_level_and_says_so(tmp_path, caplog):
    write_mvtec_tree(tmp_path)
    for category in ("bolt", "tile"):
        shutil.rmtree(tmp_path / category / "ground_truth")
    samples = read(tmp_path)
    assert {sample.mask_path for sample in samples} == {None}
    assert "no ground truth" in caplog.text


def test_stray_masks_are_counted_in_the_log(tmp_path, caplog):
    write_mvtec_tree(tmp_path)
    (tmp_path / "bolt/test/spot/001.png").unlink()
    with caplog.at_level(logging.WARNING):
        assert len(read(tmp_path)) == 15
    assert "1 mask belongs to no image below" in caplog.text
    assert "001_mask.png" in caplog.text


def test_masks_of_other_categories_and_of_normal_images_are_not_stray(tmp_path, caplog):
    write_mvtec_tree(tmp_path)
    for category in ("bolt", "tile"):
        folder = tmp_path / category / "ground_truth" / "good"
        folder.mkdir()
        for index in range(4):
            shutil.copy(tmp_path / category / "test/good/000.png", folder / f"{index:03}_mask.png")
    samples = read(tmp_path, categories=("tile",))
    assert all(sample.mask_path is None for sample in samples if not sample.is_anomalous)
    assert caplog.records == []


def test_junk_among_the_images_changes_nothing(tmp_path):
    before = read(write_mvtec_tree(tmp_path))
    for name in ("bolt/test/good/Thumbs.db", "bolt/test/.DS_Store", "bolt/test/spot/._001.png", "readme.txt"):
        (tmp_path / name).write_bytes(b"junk")
    (tmp_path / "__MACOSX/test/good").mkdir(parents=True)
    (tmp_path / "__MACOSX/test/good/x.png").write_bytes(b"junk")
    assert read(tmp_path) == before


def test_samples_know_their_name_in_prompts(tmp_path):
    write_mvtec_tree(tmp_path, categories=("metal_nut",))
    assert {sample.prompt_name for sample in read(tmp_path)} == {"metal nut"}


def test_an_unknown_category_lists_the_nearest_first(tmp_path):
    write_mvtec_tree(tmp_path, categories=("bolt", "screw", "tile"))
    with pytest.raises(DataError, match=r"no category 'tiles' .* Choose from tile, .*\."):
        read(tmp_path, categories=("bolt", "tiles"))


def test_no_category_at_all_is_refused():
    with pytest.raises(DataError, match="must not be empty"):
        DatasetSpec("toy", "folder", categories=())


def test_an_empty_split_says_where_images_were_expected(tmp_path):
    write_mvtec_tree(tmp_path)
    with pytest.raises(DataError, match=r"Split 'validation' .* has none at \{category\}/\{split\}/\{type\}/\{stem\}"):
        read(tmp_path, split="validation")


def test_images_missing_from_the_table_are_one_error(tmp_path):
    write_visa_tree(tmp_path)
    for path in tmp_path.rglob("Normal/000[01].JPG"):
        path.unlink()
    with pytest.raises(MissingDataError, match=r"4 of 16 are missing; the first is .*candle.*0000\.JPG"):
        read(tmp_path, "visa")


def test_masks_missing_from_the_table_are_named(tmp_path):
    write_visa_tree(tmp_path)
    (tmp_path / "pcb1/Data/Masks/Anomaly/0002.png").unlink()
    with pytest.raises(MissingDataError, match=r"0002\.JPG \(expected pcb1/Data/Masks/Anomaly/0002\.png\)"):
        read(tmp_path, "visa")


def test_the_root_is_found_under_any_public_name(tmp_path):
    root = write_mvtec_tree(tmp_path / "MVTecAD")
    (tmp_path / "mvtec_anomaly_detection").mkdir()  # present, but nothing of the dataset inside
    assert find_root(DatasetSpec("mvtec_ad", "mvtec_ad", data_dir=tmp_path)) == root


def test_a_missing_root_says_what_was_looked_for_and_how_to_set_it(tmp_path):
    (tmp_path / "mvtec").mkdir()
    with pytest.raises(MissingDataError) as caught:
        find_root(DatasetSpec("mvtec_ad", "mvtec_ad", data_dir=tmp_path))
    message = str(caught.value)
    for part in (
        f"{tmp_path / 'MVTecAD'} (missing)",
        f"{tmp_path / 'mvtec'} (exists, but",
        *("data_dir=DIR", "AFR_CLIP_DATA_DIR", "dataset.root=DIR"),
    ):
        assert part in message


def test_a_folder_of_ones_own_needs_a_root(tmp_path):
    with pytest.raises(MissingDataError, match=r"No folder was given. Set dataset\.root=DIR"):
        find_root(DatasetSpec("mine", "folder", data_dir=tmp_path))


@pytest.mark.parametrize("name", ["..", "a/b", "../up", ""])
def test_a_dataset_name_that_leads_out_of_a_folder_is_refused(tmp_path, name):
    write_mvtec_tree(tmp_path)
    with pytest.raises(DataError, match="must not be paths"):
        read_samples(DatasetSpec(name, "mvtec_ad", root=tmp_path))


@pytest.mark.parametrize(
    ("column", "value", "sentence"),
    [(0, "../../escaped", "must not be paths"), (3, "../../../etc/picture.png", "must lie below")],
)
def test_a_table_that_leads_out_of_the_dataset_is_refused(tmp_path, column, value, sentence):
    table = write_visa_tree(tmp_path / "VisA") / "split_csv" / "1cls.csv"
    with table.open(newline="") as file:
        rows = list(csv.reader(file))
    rows[1][column] = value
    with table.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    with pytest.raises(DataError, match=sentence):
        read_samples(DatasetSpec("visa", "visa", root=tmp_path / "VisA"))


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


ISIC_IMAGES, ISIC_MASKS = "ISBI2016_ISIC_Part1_Test_Data", "ISBI2016_ISIC_Part1_Test_GroundTruth"

OFFICIAL = [  # row, folder, {image: mask}, number of normal images (which come first), what prompts say
    (
        *("mpdd", "MPDD"),
        {
            "metal_plate/test/good/000.png": None,
            "metal_plate/test/total_rust/000.png": "metal_plate/ground_truth/total_rust/000_mask.png",
        },
        *(1, "metal plate"),
    ),
    (
        *("isic", "ISIC"),
        {
            f"{ISIC_IMAGES}/ISIC_0000010.jpg": f"{ISIC_MASKS}/ISIC_0000010_Segmentation.png",
            f"{ISIC_IMAGES}/ISIC_0000003.jpg": f"{ISIC_MASKS}/ISIC_0000003_Segmentation.png",
        },
        *(0, "skin"),
    ),
    ("colon_db", "CVC-ColonDB", {f"images/{n}.png": f"masks/{n}.png" for n in (1, 2, 10)}, 0, "colon"),
    ("clinic_db", "CVC-ClinicDB", {f"images/{n}.png": f"masks/{n}.png" for n in (1, 2, 10)}, 0, "colon"),
    ("clinic_db", "CVC-ClinicDB", {f"Original/{n}.tif": f"Ground Truth/{n}.tif" for n in (1, 2, 10)}, 0, "colon"),
    (
        *("brain_mri", "BrainMRI"),
        dict.fromkeys(
            f"brain_tumor_dataset/{name}"
            for name in ("no/1 no.jpeg", "no/N1.JPG", "no/no 9.png", "yes/Y1.jpg", "yes/Y100.JPG")
        ),
        *(3, "brain"),
    ),
    ("br35h", "Br35H", dict.fromkeys(("no/no0.jpg", "no/No11.jpg", "yes/y0.jpg")), 2, "brain"),
]


@pytest.mark.parametrize(("row", "folder", "pairs", "num_normal", "said"), OFFICIAL)
def test_official_layouts_give_their_images_labels_masks_and_names(tmp_path, row, folder, pairs, num_normal, said):
    touch(tmp_path / folder, *pairs, *filter(None, pairs.values()))
    samples = read_samples(DatasetSpec(row, row, data_dir=tmp_path))
    root = tmp_path / folder
    assert {sample.image_path: sample.mask_path for sample in samples} == {
        root / image: mask and root / mask for image, mask in pairs.items()
    }
    assert {sample.image_path for sample in samples if not sample.is_anomalous} == {
        root / image for image in list(pairs)[:num_normal]
    }
    assert {sample.prompt_name for sample in samples} == {said}


@pytest.mark.parametrize("inner", ["", "head_ct/"])
def test_head_ct_is_labelled_by_its_table_in_either_form(tmp_path, inner):
    touch(tmp_path, *(f"HeadCT/{inner}head_ct/{number:03}.png" for number in (0, 7, 12, 151)))
    (tmp_path / "HeadCT/labels.csv").write_text("id, hemorrhage\n0,1\n7,1\n12,0\n151,0\n")
    samples = read_samples(DatasetSpec("head_ct", "head_ct", data_dir=tmp_path))
    assert [(sample.image_path.stem, sample.defect_type, sample.is_anomalous) for sample in samples] == [
        *(("000", "hemorrhage", True), ("007", "hemorrhage", True)),
        *(("012", "normal", False), ("151", "normal", False)),
    ]
    assert {sample.prompt_name for sample in samples} == {"brain"}


def test_a_labelled_scan_that_is_missing_is_an_error(tmp_path):
    touch(tmp_path, "HeadCT/head_ct/000.png")
    (tmp_path / "HeadCT/labels.csv").write_text("id, hemorrhage\n0,1\n7,0\n")
    with pytest.raises(MissingDataError, match=r"1 of 2 are missing; the first is .*007\.png"):
        read_samples(DatasetSpec("head_ct", "head_ct", data_dir=tmp_path))


def test_the_doubled_copy_of_brain_mri_counts_once(tmp_path):
    names = ("no/1 no.jpeg", "yes/Y1.jpg", "yes/Y2.JPG")
    touch(tmp_path, *names, *(f"brain_tumor_dataset/{name}" for name in names))
    assert len(read(tmp_path, "brain_mri")) == 3
    assert len(read(tmp_path / "brain_tumor_dataset", "brain_mri")) == 3


def test_folders_beside_the_two_of_br35h_are_left_out(tmp_path):
    touch(tmp_path, "no/no0.jpg", "yes/y0.jpg", "pred/pred0.jpg", "Br35H-Mask-RCNN/TEST/y0.jpg")
    assert [(sample.defect_type, sample.is_anomalous) for sample in read(tmp_path, "br35h")] == [
        ("no", False),
        ("yes", True),
    ]


def test_a_dataset_without_normal_images_is_pixel_level_and_says_so(tmp_path, caplog):
    touch(tmp_path, "images/1.png", "masks/1.png")
    assert read(tmp_path, "colon_db")[0].mask_path == tmp_path / "masks/1.png"
    assert "no normal images: only pixel-level results" in caplog.text


def test_a_dataset_with_neither_normal_images_nor_masks_is_refused(tmp_path):
    touch(tmp_path, "images/1.png")
    with pytest.raises(MissingDataError, match="has only anomalous images and no masks"):
        read(tmp_path, "colon_db")


def test_these_datasets_have_no_train_split(tmp_path):
    touch(tmp_path, "no/no0.jpg", "yes/y0.jpg")
    with pytest.raises(DataError, match="Split 'train'"):
        read(tmp_path, "br35h", split="train")
