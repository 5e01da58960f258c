import hashlib
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from afr_clip.data.disk.loaded import LoadedDataset, choose_references, content_digest, list_photographs, load_dataset
from afr_clip.data.disk.reading import DatasetSpec, read_samples
from afr_clip.data.errors import DataError, MissingDataError
from helpers.trees import write_mvtec_tree


def read(root):
    return read_samples(DatasetSpec("toy", "mvtec_ad", root=root))


def test_hashes_are_those_of_the_files_and_counts_fit(tmp_path):
    samples = read(write_mvtec_tree(tmp_path, num_normal=3, num_anomalous=2))
    digest = content_digest(samples)
    assert (digest.num_images, digest.num_masks, digest.num_anomalous) == (10, 4, 4)
    for sample, image, mask in zip(samples, digest.images, digest.masks, strict=True):
        assert image == hashlib.sha256(sample.image_path.read_bytes()).hexdigest()
        assert (mask is None) == (sample.mask_path is None)


def test_where_the_files_lie_does_not_matter_but_every_byte_does(tmp_path):
    write_mvtec_tree(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    first, second = (content_digest(read(tmp_path / name)).sha256 for name in "ab")
    assert first == second
    mask = tmp_path / "b/bolt/ground_truth/spot/001_mask.png"
    mask.write_bytes(mask.read_bytes() + b"\0")
    assert content_digest(read(tmp_path / "b")).sha256 != first


def test_a_file_that_disappears_is_named(tmp_path):
    samples = read(write_mvtec_tree(tmp_path))
    samples[0].image_path.unlink()
    with pytest.raises(MissingDataError, match=r"Cannot read .*good.000\.png"):
        content_digest(samples)


def picture(path, value=0, **how: object):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), (value, 0, 0)).save(path, **how)
    return path


def listed(*places) -> list[str]:
    photographs = list_photographs(places, "bolt").dataset
    return [sample.image_path.relative_to(photographs.root).as_posix() for sample in photographs.samples]


def test_a_folder_is_searched_to_its_depths_and_junk_is_passed_over(tmp_path):
    for name in ("b/10.png", "b/9.JPG", "a.Tiff", "b/c/x.webp", "__MACOSX/a.png", ".hidden/a.png", "._000.png"):
        picture(tmp_path / name)
    for name in ("notes.txt", "Thumbs.db", "desktop.ini"):
        (tmp_path / name).write_text("junk")
    photographs = list_photographs([tmp_path], "hex bolt")
    assert listed(tmp_path) == ["a.Tiff", "b/9.JPG", "b/10.png", "b/c/x.webp"]
    assert {sample.prompt_name for sample in photographs.dataset.samples} == {"hex bolt"}
    assert photographs.dataset.root == tmp_path
    assert (photographs.left_out.faults, photographs.left_out.notes) == ((), ())


def test_files_and_folders_share_the_folder_around_them_and_none_comes_twice(tmp_path, monkeypatch):
    one, other = picture(tmp_path / "a/one.png"), picture(tmp_path / "b/deep/one.png")
    assert listed(one) == ["one.png"]
    assert listed(other.parent, one) == ["a/one.png", "b/deep/one.png"]
    assert listed(tmp_path, one, tmp_path / "b") == ["a/one.png", "b/deep/one.png"]
    monkeypatch.chdir(tmp_path / "b")
    assert listed(Path("../a"), Path()) == ["a/one.png", "b/deep/one.png"]


def test_links_are_followed_once_and_broken_ones_are_named(tmp_path):
    picture(tmp_path / "disk/b.png"), picture(tmp_path / "photos/a.png")
    for name, target in {
        "line": "../disk",
        "again": "../disk",
        "up": "..",
        "here": ".",
        "same.png": "a.png",
        "gone.png": "nowhere",
        "loop": "loop",
    }.items():
        (tmp_path / "photos" / name).symlink_to(target)
    assert listed(tmp_path / "photos") == ["a.png", "again/b.png"]
    faults = list_photographs([tmp_path / "photos"], "bolt").left_out.faults
    assert faults == ("2 links lead nowhere: gone.png, loop. Restore or remove what is broken.",)


