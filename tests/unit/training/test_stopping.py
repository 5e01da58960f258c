import os
import signal
import threading
import time

import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from afr_clip.processes import stopping
from afr_clip.processes.signals import STOP_SIGNALS, Stopped
from afr_clip.processes.stopping import StopWhenAsked
from afr_clip.training.checkpoint import RESUME, CheckpointWriter
from helpers.tiny import random_batch


@pytest.fixture
def four_batches() -> list:
    return [random_batch(2, seed=seed) for seed in range(4)]


@pytest.fixture
def asked(make_module, fit, four_batches, tmp_path):
    """Train four batches an epoch for two epochs, stopped in one of them; returns why it ended."""

    def train(epoch: int, batch: int, **changes) -> Stopped:
        module, writer = make_module(), CheckpointWriter(tmp_path, {})
        step = module.training_step

        def asking(records, batch_idx):
            if (module.current_epoch, batch_idx) == (epoch, batch):
                os.kill(os.getpid(), signal.SIGUSR1)
            return step(records, batch_idx)

        module.training_step = asking
        with pytest.raises(Stopped) as stopped:
            fit(module, four_batches, max_epochs=2, callbacks=[writer, StopWhenAsked(writer.save_progress)], **changes)
        return stopped.value

    return train


@pytest.mark.parametrize(
    ("moment", "accumulate", "saved", "batches"),
    [
        ((0, 0), 1, "Everything up to step 1, in epoch 1, is saved.", 1),
        ((0, 0), 2, "Everything up to step 1, in epoch 1, is saved.", 2),
        ((0, 2), 2, "Everything up to the end of epoch 1 is saved.", 4),
        ((1, 1), 1, "Everything up to step 6, in epoch 2, is saved.", 2),
        ((1, 3), 1, "The training is finished and saved.", 4),
    ],
)
def test_it_stops_between_two_steps_and_says_which(asked, tmp_path, moment, accumulate, saved, batches):
    stopped = asked(*moment, accumulate_grad_batches=accumulate)
    assert str(stopped).startswith(f"Stopped by SIGUSR1. {saved}")
    loops = torch.load(tmp_path / RESUME, weights_only=True)["loops"]["fit_loop"]
    assert set(loops["epoch_loop.batch_progress"]["current"].values()) == {batches}


def test_listeners_before_it_get_their_signals_back(asked):
    before = [signal.getsignal(signum) for signum in STOP_SIGNALS]
    asked(0, 1)
    assert [signal.getsignal(signum) for signum in STOP_SIGNALS] == before


def test_a_run_that_nobody_asks_is_not_touched(make_module, fit, four_batches):
    quiet, watched = make_module(), make_module()
    fit(quiet, four_batches)
    fit(watched, four_batches, callbacks=[StopWhenAsked()])
    own = watched.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in quiet.state_dict().items())


class Elsewhere(pl.Callback):
    """Another process of the same training, which is asked before the third time they agree."""

    def __init__(self) -> None:
        self.seen: list[tuple[bool, bool]] = []

    def on_train_start(self, trainer, pl_module):
        def any_of_them(decision, *, all):
            self.seen.append((decision, all))
            return len(self.seen) == 3

        trainer.strategy.reduce_boolean_decision = any_of_them


def test_a_process_stops_with_the_others_when_one_of_them_is_asked(make_module, fit, four_batches, tmp_path):
    elsewhere = Elsewhere()
    with pytest.raises(Stopped, match="step 2, in epoch 1"):
        fit(
            make_module(),
            four_batches,
            callbacks=[StopWhenAsked(CheckpointWriter(tmp_path, {}).save_progress), elsewhere],
        )
    assert elsewhere.seen == [(False, False)] * 4  # the last time, whether one of them diverged
    assert (tmp_path / RESUME).exists()


@pytest.fixture
def given_back():
    before = {signum: signal.getsignal(signum) for signum in STOP_SIGNALS}
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


@pytest.mark.usefixtures("given_back")
def test_scoring_stops_after_a_batch(make_trainer, make_module):
    stop, trainer = StopWhenAsked(), make_trainer()
    stop.on_test_start(trainer, make_module())
    os.kill(os.getpid(), signal.SIGUSR1)
    os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(Stopped, match=r"by SIGUSR1.*What was scored before is saved"):
        stop.on_test_batch_end(trainer)


@pytest.mark.usefixtures("given_back")
def test_who_is_asked_while_metrics_are_computed_stops_before_the_next_target(make_trainer, make_module):
    stop, trainer, module = StopWhenAsked(), make_trainer(), make_module()
    stop.on_test_start(trainer, module)
    stop.on_test_batch_end(trainer)  # the last one
    os.kill(os.getpid(), signal.SIGUSR1)
    with pytest.raises(Stopped, match="What was scored before is saved"):
        stop.on_test_start(trainer, module)


@pytest.mark.usefixtures("given_back")
def test_a_scoring_whose_batch_never_ends_is_stopped_all_the_same(make_trainer, make_module, monkeypatch):
    monkeypatch.setattr(stopping, "PATIENCE", 0.05)
    stop, trainer = StopWhenAsked(), make_trainer()
    stop.on_test_start(trainer, make_module())
    os.kill(os.getpid(), signal.SIGHUP)
    with pytest.raises(Stopped, match=r"by SIGHUP\. What was scored before"):
        time.sleep(10)
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


class Stuck(Dataset):
    """The third image never arrives."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int):
        if index == 2:
            time.sleep(600)
        return index


@pytest.mark.usefixtures("given_back")
def test_a_training_that_waits_for_an_image_is_saved_and_stopped(
    make_module, make_trainer, four_batches, tmp_path, monkeypatch
):
    monkeypatch.setattr(stopping, "PATIENCE", 0.05)
    loader = DataLoader(Stuck(), batch_size=None, num_workers=1, collate_fn=lambda index: four_batches[index])
    threading.Timer(2.0, os.kill, (os.getpid(), signal.SIGTERM)).start()
    callbacks = [StopWhenAsked(CheckpointWriter(tmp_path, {}).save_progress)]
    with pytest.raises(Stopped, match="by SIGTERM"):
        make_trainer(callbacks=callbacks).fit(make_module(), loader)
    assert torch.load(tmp_path / RESUME, weights_only=True)["global_step"] == 2


def test_outside_the_main_thread_nobody_listens(make_trainer, make_module):
    before = [signal.getsignal(signum) for signum in STOP_SIGNALS]
    thread = threading.Thread(target=StopWhenAsked().on_test_start, args=(make_trainer(), make_module()))
    thread.start()
    thread.join()
    assert [signal.getsignal(signum) for signum in STOP_SIGNALS] == before
