"""What a sweep varies, in Hydra's own terms: the axes of an experiment file, and the overrides typed next to them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from hydra import compose
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, Quote, QuotedString, ValueType
from omegaconf import DictConfig, OmegaConf

from afr_clip.config.validate import ConfigError
from afr_clip.sweep.job import Interval


@dataclass(frozen=True)
class Axes:
    """What an experiment varies.

    Attributes:
        choices: The values of each key, as they would be typed.
        space: The interval of each key that a search varies.
    """

    choices: Mapping[str, tuple[str, ...]]
    space: Mapping[str, Interval]

    @property
    def keys(self) -> set[str]:
        """What is varied."""
        return {*self.choices, *self.space}

    def settings(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Name every combination of choices, with its overrides.

        Yields:
            The name: where only files of ``ablation`` or ``module`` are varied, the file itself, or ``a+b`` for the
            list ``[a,b]``; otherwise ``key=value,...``.
        """
        for values in product(*self.choices.values()):
            overrides = tuple(f"{key}={value}" for key, value in zip(self.choices, values, strict=True))
            is_file = self.choices.keys() in ({"ablation"}, {"module"})
            yield "+".join(files_of(values[0])) if is_file else ",".join(overrides), overrides

    def as_plain(self) -> dict[str, Any]:
        """Return plain values for a record."""
        return {key: list(values) for key, values in self.choices.items()} | self.plain_space()

    def plain_space(self) -> dict[str, Any]:
        """Return the intervals as plain values."""
        return {key: {"low": i.low, "high": i.high, "log": i.log} for key, i in self.space.items()}


def read_axes(params: Mapping[str, Any] | None) -> Axes:
    """Read the axes of an experiment.

    Args:
        params: ``hydra.sweeper.params``: by key a list of values (``a,b,c``), an ``interval(low, high)``, or one with
            ``tag(log, ...)`` around it.

    Returns:
        The axes, empty if there are no params.

    Raises:
        ConfigError: If a value is neither.
    """
    choices: dict[str, tuple[str, ...]] = {}
    space: dict[str, Interval] = {}
    for override in OverridesParser.create().parse_overrides([f"{key}={v}" for key, v in (params or {}).items()]):
        key, value = override.get_key_element(), override.value()
        if isinstance(value, IntervalSweep):
            space[key] = _interval(key, value)
        elif override.value_type is ValueType.GLOB_CHOICE_SWEEP:
            msg = f"hydra.sweeper.params must be lists or intervals, got {override.input_line}. Write {key}: a,b,c."
            raise ConfigError(msg)
        else:
            choices[key] = tuple(_values(override))
    return Axes(choices, space)


def _values(override: Override) -> Iterator[str]:
    if override.is_sweep_override():
        yield from override.sweep_string_iterator()
    else:
        yield override.get_value_element_as_str()


def _interval(key: str, interval: IntervalSweep) -> Interval:
    low, high, log = interval.start, interval.end, "log" in interval.tags
    if low is None or high is None or not low < high or (log and low <= 0):
        least = "a positive lower end" if log else "a lower end"
        msg = f"The interval of {key} needs {least} below its upper end, got {low} to {high}. Change the experiment."
        raise ConfigError(msg)
    return Interval(float(low), float(high), log)


def typed_values(overrides: Sequence[str]) -> list[tuple[str, Any]]:
    """Return the keys that were typed, each with its value."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    return [(override.key_or_group, None if override.is_delete() else override.value()) for override in parsed]


def files_of(choice: str) -> list[str]:
    """Name the files that a choice of a config group stands for.

    Example:
        >>> files_of("no_sp"), files_of("[no_sp,no_cmfr]")
        (['no_sp'], ['no_sp', 'no_cmfr'])
    """
    return [name.strip() for name in choice.removeprefix("[").removesuffix("]").split(",")]


def keys_of_file(group: str, name: str) -> set[str]:
    """Name the keys that a file of a group over the whole config sets, as dotted paths.

    Args:
        group: For example ``ablation``.
    """
    return set(_leaves(compose(f"{group}/{name}")))


def _leaves(node: DictConfig, path: str = "") -> Iterator[str]:
    for key in map(str, node):
        child, name = node[key], f"{path}.{key}" if path else key
        if OmegaConf.is_dict(child) and child:
            yield from _leaves(child, name)
        else:
            yield name


def quoted(value: object) -> str:
    """Write a value so that Hydra reads back exactly it, as text."""
    return QuotedString(str(value), Quote.single).with_quotes()
