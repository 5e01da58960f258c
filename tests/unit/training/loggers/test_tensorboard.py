import numpy as np
import pytest
from PIL import Image

from afr_clip.training.loggers.mirror import Mirror, Picture, Published, RunFacts
from afr_clip.training.loggers.tensorboard import TensorBoard

pytest.importorskip("tensorboard")


@pytest.fixture
def read(tmp_path):
    """Read the event files of the run folder as TensorBoard does."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # noqa: PLC0415

    def events() -> EventAccumulator:
        accumulator = EventAccumulator(str(tmp_path / "tensorboard"))
        return accumulator.Reload()

    return events


def mirror(folder, drop_from_step: int | None = None) -> Mirror:
    facts = RunFacts(folder, "train", {"seed": 3})
    return Mirror(TensorBoard, facts, flush_secs=30, drop_from_step=drop_from_step)


def test_what_is_sent_is_read_back(tmp_path, read):
    Image.fromarray(np.full((4, 6, 3), 7, np.uint8)).save(tmp_path / "highest.png")
    one = mirror(tmp_path)
    one.log_metrics({"train/loss_epoch": 0.5, "epoch": 0}, 3)
    one.log_pictures("figures/visa/highest", [Picture(tmp_path / "highest.png")])
    row = ["visa", "mean", *[0.5] * 6, None, 3, 4]
    one.publish(Published(rows=[row], means={"mean/visa/i_auroc": 0.5}))
    one.close(succeeded=True)
    events = read()
    assert [(e.step, e.value) for e in events.Scalars("train/loss_epoch")] == [(3, 0.5)]
    assert events.Scalars("mean/visa/i_auroc")[0].value == 0.5
    assert events.Scalars("epoch")[0].value == 1
    assert (events.Images("figures/visa/highest")[0].height, events.Images("figures/visa/highest")[0].width) == (4, 6)
    (table,) = events.Tensors("results/text_summary")
    assert b"| visa | mean | 50.0 | 50.0 | 50.0 | 50.0 | 50.0 | 50.0 | - | 3 | 4 |" in table.tensor_proto.string_val[0]
    (config,) = events.Tensors("config/text_summary")
    assert b'"seed": 3' in config.tensor_proto.string_val[0]


def test_a_resumed_training_takes_the_place_of_what_it_repeats(tmp_path, read):
    first = mirror(tmp_path)
    for step in range(4):
        first.log_metrics({"a": float(step)}, step)
    first.close(succeeded=False)
    second = mirror(tmp_path, drop_from_step=2)
    second.log_metrics({"a": 20.0}, 2)
    second.close(succeeded=True)
    assert [(e.step, e.value) for e in read().Scalars("a")] == [(0, 0.0), (1, 1.0), (2, 20.0)]
