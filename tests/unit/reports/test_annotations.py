"""Every format is read by its tool's own reader, where that is installed, and gives the regions back."""

import base64
import io
import json
import os
import zlib
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from afr_clip.files import shown
from afr_clip.inspection.calibration import Decision
from afr_clip.inspection.record import Inspected
from afr_clip.inspection.regions import Hint, Region, find_regions, outline
from afr_clip.reports.annotations import Photographs, drawn_outline, one_ring, write_annotations
from afr_clip.reports.pictures.maps import output_places
from afr_clip.settings import AnnotationFormat
from helpers.outlines import filled

WIDTH, HEIGHT = 37, 23
NAMES = [
    "Größe/a b, c.png",
    "a.jpg",
    "a.png",
    "quote\"<&>'.png",
    "two\nlines.png",
    os.fsdecode(b"b\xff.png"),
    "good.png",
]


def scores(name):
    """Draw a map with a hole, two pixels that meet at a corner, and a region in the last corner of the photograph."""
    drawn = np.zeros((HEIGHT, WIDTH), np.float32)
    if name == "good.png":
        return drawn
    drawn[2:9, 3:12] = 0.75
    drawn[4:6, 5:8] = 0.1
    drawn[12, 20] = drawn[13, 21] = 0.875
    drawn[-3:, -2:] = 0.5 + 0.03125 * (len(name) % 4)
    return drawn


def inspect(name):
    regions = tuple(
        Region(**{**vars(region), "hint": Hint("Kratzer & <Riß>", 0.1) if region.area_px == 2 else None})
        for region in find_regions(scores(name), 0.5, 0.5)
    )
    return Inspected(shown(name), WIDTH, HEIGHT, "nut", 0.5 + len(regions) / 10, 0.6, Decision.anomalous, 0.7, regions)


@pytest.fixture(scope="module")
def inspected():
    return [inspect(name) for name in NAMES]


@pytest.fixture(scope="module")
def written(inspected, tmp_path_factory):
    """Write photographs of all names and their annotations in every format."""
    above = tmp_path_factory.mktemp("annotations")
    root = above / "photographs"
    for name in NAMES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (WIDTH, HEIGHT)).save(root / name)
    write(above / "first", inspected, root)
    return above / "first"


def write(folder, inspected, root):
    write_annotations(folder, list(AnnotationFormat), iter(inspected), Photographs(root, places(), "afr-clip pocket"))


def places():
    names = [Path(name) for name in NAMES]
    return dict(zip(map(shown, NAMES), output_places([n.with_suffix("") for n in names], names), strict=True))


def masks_of(one):
    """Return the label, score and mask of every region at the photograph's size."""
    for region in one.regions:
        x, y, width, height = region.box
        mask = np.zeros((HEIGHT, WIDTH), bool)
        mask[y : y + height, x : x + width] = region.mask
        yield ("anomaly" if region.hint is None else region.hint.word), region.peak, mask


def filled_ring(points):
    return filled([[(round(x, 3), round(y, 3)) for x, y in points]], HEIGHT, WIDTH)


def assert_same(found, one):
    """Compare labels, scores and masks."""
    wanted = list(masks_of(one))
    assert [(label, score) for label, score, _ in found] == [(label, score) for label, score, _ in wanted]
    for (_, _, mask), (_, _, whole) in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(mask, whole)


