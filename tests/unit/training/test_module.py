import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import DataLoader

from afr_clip.data.records import AnomalyBatch, Share
from afr_clip.losses.total import AnomalyLoss
from afr_clip.metrics.protocol import DatasetMetrics
from afr_clip.models.method_settings import CategoryNames
from afr_clip.models.prediction import AnomalyPrediction, ScoreError
from afr_clip.training.module import AnomalyDetectionModule, EpochMeans, TrainingDivergedError
from afr_clip.training.schedule import constant
from helpers.tiny import random_batch, tiny_network


@pytest.fixture
def watched(make_module):
    """A module whose training steps' outputs are kept."""
    module, outputs = make_module(), []
    step = module.training_step

    def training_step(batch, batch_idx):
        outputs.append(step(batch, batch_idx))
        return outputs[-1]

    module.training_step = training_step
    return module, outputs


def test_the_training_loss_is_the_loss_of_the_prediction(watched, fit, batches):
    module, outputs = watched
    fit(module, batches, limit_train_batches=1)
    prediction, batch = outputs[0]["prediction"], batches[0]
    expected = AnomalyLoss()(prediction.trained_maps, prediction.image_score, batch.mask, batch.is_anomalous)
    torch.testing.assert_close(outputs[0]["loss"], expected.total)


def test_training_scores_as_the_network_alone_does(watched, fit, batches, towers):
    module, outputs = watched
    fit(module, batches, limit_train_batches=1)
    alone = tiny_network(towers)(batches[0].image, batches[0].prompt_name)
    torch.testing.assert_close(outputs[0]["prediction"].anomaly_map, alone.anomaly_map)
    torch.testing.assert_close(outputs[0]["prediction"].image_score, alone.image_score)


def test_loss_terms_and_learning_rate_are_logged(make_module, fit, batches):
    expected = []
    for batch in batches:
        prediction = make_module(lr=0.0)(batch)
        expected.append(AnomalyLoss()(prediction.trained_maps, prediction.image_score, batch.mask, batch.is_anomalous))
    logged = fit(make_module(lr=1e-30), batches).callback_metrics  # the weights stay as they are
    for name in expected[0].by_name():
        key = "train/loss_epoch" if name == "total" else f"train/loss_{name}"
        mean = (getattr(expected[0], name) + getattr(expected[1], name)) / 2
        torch.testing.assert_close(logged[key], mean.detach())
    assert logged["train/lr"].item() == pytest.approx(1e-30)


def test_only_adapters_learn_and_the_optimizer_holds_exactly_them(make_module, fit, batches):
    module = make_module()
    names = module.network.trainable_parameter_names()
    before = {name: p.detach().clone() for name, p in module.network.named_parameters()}
    gradients: list[set[str]] = []
    module.on_before_optimizer_step = lambda optimizer: gradients.append(
        {name for name, p in module.network.named_parameters() if p.grad is not None}
    )
    trainer = fit(module, batches)
    held = {id(p) for group in trainer.optimizers[0].param_groups for p in group["params"]}
    assert held == {id(p) for name, p in module.network.named_parameters() if name in names}
    assert gradients == [names, names]
    changed = {name for name, p in module.network.named_parameters() if not torch.equal(p, before[name])}
    assert changed == names


def test_the_optimizer_gets_each_parameter_once(make_module):
    parameters = make_module().trainable_parameters()
    assert len({id(p) for p in parameters}) == len(parameters) > 0


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_loss_that_is_no_number_ends_the_training_and_names_epoch_and_images(fit, batches, towers, broken):
    calls = []

    def loss(*given):
        calls.append(None)
        terms = AnomalyLoss()(*given)
        return terms._replace(total=terms.total * broken) if len(calls) == 4 else terms

    module = AnomalyDetectionModule(tiny_network(towers), loss, partial(torch.optim.Adam, lr=1e-3), constant)
    sentence = rf"loss became {broken} in epoch 2, step 4, on 0\.png, 1\.png\. Lower optimizer\.lr or set trainer\.grad"
    with pytest.raises(TrainingDivergedError, match=sentence):
        fit(module, batches, max_epochs=3)
    assert len(calls) == 4


