"""Trained weights on the Hugging Face Hub: from its cache, from the hub itself, and to it."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from huggingface_hub import CommitOperationAdd, HfApi, constants, snapshot_download

from afr_clip.clip.settings import ON_HUB
from afr_clip.clip.weights import hub_answers
from afr_clip.files import shown

_PLACE = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})(?:@(?P<revision>[\w./-]+))?", re.A)


class HubError(ValueError):
    """The hub cannot be asked, or refuses."""


def parse_place(place: str) -> tuple[str, str | None]:
    """Split a place on the hub into ``OWNER/NAME`` and revision.

    Raises:
        HubError: If it is not ``OWNER/NAME``.

    Example:
        >>> parse_place("hf:anna/nuts@v1"), parse_place("anna/nuts")
        (('anna/nuts', 'v1'), ('anna/nuts', None))
    """
    found = _PLACE.fullmatch(place.removeprefix(ON_HUB))
    if found is None or ".." in place or "--" in found["name"]:
        msg = f"A model on the hub is called OWNER/NAME, got {shown(place)}. Write hf:OWNER/NAME or hf:OWNER/NAME@v1."
        raise HubError(msg)
    return found["name"], found["revision"]


def download(place: str, files: Sequence[str], *, refresh: bool = False) -> Path:
    """Return a folder with files of a model on the hub, all of one commit.

    Args:
        place: ``OWNER/NAME``, with ``hf:`` before it or ``@REVISION`` after it if you like.
        files: What it must hold; nothing else is downloaded.
        refresh: Whether to ask the hub although its cache has the model. Without, the network is used only if not.

    Raises:
        HubError: If the place is not ``OWNER/NAME``, or the hub refuses.
        FileNotFoundError: If neither the cache nor the hub has the model.
    """
    name, revision = parse_place(place)
    if not refresh or constants.HF_HUB_OFFLINE:
        try:
            return _downloaded(name, revision, files, from_cache=True)
        except OSError:
            pass
    if constants.HF_HUB_OFFLINE:
        msg = f"{name} is not in the cache of the hub, and HF_HUB_OFFLINE is set. Unset it, or pass a folder."
        raise FileNotFoundError(msg)
    _require_answer(name)
    try:
        return _downloaded(name, revision, files, from_cache=False)
    except Exception as error:  # what the library and its network raise is of any kind
        _refuse(error, place)


def upload(folder: Path, files: Sequence[str], name: str, *, is_private: bool) -> str:
    """Write files of a folder into a model on the hub, in one commit; other files there stay.

    Args:
        name: ``OWNER/NAME``; the model is made if there is none.
        is_private: Of a model that is made.

    Returns:
        Its address.

    Raises:
        HubError: If the hub cannot be reached or refuses.
    """
    if constants.HF_HUB_OFFLINE:
        msg = "HF_HUB_OFFLINE is set, so nothing can be uploaded. Unset it, or write --folder DIR."
        raise HubError(msg)
    _require_answer(name)
    hub = HfApi()
    operations = [CommitOperationAdd(path_in_repo=file, path_or_fileobj=folder / file) for file in files]
    try:
        address = hub.create_repo(name, private=True if is_private else None, exist_ok=True)
        hub.create_commit(name, operations, commit_message="Write the model")
    except Exception as error:  # as in `download`
        _refuse(error, name)
    return str(address)


def _downloaded(name: str, revision: str | None, files: Sequence[str], *, from_cache: bool) -> Path:
    folder = Path(snapshot_download(name, revision=revision, allow_patterns=list(files), local_files_only=from_cache))
    if missing := [file for file in files if not (folder / file).is_file()]:
        msg = f"{name} on the hub holds no {missing[0]}, so afr-clip hub push did not write it. Choose another model."
        raise FileNotFoundError(msg)
    return folder


def _require_answer(name: str) -> None:
    if not hub_answers():
        msg = (
            f"The hub at {constants.ENDPOINT} does not answer, and {name} needs it. Check the network and HF_ENDPOINT."
        )
        raise HubError(msg)


_BY_STATUS = {
    401: "it does not exist, or it is private and you are not logged in",
    403: "your token may not do this",
    404: "there is none of this name or revision",
}


def _refuse(error: Exception, place: str) -> NoReturn:
    """Raise a sentence for what the library raised."""
    first = error  # what an upload failed from lies below errors that do not tell
    while first.__cause__ is not None and _status(first) is None and isinstance(first.__cause__, Exception):
        first = first.__cause__
    status = _status(first)
    if status is None and type(error) is FileNotFoundError:  # a sentence of `_downloaded`
        raise error
    fault = _BY_STATUS.get(status or 0) or " ".join(str(first).split())[:200].rstrip(".") or type(first).__name__
    advice = "Check the name and try again."
    if status in (401, 403):
        advice = "Log in with `hf auth login`, or set HF_TOKEN to a token that may do it."
    msg = f"{shown(place)} on the hub cannot be used: {fault}. {advice}"
    raise (FileNotFoundError if status == 404 else HubError)(msg) from error


def _status(error: BaseException) -> int | None:
    """Return the status of the answer that an error of the library is about."""
    return getattr(getattr(error, "response", None), "status_code", None)
