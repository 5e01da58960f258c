"""The two sentences whose words are learned."""

import re

import torch
from jaxtyping import Float
from torch import Tensor, nn

from afr_clip.clip.text import TextTower, Words
from afr_clip.models.anomaly_clip.settings import FIRST_DEEP_BLOCK, PromptLearnerSettings
from afr_clip.models.learned_context import INITIAL_STD, look_up_behind

SENTENCES = ("object.", "damaged object.")
"""What follows the learned words, normal first: the same for every image."""

OTHER_POSITIONS = 5
"""What the longer sentence needs in addition to the learned words: start-of-text, two words, full stop, end-of-text."""

ENTRY = "prompt_learner"
"""Where a released file (zqhang/AnomalyCLIP, ``checkpoints/*/epoch_15.pth``) keeps its tensors."""

UNUSED = re.compile(
    r"compound_prompt_projections\.\d+\.(weight|bias)"  # layers that no forward pass ever used
    r"|token_(prefix|suffix)_(pos|neg)"  # CLIP's own embeddings of the words that are not learned
    r"|tokenized_prompts_(pos|neg)"  # the ids of the two sentences
)
"""What a released file holds in addition to what was learned."""


class PromptLearner(nn.Module):
    """Learn one normal and one abnormal sentence for all objects.

    Each sentence is a number of learned words and then ``object.`` or ``damaged object.``. In front of later text
    blocks the first of the learned words are overwritten by tokens learned for that block, the same in both sentences,
    so that the sentences are refined on their way through the frozen text tower.

    Note:
        In the paper's text the deep tokens stand next to the words; the published code, and this, overwrites words with
        them. The published code rounds them to half precision where it inserts them; here they stay float32.

    Args:
        settings: How many words and deep tokens.

    Attributes:
        context: The learned words, normal sentence first.
        deep: The deep tokens, block by block.

    Raises:
        ValueError: If the sentences are longer than the tower's context, or the placeholders are not one token each.
    """

    def __init__(self, tower: TextTower, settings: PromptLearnerSettings) -> None:
        super().__init__()
        num_blocks = len(settings.deep_blocks(tower.depth))
        self._tower = tower
        self.context = nn.Parameter(torch.empty(len(SENTENCES), settings.num_context_tokens, tower.width))
        self.deep = nn.Parameter(torch.empty(num_blocks, settings.num_deep_tokens, tower.width))
        for learned in (self.context, self.deep):
            nn.init.normal_(learned, std=INITIAL_STD)
        most = tower.look_up(SENTENCES).embeddings.shape[1] - OTHER_POSITIONS
        if settings.num_context_tokens > most:
            msg = (
                f"prompts.num_context_tokens must be at most {most} for this text tower, got "
                f"{settings.num_context_tokens}. AnomalyCLIP uses 12."
            )
            raise ValueError(msg)
        words = look_up_behind(tower, SENTENCES, settings.num_context_tokens)
        self.words: Tensor
        self.ends: Tensor
        self.register_buffer("words", words.embeddings, persistent=False)
        self.register_buffer("ends", words.ends, persistent=False)
        self._reach = words.first_end, words.last_end
        self._start = tower.start

    def forward(self) -> Float[Tensor, "2 embed_dim"]:
        """Embed the normal and the abnormal sentence; the embeddings are not normalised."""
        start = self._start  # in CLIP, start-of-text stands before the learned words
        behind = self.words[:, start + self.context.shape[1] :]
        embeddings = torch.cat([self.words[:, :start], self.context, behind], dim=1)

        def overwrite(number: int, tokens: Tensor) -> Tensor:
            index = number - FIRST_DEEP_BLOCK
            if not 0 <= index < len(self.deep):
                return tokens
            deep = self.deep[index].to(tokens.dtype).expand(len(tokens), -1, -1)  # (2, deep tokens, width)
            return torch.cat([tokens[:, :start], deep, tokens[:, start + deep.shape[1] :]], dim=1)

        return self._tower.encode(Words(embeddings, self.ends, *self._reach), overwrite)

    def released_tensors(self) -> dict[str, Tensor]:
        """Return views of the learned tensors by their released names: 10 with the published numbers of tokens."""
        normal, abnormal = self.context.detach()[:, None, None]  # (1, 1, words, width) each, as released
        blocks = {f"compound_prompts_text.{index}": tokens for index, tokens in enumerate(self.deep.detach())}
        return {"ctx_pos": normal, "ctx_neg": abnormal} | blocks
