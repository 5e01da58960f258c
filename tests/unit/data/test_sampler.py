import pytest

from afr_clip.data.sampler import EpochSampler, draw_seed


def epoch(sampler: EpochSampler, number: int) -> list[tuple[int, int]]:
    sampler.set_epoch(number)
    return list(sampler)


def test_each_epoch_is_a_permutation_of_its_own():
    sampler = EpochSampler(50, seed=3)
    orders = [tuple(index for index, _ in epoch(sampler, number)) for number in range(4)]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len(set(orders)) == 4
    assert len(sampler) == 50


def test_a_fresh_sampler_continues_where_another_stopped():
    first = EpochSampler(20, seed=3)
    history = [epoch(first, number) for number in range(3)]
    assert epoch(EpochSampler(20, seed=3), 2) == history[2]
    assert epoch(first, 1) == history[1]


@pytest.mark.parametrize("change", [{"seed": 4}, {"epoch": 1}, {"index": 1}])
def test_every_part_of_a_draw_changes_its_seed(change):
    base = {"seed": 3, "epoch": 0, "index": 0}
    assert draw_seed(**base) == draw_seed(**base)
    assert draw_seed(**base) != draw_seed(**base | change)


def test_an_image_keeps_its_draw_wherever_it_stands_in_the_epoch():
    assert dict(epoch(EpochSampler(20, seed=3), 5)) == {index: draw_seed(3, 5, index) for index in range(20)}


def test_an_epoch_that_was_stopped_goes_on_where_it_was_and_the_others_are_whole():
    usual, resumed = EpochSampler(20, seed=3), EpochSampler(20, seed=3)
    resumed.skip(1, 6)
    assert [epoch(resumed, number) for number in range(3)] == [epoch(usual, 0), epoch(usual, 1)[6:], epoch(usual, 2)]
    assert len(resumed) == 20  # Lightning counts what was seen before