@given(arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_one_ring_covers_the_same_pixels(mask):
    polygons = outline(mask)
    if polygons:
        np.testing.assert_array_equal(filled([one_ring(polygons)], *mask.shape), mask)


def differs_by_a_pixel_at_most(mask, other):
    around = np.ones((3, 3), np.uint8)
    return all(
        (one & ~cv2.dilate(two.view(np.uint8), around).view(bool)).sum() == 0
        for one, two in ((mask, other), (other, mask))
    )


@given(arrays(np.bool_, st.tuples(st.integers(1, 20), st.integers(1, 20))))
def test_no_corner_of_a_region_is_more_than_a_pixel_off_its_outline(mask):
    for region in find_regions(mask.astype(np.float32), 1.0, 1.0):
        drawn = np.array([drawn_outline(region)], np.float32)
        distances = [cv2.pointPolygonTest(drawn, corner, measureDist=True) for r in region.polygons for corner in r]
        assert max(map(abs, distances)) <= 1 + 1e-5


@pytest.mark.parametrize("seed", range(10))
def test_the_outlines_of_smooth_regions_have_few_corners(seed):
    coarse = np.random.default_rng(seed).random((12, 16), dtype=np.float32)
    regions = find_regions(cv2.resize(coarse, (320, 240), interpolation=cv2.INTER_CUBIC), 0.7, 0.6)
    exact = smooth = 0
    for region in regions:
        drawn = drawn_outline(region)
        whole = np.zeros((240, 320), bool)
        x, y, width, height = region.box
        whole[y : y + height, x : x + width] = region.mask
        assert differs_by_a_pixel_at_most(filled([drawn], 240, 320), whole)
        exact, smooth = exact + sum(map(len, region.polygons)), smooth + len(drawn)
    assert smooth < exact / 2.5


def test_coco_in_its_own_words(written, inspected):
    content = json.loads((written / "coco" / "annotations" / "instances_default.json").read_text(encoding="utf-8"))
    assert [(i["id"], i["file_name"]) for i in content["images"]] == list(enumerate([o.image for o in inspected], 1))
    assert [(c["id"], c["name"]) for c in content["categories"]] == [(1, "anomaly"), (2, "Kratzer & <Riß>")]
    regions = [(number, region) for number, one in enumerate(inspected, 1) for region in one.regions]
    for place, (annotation, (image_id, region)) in enumerate(zip(content["annotations"], regions, strict=True), 1):
        assert (annotation["id"], annotation["image_id"], annotation["iscrowd"]) == (place, image_id, 0)
        assert (annotation["bbox"], annotation["area"]) == (list(region.box), region.area_px)
        assert isinstance(annotation["segmentation"], dict) == (region.area_px == 57)  # the one with a hole


@pytest.mark.filterwarnings("ignore")
def test_coco_is_read_by_pycocotools(written, inspected, capsys):
    reader = pytest.importorskip("pycocotools.coco", reason="pycocotools is not installed").COCO
    coco = reader(str(written / "coco" / "annotations" / "instances_default.json"))
    names = {category["id"]: category["name"] for category in coco.loadCats(coco.getCatIds())}
    for image_id, one in zip(coco.getImgIds(), inspected, strict=True):
        found = [
            (names[a["category_id"]], a["score"], coco.annToMask(a) > 0)
            for a in coco.loadAnns(coco.getAnnIds(image_id))
        ]
        assert coco.loadImgs(image_id)[0]["file_name"] == one.image
        assert_same(found, one)
    capsys.readouterr()


def datumaro_items(folder, form, inspected):
    """Read with Datumaro, which takes a.jpg and a.png for one image and asks for the files of all of them."""
    reader = pytest.importorskip("datumaro", reason="datumaro is not installed").Dataset
    inspected = [one for one in inspected if one.image != "a.png"]
    write(folder.parent, inspected, folder / "images")
    for one in inspected:
        path = folder / "images" / one.image
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (WIDTH, HEIGHT)).save(path)
    # An item knows its number in the file, and its name only without the suffix.
    items = sorted(reader.import_from(str(folder), form), key=lambda item: [*item.attributes.values()])
    labels = ["anomaly", "Kratzer & <Riß>"]
    for one, item in zip(inspected, items, strict=True):
        yield one, [(labels[a.label], float(a.attributes["score"]), a) for a in item.annotations]


@pytest.mark.filterwarnings("ignore")
def test_coco_is_read_by_datumaro(inspected, tmp_path):
    for one, annotations in datumaro_items(tmp_path / "coco", "coco_instances", inspected):
        found = {}
        for label, score, annotation in annotations:
            mask = annotation.image if hasattr(annotation, "image") else filled_ring(points(annotation))
            _, _, earlier = found.get(annotation.group, (label, score, False))
            found[annotation.group] = (label, score, earlier | (mask > 0))
        assert_same([found[group] for group in sorted(found)], one)


@pytest.mark.filterwarnings("ignore")
def test_cvat_is_read_by_datumaro(inspected, tmp_path):
    for one, annotations in datumaro_items(tmp_path / "cvat", "cvat", inspected):
        assert_same([(label, score, filled_ring(points(a))) for label, score, a in annotations], one)


def points(polygon):
    return list(zip(polygon.points[::2], polygon.points[1::2], strict=True))


def test_label_studio_in_its_own_words(written, inspected):
    tasks = json.loads((written / "label_studio" / "tasks.json").read_text(encoding="utf-8"))
    for task, one in zip(tasks, inspected, strict=True):
        assert unquote(task["data"]["image"]) == f"/data/local-files/?d=photographs/{one.image}"
        (prediction,) = task["predictions"]
        assert (prediction["model_version"], prediction["score"]) == ("afr-clip pocket", one.image_score)
        found = []
        for result in prediction["result"]:
            assert (result["original_width"], result["original_height"]) == (WIDTH, HEIGHT)
            points = [(x / 100 * WIDTH, y / 100 * HEIGHT) for x, y in result["value"]["points"]]
            found.append((result["value"]["polygonlabels"][0], result["score"], filled_ring(points)))
        assert_same(found, one)