@pytest.mark.parametrize("part", ["image_score", "anomaly_map"])
@pytest.mark.parametrize("command", ["test", "predict"])
def test_a_score_that_is_no_number_ends_the_scoring_and_names_the_photograph(
    make_module, make_trainer, batches, command, part
):
    module = make_module()
    network, seen = module.network, []

    class Broken(torch.nn.Module):
        def forward(self, image, category):
            prediction = network(image, category)
            seen.append(prediction)
            getattr(prediction, part)[1] = math.nan if len(seen) == 2 else 0.5
            return prediction

    module.network = Broken()
    samples = [sample for batch in batches for sample in batch.samples]
    module.score_next("noise", DatasetMetrics([s.category for s in samples], [s.is_anomalous for s in samples]))
    loader = DataLoader([replace(b, samples=moved(b.samples, n)) for n, b in enumerate(batches)], batch_size=None)
    quietly = {"verbose": False} if command == "test" else {"return_predictions": False}
    with pytest.raises(ScoreError, match=r"^1/b\\nc\.png got a score of NaN or infinity, .* lower optimizer\.lr"):
        getattr(make_trainer(), command)(module, loader, **quietly)
    assert len(seen) == 2


def moved(samples: tuple, folder: int) -> tuple:
    return tuple(
        replace(sample, image_path=Path(f"{folder}/{name}.png"))
        for sample, name in zip(samples, ("a", "b\nc"), strict=True)
    )


def test_checkpoints_of_lightning_hold_exactly_what_learns(make_module, fit, batches, tmp_path):
    module = make_module()
    trainer = fit(module, batches)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    saved = torch.load(tmp_path / "a.ckpt", weights_only=True)["state_dict"]
    assert set(saved) == {f"network.{name}" for name in module.network.trainable_parameter_names()}
    own = module.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in saved.items())
    assert len(saved) < len(own)


def in_two_categories() -> list:
    first, second = random_batch(4, seed=8), random_batch(4, seed=9)
    samples = tuple(replace(sample, category="screw", prompt_name="screw") for sample in second.samples)
    return [first, replace(second, samples=samples, index=torch.arange(4, 8))]


def test_testing_logs_every_metric_of_every_category_and_keeps_the_results(make_module, make_trainer):
    batches, module = in_two_categories(), make_module()
    samples = [sample for batch in batches for sample in batch.samples]
    truth = ([s.category for s in samples], [s.is_anomalous for s in samples])
    module.score_next("noise", DatasetMetrics(*truth))
    assert module.results == ()
    trainer = make_trainer()
    trainer.test(module, DataLoader(batches, batch_size=None), verbose=False)

    expected = DatasetMetrics(*truth)
    with torch.no_grad():
        for batch in batches:
            scored = module.network(batch.image, batch.prompt_name)
            expected.update(scored.anomaly_map, scored.image_score, batch.mask, batch.has_mask, batch.index)
    assert repr(module.results) == repr(expected.compute())
    keys = ("i_auroc", "i_f1_max", "i_ap", "p_auroc", "p_f1_max", "p_ap", "p_aupro")
    assert trainer.callback_metrics.keys() == {
        f"target/noise/{c}/{key}" for c in ("metal_nut", "screw") for key in keys
    }
    screw = module.results[1].values
    assert trainer.callback_metrics["target/noise/screw/p_aupro"].item() == pytest.approx(screw["pixel_aupro"])
    assert trainer.callback_metrics["target/noise/screw/i_f1_max"].item() == pytest.approx(screw["image_f1_max"])


def test_scores_that_are_all_equal_are_named(make_module, make_trainer, monkeypatch, caplog):
    batches, module = in_two_categories(), make_module()
    samples = [sample for batch in batches for sample in batch.samples]
    forward = module.network.forward

    def saturated(image: torch.Tensor, names: tuple[str, ...]) -> AnomalyPrediction:
        scored = forward(image, names)
        same = torch.tensor([name == "screw" for name in names])
        return replace(scored, image_score=torch.where(same, 1.0, scored.image_score))

    monkeypatch.setattr(module.network, "forward", saturated)
    module.score_next("noise", DatasetMetrics([s.category for s in samples], [s.is_anomalous for s in samples]))
    make_trainer().test(module, DataLoader(batches, batch_size=None), verbose=False)
    assert "All image scores of screw are equal" in caplog.text


def test_the_next_target_starts_with_nothing(make_module):
    module = make_module()
    module.results = ("something",)
    metrics = DatasetMetrics(["a"], [True])
    module.score_next("other", metrics)
    assert (module.results, module.metrics) == ((), metrics)


def test_predicting_returns_what_the_network_says(make_module, batches):
    module = make_module()
    prediction, alone = module(batches[0]), module.network(batches[0].image, batches[0].prompt_name)
    torch.testing.assert_close(prediction.anomaly_map, alone.anomaly_map)
    torch.testing.assert_close(prediction.image_score, alone.image_score)


