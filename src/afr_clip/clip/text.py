"""The text tower: fixed embeddings of categories, and the tower opened up for learned words."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from open_clip.model import CLIP
from open_clip.transformer import TextTransformer, text_global_pool
from torch import Tensor

from afr_clip.clip.backbone import BeforeBlock, CLIPBackbone
from afr_clip.prompts.ensemble import PromptSettings, expand


class CategoryEmbeddings(NamedTuple):
    """Text embeddings of the category of each image in a batch.

    Attributes:
        stateless: Names the category and leaves its condition open.
        stateful: The normal (index 0) and abnormal (index 1) pair.
    """

    stateless: Float[Tensor, "batch dim"]
    stateful: Float[Tensor, "batch 2 dim"]


def ensemble_mean(
    embeddings: Float[Tensor, "*rows sentences dim"], *, normalise_first: bool = True
) -> Float[Tensor, "*rows dim"]:
    """Combine the embeddings of a prompt ensemble into their normalised mean, optionally normalising each one first.

    Example:
        >>> ensemble_mean(torch.tensor([[3.0, 0.0], [0.0, 2.0]]))
        tensor([0.7071, 0.7071])
    """
    return F.normalize((F.normalize(embeddings, dim=-1) if normalise_first else embeddings).mean(dim=-2), dim=-1)


class TextEmbeddings:
    """The stateless and stateful embeddings of categories, each computed once and kept.

    They depend only on the backbone, the prompts and the category. They are neither parameters nor buffers, because
    each process keeps those of the categories that it meets.

    Args:
        combine: Makes one text of the embeddings of a state's sentences.
    """

    def __init__(
        self,
        encode_text: Callable[[Sequence[str]], Tensor],
        prompts: PromptSettings,
        *,
        combine: Callable[[Tensor], Tensor] = ensemble_mean,
    ) -> None:
        self._encode_text = encode_text
        self._prompts = prompts
        self._combine = combine
        self._known: dict[str, Tensor] = {}

    def __call__(self, categories: Sequence[str], device: torch.device) -> CategoryEmbeddings:
        """Look up the embeddings of each image's category in words, computing the ones not seen before.

        Raises:
            ValueError: If a category is blank.
        """
        for category in dict.fromkeys(categories):
            known = self._known.get(category)
            if known is None or known.device != device:
                self._known[category] = (self._embed(category) if known is None else known).to(device)
        rows = torch.stack([self._known[category] for category in categories])
        return CategoryEmbeddings(stateless=rows[:, 0], stateful=rows[:, 1:])

    def _embed(self, category: str) -> Float[Tensor, "3 dim"]:
        sentences = expand(self._prompts, category)
        # A normal tensor even where scoring runs in inference mode, so that training can use it later.
        with torch.inference_mode(mode=False), torch.no_grad():
            kinds = (sentences.stateless, sentences.normal, sentences.abnormal)
            return torch.stack([self._combine(self._encode_text(kind)) for kind in kinds])


@dataclass(frozen=True)
class Words:
    """Sentences as the text tower reads them, before position embeddings are added.

    Attributes:
        embeddings: One embedding per position: start-of-text, the words, end-of-text, padding.
        ends: The position at which each sentence is read out: its end-of-text.
        first_end: The earliest of them, as an int: reading it does not wait for a GPU.
        last_end: The latest of them.
    """

    embeddings: Float[Tensor, "sentences positions width"]
    ends: Int[Tensor, " sentences"]
    first_end: int
    last_end: int

    def repeated(self, times: int) -> "Words":
        """Repeat all sentences: all of the first image, then all of the second, and so on."""
        return replace(self, embeddings=self.embeddings.repeat(times, 1, 1), ends=self.ends.repeat(times))

    def kept(self) -> "Words":
        """Return a copy to keep: without the padding behind the last end, which is never read.

        Its tensor is a normal one even where scoring runs in inference mode.
        """
        with torch.inference_mode(mode=False):
            return replace(self, embeddings=self.embeddings[:, : self.last_end + 1].clone())


class TextTower:
    """Run a backbone's frozen text tower from word embeddings, with a gradient to learned ones among them.

    With the words of the vocabulary the result is the backbone's own ``encode_text``. Which words are learned, and in
    front of which blocks some are overwritten, is up to the method. It is no module: it has no weights of its own and
    follows its backbone from device to device.

    Args:
        backbone: The backbone whose text tower is run.

    Attributes:
        width: Width of the tower's tokens (768 for ViT-L/14).
        start: Positions in front of the first word: 1 for CLIP's start-of-text, 0 for SigLIP.

    Raises:
        ValueError: If the text tower is not open_clip's own, or neither causal nor read out at its last position.
    """

    def __init__(self, backbone: CLIPBackbone) -> None:
        clip = backbone.clip
        text: Any = clip if isinstance(clip, CLIP) else getattr(clip, "text", None)
        is_plain = isinstance(text, CLIP) or (
            isinstance(text, TextTransformer) and text.cls_emb is None and not text.use_pad_mask
        )
        pool = (text.text_pool_type if isinstance(text, CLIP) else text.pool_type) if is_plain else ""
        if not is_plain or (text.attn_mask is None and pool != "last"):
            msg = (
                f"The text tower must be that of open_clip's own CLIP with its causal mask, got {type(clip).__name__} "
                f"with other parts. Choose a standard architecture, for example ViT-L-14-336-quickgelu."
            )
            raise ValueError(msg)
        self._backbone, self._pool, self._is_custom = backbone, pool, text is not clip
        self.depth: int = len(text.transformer.resblocks)
        self.width: int = text.transformer.width
        first, other = backbone.token_ids(["a", "the"])
        self.start: int = int((first != other).int().argmax())

    @property
    def _text(self) -> Any:  # noqa: ANN401 - open_clip's models have no common type
        clip = self._backbone.clip
        return clip.text if self._is_custom else clip

    def look_up(self, sentences: Sequence[str]) -> Words:
        """Look up the word embeddings of sentences, without a graph and usable in later training."""
        text = self._text
        with torch.inference_mode(mode=False), torch.no_grad():
            ids = self._backbone.tokenize(sentences)
            positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
            eos = getattr(text, "text_eos_id", getattr(text, "eos_id", None))
            ends = text_global_pool(positions, ids, self._pool, eos_token_id=eos)
            last = ids.shape[1] - 1  # on the meta device, a network has shapes and no values
            reach = (last, last) if ends.is_meta else (int(ends.min()), int(ends.max()))
            return Words(text.token_embedding(ids), ends, *reach)

    def encode(
        self,
        words: Words,
        before_block: BeforeBlock | None = None,
        project: Callable[[Tensor], Tensor] | None = None,
    ) -> Float[Tensor, "sentences embed_dim"]:
        """Embed sentences given by their word embeddings; the result is float32 and not normalised.

        Args:
            words: Looked-up words, some of them perhaps exchanged for learned ones.
            before_block: May overwrite positions in front of a block, not add any. It gets the positions up to the last
                end-of-text; the causal mask hides all later ones, so they are not computed. SigLIP, which has no mask,
                reads to the last position.
            project: Takes the place of the tower's own projection, behind its final norm.
        """
        text = self._text
        num_positions = words.last_end + 1
        causal_mask = None if text.attn_mask is None else text.attn_mask[:num_positions, :num_positions]
        tokens = words.embeddings[:, :num_positions] + text.positional_embedding[:num_positions]
        for number, block in enumerate(text.transformer.resblocks, start=1):
            if before_block is not None:
                tokens = before_block(number, tokens)
            tokens = block(tokens, attn_mask=causal_mask)
        at_end = text.ln_final(tokens[torch.arange(tokens.shape[0], device=tokens.device), words.ends])  # (S, width)
        if project is not None:
            return project(at_end).float()
        projection = text.text_projection
        embeddings = projection(at_end) if isinstance(projection, torch.nn.Linear) else at_end @ projection
        return embeddings.float()


class KnownWords:
    """The words of each category's normal and abnormal sentences, looked up once and kept.

    For methods with learned parts inside the text tower; without such parts see `TextEmbeddings`.
    """

    def __init__(self, tower: TextTower, prompts: PromptSettings) -> None:
        self._tower = tower
        self._prompts = prompts
        self._known: dict[tuple[str, torch.device], tuple[Words, int]] = {}

    def __call__(self, category: str, device: torch.device) -> tuple[Words, int]:
        """Return the sentences of a category, normal ones first, and how many of them are normal.

        Raises:
            ValueError: If the category is blank.
        """
        key = (category, device)
        if key not in self._known:
            sentences = expand(self._prompts, category)
            words = self._tower.look_up([*sentences.normal, *sentences.abnormal])
            self._known[key] = (words.kept(), len(sentences.normal))
        return self._known[key]
