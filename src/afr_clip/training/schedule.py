"""The optimiser, and the learning rate over the epochs; schedules are stepped once an epoch."""

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import groupby
from typing import Any

from torch import nn
from torch.optim import Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from afr_clip.models.interface import PacedNetwork
from afr_clip.settings import CosineScheduleSettings, OptimizerSettings, ScheduleSettings, StepScheduleSettings


def optimizer_factory(settings: OptimizerSettings) -> Callable[[Iterable[nn.Parameter]], Optimizer]:
    """Return a function that makes the optimiser of given parameters."""
    kind = {"adam": Adam, "adamw": AdamW}[settings.name]
    first, second = settings.betas
    return partial(kind, lr=settings.lr, betas=(first, second), weight_decay=settings.weight_decay)


def optimizer_of(network: Any, make: Callable[[Iterable[Any]], Optimizer]) -> Optimizer:
    """Make the optimiser of what a network trains, each part at its own share of the learning rate if it has one."""
    names = network.trainable_parameter_names()
    trained = [(name, parameter) for name, parameter in network.named_parameters() if name in names]
    share_of = network.share_of_rate if isinstance(network, PacedNetwork) else lambda _: 1.0
    # Groups of neighbours keep the order, by which checkpoints find the moments of a parameter.
    groups = [(share, list(part)) for share, part in groupby(trained, key=lambda one: share_of(one[0]))]
    optimizer = make([{"params": [parameter for _, parameter in part]} for _, part in groups])
    for group, (share, _) in zip(optimizer.param_groups, groups, strict=True):
        group["lr"] *= share
    return optimizer


def schedule_factory(settings: ScheduleSettings) -> Callable[[Optimizer], LambdaLR]:
    """Return a function that makes the schedule of an optimiser's learning rate."""
    if isinstance(settings, CosineScheduleSettings):
        return partial(cosine, num_epochs=settings.num_epochs)
    if isinstance(settings, StepScheduleSettings):
        return partial(steps, starts=settings.starts, shares=settings.shares)
    return {"constant": constant, "inverse_epoch": inverse_epoch}[settings.name]


def inverse_epoch(optimizer: Optimizer) -> LambdaLR:
    r"""Divide the learning rate by the number of epochs begun.

    .. math:: \mathrm{lr}(e) = \frac{\mathrm{lr}_0}{e + 1}, \quad e = 0, 1, \dots \qquad \text{AFR-CLIP, Experiments}

    The paper's ``lr_0`` is 0.001.
    """
    return LambdaLR(optimizer, lambda epoch: 1.0 / (epoch + 1))


def constant(optimizer: Optimizer) -> LambdaLR:
    """Keep the learning rate."""
    return LambdaLR(optimizer, lambda _: 1.0)


def cosine(optimizer: Optimizer, num_epochs: int) -> LambdaLR:
    r"""Lower the learning rate along half a cosine, slowly at first and at the end.

    .. math:: \mathrm{lr}(e) = \mathrm{lr}_0 \, \frac{1 + \cos(\pi e / E)}{2}, \quad e = 0, \dots, E - 1
    """
    return LambdaLR(optimizer, lambda epoch: (1.0 + math.cos(math.pi * min(1.0, epoch / num_epochs))) / 2)


def steps(optimizer: Optimizer, starts: Sequence[int], shares: Sequence[float]) -> LambdaLR:
    """Keep the rate constant in pieces: from epoch ``starts[i]`` on, it is ``shares[i]`` times the learning rate."""
    return LambdaLR(optimizer, lambda epoch: shares[bisect_right(starts, epoch) - 1])
