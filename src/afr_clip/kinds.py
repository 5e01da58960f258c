"""Whether values that were read from a file have the structure that a dataclass describes."""

import json
import types
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

_WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false", list: "a list", tuple: "a list"}


def faults_of(value: object, kind: Any, place: str = "") -> Iterator[str]:  # noqa: ANN401 - a type with its arguments
    """Name every place where a value does not have the structure of a kind.

    Keys that a dataclass does not name may hold anything; those with a default may be missing.

    Args:
        kind: A dataclass, a plain class, a ``Literal``, an ``Enum`` by its values, a list, ``tuple[X, ...]`` or
            dictionary of these, or one of these or ``None``.
        place: Where the value stands in its file.

    Example:
        >>> list(faults_of({"a": [1, "b"]}, dict[str, list[int]]))
        ['a[1] must be a whole number, got "b"']
    """
    if get_origin(kind) in (Union, types.UnionType):
        if value is None:
            return
        (kind,) = (other for other in get_args(kind) if other is not type(None))
    if kind is Any:
        return
    origin, arguments = get_origin(kind), get_args(kind)
    inside: list[tuple[object, Any, str]] = []
    if isinstance(value, list) and origin in (list, tuple):
        inside = [(item, arguments[0], f"{place}[{number}]") for number, item in enumerate(value)]
    elif isinstance(value, dict) and origin is dict:
        inside = [(key, arguments[0], f"a name in {place or 'the content'}") for key in value]
        inside += [(item, arguments[1], f"{place}.{name}".lstrip(".")) for name, item in value.items()]
    elif isinstance(value, dict) and is_dataclass(kind):
        hints = get_type_hints(kind)
        inside = [(value[name], hints[name], f"{place}.{name}".lstrip(".")) for name in hints if name in value]
        missing = [one.name for one in fields(kind) if one.default is MISSING and one.name not in value]
        yield from (f"{place}.{name} is missing".lstrip(".") for name in missing)
    elif not _is_plain(value, kind):
        yield f"{place or 'the content'} must be {_word(kind)}, got {_short(value)}"
    for item, item_kind, item_place in inside:
        yield from faults_of(item, item_kind, item_place)


def _is_plain(value: object, kind: Any) -> bool:  # noqa: ANN401
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return value in [one.value for one in kind]
    return type(value) is kind or (kind is float and type(value) is int)


def _word(kind: Any) -> str:  # noqa: ANN401
    if get_origin(kind) is Literal:
        return str(get_args(kind)[0])
    if isinstance(kind, type) and issubclass(kind, Enum):
        return " or ".join(str(one.value) for one in kind)
    kind = get_origin(kind) or kind
    is_object = kind is dict or is_dataclass(kind)
    return _WORDS.get(kind, "an object" if is_object else f"a {kind.__name__.lower()}")


def _short(value: object) -> str:
    try:
        text = json.dumps(value)  # escapes what a terminal cannot show
    except TypeError:
        return _word(type(value))
    return text if len(text) <= 60 else f"{text[:57]}..."
