"""The names and shapes of AnomalyCLIP's released weights (zqhang/AnomalyCLIP, ``checkpoints/*/epoch_15.pth``)."""

import re

from torch import Tensor

ENTRY = "prompt_learner"
"""Where a released file keeps its tensors."""

UNUSED = re.compile(
    r"compound_prompt_projections\.\d+\.(weight|bias)"  # layers that no forward pass ever used
    r"|token_(prefix|suffix)_(pos|neg)"  # CLIP's own embeddings of the words that are not learned
    r"|tokenized_prompts_(pos|neg)"  # the ids of the two sentences
)
"""What a released file holds beside what was learned."""


def released_tensors(context: Tensor, deep: Tensor) -> dict[str, Tensor]:
    """Say where each tensor of a released file goes.

    Args:
        context: The learned words, normal sentence first.
        deep: The deep tokens, block by block.

    Returns:
        Views of both by the released names: 10 with the published numbers of tokens.
    """
    normal, abnormal = context.detach()[:, None, None]  # (1, 1, words, width) each, as released
    blocks = {f"compound_prompts_text.{index}": tokens for index, tokens in enumerate(deep.detach())}
    return {"ctx_pos": normal, "ctx_neg": abnormal} | blocks
