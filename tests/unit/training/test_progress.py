from types import SimpleNamespace

from afr_clip.training.progress import EpochBar


def test_epochs_are_counted_from_one_up_to_how_many_there_are():
    bar = EpochBar()
    bar._trainer = SimpleNamespace(max_epochs=3)
    assert [bar._get_train_description(epoch) for epoch in range(3)] == ["Epoch 1 of 3", "Epoch 2 of 3", "Epoch 3 of 3"]
