"""Weights that a method's authors released: their tensors by their names, put into ours."""

import re
from collections.abc import Mapping
from pathlib import Path
from re import Pattern

import torch
from torch import Tensor

from afr_clip.clip.weights import read_state_dict, require_fit

NOTHING = re.compile("(?!)")
"""Fits no name."""


def fill_from_release(
    ours: Mapping[str, Tensor], path: Path, *, entry: str = "state_dict", unused: Pattern[str] = NOTHING
) -> None:
    """Copy a released file into the tensors it belongs to.

    Nothing but tensors is unpickled, whatever the file holds.

    Args:
        ours: Where each tensor of the file goes, by the name it has there: parameters, or views of parts of them.
        path: The file.
        entry: The name under which the file may keep its tensors.
        unused: Names of tensors that published files hold without using them; they may be there or not.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a name is missing, unexpected, or of another shape; nothing is copied then.
    """
    state = {name: value for name, value in read_state_dict(path, entry).items() if not unused.fullmatch(name)}
    advice = "Pass the file as its authors published it, and the backbone and module settings it was made for."
    require_fit(ours, state, path, "the chosen method", advice)
    with torch.no_grad():
        for name, tensor in ours.items():
            tensor.copy_(state[name])
