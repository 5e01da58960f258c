"""Sentences about a category behind words that are learned, for methods that learn a context and keep the name."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from afr_clip.clip.backbone import CLIPBackbone
from afr_clip.clip.load import Towers
from afr_clip.clip.text import TextTower, Words
from afr_clip.models.last_block import READ_FROM, read_last_block
from afr_clip.models.prediction import AnomalyPrediction, require_one_name_each
from afr_clip.models.scoring_settings import ScoringSettings

PLACEHOLDER = "X"
"""One token of CLIP's vocabulary; a learned word takes its place."""

STATES = ("normal {}.", "anomalous {}.")
"""What follows the learned words of a `ContextNetwork`; with a category they are CoOp's two classes."""

INITIAL_STD = 0.02
"""Standard deviation of learned words before training, as in the public codes of CoOp and of AnomalyCLIP."""


def learned_words(num: int, width: int) -> nn.Parameter:
    """Return words to be learned, drawn from noise."""
    words = nn.Parameter(torch.empty(num, width))
    nn.init.normal_(words, std=INITIAL_STD)
    return words


def look_up_behind(tower: TextTower, sentences: Sequence[str], num_words: int) -> Words:
    """Look up sentences with room for learned words between start-of-text and their first word.

    Raises:
        ValueError: If they do not fit into the tower's context, or a placeholder is not one token.
    """
    words = tower.look_up([f"{' '.join([PLACEHOLDER] * num_words)} {sentence}" for sentence in sentences])
    own, alone = words.embeddings[:, tower.start + num_words :], tower.look_up(sentences).embeddings
    if own.is_meta:  # on the meta device, a network has shapes and no values
        return words
    is_padding = (alone == alone[:, -1:]).all(dim=-1)
    room = int(is_padding.flip(1).long().cumprod(dim=1).sum(dim=1).min())
    if num_words > room:
        msg = (
            f"num_context_tokens must be at most {room} for this text tower, which also reads {sentences[-1]!r}, got "
            f"{num_words}. Lower it."
        )
        raise ValueError(msg)
    if not own.equal(alone[:, tower.start : tower.start + own.shape[1]]):
        msg = (
            f"The tokenizer must read {PLACEHOLDER!r} as one token, whose place a learned word takes, but this one "
            f"does not. Choose a backbone with CLIP's own tokenizer, for example vit_l_14_336."
        )
        raise ValueError(msg)
    return words


class ContextSentences:
    """Embed the normal and the abnormal sentence of categories behind learned words.

    The words of each category are looked up once and kept. It has no weights of its own.

    Args:
        tower: The text tower that reads.
        states: What follows the learned words, normal first; ``{}`` is the category.
        num_words: How many words are learned, the same for both sentences.
    """

    def __init__(self, tower: TextTower, states: tuple[str, str], num_words: int) -> None:
        self.tower = tower
        self._states = states
        self._num_words = num_words
        self._known: dict[tuple[str, torch.device], Words] = {}
        look_up_behind(tower, states, num_words)  # a tower that cannot have them is refused before it is trained

    def embed(self, category: str, context: Float[Tensor, "rows words width"]) -> Float[Tensor, "rows 2 dim"]:
        """Embed both sentences of a category behind each row of learned words; the result is not normalised."""
        start, num_rows = self.tower.start, context.shape[0]
        words = self._words(category, context.device).repeated(num_rows)
        learned = context.repeat_interleave(len(self._states), dim=0)
        parts = [words.embeddings[:, :start], learned, words.embeddings[:, start + self._num_words :]]
        embeddings = self.tower.encode(replace(words, embeddings=torch.cat(parts, dim=1)))
        return embeddings.unflatten(0, (num_rows, len(self._states)))

    def embed_each(
        self, category: Sequence[str], context: Float[Tensor, "words width"], device: torch.device
    ) -> Float[Tensor, "batch 2 dim"]:
        """Embed both sentences of each image's category behind learned words that are the same for all images."""
        with torch.autocast(device.type, enabled=False):
            known = {name: self.embed(name, context[None])[0] for name in dict.fromkeys(category)}
        return torch.stack([known[name] for name in category])

    def _words(self, category: str, device: torch.device) -> Words:
        key = (category, device)
        if key not in self._known:
            sentences = [state.format(category) for state in self._states]
            self._known[key] = look_up_behind(self.tower, sentences, self._num_words).kept()
        return self._known[key]


class ContextNetwork(nn.Module, ABC):
    """A method that learns the words in front of two classes, and reads the last block of the frozen image tower.

    Args:
        num_context_tokens: Learned words, shared by all categories and both sentences.

    Raises:
        ValueError: If the text tower has no room for them.
    """

    def __init__(self, towers: Towers, num_context_tokens: int, scoring: ScoringSettings) -> None:
        super().__init__()
        self.backbone: CLIPBackbone = towers.backbone
        tower = TextTower(self.backbone)
        self._sentences = ContextSentences(tower, STATES, num_context_tokens)
        self.context = learned_words(num_context_tokens, tower.width)
        self._scoring = scoring

    def forward(self, image: Float[Tensor, "batch 3 height width"], category: Sequence[str]) -> AnomalyPrediction:
        """Score normalised images of the backbone's input size, each with its category in words.

        Raises:
            ValueError: If there is not one category per image.
        """
        require_one_name_each(image, category)
        return self.score(self.tapped(image), category)

    def tapped(self, image: Float[Tensor, "batch 3 height width"]) -> tuple[Float[Tensor, "batch tokens dim"]]:
        """Read out the frozen image tower."""
        return (read_last_block(self.backbone, image),)

    @abstractmethod
    def score(self, tapped: tuple[Float[Tensor, "batch tokens dim"]], category: Sequence[str]) -> AnomalyPrediction:
        """Score what ``tapped`` returned."""

    @property
    def tapped_from(self) -> str:
        """What ``tapped`` reads out."""
        return READ_FROM


def embed_by_name(
    category: Sequence[str],
    given: Float[Tensor, "batch ..."],
    embed: Callable[[str, Tensor], Tensor],
) -> Float[Tensor, "batch 2 dim"]:
    """Embed the text of each image's category, which depends on the image, with one call for each category.

    Args:
        category: One name per image; a single one stands for all images.
        given: What the text depends on.
    """
    if len(category) == 1:
        return embed(category[0], given)
    order: list[int] = []
    pairs = []
    for name in dict.fromkeys(category):
        places = [place for place, named in enumerate(category) if named == name]
        order += places
        pairs.append(embed(name, given[places]))
    return torch.cat(pairs)[torch.tensor(order, device=given.device).argsort()]