@pytest.mark.filterwarnings("ignore")
def test_label_studio_takes_the_predictions(written):
    interface = pytest.importorskip(
        "label_studio_sdk.label_interface", reason="label-studio-sdk is not installed"
    ).LabelInterface((written / "label_studio" / "labels.xml").read_text(encoding="utf-8"))
    interface.validate()
    for task in json.loads((written / "label_studio" / "tasks.json").read_text(encoding="utf-8")):
        assert interface.validate_task({"data": task["data"]})
        for prediction in task["predictions"]:
            assert interface.validate_prediction(prediction, return_errors=True) == []


def test_cvat_in_its_own_words(written, inspected):
    content = ElementTree.parse(written / "cvat" / "annotations.xml").getroot()
    assert content.findtext("version") == "1.1"
    labels = [label.findtext("name") for label in content.iter("label")]
    for number, (image, one) in enumerate(zip(content.iter("image"), inspected, strict=True)):
        assert image.attrib == {"id": str(number), "name": one.image, "width": str(WIDTH), "height": str(HEIGHT)}
        found = []
        for polygon in image.iter("polygon"):
            points = [tuple(map(float, point.split(","))) for point in polygon.attrib["points"].split(";")]
            found.append((polygon.attrib["label"], float(polygon.findtext("attribute")), filled_ring(points)))
            assert polygon.attrib["label"] in labels
        assert_same(found, one)


def labelme_file(written, one):
    return written / "labelme" / f"{places()[one.image]}.json"


def test_labelme_in_its_own_words(written, inspected):
    assert len(list((written / "labelme").rglob("*.json"))) == len(NAMES)
    for one, name in zip(inspected, NAMES, strict=True):
        path = labelme_file(written, one)
        content = json.loads(path.read_text(encoding="utf-8"))
        assert (content["imageWidth"], content["imageHeight"]) == (WIDTH, HEIGHT)
        if shown(name) == name:
            assert (path.parent / content["imagePath"]).resolve() == written.parent / "photographs" / name
        found = [(s["label"], float(s["description"].split()[1]), filled_ring(s["points"])) for s in content["shapes"]]
        assert_same(found, one)


@pytest.mark.filterwarnings("ignore")
def test_labelme_is_read_by_labelme(written, inspected):
    reader = pytest.importorskip("labelme._label_file", reason="labelme is not installed", exc_type=ImportError)
    for one, name in zip(inspected, NAMES, strict=True):
        if shown(name) != name:
            continue  # such a photograph has to be renamed
        content = reader.read_label_file(str(labelme_file(written, one)))
        found = [(s["label"], float(s["description"].split()[1]), filled_ring(s["points"])) for s in content.shapes]
        assert_same(found, one)


def yolo_masks(lines):
    found = []
    for line in lines:
        number, *numbers = line.split()
        corners = [(float(x) * WIDTH, float(y) * HEIGHT) for x, y in zip(numbers[::2], numbers[1::2], strict=True)]
        found.append((int(number), filled_ring(corners)))
    return found


def test_yolo_in_its_own_words(written, inspected):
    content = yaml.safe_load((written / "yolo" / "data.yaml").read_text(encoding="utf-8"))
    assert content == {"train": "images", "val": "images", "names": {0: "anomaly", 1: "Kratzer & <Riß>"}}
    for one, name in zip(inspected, NAMES, strict=True):
        place = places()[one.image]
        image = written / "yolo" / "images" / f"{place}{Path(name).suffix}"
        # Ultralytics finds the labels of an image by this rule.
        labels = Path(str(image).replace("/images/", "/labels/").rsplit(".", 1)[0] + ".txt")
        found = yolo_masks(labels.read_text(encoding="utf-8").splitlines())
        assert_same([(content["names"][n], r.peak, m) for (n, m), r in zip(found, one.regions, strict=True)], one)
        if shown(name) == name:
            assert image.resolve() == written.parent / "photographs" / name
    assert len(list((written / "yolo" / "labels").rglob("*.txt"))) == len(NAMES)


def test_yolo_without_links_says_so_once(written, inspected, tmp_path, monkeypatch, caplog):
    def refused(*_: object) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "symlink_to", refused)
    write(tmp_path, inspected, written.parent / "photographs")
    assert len(list((tmp_path / "yolo" / "labels").rglob("*.txt"))) == len(NAMES)
    (warning,) = caplog.messages
    assert "cannot hold links to the photographs: Operation not permitted." in warning


