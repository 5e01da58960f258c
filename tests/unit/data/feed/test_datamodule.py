import shutil
from dataclasses import replace
from threading import Event, Timer

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from PIL import Image

from afr_clip.data.disk.loaded import load_dataset
from afr_clip.data.disk.reading import DatasetSpec
from afr_clip.data.errors import DataError
from afr_clip.data.feed import datamodule
from afr_clip.data.feed.datamodule import AnomalyDataModule, DataSettings
from afr_clip.data.records import AnomalyBatch
from helpers.trees import write_mvtec_tree, write_visa_tree

SETTINGS = {"image_size": (32, 48), "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4), "batch_size": 3, "seed": 5}


@pytest.fixture
def roots(tmp_path):
    return write_visa_tree(tmp_path / "VisA"), write_mvtec_tree(tmp_path / "mvtec")


def make(roots, *, wanted=(None, None), names=("visa", "mvtec_ad"), **settings) -> AnomalyDataModule:
    auxiliary = DatasetSpec(names[0], "visa", root=roots[0], categories=wanted[0])
    target = DatasetSpec(names[1], "mvtec_ad", root=roots[1], categories=wanted[1])
    return AnomalyDataModule(load_dataset(auxiliary), [load_dataset(target)], DataSettings(**SETTINGS | settings))


def epoch(loader, number: int = 0) -> list[AnomalyBatch]:
    order = loader.batch_sampler.sampler
    if hasattr(order, "set_epoch"):
        order.set_epoch(number)
    return list(loader)


def assert_same(first: list[AnomalyBatch], second: list[AnomalyBatch]) -> None:
    assert [batch.samples for batch in first] == [batch.samples for batch in second]
    for one, other in zip(first, second, strict=True):
        for name in ("image", "mask", "has_mask", "is_anomalous", "index"):
            assert torch.equal(getattr(one, name), getattr(other, name)), name


def test_an_epoch_holds_every_sample_once_and_drops_none(roots):
    module = make(roots)
    batches = epoch(module.train_dataloader())
    assert [len(batch.samples) for batch in batches] == [3, 3, 3, 3, 3, 1]
    assert sorted(index for batch in batches for index in batch.index.tolist()) == list(range(16))
    assert all(batch.image.shape[1:] == (3, 32, 48) for batch in batches)


def test_targets_come_in_order_at_their_own_batch_size(roots):
    module = make(roots, eval_batch_size=5)
    (loader,) = module.test_dataloader()
    batches = list(loader)
    assert [len(batch.samples) for batch in batches] == [5, 5, 5, 1]
    assert tuple(sample for batch in batches for sample in batch.samples) == module.targets["mvtec_ad"].samples


def test_the_number_of_workers_changes_nothing(roots):
    here, elsewhere = make(roots, augment=True), make(roots, augment=True, num_workers=2)
    mine, theirs = here.train_dataloader(), elsewhere.train_dataloader()
    for number in (0, 1):
        assert_same(epoch(mine, number), epoch(theirs, number))
    assert_same(epoch(here.target_dataloader("mvtec_ad")), epoch(elsewhere.target_dataloader("mvtec_ad")))


def test_a_resumed_run_sees_the_epoch_it_would_have_seen(roots):
    first = make(roots, augment=True).train_dataloader()
    history = [epoch(first, number) for number in range(3)]
    assert_same(epoch(make(roots, augment=True).train_dataloader(), 2), history[2])
    assert not torch.equal(history[0][0].image, history[1][0].image)


def test_the_cache_changes_nothing(roots, tmp_path):
    plain, cached = make(roots), make(roots, cache=True, cache_dir=tmp_path / "cache", num_workers=1)
    assert_same(epoch(plain.train_dataloader()), epoch(cached.train_dataloader()))
    assert_same(epoch(plain.target_dataloader("mvtec_ad")), epoch(cached.target_dataloader("mvtec_ad")))
    assert len([path for path in (tmp_path / "cache").iterdir() if path.is_dir()]) == 2


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_truncated_image_is_named_whatever_process_reads_it(roots, num_workers):
    module = make(roots, num_workers=num_workers)
    broken = module.targets["mvtec_ad"].samples[4].image_path
    broken.write_bytes(broken.read_bytes()[:200])
    with pytest.raises(DataError) as caught:
        list(module.target_dataloader("mvtec_ad"))
    assert str(caught.value).startswith(f"{broken} is not a valid image file")
    assert "Traceback" not in str(caught.value)


class Watcher(LightningModule):
    """Records what a real trainer hands to its steps."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.seen: list[AnomalyBatch] = []
        self.tested = 0

    def training_step(self, batch: AnomalyBatch, batch_idx: int) -> None:
        self.seen.append(batch)

    def test_step(self, batch: AnomalyBatch, batch_idx: int) -> None:
        self.tested += len(batch.samples)

    def configure_optimizers(self) -> None:
        return None


@pytest.mark.filterwarnings("ignore::lightning.pytorch.utilities.warnings.PossibleUserWarning")
@pytest.mark.filterwarnings("ignore:.*configure_optimizers.*:UserWarning")
@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")  # Lightning still asks torch the old way
def test_lightning_moves_batches_and_announces_epochs(roots, tmp_path):
    watcher, module = Watcher(), make(roots)
    quiet = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_checkpointing": False,
        "enable_model_summary": False,
    }
    trainer = Trainer(max_epochs=2, accelerator="cpu", default_root_dir=tmp_path, **quiet)
    trainer.fit(watcher, datamodule=module)
    orders = [
        [index for batch in half for index in batch.index.tolist()] for half in (watcher.seen[:6], watcher.seen[6:])
    ]
    expected = make(roots).train_dataloader()
    assert orders == [[i for batch in epoch(expected, n) for i in batch.index.tolist()] for n in range(2)]
    trainer.test(watcher, datamodule=module, verbose=False)
    assert watcher.tested == 16


def test_only_the_truth_of_what_is_scored_stays(roots):
    module = make(roots)
    assert not next(iter(module.train_dataloader())).truth_stays
    assert next(iter(module.target_dataloader("mvtec_ad"))).truth_stays


def test_defects_that_vanish_are_counted_and_empty_masks_are_logged(roots, caplog):
    module = make(roots)
    assert module.vanished_defects(module.targets["mvtec_ad"]) == {"bolt": 0, "tile": 0}
    mask = module.targets["mvtec_ad"].samples[4].mask_path
    pixels = np.zeros((96, 80), dtype=np.uint8)
    Image.fromarray(pixels).save(mask)
    assert module.vanished_defects(module.targets["mvtec_ad"]) == {"bolt": 0, "tile": 0}
    assert "mvtec_ad/bolt: 1 mask marks no pixel of an anomalous image" in caplog.text
    pixels[0, 0] = 255
    Image.fromarray(pixels).save(mask)
    assert module.vanished_defects(module.targets["mvtec_ad"]) == {"bolt": 1, "tile": 0}
    assert "mvtec_ad: small defects without a pixel at input size: 1 (bolt); the manifest" in caplog.text
    with module.counting_vanished_defects(module.targets["mvtec_ad"]) as (begin, counts):
        begin()
        begin()
        assert counts() == {"bolt": 1, "tile": 0}
    with module.counting_vanished_defects(module.targets["mvtec_ad"]) as (_, counts):
        assert counts() == {"bolt": 1, "tile": 0}


def test_counting_defects_ends_with_the_scoring_that_it_goes_with(roots, monkeypatch):
    module, decoded = make(roots), []
    samples = module.targets["mvtec_ad"].samples

    def one_is_enough(walked, _reader):
        for sample in walked:
            decoded.append(sample)
            has_failed.wait(10)

    monkeypatch.setattr(datamodule, "count_vanished_defects", one_is_enough)
    has_failed = Event()

    def score():
        with module.counting_vanished_defects(module.targets["mvtec_ad"]) as (begin, _):
            begin()
            Timer(0.2, has_failed.set).start()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score()
    assert decoded == [samples[0]]


def test_an_auxiliary_dataset_needs_anomalous_images_with_masks(roots, tmp_path):
    spec = DatasetSpec("normal", "visa", root=roots[0], split="train")
    with pytest.raises(DataError, match=r"has 0 masks for 0 anomalous images\. Train on another"):
        AnomalyDataModule(load_dataset(spec), [], DataSettings(**SETTINGS))
    for folder in list(roots[1].rglob("ground_truth")):
        shutil.rmtree(folder)
    spec = DatasetSpec("bare", "mvtec_ad", root=roots[1])
    with pytest.raises(DataError, match=r"has 0 masks for 8 anomalous images; .*scratch.000\.png has none"):
        AnomalyDataModule(load_dataset(spec), [], DataSettings(**SETTINGS))


def test_an_image_in_both_datasets_is_refused_whatever_it_is_called(roots):
    module = make(roots)
    assert module.auxiliary is not None
    source = module.auxiliary.samples[0].image_path
    shutil.copy(source, roots[1] / "bolt/test/good/other name.jpg")
    with pytest.raises(DataError, match=r"share 1 image files; the first is .*other name\.jpg"):
        make(roots)


@pytest.mark.parametrize(
    ("of_auxiliary", "of_target"), [(None, None), (("bolt",), None), (None, ("bolt",)), (("bolt", "tile"), ("tile",))]
)
@pytest.mark.parametrize("is_named_alike", [True, False])
def test_one_dataset_cannot_be_both_unless_its_categories_are_divided(roots, of_auxiliary, of_target, is_named_alike):
    auxiliary = DatasetSpec("mvtec_ad", "mvtec_ad", root=roots[1], categories=of_auxiliary)
    elsewhere = write_mvtec_tree(roots[1].with_name("elsewhere"), seed=9)
    name, root = ("mvtec_ad", elsewhere) if is_named_alike else ("other", roots[1] / ".." / "mvtec")
    target = DatasetSpec(name, "mvtec_ad", root=root, categories=of_target)
    with pytest.raises(DataError, match="so their categories must be given and must not overlap"):
        AnomalyDataModule(load_dataset(auxiliary), [load_dataset(target)], DataSettings(**SETTINGS))


def test_divided_categories_are_fine(roots):
    auxiliary = DatasetSpec("mvtec_ad", "mvtec_ad", root=roots[1], categories=("bolt",))
    target = DatasetSpec("mvtec_ad", "mvtec_ad", root=roots[1], categories=("tile",))
    module = AnomalyDataModule(load_dataset(auxiliary), [load_dataset(target)], DataSettings(**SETTINGS))
    assert {sample.category for sample in module.targets["mvtec_ad"].samples} == {"tile"}


def test_names_of_targets_must_differ(roots):
    target = load_dataset(DatasetSpec("toy", "mvtec_ad", root=roots[1]))
    with pytest.raises(DataError, match=r"must have different names, .* got \['toy', 'toy'\]"):
        AnomalyDataModule(None, [target, target], DataSettings(**SETTINGS))


def test_loaders_that_do_not_exist_say_so(roots):
    target = load_dataset(DatasetSpec("toy", "mvtec_ad", root=roots[1]))
    module = AnomalyDataModule(None, [target], DataSettings(**SETTINGS))
    with pytest.raises(DataError, match="needs an auxiliary dataset"):
        module.train_dataloader()
    with pytest.raises(DataError, match=r"The target must be one of \['toy'\], got 'tyo'"):
        module.target_dataloader("tyo")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("image_size", (0, 5)),
        ("mean", (0.5,)),
        ("std", (0.5, 0.0, 0.5)),
        ("batch_size", 0),
        ("eval_batch_size", 0),
        ("num_workers", -1),
        ("seed", -1),
    ],
)
def test_settings_out_of_range_are_refused_by_name(name, value):
    with pytest.raises((ValueError, TypeError), match=rf"data\.{name} must be|{name}"):
        DataSettings(**SETTINGS | {name: value})


def test_a_cache_needs_a_folder():
    with pytest.raises(ValueError, match=r"data\.cache_dir must be a folder if data\.cache=true, got None"):
        DataSettings(**SETTINGS, cache=True)


def test_training_images_get_their_references_where_they_are_asked_for(roots):
    module, again = make(roots, references=True), make(roots, references=True, num_workers=2)
    batches, elsewhere = epoch(module.train_dataloader(), 1), epoch(again.train_dataloader(), 1)
    for batch, other in zip(batches, elsewhere, strict=True):
        assert torch.equal(batch.reference.index, other.reference.index)
        for sample, reference in zip(batch.samples, batch.reference.samples, strict=True):
            assert (reference.category, reference.is_anomalous) == (sample.category, False)
            assert reference.image_path != sample.image_path
    assert [batch.reference for batch in epoch(module.target_dataloader("mvtec_ad"))] == [None] * 6
    assert next(iter(module.auxiliary_in_order())).reference is None


def test_an_auxiliary_dataset_needs_normal_images_where_references_are_asked_for(roots):
    auxiliary = load_dataset(DatasetSpec("visa", "visa", root=roots[0]))
    kept = [sample for sample in auxiliary.samples if sample.is_anomalous]
    with pytest.raises(DataError, match="has 0 normal images"):
        AnomalyDataModule(replace(auxiliary, samples=tuple(kept)), [], DataSettings(**SETTINGS, references=True))


def test_references_are_read_as_the_images_that_are_scored(roots):
    (bolt, tile) = make(roots).reference_batches("mvtec_ad", shots=1)
    assert (bolt.category, tile.category) == (("bolt",), ("tile",))
    (sample,) = bolt.samples
    assert sample.image_path == roots[1] / "bolt" / "train" / "good" / "000.png"
    shutil.copy(sample.image_path, roots[1] / "bolt" / "test" / "good" / "000.png")
    scored = next(iter(make(roots).target_dataloader("mvtec_ad")))
    assert torch.equal(scored.image[0], bolt.image[0])