def test_other_kinds_of_pictures_are_counted_and_named(tmp_path):
    picture(tmp_path / "a.png")
    for name in ("i.HEIC", "j.heif", "scan.pdf", "b.gif", "raw.CR2", "movie.mov"):
        (tmp_path / name).write_bytes(b"content")
    shutil.copy(tmp_path / "a.png", tmp_path / "without")
    assert listed(tmp_path) == ["a.png"]
    (note,) = list_photographs([tmp_path], "bolt").left_out.notes
    for part in (
        "1 GIF (b.gif)",
        "2 HEIC (i.HEIC, j.heif)",
        "1 PDF (scan.pdf)",
        "1 RAW (raw.CR2)",
        "1 video",
        "without",
    ):
        assert part in note
    assert listed(tmp_path / "without") == ["without"]
    with pytest.raises(MissingDataError, match=r"i\.HEIC contains none\. Only PNG, .* not 1 HEIC \(i\.HEIC\)"):
        list_photographs([tmp_path / "i.HEIC"], "bolt")


def run_folder(folder, name="overlays"):
    picture(folder / name / "a.jpg")
    manifest = {"command": "predict", "overrides": [], "config": {}}
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return folder


def test_masks_beside_photographs_are_named_not_scored(tmp_path):
    photograph, mask = picture(tmp_path / "000.jpg"), picture(tmp_path / "000_mask.png")
    picture(tmp_path / "face_mask.png")
    assert listed(tmp_path) == ["000.jpg", "face_mask.png"]
    (note,) = list_photographs([tmp_path], "bolt").left_out.notes
    assert note.startswith(
        "1 picture looks like a mask of photographs in the same folder, and will not be scored: 000_m"
    )
    assert listed(photograph, mask) == ["000.jpg", "000_mask.png"]


def test_16_bit_photographs_of_few_bits_are_named_once(tmp_path, caplog):
    for name, top in (("a.png", 4095), ("b.png", 4095)):
        Image.fromarray(np.full((4, 6), top, np.uint16)).save(tmp_path / name)
    list_photographs([tmp_path], "bolt")
    (record,) = caplog.records
    assert "a.png has 16 bits per pixel and uses 12 of them" in record.getMessage()
    caplog.clear()
    Image.fromarray(np.full((4, 6), 65535, np.uint16)).save(tmp_path / "a.png")
    list_photographs([tmp_path], "bolt")
    assert not caplog.records


def test_what_a_run_wrote_is_not_read(tmp_path):
    picture(tmp_path / "p.png"), picture(tmp_path / "overlays/mine.png")
    run = run_folder(tmp_path / "outputs/now")
    run_folder(run, "maps")
    picture(run / "new.png", 1)  # a user may put photographs next to a run
    assert listed(tmp_path) == ["outputs/now/new.png", "overlays/mine.png", "p.png"]
    (note,) = list_photographs([tmp_path], "bolt").left_out.notes
    assert note == "Pictures that an earlier run wrote are not scored: outputs/now/maps, outputs/now/overlays."
    (tmp_path / "link").symlink_to(run / "maps")
    for place in (run / "overlays", run / "overlays" / "a.jpg", tmp_path / "link"):
        with pytest.raises(MissingDataError, match=r"none\. Pictures that an earlier run wrote are not scored"):
            list_photographs([place], "bolt")


def test_a_run_folder_of_an_earlier_version_is_known(tmp_path):
    run = tmp_path / "run"
    shutil.copytree(Path(__file__).parents[3] / "fixtures/version_0_1/whole", run)
    picture(run / "figures/demo/highest.png"), picture(tmp_path / "a.png")
    assert listed(tmp_path) == ["a.png"]


def test_a_folder_that_cannot_be_listed_is_a_fault(tmp_path, monkeypatch):
    picture(tmp_path / "a.png"), picture(tmp_path / "closed/b.png")
    scandir = os.scandir

    def refuse(place):
        if Path(place).name == "closed":
            raise PermissionError(13, "Permission denied", str(place))
        return scandir(place)

    monkeypatch.setattr(os, "scandir", refuse)
    assert listed(tmp_path) == ["a.png"]
    faults = list_photographs([tmp_path], "bolt").left_out.faults
    assert faults == ("1 folder could not be listed: closed. Check the permissions.",)
    with pytest.raises(MissingDataError, match=r"contains none\. 1 folder could not be listed: .*closed"):
        list_photographs([tmp_path / "closed"], "bolt")


