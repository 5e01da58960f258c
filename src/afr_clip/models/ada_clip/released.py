"""The names and shapes of AdaCLIP's released weights (caoyunkang/AdaCLIP, ``pretrained_*.pth``)."""

from collections.abc import Mapping

from torch import Tensor

OWNER = "clip_model"
"""The released files were saved by a trainer that holds the model under this name."""

LINEAR = ("weight", "bias")


def released_tensors(ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Say where each tensor of a released file goes.

    Args:
        ours: The network's parameters by their names; those of the towers are passed over.

    Returns:
        Parameters, or views of parts of them, by the released names: 38 at depth 4, length 5 and four taps.
    """
    found: dict[str, Tensor] = {}
    for tower in ("visual", "text"):
        static = ours[f"{tower}_prompts.static"]
        found |= {f"{tower}_prompter.static_prompts.{block}": prompt for block, prompt in enumerate(static)}
        for kind in LINEAR:
            # One layer of K times the width here, a layer for each of K tokens there.
            heads = ours[f"{tower}_prompts.dynamic.{kind}"].unflatten(0, static.shape[1:])
            found |= {f"dynamic_{tower}_prompt_generator.head.{token}.{kind}": head for token, head in enumerate(heads)}
    taps = {name.split(".")[1] for name in ours if name.startswith("patch_projections.")}
    for kind in LINEAR:
        found |= {f"patch_token_layer.head.{tap}.{kind}": ours[f"patch_projections.{tap}.{kind}"] for tap in taps}
        found[f"cls_token_layer.head.0.{kind}"] = ours[f"class_projection.{kind}"]
    return {f"{OWNER}.{name}": tensor.detach() for name, tensor in found.items()}