@pytest.mark.parametrize(("names", "told"), [(CategoryNames.words, "metal nut"), (CategoryNames.raw, "metal_nut")])
def test_the_network_is_told_a_category_as_the_method_wants_it(towers, batches, names, told):
    heard = []
    network = tiny_network(towers)
    network.register_forward_pre_hook(lambda _, given: heard.extend(given[1]))
    AnomalyDetectionModule(network, category_names=names)(batches[0])
    assert heard == [told] * 2


@pytest.mark.parametrize(
    ("missing", "sentence"), [("optimizer", "training needs an optimizer"), ("schedule", "training needs a schedule")]
)
def test_a_module_for_scoring_cannot_train(towers, missing, sentence):
    parts = {"optimizer": partial(torch.optim.Adam, lr=1.0), "schedule": constant} | {missing: None}
    with pytest.raises(AssertionError, match=sentence):
        AnomalyDetectionModule(tiny_network(towers), AnomalyLoss(), **parts).configure_optimizers()


class Looks(torch.nn.Module):
    """Scores like a network; keeps what it was shown before."""

    shots = 2

    def __init__(self, scores: torch.nn.Module) -> None:
        super().__init__()
        self.scores = scores
        self.shown: dict[str, torch.Tensor] = {}

    def observe(self, image: torch.Tensor, category: str) -> None:
        self.shown[category] = image

    def forward(self, image: torch.Tensor, category: tuple[str, ...]) -> AnomalyPrediction:
        assert self.shown.keys() >= set(category)
        return self.scores(image, category)


def named(batch: AnomalyBatch, category: str) -> AnomalyBatch:
    return replace(batch, samples=tuple(replace(s, category=category, prompt_name="part") for s in batch.samples))


@pytest.mark.parametrize(("names", "shown"), [(CategoryNames.words, "part"), (CategoryNames.raw, "metal_nut")])
def test_references_are_shown_under_the_name_they_are_scored_by_before_anything_is_scored(
    towers, make_trainer, batches, names, shown
):
    network = Looks(tiny_network(towers))
    module = AnomalyDetectionModule(network, category_names=names)
    batch, references = named(batches[0], "metal_nut"), named(batches[1], "metal_nut")
    metrics = DatasetMetrics(list(batch.category), batch.is_anomalous.tolist())
    module.score_next("noise", metrics, [references])
    make_trainer().test(module, DataLoader([batch], batch_size=None), verbose=False)
    assert module.shots == 2
    assert torch.equal(network.shown[shown], references.image)
    assert module.results


def test_references_of_two_categories_need_two_names(towers, batches):
    references = [named(batch, category) for batch, category in zip(batches, ("bolt", "tile"), strict=True)]
    metrics = DatasetMetrics(["bolt"], [False])
    AnomalyDetectionModule(Looks(tiny_network(towers)), category_names=CategoryNames.raw).score_next(
        "noise", metrics, references
    )
    with pytest.raises(ValueError, match=r"must have different names, got \['part', 'part'\] for 'noise'"):
        AnomalyDetectionModule(Looks(tiny_network(towers))).score_next("noise", metrics, references)


def test_a_network_that_looks_at_no_references_asks_for_none(make_module):
    assert make_module().shots == 0


def test_the_mean_over_processes_is_the_gradient_of_the_whole_batch(make_module, towers):
    whole, parts = random_batch(3, seed=4), []
    for rows, share in ((slice(0, 2), Share(2, 3)), (slice(2, 3), Share(1, 3)), (slice(0, 1), Share(0, 3))):
        fields = {name: getattr(whole, name)[rows] for name in ("image", "mask", "has_mask", "is_anomalous", "index")}
        parts.append(replace(whole, **fields, samples=whole.samples[rows], share=share))
    module = make_module()
    module.log = module.log_dict = lambda *given, **options: None
    optimizer = SimpleNamespace(param_groups=[{"lr": 0.0}])
    strategy = SimpleNamespace(reduce=lambda value, reduce_op: value)

    def gradient(batches) -> torch.Tensor:
        here = {"current_epoch": 0, "global_rank": 0, "strategy": strategy}
        module._trainer = SimpleNamespace(world_size=len(batches), optimizers=[optimizer], **here)
        loss = sum(module.training_step(batch, 0)["loss"] for batch in batches) / len(batches)
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, module.trainable_parameters())])

    torch.testing.assert_close(gradient(parts), gradient([whole]), rtol=1e-4, atol=1e-7)  # sums in another order


def test_a_batch_that_stands_in_is_not_scored(make_module):
    module, batch = make_module(), replace(random_batch(1, seed=4), share=Share(0, 1))
    module.score_next("noise", DatasetMetrics(["a"], [True]))
    assert module.test_step(batch, 0) is None
    assert module.metrics.image[0].times_seen.item() == 0


