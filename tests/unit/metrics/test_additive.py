import torch

from afr_clip.metrics.additive import AdditiveMetric


class Count(AdditiveMetric):
    """A count, as any metric keeps one."""

    def __init__(self) -> None:
        super().__init__()
        self.add_sum("number", ())

    def update(self, number: int) -> None:
        self.number += number

    def compute(self) -> torch.Tensor:
        return self.number


def test_states_are_added_up_over_processes_and_stay_those_of_each(monkeypatch):
    reduced = []

    def all_reduce(state, group):
        reduced.append(int(state))
        state += 40  # of the other processes

    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    metric = Count()
    metric.distributed_available_fn = lambda: True
    metric.update(2)
    assert (metric.compute().item(), metric.number.item(), reduced) == (42, 2, [2])
