"""Import torchvision and timm without wandb and `torch._dynamo`, which take them 2 seconds and are not used here."""

import functools
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any

StandIns = Mapping[str, Mapping[str, Callable[..., Any]]]
"""Functions by name, by the module that holds the real ones."""


def import_towers() -> None:
    """Import torch, torchvision and timm without `UNUSED`; once they are imported, this does nothing."""
    import torch  # noqa: F401, PLC0415 - first, because it must not get a stand-in

    for package, stand_ins in UNUSED.items():
        try:
            with postponed(stand_ins):
                import_module(package)
        except (ImportError, AttributeError, ValueError):  # a version that uses more of them while it is imported
            import_module(package)


@contextmanager
def postponed(stand_ins: StandIns) -> Iterator[None]:
    """Put stand-ins in the place of modules while a block imports others.

    A real module is imported when one of its functions is first used, and later imports get the real one. If one of
    them is imported already, nothing is postponed. Another thread that imports such a module meanwhile gets the
    stand-in.
    """
    modules = {} if stand_ins.keys() & sys.modules.keys() else {name: _StandIn(name) for name in stand_ins}
    for name, module in modules.items():
        vars(module).update(stand_ins[name])
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in modules:
            sys.modules.pop(name, None)


class _StandIn(ModuleType):
    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - anything that the module holds
        if name.startswith("__") or sys.modules.get(self.__name__) is self:
            msg = f"{self.__name__} is not imported yet, so {name} cannot be looked up."
            raise AttributeError(msg)
        return getattr(import_module(self.__name__), name)


def _is_compile_supported(device: Any) -> bool:  # noqa: ANN401 - as PyTorch declares it
    from torch._dynamo.utils import is_compile_supported  # noqa: PLC0415

    return bool(is_compile_supported(device))


def _disable(function: Callable[..., Any], recursive: bool = True, *, reason: str | None = None) -> Callable[..., Any]:
    """Keep a function from being compiled, from its first call on."""

    @functools.wraps(function)
    def disabled(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        import torch  # noqa: PLC0415

        # In each call again: the compiler cannot look into a cache.
        return torch.compiler.disable(function, recursive, reason=reason)(*args, **kwargs)

    return disabled


UNUSED: Mapping[str, StandIns] = {
    # `roi_align` asks whether it can be compiled, where its own kernel is missing.
    "torchvision": {"torch._dynamo": {}, "torch._dynamo.utils": {"is_compile_supported": _is_compile_supported}},
    "torchvision.tv_tensors": {"torch._dynamo": {"disable": _disable}},
    # The scripts can log to wandb, and five methods of NaFlexViT are not to be compiled.
    "timm": {"wandb": {}, "torch._dynamo": {"disable": _disable}},
}
"""What packages import, and what they do with it while they are imported."""
