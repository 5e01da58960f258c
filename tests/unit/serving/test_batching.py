import asyncio
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from afr_clip.inspection.detector import Decoded
from afr_clip.serving.batching import Batcher
from helpers.detectors import bright_model


def photograph(value: int) -> Decoded:
    return Decoded(f"{value}.png", np.full((3, 8, 8), value, np.uint8))


def scored(values, *, expected: int, wait: float, categories=("cap",), batch_size: int = 4):
    """Ask for all at once; returns the scores or errors, and the batches."""
    model = bright_model(batch_size=batch_size)

    async def ask():
        with ThreadPoolExecutor(1) as thread:
            batcher = Batcher(model, thread, wait, lambda: expected)
            task = asyncio.create_task(batcher.run())
            asked = [
                batcher.inspect(photograph(value), categories[i % len(categories)]) for i, value in enumerate(values)
            ]
            found = await asyncio.gather(*asked, return_exceptions=True)
            task.cancel()
            return found

    found = asyncio.run(asyncio.wait_for(ask(), 20))
    scores = [str(one) if isinstance(one, Exception) else round(one.image_score * 255) for one in found]
    return scores, model.detector.scanner.batches


def test_each_gets_its_own_score_and_batches_are_full():
    scores, batches = scored(range(1, 11), expected=10, wait=0.0)
    assert scores == list(range(1, 11))
    assert batches == [("cap", 4), ("cap", 4), ("cap", 2)]


def test_a_batch_holds_one_category_and_the_longest_waiting_comes_first():
    scores, batches = scored(range(1, 7), expected=6, wait=0.0, categories=("cap", "nut"))
    assert scores == list(range(1, 7))
    assert batches == [("cap", 3), ("nut", 3)]


def test_a_photograph_that_cannot_be_scored_spoils_no_other():
    scores, batches = scored([9, 0, 7], expected=3, wait=0.0)
    assert scores == [9, "0.png is black.", 7]
    assert batches == [("cap", 3), ("cap", 1), ("cap", 1), ("cap", 1)]


def test_one_that_is_alone_does_not_wait_and_one_that_is_not_waits_no_longer_than_it_must():
    started = asyncio.run(elapsed(expected=1, wait=10.0))
    assert started < 5  # it would be 10
    assert 0.2 <= asyncio.run(elapsed(expected=2, wait=0.2)) < 5


async def elapsed(*, expected: int, wait: float) -> float:
    with ThreadPoolExecutor(1) as thread:
        batcher = Batcher(bright_model(), thread, wait, lambda: expected)
        task = asyncio.create_task(batcher.run())
        started = asyncio.get_running_loop().time()
        await asyncio.wait_for(batcher.inspect(photograph(1), "cap"), 20)
        task.cancel()
        return asyncio.get_running_loop().time() - started


def test_those_who_were_answered_together_are_waited_for_once():
    model, in_hand = bright_model(), [2]

    async def ask():
        loop, waited = asyncio.get_running_loop(), []
        with ThreadPoolExecutor(1) as thread:
            batcher = Batcher(model, thread, 0.2, lambda: in_hand[0])
            task = asyncio.create_task(batcher.run())
            await asyncio.gather(*(batcher.inspect(photograph(value), "cap") for value in (1, 2)))
            in_hand[0] = 1
            for _ in range(2):
                started = loop.time()
                await asyncio.wait_for(batcher.inspect(photograph(3), "cap"), 20)
                waited.append(loop.time() - started >= 0.2)
            task.cancel()
        return waited

    assert asyncio.run(ask()) == [True, False]
    assert model.detector.scanner.batches == [("cap", 2), ("cap", 1), ("cap", 1)]


def test_who_has_gone_is_not_scored():
    model = bright_model()

    async def ask():
        with ThreadPoolExecutor(1) as thread:
            batcher = Batcher(model, thread, 0.0, lambda: 9)
            gone = asyncio.ensure_future(batcher.inspect(photograph(1), "cap"))
            stays = asyncio.ensure_future(batcher.inspect(photograph(2), "cap"))
            await asyncio.sleep(0)
            gone.cancel()
            await asyncio.sleep(0)
            task = asyncio.create_task(batcher.run())
            found = await asyncio.wait_for(stays, 20)
            task.cancel()
            return found.image_score

    assert asyncio.run(ask()) == pytest.approx(2 / 255)
    assert model.detector.scanner.batches == [("cap", 1)]
