"""Weights that a method's authors released: their tensors by their names, put into ours."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from afr_clip.clip.weights import read_state_dict, require_fit


def fill_from_release(ours: Mapping[str, Tensor], path: Path) -> None:
    """Copy a released file into the tensors it belongs to.

    Nothing but tensors is unpickled, whatever the file holds.

    Args:
        ours: Where each tensor of the file goes, by the name it has there: parameters, or views of parts of them.
        path: The file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a name is missing, unexpected, or of another shape; nothing is copied then.
    """
    state = read_state_dict(path)
    advice = "Pass the file as its authors published it, and the backbone and module settings it was made for."
    require_fit(ours, state, path, "the chosen method", advice)
    with torch.no_grad():
        for name, tensor in ours.items():
            tensor.copy_(state[name])