@pytest.mark.filterwarnings("ignore")
def test_yolo_is_read_by_ultralytics(written, inspected, tmp_path, monkeypatch):
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path))
    reader = pytest.importorskip("ultralytics.data.utils", reason="ultralytics is not installed")
    data = reader.check_det_dataset(str(written / "yolo" / "data.yaml"), autodownload=False)
    for one, name in zip(inspected, NAMES, strict=True):
        if shown(name) != name:
            continue  # such a photograph has to be renamed
        image = f"{data['train']}/{places()[one.image]}{Path(name).suffix}"
        (labels,) = reader.img2label_paths([image])
        _, rows, size, segments, *_, num_corrupt, message = reader.verify_image_label(
            (image, labels, "", False, len(data["names"]), 0, 0, False)
        )
        assert (num_corrupt, message, size) == (0, "", (HEIGHT, WIDTH))
        found = [filled_ring(np.float64(segment) * (WIDTH, HEIGHT)) for segment in segments]
        names = [data["names"][int(row[0])] for row in rows]
        assert_same([(n, r.peak, mask) for n, r, mask in zip(names, one.regions, found, strict=True)], one)


def test_fiftyone_as_it_documents_its_format(written, inspected):
    assert "version" not in json.loads((written / "fiftyone" / "metadata.json").read_text(encoding="utf-8"))
    content = json.loads((written / "fiftyone" / "samples.json").read_text(encoding="utf-8"))
    for sample, one, name in zip(content["samples"], inspected, NAMES, strict=True):
        if shown(name) == name:
            path = written / "fiftyone" / sample["filepath"]
            assert path.resolve() == written.parent / "photographs" / name
        found = []
        for detection in sample["regions"]["detections"]:
            mask = np.load(io.BytesIO(zlib.decompress(base64.b64decode(detection["mask"]))))
            found.append((detection["label"], detection["confidence"], in_box(detection["bounding_box"], mask)))
        assert_same(found, one)


def in_box(box, mask):
    whole = np.zeros((HEIGHT, WIDTH), bool)
    x, y, width, height = (round(share * size, 6) for share, size in zip(box, (WIDTH, HEIGHT) * 2, strict=True))
    assert (height, width) == mask.shape
    whole[int(y) : int(y + height), int(x) : int(x + width)] = mask
    return whole


@pytest.mark.filterwarnings("ignore")
def test_fiftyone_reads_the_samples(written, inspected):
    pytest.importorskip("fiftyone", reason="fiftyone is not installed")
    from fiftyone.utils.data import LegacyFiftyOneDatasetImporter  # noqa: PLC0415 - its form without a database

    with LegacyFiftyOneDatasetImporter(str(written / "fiftyone")) as samples:
        for read, one, name in zip(samples, inspected, NAMES, strict=True):
            found = [(d.label, d.confidence, in_box(d.bounding_box, d.mask)) for d in read.regions.detections]
            assert_same(found, one)
            assert (read.image_score, read.decision) == (one.image_score, "anomalous")
            assert Path(read.filepath).is_file() == (shown(name) == name)


def test_the_same_photographs_give_the_same_bytes(written, inspected):
    again = written.parent / "second"
    write(again, inspected, written.parent / "photographs")
    write(again, inspected, written.parent / "photographs")  # into what is there
    files = {path.relative_to(written): path for path in written.rglob("*") if path.is_file()}
    assert {path.relative_to(again) for path in again.rglob("*") if path.is_file()} == files.keys()
    for below, path in files.items():
        assert (again / below).read_bytes() == path.read_bytes()


def test_no_photographs_give_files_without_any(tmp_path):
    write(tmp_path, [], tmp_path / "photographs")
    assert json.loads((tmp_path / "label_studio" / "tasks.json").read_text()) == []
    assert json.loads((tmp_path / "coco" / "annotations" / "instances_default.json").read_text())["images"] == []
    assert json.loads((tmp_path / "fiftyone" / "samples.json").read_text()) == {"samples": []}
    assert not list(ElementTree.parse(tmp_path / "cvat" / "annotations.xml").getroot().iter("image"))


def test_an_error_leaves_the_files_as_they_were(written, inspected, tmp_path):
    def broken():
        yield inspected[0]
        raise OSError("the disk is gone")

    write(tmp_path, inspected, written.parent / "photographs")
    before = (tmp_path / "coco" / "annotations" / "instances_default.json").read_bytes()
    with pytest.raises(OSError, match="the disk is gone"):
        write(tmp_path, broken(), written.parent / "photographs")
    assert (tmp_path / "coco" / "annotations" / "instances_default.json").read_bytes() == before
    assert not list(tmp_path.rglob(".*unfinished*"))
