"""The layout of the checkpoints that AnomalyCLIP's authors published, and what of it is ours."""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

ENTRY = "prompt_learner"
"""Where a published checkpoint keeps its tensors."""

CONTEXT = ("ctx_pos", "ctx_neg")
"""The learned words of the normal and of the abnormal sentence, each with two axes of length 1 in front."""

DEEP = "compound_prompts_text."
"""The deep tokens, one tensor a block, counted from 0 for the second block."""

NOT_LEARNED = re.compile(
    r"compound_prompt_projections\.\d+\.(weight|bias)"  # layers of the file that no forward pass ever used
    r"|token_(prefix|suffix)_(pos|neg)"  # CLIP's own embeddings of the words that are not learned
    r"|tokenized_prompts_(pos|neg)"  # the ids of the two sentences
)
"""What a published checkpoint holds beside what was learned."""


def from_released(
    state: Mapping[str, Tensor], path: Path, context_shape: torch.Size, deep_shape: torch.Size
) -> dict[str, Tensor]:
    """Bring the tensors of a published checkpoint under the names of ``PromptLearner``.

    Args:
        state: The tensors of the file.
        path: Where they came from, for the message.
        context_shape: Shape of the learned words of both sentences.
        deep_shape: Shape of the deep tokens of all blocks.

    Returns:
        ``context`` and ``deep``.

    Raises:
        ValueError: If a tensor is missing, left over, or of another shape.
    """
    deep_names = [f"{DEEP}{index}" for index in range(deep_shape[0])]
    expected = dict.fromkeys(CONTEXT, (1, 1, *context_shape[1:])) | dict.fromkeys(deep_names, tuple(deep_shape[1:]))
    found = {name: tuple(value.shape) for name, value in state.items() if not NOT_LEARNED.fullmatch(name)}
    wrong = sorted({name for name, _ in expected.items() ^ found.items()})
    if wrong:
        msg = (
            f"{path} must hold {', '.join(CONTEXT)} and {DEEP}0 to {deep_shape[0] - 1} as AnomalyCLIP's published "
            f"checkpoints do, got {len(wrong)} tensors that are missing, unknown or of another shape, for example "
            f"{wrong[0]}. Use ViT-L/14 with the published numbers of tokens, or another file."
        )
        raise ValueError(msg)
    return {
        "context": torch.cat([state[name][0] for name in CONTEXT]),
        "deep": torch.stack([state[name] for name in deep_names]),
    }
