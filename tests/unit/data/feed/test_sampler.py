import pytest
from hypothesis import given
from hypothesis import strategies as st

from afr_clip.data.feed.sampler import EpochSampler, TargetBatches, TrainingBatches, draw_seed, part_of

NUM_PROCESSES, BATCH_SIZES, NUM_IMAGES = st.integers(1, 9), st.integers(1, 9), st.integers(1, 40)


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


@given(num_images=NUM_IMAGES, num_processes=NUM_PROCESSES)
def test_the_parts_of_a_batch_are_the_batch_and_differ_by_one_at_most(num_images, num_processes):
    parts = [part_of(num_images, process, num_processes) for process in range(num_processes)]
    assert [place for part in parts for place in part] == list(range(num_images))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@given(num_images=NUM_IMAGES, batch_size=BATCH_SIZES, num_processes=NUM_PROCESSES)
def test_all_processes_make_the_steps_of_one(num_images, batch_size, num_processes):
    order = EpochSampler(num_images, seed=3)
    alone = list(TrainingBatches(order, batch_size))
    shared = [list(TrainingBatches(order, batch_size, process, num_processes)) for process in range(num_processes)]
    assert {len(batches) for batches in shared} == {len(TrainingBatches(order, batch_size))} == {len(alone)}
    for whole, *parts in zip(alone, *shared, strict=True):
        assert {draw.share.whole for part in parts for draw in part} == {len(whole)}
        own = [draw[:2] for part in parts for draw in part if draw.share.own]
        assert own == [draw[:2] for draw in whole]
        assert all(len(part) == max(1, part[0].share.own) for part in parts)


def test_the_batches_of_an_epoch_follow_its_order():
    order = EpochSampler(7, seed=3)
    batches = TrainingBatches(order, 3, process=1, num_processes=2)
    batches.sampler.set_epoch(2)
    drawn = epoch(EpochSampler(7, seed=3), 2)
    assert [[draw[:2] for draw in batch] for batch in batches] == [[drawn[2]], [drawn[5]], [drawn[6]]]
    assert [batch[0].share.own for batch in batches] == [1, 1, 0]


@given(num_images=NUM_IMAGES, batch_size=BATCH_SIZES, num_processes=NUM_PROCESSES)
def test_every_image_of_a_target_is_dealt_once_in_the_batches_of_one_process(num_images, batch_size, num_processes):
    shared = [TargetBatches(num_images, batch_size, process, num_processes) for process in range(num_processes)]
    assert all(len(list(batches)) == len(batches) > 0 for batches in shared)
    counted = [[draw.position for draw in batch] for batches in shared for batch in batches if batch[0].share.own]
    assert sorted(counted) == [
        list(range(start, min(start + batch_size, num_images))) for start in range(0, num_images, batch_size)
    ]


def test_an_epoch_that_was_stopped_goes_on_where_it_was_and_the_others_are_whole():
    usual, resumed = EpochSampler(20, seed=3), EpochSampler(20, seed=3)
    resumed.skip(1, 6)
    assert [epoch(resumed, number) for number in range(3)] == [epoch(usual, 0), epoch(usual, 1)[6:], epoch(usual, 2)]
    assert len(resumed) == 20  # Lightning counts what was seen before
