"""The text tower opened up: from words as embeddings to sentence embeddings, with a seam in front of every block."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from open_clip.model import CLIP
from open_clip.transformer import text_global_pool
from torch import Tensor

from afr_clip.clip.backbone import BeforeBlock, CLIPBackbone


@dataclass(frozen=True)
class Words:
    """Sentences as the text tower reads them, before position embeddings are added.

    Attributes:
        embeddings: One embedding per position: start-of-text, the words, end-of-text, padding.
        ends: The position at which each sentence is read out: its end-of-text.
    """

    embeddings: Float[Tensor, "sentences positions width"]
    ends: Int[Tensor, " sentences"]

    def repeated(self, times: int) -> "Words":
        """Repeat all sentences, for towers that treat them differently for every image.

        Args:
            times: How often; usually the number of images.

        Returns:
            ``times * sentences`` rows: all sentences of the first image, then all of the second.
        """
        return Words(self.embeddings.repeat(times, 1, 1), self.ends.repeat(times))


class TextTower:
    """Run a backbone's frozen text tower from word embeddings, with a gradient to whatever is put among them.

    With nothing put in, the result is the backbone's own ``encode_text``. Which words are learned, and in front of
    which blocks something is overwritten, is the method's business. It holds no weights of its own: it is no module,
    and follows its backbone from device to device.

    Args:
        backbone: The backbone whose text tower is run.

    Attributes:
        depth: Number of blocks.
        width: Width of the tower's tokens (768 for ViT-L/14).

    Raises:
        ValueError: If the backbone's model is not open_clip's own ``CLIP``, or its text tower is not causal.
    """

    def __init__(self, backbone: CLIPBackbone) -> None:
        clip = backbone.clip
        if not isinstance(clip, CLIP) or clip.attn_mask is None:
            msg = (
                f"The text tower must be that of open_clip's own CLIP with its causal mask, got {type(clip).__name__} "
                f"with other parts. Choose a standard architecture, for example ViT-L-14-336-quickgelu."
            )
            raise ValueError(msg)
        self._backbone = backbone
        self.depth: int = len(clip.transformer.resblocks)
        self.width: int = clip.transformer.width

    def look_up(self, sentences: Sequence[str]) -> Words:
        """Look up the word embeddings of sentences.

        Args:
            sentences: Any number of sentences.

        Returns:
            Their words, without a graph and usable in later training.
        """
        clip = self._backbone.clip
        with torch.inference_mode(mode=False), torch.no_grad():
            ids = self._backbone.tokenize(sentences)
            positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
            ends = text_global_pool(
                positions, ids, clip.text_pool_type, eos_token_id=getattr(clip, "text_eos_id", None)
            )
            return Words(clip.token_embedding(ids), ends)

    def encode(self, words: Words, before_block: BeforeBlock | None = None) -> Float[Tensor, "sentences embed_dim"]:
        """Embed sentences given by their word embeddings.

        Args:
            words: Looked-up words, some of them perhaps exchanged for learned ones.
            before_block: The seam in front of each block, as in the image tower. Positions may be overwritten, not
                added. It sees the positions up to the last end-of-text: what stands behind it cannot reach it through
                the causal mask, and is not computed.

        Returns:
            One embedding each, not normalised, float32.
        """
        clip = self._backbone.clip
        num_positions = int(words.ends.max()) + 1
        causal_mask = clip.attn_mask[:num_positions, :num_positions]
        tokens = words.embeddings[:, :num_positions] + clip.positional_embedding[:num_positions]
        for number, block in enumerate(clip.transformer.resblocks, start=1):
            if before_block is not None:
                tokens = before_block(number, tokens)
            tokens = block(tokens, attn_mask=causal_mask)
        at_end = clip.ln_final(tokens[torch.arange(len(tokens), device=tokens.device), words.ends])  # (S, width)
        projection = clip.text_projection
        embeddings = projection(at_end) if isinstance(projection, torch.nn.Linear) else at_end @ projection
        return embeddings.float()