def test_odd_names_are_listed_and_shown_in_one_line(tmp_path):
    names = ["two\nlines.png", os.fsdecode(b"b\xff.png"), "n" * 240 + ".png", "[x] *?.png"]
    for number, name in enumerate(names):
        picture(tmp_path / name, number, format="PNG")
    assert sorted(listed(tmp_path)) == sorted(names)
    (tmp_path / "gone\n.png").symlink_to("nowhere")
    assert "gone\\n.png" in list_photographs([tmp_path], "bolt").left_out.faults[0]


def test_a_photograph_that_cannot_be_opened_is_listed_without_a_hash(tmp_path, monkeypatch):
    closed = picture(tmp_path / "a.png")
    read_bytes = Path.read_bytes

    def refuse(path):
        if path == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    photographs = list_photographs([tmp_path], "bolt").dataset
    assert photographs.digest.images == ("",)


def test_no_photograph_at_all_is_an_error(tmp_path):
    with pytest.raises(MissingDataError, match="contains none"):
        list_photographs([tmp_path], "bolt")
    with pytest.raises(MissingDataError, match="absent does not exist"):
        list_photographs([picture(tmp_path / "a.png"), tmp_path / "absent"], "bolt")


@pytest.fixture
def root(tmp_path):
    """A tree with five normal images of each category in its train split."""
    root = write_mvtec_tree(tmp_path)
    for number, category in enumerate(("bolt", "tile")):
        for index in range(1, 5):
            picture = np.full((96, 80, 3), 40 * number + index, dtype=np.uint8)
            Image.fromarray(picture).save(root / category / "train" / "good" / f"{index:03}.png")
    return root


def load(root, **changes: object) -> LoadedDataset:
    return load_dataset(replace(DatasetSpec("parts", "mvtec_ad", root=root), **changes))


def names(chosen: dict) -> dict[str, list[str]]:
    return {category: [sample.image_path.name for sample in samples] for category, samples in chosen.items()}


def test_references_are_normal_train_images_of_every_category_that_is_scored(root):
    chosen = choose_references(load(root), shots=3, seed=0)
    assert chosen.keys() == {"bolt", "tile"}
    for category, samples in chosen.items():
        assert len({sample.image_path for sample in samples}) == 3
        assert all(sample.image_path.parent == root / category / "train" / "good" for sample in samples)
        assert not any(sample.is_anomalous for sample in samples)
    assert choose_references(load(root, categories=("tile",)), shots=3, seed=0) == {"tile": chosen["tile"]}


def test_the_seed_decides_and_fewer_shots_are_among_more(root):
    chosen = [names(choose_references(load(root), shots=5, seed=seed)) for seed in range(5)]
    assert len({tuple(choice["bolt"]) for choice in chosen}) > 1
    assert names(choose_references(load(root), shots=5, seed=3)) == chosen[3]
    fewer = names(choose_references(load(root), shots=2, seed=3))
    assert fewer == {category: files[:2] for category, files in chosen[3].items()}


def test_too_few_normal_images_are_refused(root):
    with pytest.raises(DataError, match=r"6 normal images of each category in the train split .* but bolt has 5 below"):
        choose_references(load(root), shots=6, seed=0)


def test_a_dataset_without_a_train_split_is_refused(root):
    for category in ("bolt", "tile"):
        shutil.rmtree(root / category / "train")
    with pytest.raises(DataError, match="Split 'train' of dataset 'parts' must hold images"):
        choose_references(load(root), shots=1, seed=0)


def test_an_image_that_is_scored_is_no_reference(root):
    shutil.copy(root / "tile" / "test" / "good" / "000.png", root / "tile" / "train" / "good" / "004.png")
    with pytest.raises(
        DataError, match=r"must not be scored, but .*004\.png is also among the scored images of 'parts'"
    ):
        choose_references(load(root), shots=5, seed=0)
