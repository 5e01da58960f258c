"""Strategies that damage bytes and JSON trees."""

import copy
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

HOSTILE_TEXTS = (
    "", " ", "..", "../../escaped", "/etc/passwd", "<svg onload=alert(1)>", "\"'><script>alert(1)</script>",
    "}\\input{secret}{", "=cmd|' /C calc'!A0", "@SUM(1)", "a|b", "`x`", "$x_1$", "[red]x[/red]", "line\nbreak",
    "\x00", "\x1b[31m", "\ud800", "ü" * 300, "nan", "1e999", "{{ 7 * 7 }}", "%s%n", "\u202egnp.exe", "con", "a" * 5000,
)  # fmt: skip

_ODD_VALUES = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 10**400, -0.0, 1e308, float("nan"), float("inf"), [], {}, [[]],
    {"": None}, [1, 2, 3], {"a": {"b": []}},
)  # fmt: skip

odd_values = st.one_of(
    st.sampled_from(_ODD_VALUES), st.sampled_from(HOSTILE_TEXTS), st.text(max_size=20), st.integers(), st.floats()
).map(copy.deepcopy)


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Bytes after one to four flips, cuts, insertions, repetitions or overwritten stretches."""
    for _ in range(draw(st.integers(1, 4))):
        if not content:
            break
        at = draw(st.integers(0, len(content) - 1))
        to = min(len(content), at + draw(st.integers(1, 64)))
        kind = draw(st.sampled_from(("flip", "flip", "cut", "insert", "drop", "repeat", "overwrite", "zero")))
        if kind == "flip":
            content = content[:at] + bytes([content[at] ^ (1 << draw(st.integers(0, 7)))]) + content[at + 1 :]
        elif kind == "cut":
            content = content[:at]
        elif kind == "insert":
            content = content[:at] + draw(st.binary(min_size=1, max_size=16)) + content[at:]
        elif kind == "drop":
            content = content[:at] + content[to:]
        elif kind == "repeat":
            content = content[:to] + content[at:to] * draw(st.integers(1, 50)) + content[to:]
        elif kind == "overwrite":
            content = content[:at] + draw(st.binary(min_size=to - at, max_size=to - at)) + content[to:]
        else:
            content = content[:at] + bytes(to - at) + content[to:]
    return content


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """Every ``(container, key)`` of a tree of dicts and lists."""
    pairs = list(tree.items()) if isinstance(tree, dict) else list(enumerate(tree)) if isinstance(tree, list) else []
    return [(tree, key) for key, _ in pairs] + [place for _, value in pairs for place in _places(value)]


@st.composite
def damaged_tree(draw: st.DrawFn, tree: Any, value: Callable[[], st.SearchStrategy[Any]] = lambda: odd_values) -> Any:
    """A copy of a tree in which one to three values are replaced, removed, renamed or doubled."""
    tree = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, 3))):
        places = _places(tree)
        if not places:
            break
        container, key = places[draw(st.integers(0, len(places) - 1))]
        kind = draw(st.sampled_from(("replace", "replace", "replace", "remove", "rename", "double", "wrap", "text")))
        if kind == "replace":
            container[key] = draw(value())
        elif kind == "remove":
            del container[key]
        elif kind == "text":
            container[key] = str(container[key])
        elif kind == "wrap":
            container[key] = [container[key]]
        elif isinstance(container, list):
            container.insert(key, copy.deepcopy(container[key]))
        elif kind == "rename":
            container[draw(st.sampled_from(HOSTILE_TEXTS))] = container.pop(key)
        else:
            container[f"{key}2"] = copy.deepcopy(container[key])
    return tree