BATCHES = [(0.1, 3), (0.7, 3), (2.5, 3), (0.3, 1)]


def added(means: EpochMeans, batches: list[tuple[float, int]]) -> EpochMeans:
    for value, num_images in batches:
        means.add({"loss": torch.tensor(value), "lr": torch.tensor(0.5)}, num_images)
    return means


def test_every_image_counts_once():
    means = added(EpochMeans(), BATCHES).compute()
    torch.testing.assert_close(means["loss"], torch.tensor((0.1 * 3 + 0.7 * 3 + 2.5 * 3 + 0.3) / 10))
    assert (list(means), means["lr"].item()) == (["loss", "lr"], 0.5)


def test_an_epoch_in_two_parts_has_the_mean_of_one_to_the_last_bit():
    first, second = added(EpochMeans(), BATCHES[:2]), EpochMeans()
    second.load_state_dict(first.state_dict())
    assert torch.equal(added(second, BATCHES[2:]).compute()["loss"], added(EpochMeans(), BATCHES).compute()["loss"])


def test_a_process_whose_sums_another_one_took_over_still_adds_up_the_same_names():
    first, other = added(EpochMeans(), BATCHES[:2]), EpochMeans()
    other.load_state_dict(first.state_dict(), counts=False)
    added_up: list[torch.Tensor] = []
    state = other.state_dict(lambda value: added_up.append(value) or value)
    assert (list(state["sums"]), len(added_up), state["num_images"]) == (["loss", "lr"], 3, 0)
    assert all(value == 0 for value in added_up)


def test_a_new_epoch_knows_nothing_of_the_one_before():
    means = added(EpochMeans(), BATCHES)
    means.restart()
    assert means.compute() == {}
    assert added(means, [(4.0, 2)]).compute()["loss"] == 4


def test_what_is_kept_does_not_grow_with_what_follows():
    means = added(EpochMeans(), BATCHES[:1])
    state = means.state_dict()
    added(means, BATCHES[1:])
    assert (state["num_images"], state["sums"]["loss"].item()) == (3, torch.tensor(0.1).mul(3).item())


def test_several_processes_have_the_mean_over_all_their_images():
    here = added(EpochMeans(), [(1.0, 3)])
    there = {"loss": torch.tensor(5.0), "lr": torch.tensor(0.5)}
    totals = iter([here.state_dict()["sums"]["loss"] + there["loss"], torch.tensor(2.0), *[torch.tensor(4.0)] * 2])
    assert here.compute(lambda value: next(totals))["loss"].item() == 2


def test_a_network_that_trains_in_stages_is_told_the_epoch_also_after_a_resume(make_module, fit, batches, tmp_path):
    told: list[int] = []
    for epochs in (2, 3):
        module = make_module()
        module.network.begin_epoch = told.append
        trainer = fit(module, batches, resume=tmp_path / "t.ckpt" if told else None, max_epochs=epochs)
        trainer.save_checkpoint(tmp_path / "t.ckpt")
    assert told == [0, 0, 1, 1, 2, 2]


def test_parts_learn_at_their_own_share_of_the_rate_in_the_order_of_the_parameters(make_module):
    module = make_module(lr=0.01)
    module.network.share_of_rate = lambda name: 0.1 if name.startswith("cmfr") else 1.0
    optimizer = module.configure_optimizers()["optimizer"]
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert held == [id(p) for p in module.trainable_parameters()]
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    expected = {id(p): 0.001 if name.startswith("cmfr") else 0.01 for name, p in module.network.named_parameters()}
    assert rates == pytest.approx({key: expected[key] for key in rates})
    assert {round(rate, 6) for rate in rates.values()} == {0.001, 0.01}


def test_what_a_step_draws_is_the_same_in_a_resumed_training_and_other_for_each_step(
    make_module, fit, batches, tmp_path
):
    def run(epochs: int, resume=None) -> list[float]:
        torch.manual_seed(7)
        module, drawn = make_module(), []
        torch.rand(0 if resume is None else 5)  # a resumed training has drawn other numbers before
        module.network.register_forward_pre_hook(lambda *_: drawn.append(float(torch.rand(()))))
        fit(module, batches, resume, max_epochs=epochs).save_checkpoint(tmp_path / f"{epochs}.ckpt")
        return drawn

    whole, first = run(3), run(2)
    assert len(set(whole)) == 6
    assert first == whole[:4]
    assert run(3, tmp_path / "2.ckpt") == whole[4:]
