"""Weights that a method's authors released: their tensors by their names, put into ours."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from afr_clip.clip.weights import read_state_dict


def fill_from_release(ours: Mapping[str, Tensor], path: Path) -> None:
    """Copy a released file into the tensors it belongs to.

    Nothing but tensors is unpickled, whatever the file holds.

    Args:
        ours: Where each tensor of the file goes, by the name it has there: parameters, or views of parts of them.
        path: The file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a name is missing, left over, or of another shape; nothing is copied then.
    """
    state = read_state_dict(path)
    missing = sorted(ours.keys() - state.keys())
    left_over = sorted(state.keys() - ours.keys())
    reshaped = sorted(name for name in ours.keys() & state.keys() if ours[name].shape != state[name].shape)
    if missing or left_over or reshaped:
        first = (missing + left_over + reshaped)[0]
        msg = (
            f"{path} must hold exactly the {len(ours)} tensors that the released weights of this method consist of, "
            f"got {len(missing)} missing, {len(left_over)} left over and {len(reshaped)} differently shaped, for "
            f"example {first}. Pass the file as it was published, and the backbone and module settings it was made for."
        )
        raise ValueError(msg)
    with torch.no_grad():
        for name, tensor in ours.items():
            tensor.copy_(state[name])
