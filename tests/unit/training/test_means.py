import torch

from afr_clip.training.means import EpochMeans

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
