"""The towers in training, the layers that read patches, and the contrast with captions."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from pairs import MASK_SCALE, PATCH_SIZE
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from drawn_anomalies.features import FEATURES
from drawn_anomalies.pairs.palette import PALETTE


class Embedded(NamedTuple):
    """Pictures and their patches.

    Attributes:
        images: Unit vectors in the space of the captions, of the pictures that went through the tower's blocks.
        patches: Unit vectors in the same space, of all pictures.
        dense: Logits of damage and of every feature in each patch, whatever the name.
        colours: Logits of every colour in all patches together.
    """

    images: Float[Tensor, "pictures dim"]
    patches: Float[Tensor, "batch h w dim"]
    dense: Float[Tensor, "batch kinds h w"]
    colours: Float[Tensor, "batch colours"]


class Learner(nn.Module):
    """The towers and three layers that read patches; AFR-CLIP trains its own, so these are discarded.

    Args:
        clip: Towers whose image tower takes what is seen of patches in place of images.
        tokenizer: Turns captions into token ids.
    """

    def __init__(self, clip: nn.Module, tokenizer: Callable[[Sequence[str]], Tensor]) -> None:
        super().__init__()
        self.clip = clip
        self._tokenizer = tokenizer
        self._ids: dict[str, np.ndarray] = {}
        self.local = nn.Linear(clip.visual.conv1.width, clip.visual.output_dim)
        self.dense = nn.Conv2d(clip.visual.conv1.width, 1 + len(FEATURES), kernel_size=1)
        self.colours = nn.Linear(clip.visual.conv1.width, len(PALETTE))

    def forward(
        self, seen: Float[Tensor, "batch channels h w"], pool: int, through: Sequence[int] | slice = slice(None)
    ) -> Embedded:
        """Embed pictures and their patches.

        Args:
            seen: What is seen of each patch.
            pool: The tower sees neighbouring patches averaged ``pool`` by ``pool``; 1 for every patch.
            through: Which pictures go through the tower's blocks; the embeddings of patches need none of them.
        """
        visual = self.clip.visual
        patches = visual.conv1(seen)
        with sdpa_kernel(SDPBackend.MATH):  # the fused kernel's gradient takes longer on sequences as short as these
            image, _ = visual._pool(visual.transformer(self.tokens(patches[through], pool)))
        return Embedded(
            F.normalize((image @ visual.proj).float(), dim=-1),
            F.normalize(self.local(patches.movedim(1, -1)).float(), dim=-1),
            self.dense(patches).float(),
            self.colours(patches.mean(dim=(2, 3))).float(),
        )

    def tokens(self, patches: Float[Tensor, "batch width h w"], pool: int) -> Float[Tensor, "batch tokens width"]:
        """Return what the tower's first block sees."""
        visual = self.clip.visual
        pooled = F.avg_pool2d(patches, pool)
        place = visual.positional_embedding
        grid = place[1:].T.reshape(1, -1, *visual.grid_size)
        places = F.interpolate(grid, size=pooled.shape[-2:], mode="bilinear", align_corners=False, antialias=True)
        first = (visual.class_embedding + place[0]).expand(len(pooled), 1, -1)
        return visual.ln_pre(torch.cat([first, (pooled + places).flatten(2).transpose(1, 2)], dim=1))

    def texts(self, sentences: Sequence[str]) -> Float[Tensor, "sentences dim"]:
        """Embed captions as unit vectors; repeated captions are embedded once."""
        numbers: dict[str, int] = {}
        known = torch.tensor([numbers.setdefault(sentence, len(numbers)) for sentence in sentences])
        return F.normalize(self.raw_texts(list(numbers)), dim=-1)[known]

    def raw_texts(self, sentences: Sequence[str]) -> Float[Tensor, "sentences dim"]:
        """Embed captions as open_clip does, but compute no position behind the longest one."""
        for sentence in sentences:  # the tokenizer takes longer than a block of the tower
            if sentence not in self._ids:
                self._ids[sentence] = self._tokenizer([sentence])[0].numpy().astype(np.uint16)
        ids = torch.from_numpy(np.stack([self._ids[sentence] for sentence in sentences]).astype(np.int64))
        clip, ends = self.clip, ids.argmax(dim=1)
        length = int(ends.max()) + 1
        tokens = clip.token_embedding(ids[:, :length]) + clip.positional_embedding[:length]
        with sdpa_kernel(SDPBackend.MATH):
            tokens = clip.ln_final(clip.transformer(tokens, attn_mask=clip.attn_mask[:length, :length]))
        return (tokens[torch.arange(len(ids)), ends] @ clip.text_projection).float()

    def locate(
        self, patches: Float[Tensor, "batch h w dim"], towards: Float[Tensor, "batch names dim"]
    ) -> Float[Tensor, "batch names rows columns"]:
        """Return the logit of damage on the grid of the masks.

        Args:
            patches: Unit vectors.
            towards: Embedding of a flawed caption less that of a whole one, for each name of a picture.
        """
        logits = self.clip.logit_scale.exp() * torch.einsum("bhwd,bnd->bnhw", patches, towards)
        return F.interpolate(logits, scale_factor=PATCH_SIZE // MASK_SCALE, mode="bilinear", align_corners=False)

    def lengths(self, seen: Float[Tensor, "batch channels h w"], sentences: Sequence[str]) -> tuple[float, float]:
        """Return the mean length of the patches' tokens after the second block, and of the captions' embeddings."""
        visual = self.clip.visual
        tokens = self.tokens(visual.conv1(seen), 1)
        for block in visual.transformer.resblocks[:2]:
            tokens = block(tokens)
        return tokens[:, 1:].norm(dim=-1).mean().item(), self.raw_texts(sentences).norm(dim=-1).mean().item()


def contrast(
    images: Float[Tensor, "batch dim"],
    texts: Float[Tensor, "captions dim"],
    same: Float[Tensor, "batch captions"],
    scale: Float[Tensor, ""],
) -> Float[Tensor, ""]:
    """Contrast every picture with all captions, and every caption that is right for some picture with all pictures.

    Args:
        images: Unit vectors.
        texts: Unit vectors; behind the pictures' own captions come captions that are wrong in one word.
        same: 1 where a caption is a picture's own or reads the same.
        scale: Inverse temperature.

    Returns:
        The mean of both cross-entropies; captions that read the same share their weight.
    """
    logits = scale * images @ texts.T
    by_image = -(same / same.sum(dim=1, keepdim=True) * logits.log_softmax(dim=1)).sum(dim=1).mean()
    right = same.sum(dim=0) > 0
    by_text = -(same / same.sum(dim=0).clamp_min(1) * logits.log_softmax(dim=0)).sum(dim=0)[right].mean()
    return (by_image + by_text) / 2
